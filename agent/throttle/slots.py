"""ConnectionSlots: how many connections are open under each named limit of this agent."""

from collections.abc import Iterable, Mapping
from typing import Protocol


class Slots(Protocol):
    """Counts of open connections by limit name, of this process and of those it shares with."""

    @property
    def retry_seconds(self) -> float:
        """How long after a refusal to ask again, unless a slot of this process is freed before."""

    def first_full(self, limits: Mapping[str, int]) -> str | None:
        """The first of *limits* (name -> most connections) that has no slot left, or None."""

    def try_take(self, limits: Mapping[str, int]) -> str | None:
        """Take one slot of each of *limits*: None. Else take nothing and name one that is short."""

    def release(self, names: Iterable[str]) -> None:
        """Give back one slot of each name, as one take took them."""

    def in_use(self, name: str) -> int:
        """How many slots of the limit are taken."""

    def surplus(self, name: str, most: int) -> int:
        """How many connections this process is to close, so that at most *most* are open."""

    def contended(self) -> Iterable[str]:
        """Limits of which this process may hold more than its share: others wait for them."""


class ConnectionSlots:
    """
    Counts of open connections by limit name, shared by every path that names the limit. The limit
    itself is given with each take, since it may change meanwhile: lowering it closes nothing, but
    nothing new is opened until the count is below it.
    """

    __slots__ = ("_in_use",)

    #: Nobody else gives slots back.
    retry_seconds = float("inf")

    def __init__(self) -> None:
        self._in_use: dict[str, int] = {}

    def first_full(self, limits: Mapping[str, int]) -> str | None:
        """The first of *limits* (name -> most connections) that has no slot left, or None."""
        in_use = self._in_use
        return next((name for name, most in limits.items() if in_use.get(name, 0) >= most), None)

    def try_take(self, limits: Mapping[str, int]) -> str | None:
        """Take one slot of each of *limits*: None. Else take nothing and name a full one."""
        full = self.first_full(limits)
        if full is None:
            for name in limits:
                self._in_use[name] = self._in_use.get(name, 0) + 1
        return full

    def release(self, names: Iterable[str]) -> None:
        """Give back one slot of each name, as one take took them."""
        for name in names:
            left = self._in_use[name] - 1
            if left:
                self._in_use[name] = left
            else:
                del self._in_use[name]

    def in_use(self, name: str) -> int:
        """How many slots of the limit are taken."""
        return self._in_use.get(name, 0)

    def surplus(self, name: str, most: int) -> int:
        """How many connections are to close, so that at most *most* are open."""
        return max(0, self.in_use(name) - most)

    def contended(self) -> Iterable[str]:
        """Limits that others wait for: there are no others."""
        return ()
