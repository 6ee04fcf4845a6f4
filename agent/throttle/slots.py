"""ConnectionSlots: how many connections are open under each named limit of this agent."""

from collections.abc import Iterable, Mapping


class ConnectionSlots:
    """
    Counts of open connections by limit name, shared by every path that names the limit. The limit
    itself is given with each take, since it may change meanwhile: lowering it closes nothing, but
    nothing new is opened until the count is below it.
    """

    __slots__ = ("_in_use",)

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
