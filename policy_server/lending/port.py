"""
The port between LimitService and the place where the book is kept.

A store takes in reports and brings grants; what it decides is what `policy_server.limits` decides.
It keeps these rules, whatever kind it is; `tests/conformance/test_limit_store.py` holds every
kind to them:

1. `receive` returns once a report is taken in, and does not wait for what follows from it.
2. A grant can be taken only once what it rests on is durable, and while it is the newest of its
   agent and its lease not over. Each is taken once by the listener that is attached; what an
   agent has not confirmed comes again when it attaches anew, and after a while.
3. What waits to be taken is at most one grant for each key of an agent: who takes slowly gets the
   newest, and makes nothing grow.
4. Every method raises `Unavailable` while another server keeps the book, or none can.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from policy_server.limits.messages import Grant, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.limits.views import LimitView


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What became of a report."""

    epoch: int
    #: False: it was too late, came twice, or is of an incarnation that is gone.
    is_new: bool
    #: Keys of the report for which no limit is known; nothing was noted of them.
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What an agent is to be told now."""

    epoch: int
    #: The newest report of its incarnation that was taken in; 0: none.
    sequence: int
    grants: tuple[Grant, ...] = ()
    #: There is more to be taken.
    has_more: bool = False
    is_recovering: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BookView:
    """The whole book, to be looked at."""

    #: Who keeps it.
    server: str
    epoch: int
    is_recovering: bool
    limits: tuple[LimitView, ...] = ()


class LimitStore(Protocol):
    """Keeps the lease book; `start` it, then `close` it."""

    @property
    def timing(self) -> LeaseTiming:
        """The spans of leases; they stay the same for an epoch."""
        ...

    async def start(self) -> None:
        """Begin to keep the book, in the background; it may take a while until it is ours."""
        ...

    async def close(self) -> None:
        """Stop, so that another server can go on at once; leases stay as they are."""
        ...

    async def receive(self, report: Report, specs: Mapping[str, LimitSpec]) -> Heard:
        """
        Take in a report. *specs* are the limits as they are now, of those keys of the report
        whose limits are known here; they are set before the report counts.
        """
        ...

    async def configure(self, specs: Mapping[str, LimitSpec]) -> None:
        """Change limits that are lent; what is not lent now is left alone."""
        ...

    async def release(self, agent: str, incarnation: int) -> None:
        """End all leases of an agent, up to *incarnation*."""
        ...

    async def hears(self, agent: str) -> bool | None:
        """
        Whether an agent has reported so lately that its leases hold, or may not have had the time
        to since the book was begun; None: it is not known.
        """
        ...

    def attach(self, agent: str, wake: Callable[[], None]) -> Callable[[], None]:
        """
        Call *wake* whenever there is something to be taken for *agent*; return what ends that.
        Whoever attaches later takes the place.
        """
        ...

    async def take(self, agent: str, incarnation: int, most: int) -> Taken:
        """Take up to *most* grants for an agent whose listener is attached."""
        ...

    async def settled(self) -> None:
        """Return once what was received before can be taken."""
        ...

    async def list_limits(self, after: str, limit: int) -> BookView:
        """List up to *limit* limits by key, without holders, from the one after *after* on."""
        ...

    async def find_limit(self, key: str) -> BookView:
        """Find one limit with its holders; no limits if it is not lent."""
        ...
