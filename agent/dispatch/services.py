"""Services: what every path works with, and what it asks of the queues behind it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

from agent.dispatch.connector import Connector
from agent.dispatch.holds import Holds
from agent.dispatch.limits import Limits
from agent.dispatch.results import Results
from agent.dispatch.sources import SourceHealth
from agent.dns import Resolver
from agent.policy.answer import PolicySource
from agent.queue.entry import Entry
from agent.settings import Settings

if TYPE_CHECKING:
    from agent.dispatch.path import Path


class Holding(Protocol):
    """What a path asks of the queues behind it."""

    def take_back(self, entry: Entry) -> None:
        """Let *entry* wait again, due as it is, to be given to whichever path can send it."""

    def give_up(self, entry: Entry, path: "Path") -> None:
        """End an entry that has grown too old."""

    def has_room(self, path: "Path") -> None:
        """Room was made in the ready queue."""

    def starves(self, path: "Path") -> None:
        """The path wants a connection, and a limit that it may share has no slot left."""

    def slots_freed(self) -> None:
        """Connection slots were given back."""


@dataclass(slots=True)
class DispatchCounts:
    """What happened since the start, over all paths."""

    #: Sessions that the watchdog ended.
    watchdog_aborts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What every path works with."""

    settings: Settings
    policies: PolicySource
    holds: Holds
    resolver: Resolver
    results: Results
    connector: Connector
    limits: Limits
    holding: Holding
    random: Random
    sources: SourceHealth
    counts: DispatchCounts = field(default_factory=DispatchCounts)
    clock: Callable[[], float] = time.time


class Connection(Protocol):
    """A session, as its path sees it."""

    is_idle: bool
    is_opening: bool

    async def run(self) -> None:
        """Work until there is nothing more to do."""

    def leave(self) -> None:
        """Close after the transaction in progress."""

    def cut(self) -> None:
        """Close now."""

    def wake(self) -> None:
        """Look again: something has changed."""

    @property
    def in_hand(self) -> tuple[Entry, ...]:
        """The entries that it sends, or whose outcome it stores."""
