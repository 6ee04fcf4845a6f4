"""
Lease: what is held of one limit. The units of a rate bring the events that they had; a new one is
empty. Units that are given back take their events along.
"""

from dataclasses import dataclass

from agent.limits.messages import Demand, Grant


@dataclass(slots=True)
class Lease:
    """What is held of one limit."""

    key: str
    #: Parts of one event, and how many of them a unit earns a nanosecond; 0: connections.
    event_parts: int = 0
    earns: int = 0
    units: int = 0
    floor: int = 0
    #: Units that the floor still had when it ended.
    draining: int = 0
    #: Of the newest grant that was applied, and what it said.
    version: int = 0
    granted: int = 0
    granted_floor: int = 0
    proof: bytes = b""
    wants: int = 0
    in_use: int = 0
    #: Events that are free to pass, in parts, since when they have earned, and what went back.
    parts: int = 0
    parts_since: int = 0
    returned: int = 0
    #: What the server knows; None: that is not certain. What it was told last, and since which
    #: request nothing else.
    known: Demand | None = None
    told: Demand | None = None
    told_since: int = 0
    #: Since when it has been neither held nor wanted; None: it is.
    unused_since: int | None = None

    @property
    def is_rate(self) -> bool:
        """Whether units are spent and earned again."""
        return self.event_parts > 0

    def demand(self) -> Demand:
        """What is to be said of it now."""
        return Demand(
            key=self.key,
            wants=self.wants,
            enforced=max(self.units, self.in_use),
            version=self.version,
            returned=self.returned,
            granted=self.granted,
            floor=self.granted_floor,
            proof=self.proof,
            in_use=self.in_use,
        )

    def tell(self, demand: Demand, sequence: int) -> None:
        """A request says *demand*: until it is answered nobody knows which one was heard last."""
        self.known = None
        if demand != self.told:
            self.told, self.told_since = demand, sequence

    def note_answer(self, demand: Demand, sequence: int) -> None:
        """A request that said *demand* was heard; one that said something else later may be too."""
        if demand == self.told and sequence >= self.told_since:
            self.known = demand

    def forget_told(self) -> None:
        """Whatever was said, say it anew."""
        self.known = self.told = None

    def apply(self, grant: Grant, now: int, *, is_live: bool, has_floor: bool, drift: int) -> None:
        """
        Go by a newer grant: by its units where leases hold (*is_live*), else by its floor where
        floors do.
        """
        self.earn(now, drift)
        self.version, self.proof = grant.version, grant.proof
        self.granted, self.granted_floor = grant.units, grant.floor
        self.floor = grant.floor if has_floor else 0
        self.units = grant.units if is_live else self.floor
        parts = self.parts
        if grant.event_parts != self.event_parts and self.event_parts:
            parts = parts * grant.event_parts // self.event_parts
        self.event_parts, self.earns = grant.event_parts, grant.earns
        self.parts = min(parts, self.units * self.event_parts)
        self.returned = parts - self.parts
        if is_live:
            self.parts = min(self.parts + grant.fill, self.units * self.event_parts)

    def fall(self, units: int, at: int, drift: int) -> None:
        """
        Keep no more than *units*, since *at*. Whoever looks at the clock late, as one that stood
        still, has earned no more by that: what fell may be another's since.
        """
        self.earn(at, drift)
        self.units = units
        self.parts = min(self.parts, units * self.event_parts)
        self.returned = 0

    def earn(self, now: int, drift: int) -> None:
        """Let the units fill, as slowly as the slowest clock would have it: ours may be fast."""
        span = max(0, now - self.parts_since)
        earned = (span - span // drift) * self.units * self.earns
        self.parts = min(self.parts + earned, self.units * self.event_parts)
        self.parts_since = now
