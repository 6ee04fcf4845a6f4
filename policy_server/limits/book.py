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
6. What each agent may have is durable before it is sent. After a crash that much stays booked
   until the agent has confirmed a grant of the new book, which makes all that may still be under
   way to it void, or until its lease of before must be over.
7. A version begins with the server's epoch, so that what a predecessor granted is always older.
8. A grant that its agent does not confirm is sent again, with a report that comes a while later.
9. Who alone wants a limit has all of it, so that it need not ask again. A limit that nobody has or
   wants is forgotten, a rate once its units are full again.
10. Who has a grant from before the limit itself was changed is told, however long it was silent.
11. A start of an agent that was released is not heard for a while: what it said before may come
    late, and it may live after all, and has to be told that it has nothing any more.

Time is an argument, in nanoseconds of a clock that only goes forward. Nothing here waits, sends or
stores: `settle` returns a `Decision`, and whoever acts on it makes its promises durable before its
grants are sent.
"""

from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from operator import itemgetter

from policy_server.limits.alarms import Alarms
from policy_server.limits.deal import deal_out
from policy_server.limits.messages import Decision, Demand, Grant, Holding, Promise, Report
from policy_server.limits.promises import take_promise
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.limits.state import Limit, Session, Share, Stage
from policy_server.limits.taking import take_demand

#: Writes what proves a grant: agent, incarnation, key, version, units and floor.
Signer = Callable[[str, int, str, int, int, int], bytes]

#: Versions of one epoch.
_EPOCH_BITS = 32
#: For how long a start that was released is not heard, in nanoseconds.
_RELEASED_FOR = 60_000_000_000
#: Grants that are sent again after one report.
_MOST_REPEATED = 50


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
        #: When the next part of each agent's lease is over.
        self._ends = Alarms()
        self._dirty: dict[str, None] = {}
        #: Limits that have fewer units than agents who want some.
        self._scarce = Alarms()
        #: Limits whose predecessor's promises are not all accounted for.
        self._recovering = Alarms()
        #: Limits that nobody has or wants, until their units are full.
        self._refilling = Alarms()
        #: Which start of each agent was released, until that is forgotten.
        self._released: dict[str, int] = {}
        self._released_ends = Alarms()

    def configure(self, key: str, spec: LimitSpec, now: int) -> None:
        """Set a limit, or change it."""
        limit = self._limits.get(key)
        if limit is None:
            # What nothing is known of has not been used, or long ago: its units are full.
            pool = spec.units * spec.event_parts
            self._limits[key] = Limit(
                spec=spec, pool=pool, pool_since=now, last_old_version=self._last_version
            )
            return
        if limit.spec is spec or limit.spec == spec:
            return
        limit.earn(now, self._timing.drift)
        limit.change(spec)
        limit.last_old_version = self._last_version
        self._dirty[key] = None

    def restore(
        self,
        key: str,
        *,
        holdings: Mapping[str, Holding],
        ceiling: int = 0,
        owed: int = 0,
        now: int,
    ) -> None:
        """
        Take over what a predecessor had promised of a limit that is configured: to whom how much,
        and at most *ceiling* in all, where that is more; and the events that it *owed*.
        """
        limit = self._limits[key]
        limit.durable_spec, limit.pool = limit.spec, 0
        limit.durable_owed, limit.owed = owed, owed * limit.spec.event_parts
        limit.durable_holdings = dict(holdings)
        for agent, holding in holdings.items():
            share = limit.shares[agent] = Share(
                incarnation=holding.incarnation, floor_granted=holding.floor, is_restored=True
            )
            limit.book(share, booked=holding.units, floor=holding.floor)
            session = self._sessions.setdefault(agent, Session(incarnation=0))
            if holding.incarnation > session.incarnation:
                session.incarnation, session.sequence = holding.incarnation, 0
            session.keys.add(key)
            session.rates_end = now + self._rate_span()
            session.drained = now + self._connection_span()
            session.floors_end = now + self._floor_span()
            self._ends.set(agent, session.next_end)
        limit.unclaimed = max(0, ceiling - limit.occupied)
        self._recovering.set(key, now + self._lease_span(limit.spec))

    def receive(self, report: Report, now: int) -> bool:
        """Take in a report; False if it is too late, comes twice or is of an agent long gone."""
        self._forget_released(now)
        if report.incarnation <= self._released.get(report.agent, -1):
            return False
        session = self._sessions.get(report.agent)
        if session is not None and report.incarnation < session.incarnation:
            return False
        if session is None or report.incarnation > session.incarnation:
            # The one before is gone, and all that it had: a host runs an agent once. Of whom no
            # incarnation is known that can't be said.
            if session is not None and session.incarnation:
                self._free(report.agent, session, now)
            known = session or Session(incarnation=0)
            session = self._sessions[report.agent] = Session(
                incarnation=report.incarnation, keys=known.keys, unconfirmed=known.unconfirmed
            )
        elif report.sequence <= session.sequence:
            return False
        else:
            self._end_overdue(report.agent, session, now)
            if now >= session.speaks_until:
                # What changed while it was silent it has not been told.
                self._dirty |= dict.fromkeys(session.keys)
        session.sequence, session.stage, session.heard_at = report.sequence, Stage.LIVE, now
        session.speaks_until = now + self._timing.session
        session.rates_end = now + self._rate_span()
        session.drained = now + self._connection_span()
        session.floors_end = now + self._floor_span()
        self._ends.set(report.agent, session.next_end)
        for demand in report.demands:
            self._take(report.agent, session, demand, now)
        self._repeat(report.agent, session, now)
        return True

    def release(self, agent: str, incarnation: int, now: int) -> None:
        """An agent has stopped in good order, up to *incarnation*: all it had is free at once."""
        session = self._sessions.get(agent)
        if session is not None and session.incarnation <= incarnation:
            self._free(agent, session, now)
            self._drop(agent)
            self._forget_released(now)
            self._released[agent] = session.incarnation
            self._released_ends.set(agent, now + _RELEASED_FOR)

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
                if (promise := take_promise(key, limit)) is not None:
                    promises.append(promise)
                self._forget_idle(key, limit, now)
        return Decision(promises=tuple(promises), grants=tuple(grants))

    def next_time(self) -> int | None:
        """When something ends by itself; None: nothing does."""
        alarms = (self._ends, self._scarce, self._recovering, self._refilling)
        times = (one.soonest for one in alarms)
        return min((time for time in times if time is not None), default=None)

    def heard(self, agent: str) -> int:
        """The newest request of an agent that was taken in; 0: none."""
        session = self._sessions.get(agent)
        return session.sequence if session is not None else 0

    def unconfirmed_grants(self, agent: str) -> tuple[Grant, ...]:
        """What an agent that connects anew is to be told: grants that it has not confirmed."""
        session = self._sessions.get(agent)
        if session is None:
            return ()
        return tuple(
            self._grant(agent, session, key, limit)
            for key in session.unconfirmed
            if (limit := self._limits.get(key)) and agent in limit.shares
        )

    def holds(self, grant: Grant) -> bool:
        """Whether a grant is still the newest of its agent, and its lease not over."""
        limit, session = self._limits.get(grant.key), self._sessions.get(grant.agent)
        share = limit.shares.get(grant.agent) if limit is not None else None
        return (
            share is not None
            and session is not None
            and session.incarnation == grant.incarnation
            and share.version == grant.version
            and share.granted == grant.units
            and share.floor_granted == grant.floor
        )

    @property
    def is_recovering(self) -> bool:
        """Whether what a predecessor promised is not all accounted for."""
        return self._recovering.soonest is not None

    def session(self, agent: str) -> Session | None:
        """An agent's session as it is now, to be looked at."""
        return self._sessions.get(agent)

    def limit(self, key: str) -> Limit | None:
        """A limit as it is now, to be looked at."""
        return self._limits.get(key)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many limits are lent, to how many agents, and how many of them are scarce."""
        return len(self._limits), len(self._sessions), len(self._scarce)

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
        self._refilling.remove(demand.key)
        limit.earn(now, self._timing.drift)
        share = limit.shares.setdefault(agent, Share(held_since=now, waiting_since=now))
        share.incarnation = session.incarnation
        if demand.wants and not share.wants:
            share.waiting_since = now

        def is_proven() -> bool:
            facts = (demand.key, demand.version, demand.granted, demand.floor)
            return self._sign(agent, session.incarnation, *facts) == demand.proof

        take_demand(limit, share, demand, is_proven, self._next_version)
        if not share.is_behind:
            session.unconfirmed.pop(demand.key, None)
        if share.is_empty:
            limit.remove(agent)
            session.keys.discard(demand.key)
            session.unconfirmed.pop(demand.key, None)
        self._dirty[demand.key] = None

    def _next_version(self) -> int:
        self._counter += 1
        return self._last_version

    @property
    def _last_version(self) -> int:
        return (self._epoch << _EPOCH_BITS) + self._counter

    def _repeat(self, agent: str, session: Session, now: int) -> None:
        """
        Have grants sent again that seem to be lost; not all at once, for where very many are late
        to be confirmed it is we who are slow, and would be slower still.
        """
        lost = [
            (since, key)
            for key, since in session.unconfirmed.items()
            if now - since >= self._timing.repeat
        ]
        for _, key in nsmallest(_MOST_REPEATED, lost):
            limit = self._limits.get(key)
            share = limit.shares.get(agent) if limit is not None else None
            if share is None:
                del session.unconfirmed[key]
                continue
            share.is_behind = True
            self._dirty[key] = None

    def _free(self, agent: str, session: Session, now: int) -> None:
        for key in session.keys:
            limit = self._limits.get(key)
            if limit is not None:
                # Before units come back: they have earned nothing here yet.
                limit.earn(now, self._timing.drift)
                limit.remove(agent)
                self._dirty[key] = None
        session.keys = set()
        session.unconfirmed = {}

    def _forget_released(self, now: int) -> None:
        for agent in self._released_ends.take(now):
            del self._released[agent]

    def _drop(self, agent: str) -> None:
        del self._sessions[agent]
        self._ends.remove(agent)

    # What ends by itself.

    def _end_what_is_over(self, now: int) -> None:
        for agent in self._ends.take(now):
            session = self._sessions[agent]
            self._end_overdue(agent, session, now)
            if session.stage is Stage.FLOORS_OVER:
                self._drop(agent)
            else:
                self._ends.set(agent, session.next_end)
        for key in self._recovering.take(now):
            limit = self._limits[key]
            limit.earn(now, self._timing.drift)
            limit.unclaimed = 0
            for agent, share in sorted(limit.shares.items(), key=itemgetter(0)):
                if share.is_restored:
                    # If its agent is heard, but never of this, it is told what it has.
                    share.is_restored, share.version = False, self._next_version()
                    share.is_behind = True
                    self._sessions[agent].unconfirmed[key] = now - self._timing.repeat
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
        share.granted = share.wants = share.fill = 0
        limit.book(share, booked=0)
        self._dirty[key] = None
        if not share.floor or session.stage is Stage.FLOORS_OVER:
            limit.remove(agent)
            session.keys.discard(key)

    def _take_dirty(self, now: int) -> list[str]:
        dirty, self._dirty = self._dirty, {}
        for alarms in (self._scarce, self._refilling):
            dirty |= dict.fromkeys(alarms.take(now))
        # In one order, whatever the order of reports: what follows is the same then.
        return sorted(dirty)

    def _forget_idle(self, key: str, limit: Limit, now: int) -> None:
        """Forget a limit of which nothing is out; a rate when what was used is earned again."""
        if limit.shares or limit.unclaimed or self._recovering.has(key):
            return
        if limit.is_idle:
            del self._limits[key]
            self._scarce.remove(key)
        else:
            self._refilling.set(key, now + limit.full_after(self._timing.drift))

    # Giving out.

    def _settle_limit(self, key: str, limit: Limit, now: int) -> Iterable[Grant]:
        live = {
            agent: share
            for agent, share in limit.shares.items()
            # Who may still show more is not told to have less.
            if not share.is_restored and self._is_live(self._sessions.get(agent), now)
        }
        hold = self._timing.hold(limit.spec)
        changed, fills = deal_out(limit, live, now=now, hold=hold)
        self._note_scarcity(key, live, now, hold)
        for agent in sorted(changed):
            live[agent].version = self._next_version()
            live[agent].fill = fills.get(agent, 0)
        told = changed | {agent for agent in live if live[agent].is_behind}
        for agent in told:
            self._sessions[agent].unconfirmed[key] = now
        return [self._grant(agent, self._sessions[agent], key, limit) for agent in sorted(told)]

    def _is_live(self, session: Session | None, now: int) -> bool:
        return session is not None and session.incarnation > 0 and now < session.speaks_until

    def _note_scarcity(self, key: str, live: Mapping[str, Share], now: int, hold: int) -> None:
        waiting = any(share.wants > share.granted == 0 for share in live.values())
        if not waiting:
            self._scarce.remove(key)
            return
        ends = [share.held_since + hold for share in live.values() if share.granted]
        self._scarce.set(key, max(min(ends, default=now), now) + hold // 10 + 1)

    def _grant(self, agent: str, session: Session, key: str, limit: Limit) -> Grant:
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
            # It is applied once, however often it is sent.
            fill=share.fill,
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
