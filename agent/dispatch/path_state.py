"""A path at one moment: what it has done, and what it waits for."""

from dataclasses import dataclass

from agent.delivery.classify import Result
from agent.limits.limit import FleetLimit


@dataclass(slots=True)
class Counters:
    """Recipients by what became of them, since the path came to be."""

    delivered: int = 0
    transient: int = 0
    bounced: int = 0

    def count(self, result: Result, recipients: int) -> None:
        """Count so many recipients."""
        match result:
            case Result.DELIVERED:
                self.delivered += recipients
            case Result.PERMANENT:
                self.bounced += recipients
            case _:
                self.transient += recipients


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWait:
    """A path has mail to send, and what was lent to this agent of a limit does not let it."""

    limit: FleetLimit
    #: Seconds since the epoch.
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PathState:
    """A path at one moment, for metrics and for people."""

    path_name: str
    provider: str
    site_name: str
    egress_source: str
    #: In the ready queue, in hand, or due and waiting for room in it.
    queued: int
    connections: int
    connection_limit: int
    #: The tightest of its message rates, in the operators' spelling; empty: none.
    rate: str
    delivered: int
    transient: int
    bounced: int
    #: Seconds since the epoch; 0: not suspended.
    suspended_until: float
    #: The limit of the fleet that it waits for a lease of, and since when; None: it does not.
    waits_for: LeaseWait | None = None
