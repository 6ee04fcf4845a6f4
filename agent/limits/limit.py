"""FleetLimit: a limit that the fleet keeps together, as an answer names it."""

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a limit counts."""

    CONNECTIONS = "connections"
    CONNECTION_RATE = "connection rate"
    MESSAGE_RATE = "message rate"
    SELECTION_RATE = "selection rate"


class OnUnreachable(StrEnum):
    """What a limit becomes once even floors are over."""

    STOP = "stop"
    STATIC = "static"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPath:
    """A path whose answer names the limit, as the question for it was."""

    routing_domain: str
    egress_source: str
    #: Names and preferences.
    mx_hosts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimit:
    """One limit that the fleet keeps together, as an answer names it."""

    key: str
    kind: Kind
    #: The option that it comes from, and the key in it if that is a map.
    option: str
    name: str
    #: Connections; of a rate, events per period.
    limit: int
    #: 0: connections.
    period_ns: int = 0
    burst: int = 0
    on_unreachable: OnUnreachable = OnUnreachable.STOP
    static_units: int = 0
    #: A path whose answer names it; any will do, so it makes no difference.
    path: LimitPath = field(compare=False)

    @property
    def units(self) -> int:
        """In how many units it is lent."""
        return self.burst if self.period_ns else self.limit
