"""
The lease book: which agent has how much of which limit.

It keeps these rules, whatever is lost, late, doubled or out of order on the way to agents:

1. What an agent may use is *booked* until the agent has said that it uses less, or until its lease
   is over beyond doubt. A grant that was lowered frees nothing when it is sent.
2. Every grant has a version that grows. A report lowers the book only if it names the newest: what
   crossed with a newer grant says nothing about what that one allows.
3. The sum of what is booked, of floors, and of what a predecessor may have promised is never above
   the limit, except where the limit was lowered; then it only falls.
4. A session ends for rates a while after its last sign of life, for connections later still. Each
   agent reckons its own end from earlier moments, so it has stopped before.
5. A floor is what an agent may use while the server is away. It is durable before it is sent, and
   counts as used until the agent has taken a lower one or its own, longer time is over.
6. A ceiling is durable before more than it is out. After a crash that much is taken to be out
   until agents say what they have, or until every lease of before must be over.
7. A version begins with the server's epoch, so that what a predecessor granted is always older.

Time is an argument, in nanoseconds of a clock that only goes forward. Nothing here waits, sends or
stores: `settle` returns a `Decision`, and whoever acts on it makes its promises durable before its
grants are sent.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from policy_server.limits.messages import Decision, Demand, Grant, Promise, Report
from policy_server.limits.shares import Claimant, divide
from policy_server.limits.spec import LeaseTiming, LimitSpec

#: Writes what proves a grant: agent, incarnation, key, version, units and floor.
Signer = Callable[[str, int, str, int, int, int], bytes]

#: Versions of one epoch.
_EPOCH_BITS = 32
#: A ceiling is raised by this part of a limit, and at least by so many units.
_CEILING_PART, _CEILING_LEAST = 10, 8
#: A grant is lowered without need only if that much of the limit lies idle in it.
_IDLE_PART = 10
#: Floors may take this part of a limit; all of it, where one agent alone has it.
_FLOOR_NUMERATOR, _FLOOR_DENOMINATOR = 1, 2


@dataclass(slots=True)
class Share:
    """What one agent has of one limit."""

    wants: int = 0
    weight: int = 1
    #: The most that it may be using.
    booked: int = 0
    #: What its newest grant says.
    granted: int = 0
    version: int = 0
    #: The most that it may use while the server is away, and what its newest grant says of that.
    floor: int = 0
    floor_granted: int = 0
    #: Since when it has had any units, and has lacked some.
    held_since: int = 0
    waiting_since: int = 0
    #: Its last report did not know the newest grant: it is sent again.
    is_behind: bool = False

    @property
    def occupied(self) -> int:
        """Units that nobody else may have."""
        return max(self.booked, self.floor)


class Stage(IntEnum):
    """How much of a silent agent's lease is over."""

    LIVE = 0
    RATES_OVER = 1
    DRAINED = 2
    FLOORS_OVER = 3


@dataclass(slots=True)
class Session:
    """One agent that reports."""

    #: 0: known from a predecessor's floors alone.
    incarnation: int
    sequence: int = 0
    stage: Stage = Stage.LIVE
    #: Grants are raised until then; it is over for rates, for connections and for floors later.
    speaks_until: int = 0
    rates_end: int = 0
    drained: int = 0
    floors_end: int = 0
    keys: set[str] = field(default_factory=set)

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
    #: Durable: no more than that is out.
    ceiling: int = 0
    #: What a predecessor may have promised to agents that have not spoken yet.
    unclaimed: int = 0
    durable_floors: dict[str, int] = field(default_factory=dict)
    #: Changed since agents were last told.
    is_news: bool = False

    @property
    def out(self) -> int:
        """Units that may be in use."""
        return self.unclaimed + self.occupied

    @property
    def free(self) -> int:
        """Units that can be given away now."""
        return max(0, self.spec.units - self.out)

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
            earned = (span - span // drift) * self.free * earning.count
            self.pool = min(self.pool + earned, self.free * self.spec.event_parts)
        self.pool_since = now


class LeaseBook:
    """All limits of one server, and all agents that share them."""

    def __init__(self, timing: LeaseTiming, *, epoch: int, sign: Signer) -> None:
        """Begin an empty book; *epoch* is higher than that of every server before."""
        self._timing = timing
        self._epoch = epoch
        self._counter = 0
        self._sign = sign
        self._limits: dict[str, Limit] = {}
        self._sessions: dict[str, Session] = {}
        self._dirty: dict[str, None] = {}
        #: Limits that have fewer units than agents who want some, by when to look again.
        self._scarce: dict[str, int] = {}
        #: Limits whose predecessor's promises are not all accounted for, until when.
        self._recovering: dict[str, int] = {}

    def configure(self, key: str, spec: LimitSpec, now: int) -> None:
        """Set a limit, or change it."""
        limit = self._limits.get(key)
        if limit is None:
            self._limits[key] = Limit(spec=spec, pool_since=now)
            return
        if limit.spec == spec:
            return
        limit.earn(now, self._timing.drift)
        if limit.spec.earning is not None and spec.earning is not None:
            # What was earned stays as many events, if there is still room for them.
            events = limit.pool * spec.event_parts // limit.spec.event_parts
            limit.pool = min(events, max(0, spec.units - limit.out) * spec.event_parts)
        else:
            limit.pool = 0
        limit.spec, limit.is_news = spec, True
        self._dirty[key] = None

    def restore(self, key: str, *, ceiling: int, floors: Mapping[str, int], now: int) -> None:
        """Take over what a predecessor had promised of a limit that is configured."""
        limit = self._limits[key]
        limit.ceiling = ceiling
        limit.durable_floors = dict(floors)
        for agent, floor in floors.items():
            share = limit.shares[agent] = Share(floor_granted=floor)
            limit.book(share, floor=floor)
            session = self._sessions.setdefault(agent, Session(incarnation=0, stage=Stage.DRAINED))
            session.keys.add(key)
            session.floors_end = now + self._floor_span()
        limit.unclaimed = max(0, ceiling - sum(floors.values()))
        self._recovering[key] = now + self._lease_span(limit.spec)

    def receive(self, report: Report, now: int) -> bool:
        """Take in a report; False if it is too late, comes twice or is of an agent long gone."""
        session = self._sessions.get(report.agent)
        if session is not None and report.incarnation < session.incarnation:
            return False
        if session is None or report.incarnation > session.incarnation:
            # The one before is gone, and all that it had: a host runs an agent once.
            if session is not None and session.incarnation:
                self._free(report.agent, session, now)
            keys = session.keys if session is not None else set()
            session = Session(incarnation=report.incarnation, keys=keys)
            self._sessions[report.agent] = session
        elif report.sequence <= session.sequence:
            return False
        else:
            self._end_overdue(report.agent, session, now)
        session.sequence, session.stage = report.sequence, Stage.LIVE
        session.speaks_until = now + self._timing.session
        session.rates_end = now + self._rate_span()
        session.drained = now + self._connection_span()
        session.floors_end = now + self._floor_span()
        for demand in report.demands:
            self._take(report.agent, session, demand, now)
        return True

    def release(self, agent: str, incarnation: int, now: int) -> None:
        """An agent has stopped in good order: all that it had is free at once."""
        session = self._sessions.get(agent)
        if session is not None and session.incarnation == incarnation:
            self._free(agent, session, now)
            del self._sessions[agent]

    def settle(self, now: int) -> Decision:
        """Decide what follows from what changed, and from time alone."""
        self._end_what_is_over(now)
        promises: list[Promise] = []
        grants: list[Grant] = []
        for key in self._take_dirty(now):
            limit = self._limits.get(key)
            if limit is not None:
                limit.earn(now, self._timing.drift)
                grants += self._settle_limit(key, limit, now)
                if (promise := _promise(key, limit)) is not None:
                    promises.append(promise)
        return Decision(promises=tuple(promises), grants=tuple(grants))

    def next_time(self) -> int | None:
        """When something ends by itself; None: nothing does."""
        times = [session.next_end for session in self._sessions.values()]
        times += self._scarce.values()
        times += self._recovering.values()
        return min(times, default=None)

    def heard(self, agent: str) -> int:
        """The newest request of an agent that was taken in; 0: none."""
        session = self._sessions.get(agent)
        return session.sequence if session is not None else 0

    def newest_grants(self, agent: str) -> tuple[Grant, ...]:
        """What an agent that connects anew is to be told: its grants as they stand."""
        session = self._sessions.get(agent)
        if session is None:
            return ()
        return tuple(
            self._grant(agent, session, key, limit, fill=0)
            for key in sorted(session.keys)
            if (limit := self._limits.get(key)) and (share := limit.shares.get(agent))
            if share.version
        )

    def limit(self, key: str) -> Limit | None:
        """A limit as it is now, to be looked at."""
        return self._limits.get(key)

    @property
    def keys(self) -> tuple[str, ...]:
        """The limits that are configured."""
        return tuple(self._limits)

    # Taking in.

    def _take(self, agent: str, session: Session, demand: Demand, now: int) -> None:
        limit = self._limits.get(demand.key)
        if limit is None:
            return
        session.keys.add(demand.key)
        limit.earn(now, self._timing.drift)
        share = limit.shares.setdefault(agent, Share(held_since=now, waiting_since=now))
        share.weight = max(1, demand.weight)
        if demand.wants and not share.wants:
            share.waiting_since = now
        share.wants = max(0, min(demand.wants, limit.spec.units))
        if demand.enforced > share.booked:
            self._take_claim(agent, session, limit, share, demand)
        elif demand.version == share.version:
            self._lower(limit, share, demand)
        share.is_behind = demand.version < share.version
        self._dirty[demand.key] = None

    def _take_claim(
        self, agent: str, session: Session, limit: Limit, share: Share, demand: Demand
    ) -> None:
        """An agent has more than we know of: we have forgotten, or it would not say so."""
        grown = limit.book(share, booked=demand.enforced)
        proof = self._sign(
            agent, session.incarnation, demand.key, demand.version, demand.granted, demand.floor
        )
        if demand.version >= share.version and proof == demand.proof:
            share.version = demand.version
            share.granted = min(demand.granted, demand.enforced)
        limit.unclaimed = max(0, limit.unclaimed - max(0, grown))

    def _lower(self, limit: Limit, share: Share, demand: Demand) -> None:
        booked = max(0, demand.enforced)
        share.granted = min(share.granted, booked)
        freed = -limit.book(share, booked=booked, floor=share.floor_granted)
        if limit.spec.is_rate and freed > 0:
            limit.pool += max(0, min(demand.returned, freed * limit.spec.event_parts))

    def _free(self, agent: str, session: Session, now: int) -> None:
        for key in session.keys:
            limit = self._limits.get(key)
            if limit is not None:
                # Before units come back: they have earned nothing here yet.
                limit.earn(now, self._timing.drift)
                limit.remove(agent)
                self._dirty[key] = None
        session.keys = set()

    # What ends by itself.

    def _end_what_is_over(self, now: int) -> None:
        for agent, session in list(self._sessions.items()):
            self._end_overdue(agent, session, now)
            if session.stage is Stage.FLOORS_OVER:
                del self._sessions[agent]
        for key in [key for key, until in self._recovering.items() if now >= until]:
            limit = self._limits[key]
            limit.earn(now, self._timing.drift)
            limit.unclaimed = 0
            del self._recovering[key]
            self._dirty[key] = None

    def _end_overdue(self, agent: str, session: Session, now: int) -> None:
        """Free what the session's lease held, as far as that is over beyond doubt."""
        while session.stage is not Stage.FLOORS_OVER and now >= session.next_end:
            session.stage = Stage(session.stage + 1)
            for key in list(session.keys):
                self._end_share(agent, session, key, now)

    def _end_share(self, agent: str, session: Session, key: str, now: int) -> None:
        limit = self._limits.get(key)
        share = limit.shares.get(agent) if limit is not None else None
        if limit is None or share is None:
            session.keys.discard(key)
            return
        if session.stage is Stage.RATES_OVER and not limit.spec.is_rate:
            return
        limit.earn(now, self._timing.drift)
        share.granted = share.wants = 0
        limit.book(share, booked=0)
        self._dirty[key] = None
        if not share.floor or session.stage is Stage.FLOORS_OVER:
            limit.remove(agent)
            session.keys.discard(key)

    def _take_dirty(self, now: int) -> list[str]:
        dirty = dict(self._dirty)
        dirty |= dict.fromkeys(key for key, at in self._scarce.items() if now >= at)
        self._dirty = {}
        return list(dirty)

    # Giving out.

    def _settle_limit(self, key: str, limit: Limit, now: int) -> Iterable[Grant]:
        live = {
            agent: share
            for agent, share in limit.shares.items()
            if self._is_live(self._sessions.get(agent), now)
        }
        hold = self._timing.hold_rate if limit.spec.is_rate else self._timing.hold_connection
        elsewhere = limit.unclaimed + sum(
            share.occupied for agent, share in limit.shares.items() if agent not in live
        )
        targets = divide(
            max(0, limit.spec.units - elsewhere),
            [
                Claimant(
                    name=agent,
                    wants=share.wants,
                    weight=share.weight,
                    is_protected=share.granted > 0 and now < share.held_since + hold,
                    # Who has some takes turns after those who have none.
                    waiting_since=now if share.granted else share.waiting_since,
                )
                for agent, share in live.items()
            ],
        )
        self._note_scarcity(key, limit, live, now, hold)
        changed = self._shrink(limit, live, targets, now) | self._news(limit, live)
        fills = self._grow(limit, live, targets, now)
        changed |= fills.keys()
        self._set_floors(limit, live, changed)
        for agent in sorted(changed):
            self._counter += 1
            live[agent].version = (self._epoch << _EPOCH_BITS) + self._counter
        told = changed | {agent for agent in live if live[agent].is_behind}
        return [
            self._grant(agent, self._sessions[agent], key, limit, fill=fills.get(agent, 0))
            for agent in sorted(told)
        ]

    def _is_live(self, session: Session | None, now: int) -> bool:
        return session is not None and session.incarnation > 0 and now < session.speaks_until

    def _news(self, limit: Limit, live: Mapping[str, Share]) -> set[str]:
        """Who is to be told that the limit itself has changed."""
        is_news, limit.is_news = limit.is_news, False
        return set(live) if is_news else set()

    def _note_scarcity(
        self, key: str, limit: Limit, live: Mapping[str, Share], now: int, hold: int
    ) -> None:
        waiting = any(share.wants > share.granted == 0 for share in live.values())
        if not waiting:
            self._scarce.pop(key, None)
            return
        ends = [share.held_since + hold for share in live.values() if share.granted]
        self._scarce[key] = max(min(ends, default=now), now) + hold // 10 + 1

    def _shrink(
        self, limit: Limit, live: Mapping[str, Share], targets: Mapping[str, int], now: int
    ) -> set[str]:
        """Lower the grants that others need, or in which much lies idle."""
        wanted = sum(max(0, targets[agent] - share.granted) for agent, share in live.items())
        is_short = wanted > limit.free or limit.out > limit.spec.units
        idle = max(1, limit.spec.units // _IDLE_PART)
        changed = set()
        for agent, share in live.items():
            surplus = share.granted - targets[agent]
            if surplus > 0 and (is_short or surplus > idle or targets[agent] == 0):
                share.granted = targets[agent]
                if not share.granted:
                    share.waiting_since = now
                changed.add(agent)
        return changed

    def _grow(
        self, limit: Limit, live: Mapping[str, Share], targets: Mapping[str, int], now: int
    ) -> dict[str, int]:
        """Raise grants as far as units are free, whoever has waited longest first."""
        fills: dict[str, int] = {}
        turns = sorted(live, key=lambda agent: (live[agent].waiting_since, agent))
        for agent in turns:
            share = live[agent]
            free = limit.free
            most = min(targets[agent], share.occupied + free)
            if most <= share.granted:
                continue
            if share.granted == 0:
                share.held_since = now
            share.granted = most
            taken = limit.book(share, booked=max(share.booked, most))
            fills[agent] = limit.pool * taken // free if taken else 0
            limit.pool -= fills[agent]
        return fills

    def _set_floors(self, limit: Limit, live: Mapping[str, Share], changed: set[str]) -> None:
        is_alone = len(limit.shares) == 1
        for agent, share in live.items():
            floor = share.granted
            if not is_alone:
                floor = share.granted * _FLOOR_NUMERATOR // _FLOOR_DENOMINATOR
            if agent in changed or share.floor_granted > floor:
                share.floor_granted = floor
                limit.book(share, floor=max(share.floor, floor))
                changed.add(agent)

    def _grant(self, agent: str, session: Session, key: str, limit: Limit, *, fill: int) -> Grant:
        share = limit.shares[agent]
        share.is_behind = False
        return Grant(
            agent=agent,
            incarnation=session.incarnation,
            key=key,
            spec=limit.spec,
            version=share.version,
            units=share.granted,
            floor=share.floor_granted,
            fill=fill,
            proof=self._sign(
                agent, session.incarnation, key, share.version, share.granted, share.floor_granted
            ),
        )

    # Spans.

    def _rate_span(self) -> int:
        return self._timing.longer(self._timing.session) + self._timing.grace

    def _connection_span(self) -> int:
        return self._rate_span() + self._timing.longer(self._timing.drain)

    def _floor_span(self) -> int:
        return self._timing.longer(self._timing.floor + self._timing.drain) + self._timing.grace

    def _lease_span(self, spec: LimitSpec) -> int:
        return self._rate_span() if spec.is_rate else self._connection_span()


def _promise(key: str, limit: Limit) -> Promise | None:
    """What has to be durable for the limit as it is now; None: that is so already."""
    ceiling: int | None = None
    step = max(_CEILING_LEAST, limit.spec.units // _CEILING_PART)
    out = limit.out
    if out > limit.ceiling or out + 2 * step < limit.ceiling:
        limit.ceiling = ceiling = out + step
    floors = {agent: share.floor for agent, share in limit.shares.items() if share.floor}
    changed = {
        agent: floors.get(agent, 0)
        for agent in floors.keys() | limit.durable_floors.keys()
        if floors.get(agent, 0) != limit.durable_floors.get(agent, 0)
    }
    limit.durable_floors = floors
    if ceiling is None and not changed:
        return None
    return Promise(key=key, ceiling=ceiling, floors=tuple(sorted(changed.items())))
