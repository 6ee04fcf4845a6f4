"""
What is lent: limits as whole units, and the times that leases hang on.

A connection limit of 20 is 20 units, each one connection. A rate of 100/s with a burst of 100 is
100 units as well: each is a bucket for one event that fills at a hundredth of the rate. Whoever
holds n of them may pass n events at once and n hundredths of the rate; whoever holds all of them
has the limit itself. So one book of whole numbers serves both, sums are exact, and since every
unit keeps its own bound wherever it is, all holders together pass at most
`burst + rate * time` events in any window.
"""

from dataclasses import dataclass

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Earning:
    """How fast the units of a rate fill: *count* events per *period_ns*, over all units."""

    count: int
    period_ns: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.period_ns < 1:
            raise ValueError("a rate needs a count and a period of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSpec:
    """One limit."""

    #: Connections; of a rate, how many events may pass at once (its burst).
    units: int
    #: None: the units are connections, held until each is closed.
    earning: Earning | None = None

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError("a limit is at least 1")

    @property
    def is_rate(self) -> bool:
        """Whether the units are spent and earned again, not held."""
        return self.earning is not None

    @property
    def event_parts(self) -> int:
        """One event in parts, of which every unit earns `earning.count` a nanosecond."""
        return self.earning.period_ns * self.units if self.earning is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """
    The spans of leases, in nanoseconds.

    No two clocks need agree: an agent reckons from when it *sent* the last request that was
    answered, the server from when it *took it in*, which is later. Both clocks may run wrong by
    one part in `drift`.
    """

    #: How long what an agent may do lasts without word from the server.
    session: int = 15 * _SECOND
    #: How much longer the server waits before rates go to others.
    grace: int = 5 * _SECOND
    #: How long connections may take to close after that, in the middle of a message as they are.
    drain: int = 55 * _SECOND
    #: How long the floor of a lease lasts without word from the server.
    floor: int = 1200 * _SECOND
    #: How long whoever got a scarce unit keeps it although others wait, at least.
    hold_connection: int = 30 * _SECOND
    hold_rate: int = _SECOND
    #: After which a grant that was not confirmed is sent again.
    repeat: int = _SECOND
    drift: int = 1000

    def hold(self, spec: LimitSpec) -> int:
        """How long a scarce unit stays: of a rate, until it has earned an event."""
        if spec.earning is None:
            return self.hold_connection
        return max(self.hold_rate, spec.event_parts // spec.earning.count)

    def longer(self, span: int) -> int:
        """A span as the slower of two clocks may see it."""
        return span + span // self.drift

    def shorter(self, span: int) -> int:
        """A span as the faster of two clocks may see it."""
        return span - span // self.drift
