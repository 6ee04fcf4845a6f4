"""
What the lease book remembers: limits, the shares that agents have of them, and their sessions.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from policy_server.limits.messages import Holding
from policy_server.limits.spec import LimitSpec

#: After which somebody looks again at the latest, in nanoseconds: a day.
LONGEST_WAIT = 86_400_000_000_000


@dataclass(slots=True)
class Share:
    """What one agent has of one limit."""

    #: Of the agent, as it was last heard.
    incarnation: int = 0
    wants: int = 0
    weight: int = 1
    #: The most that it may be using.
    booked: int = 0
    #: What its newest grant says.
    granted: int = 0
    version: int = 0
    #: Events that came with that, in parts.
    fill: int = 0
    #: The most that it may use while the server is away, and what its newest grant says of that.
    floor: int = 0
    floor_granted: int = 0
    #: Since when it has had any units, and has lacked some.
    held_since: int = 0
    waiting_since: int = 0
    #: What it said that it uses, for people to look at.
    in_use: int = 0
    #: Known from what a predecessor promised: its agent has not said yet what it has.
    is_restored: bool = False
    #: Its last report did not know the newest grant: it is sent again.
    is_behind: bool = False

    @property
    def occupied(self) -> int:
        """Units that nobody else may have."""
        return max(self.booked, self.floor)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remember of it."""
        return not (self.wants or self.granted or self.floor_granted or self.occupied)


class Stage(IntEnum):
    """How much of a silent agent's lease is over."""

    LIVE = 0
    RATES_OVER = 1
    DRAINED = 2
    FLOORS_OVER = 3


@dataclass(slots=True)
class Session:
    """One agent that reports."""

    #: 0: not known.
    incarnation: int
    sequence: int = 0
    stage: Stage = Stage.LIVE
    #: Grants are raised until then; it is over for rates, for connections and for floors later.
    speaks_until: int = 0
    rates_end: int = 0
    drained: int = 0
    floors_end: int = 0
    heard_at: int = 0
    keys: set[str] = field(default_factory=set)
    #: Keys whose newest grant it has not said it has, since when that was sent.
    unconfirmed: dict[str, int] = field(default_factory=dict)

    @property
    def next_end(self) -> int:
        """When the next part of its lease is over."""
        return (self.rates_end, self.drained, self.floors_end, self.floors_end)[self.stage]


@dataclass(slots=True)
class Limit:
    """One limit and who has it."""

    spec: LimitSpec
    shares: dict[str, Share] = field(default_factory=dict)
    #: Units that shares occupy, kept as they change.
    occupied: int = 0
    #: Events in the units that are free, in parts, and since when they have earned.
    pool: int = 0
    pool_since: int = 0
    #: Events that were used of units which the limit has lost since, in parts: it counts as used
    #: until that is earned again too, or a limit that is raised soon would be as good as new.
    owed: int = 0
    #: What a predecessor may have promised beside what it wrote down of each agent.
    unclaimed: int = 0
    #: Durable: what each agent may have, at least.
    durable_holdings: dict[str, Holding] = field(default_factory=dict)
    #: As it stands beside them; None: nothing is durable.
    durable_spec: LimitSpec | None = None
    #: Events that are durable as owed.
    durable_owed: int = 0
    #: Grants up to this version say what the limit was before.
    last_old_version: int = 0

    def is_outdated(self, share: Share) -> bool:
        """Whether the newest grant of a share says what the limit was before."""
        return 0 < share.version <= self.last_old_version

    @property
    def out(self) -> int:
        """Units that may be in use."""
        return self.unclaimed + self.occupied

    @property
    def free(self) -> int:
        """Units that can be given away now."""
        return max(0, self.spec.units - self.out)

    @property
    def is_idle(self) -> bool:
        """Whether nobody has or wants any of it, and all that was used is earned again."""
        return (
            not self.shares and not self.unclaimed and self.pool >= self.most_pool and not self.owed
        )

    @property
    def most_pool(self) -> int:
        """What the pool has when all units are free and full."""
        return self.spec.units * self.spec.event_parts

    def full_after(self, drift: int) -> int:
        """
        How long until all is earned again if all units stay free, in nanoseconds; of a span longer
        than `LONGEST_WAIT`, that much.
        """
        earning = self.spec.earning
        if earning is None:
            return 0
        missing = self.most_pool - self.pool + self.owed
        span = -(-missing // (self.spec.units * earning.count))
        return min(span + span // (drift - 1) + 1, LONGEST_WAIT)

    def book(self, share: Share, *, booked: int | None = None, floor: int | None = None) -> int:
        """Change what a share occupies; return by how many units that grew."""
        before = share.occupied
        share.booked = share.booked if booked is None else booked
        share.floor = share.floor if floor is None else floor
        grown = share.occupied - before
        self.occupied += grown
        return grown

    def remove(self, agent: str) -> bool:
        """Take a share out; False if there is none."""
        share = self.shares.pop(agent, None)
        if share is not None:
            self.occupied -= share.occupied
        return share is not None

    def earn(self, now: int, drift: int) -> None:
        """Let the free units fill, as slowly as the slowest clock would have it."""
        earning = self.spec.earning
        if earning is not None:
            span = max(0, now - self.pool_since)
            self.add_events((span - span // drift) * self.free * earning.count)
        self.pool_since = now

    def add_events(self, events: int) -> None:
        """Add events, in parts, to what free units have; those without room pay what is owed."""
        whole, room = self.pool + events, self.free * self.spec.event_parts
        self.pool = min(whole, room)
        # What was in the pool before and has no room now is with somebody.
        self.owed = max(0, self.owed - min(events, max(0, whole - room)))

    def change(self, spec: LimitSpec) -> None:
        """Become another limit: events in the pool stay, if there is still room for them."""
        before = self.spec
        # What is out counts as used: how full that is comes to light with it.
        used = self.most_pool - self.pool + self.owed
        self.spec = spec
        if before.earning is None or spec.earning is None:
            self.pool = self.owed = 0
            return
        events = self.pool * spec.event_parts // before.event_parts
        self.pool = min(events, self.free * spec.event_parts)
        used = -(-used * spec.event_parts // before.event_parts)
        self.owed = max(0, used - (self.most_pool - self.pool))
