"""
Path: the ready queue of one egress path, its limits and its connections.

1. A connection exists only as a `Session` task. It holds a slot of the path's limit and one of
   each named limit from before it connects until the peer has seen it close.
2. `maintain` opens sessions while the mail asks for more than there are, the rates would let one
   more do something soon, and the slots are to be had; all of them or none.
3. When a limit is lowered, sessions above it are told to leave: idle ones at once, others after
   the transaction they are in. What is lent may be lowered at any time, and less is lent while
   others of the fleet need it.
4. A path that is suspended sends nothing: its mail goes back to where it waits, for other sources
   or for the end of the suspension.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

from agent.delivery.connections import wanted_connections
from agent.delivery.record import Peer, Response
from agent.delivery.tls import TlsMode
from agent.dispatch import waits
from agent.dispatch.lease_watch import LeaseWatch
from agent.dispatch.limits import Slot, Wait
from agent.dispatch.options import PathOptions, options_of
from agent.dispatch.path_state import Counters, LeaseWait, PathState
from agent.dispatch.services import Connection, Services
from agent.dispatch.tls_contexts import without_effect
from agent.dispatch.waits import QueueWait
from agent.limits.fleet import Wish
from agent.limits.limit import Kind
from agent.policy.answer import PathPolicy
from agent.queue.backoff import is_too_old
from agent.queue.entry import Entry
from agent.queue.names import QueueName, parse_queue_name
from agent.queue.ready import ReadyQueue
from agent.settings import Source
from agent.spool.messages import LastReply

logger = logging.getLogger(__name__)

#: A connection is opened this long before a rate would let it do something, in seconds.
_OPEN_AHEAD = 0.5
_LONGEST_TIMER = 60.0
#: An idle connection counts for so long as one that is wanted, in seconds: mail may follow at once.
#: After that others of the fleet may have its place.
_IDLE_COUNTS = 5.0
#: How long a session that is being opened may take to take leave, at the end.
_OPENING_SECONDS = 2.0
#: How long a session that was cut off may take to close.
_LAST_SECONDS = 3.0
_NS = 1_000_000_000


class Path:
    """One egress path of this agent."""

    def __init__(
        self, policy: PathPolicy, services: Services, new_session: Callable[["Path"], Connection]
    ) -> None:
        self.services = services
        self.name = policy.path_name
        self.counters = Counters()
        #: Connection plans that failed in a row.
        self.failures = 0
        self.last_used = services.clock()
        #: What was said last of mail on this path.
        self.last_reply: LastReply | None = None
        #: Sessions that wait for the message rates, in their order.
        self._line: dict[Connection, None] = {}
        self.in_hand = 0
        self._policy = policy
        self._options = options_of(policy)
        self._ready = ReadyQueue(self._options.max_ready)
        self._new_session = new_session
        self._sessions: dict[Connection, asyncio.Task[None]] = {}
        self._slots: dict[Connection, Slot] = {}
        #: Since when each has been idle, by the loop's clock, the longest first.
        self._idle: OrderedDict[Connection, float] = OrderedDict()
        self._lease = LeaseWatch(self.name, services.clock)
        self._timer: asyncio.TimerHandle | None = None
        #: When it goes off, by the loop's clock; not every loop's handles can tell.
        self._timer_at = 0.0
        self._is_stopping = False
        self._has_warned = False
        self._warn_of_tls()

    @property
    def policy(self) -> PathPolicy:
        """The answer in force."""
        return self._policy

    @property
    def options(self) -> PathOptions:
        """The options in force."""
        return self._options

    @property
    def source(self) -> Source:
        """The egress source."""
        return self.services.settings.sources[self._policy.egress_source]

    @property
    def is_full(self) -> bool:
        """Whether no further mail fits in."""
        return self._ready.is_full

    @property
    def is_unused(self) -> bool:
        """Whether the path holds neither mail nor connections."""
        return not self._sessions and not len(self._ready) and not self.in_hand

    @property
    def ready_count(self) -> int:
        """How many entries are in the ready queue or in hand."""
        return len(self._ready) + self.in_hand

    @property
    def connection_count(self) -> int:
        """How many connections are open or being opened."""
        return len(self._sessions)

    def adopt(self, policy: PathPolicy) -> None:
        """Work by *policy* from now on."""
        if policy is self._policy or policy.path_name != self.name:
            return
        is_same = (
            policy.config == self._policy.config
            and policy.fleet_limits == self._policy.fleet_limits
        )
        self._policy = policy
        if is_same:
            return
        self._options = options_of(policy)
        self._ready.max_ready = self._options.max_ready
        for slot in self._slots.values():
            self.services.limits.renew(slot, self._options)
        self._warn_of_tls()

    def put(self, entry: Entry, tenant: str) -> bool:
        """Queue *entry*; False if the queue is full."""
        if not self._ready.put(entry, tenant):
            return False
        self.last_used = self.services.clock()
        self._wake_one()
        return True

    def take(self) -> Entry | None:
        """The next entry to send, or None; it is in hand until `let_go`."""
        entry = self._take_young()
        if entry is not None:
            self.in_hand += 1
        if len(self._ready) * 2 <= self._ready.max_ready:
            self.services.holding.has_room(self)
        return entry

    def let_go(self) -> None:
        """An entry in hand has been settled."""
        self.in_hand -= 1
        self.last_used = self.services.clock()

    def note_reply(self, response: Response, peer: Peer | None) -> None:
        """This was said of mail on this path, by *peer* or by nobody else."""
        host = peer.name if peer is not None and not response.internal else ""
        self.last_reply = LastReply(response=response, time=self.services.clock(), peer=host)

    def put_back(self, entry: Entry) -> None:
        """An entry in hand was not sent; it keeps its place, or goes where it can be sent."""
        self.in_hand -= 1
        name = parse_queue_name(entry.queue_name)
        if (
            self._is_stopping
            or not self._still_serves(name)
            or not self._ready.put(entry, name.tenant)
        ):
            self.services.holding.take_back(entry)

    def drain(self) -> list[Entry]:
        """Take all mail out of the ready queue."""
        return self._ready.drain()

    def suspended_until(self) -> float:
        """
        Until when all mail of the path is suspended, seconds since the epoch; 0: it is not.
        A suspension of one domain or tenant does not hold a path that serves others too.
        """
        hold = self.services.holds.of_path(self._policy)
        return hold.until if hold is not None else 0.0

    @property
    def is_suspended(self) -> bool:
        """Whether the whole path is suspended now."""
        return self.suspended_until() > 0

    def policy_for(self, entry: Entry) -> PathPolicy | None:
        """The answer by which *entry* may be sent over this path now; None: it may not."""
        name = parse_queue_name(entry.queue_name)
        policy = self.services.policies.lookup(name.next_domain, self._policy.egress_source)
        if policy is None or policy.path_name != self.name:
            return None
        if not self._may_go(policy, name):
            return None
        self.adopt(policy)
        return policy

    def message_wait(self, session: Connection) -> float:
        """
        Charge the message rates: 0.0. Else nothing, and the seconds until it is the turn of
        *session*, which has a place in line from then on; infinity: not with what is lent.
        """
        wait = self._try_take(Kind.MESSAGE_RATE, self._ahead_of(session) if self._line else 0)
        if wait:
            self._line[session] = None
        else:
            self._line.pop(session, None)
        return wait

    def _ahead_of(self, session: Connection) -> int:
        """How many wait for the message rates before *session*."""
        return next((n for n, one in enumerate(self._line) if one is session), len(self._line))

    def leave_line(self, session: Connection) -> None:
        """*session* waits for no message rate any more."""
        self._line.pop(session, None)

    def connection_wait(self) -> float:
        """Charge the connection rates, as `message_wait` does."""
        return self._try_take(Kind.CONNECTION_RATE, 0)

    def wishes(self, waiting: int) -> Iterator[Wish]:
        """
        What the mail could use of each limit that the fleet keeps; *waiting* entries wait for room
        in the ready queue, or for the path to be chosen.
        """
        if not self._options.fleet_keys:
            return
        mail = self.ready_count + waiting
        connections = self._wanted_connections(waiting)
        opening = max(self._opening(), connections - len(self._sessions))
        amounts = {
            Kind.CONNECTIONS: connections,
            Kind.CONNECTION_RATE: 0 if self.is_suspended else opening,
            Kind.MESSAGE_RATE: 0 if self.is_suspended else mail,
            Kind.SELECTION_RATE: 0 if self.is_suspended else waiting,
        }
        for kind, amount in amounts.items():
            for limit in self._options.fleet[kind].values():
                yield Wish(limit=limit, amount=amount)

    def leases_changed(self) -> None:
        """More or less is lent of a limit of this path."""
        for session in list(self._sessions):
            session.wake()
        self._maintain_in(0.0)

    @property
    def lease_wait(self) -> LeaseWait | None:
        """The limit of the fleet that mail of this path waits for; None: it does not."""
        return self._lease.wait if self.ready_count else None

    def maintain(self) -> None:
        """Open the connections that the mail asks for and the limits allow."""
        for _ in range(min(len(self._idle), len(self._ready))):
            self._wake_one()
        while not self._is_stopping and self._wants_more():
            wait = self._opening_wait()
            if wait.short_of is not None:
                self._starve(wait)
                return
            if wait.seconds > _OPEN_AHEAD:
                self._maintain_in(wait.seconds - _OPEN_AHEAD / 2)
                return
            if not self.services.results.is_healthy:
                self._maintain_in(1.0)
                return
            session = self._new_session(self)
            slot = self.services.limits.try_open(session, self._options)
            if isinstance(slot, Wait):
                self._starve(slot)
                return
            self._open(session, slot)
        if len(self._ready):
            self._maintain_in(_LONGEST_TIMER)

    def apply_policy(self) -> None:
        """Something has changed: take mail out that may not stay, close what is too many."""
        policy = self.services.policies.lookup(
            self._policy.routing_domain, self._policy.egress_source
        )
        if policy is not None:
            self.adopt(policy)
        self._send_away_misplaced()
        self._close_surplus()
        for session in list(self._sessions):
            session.wake()
        self.maintain()

    def share(self, contended: Collection[str]) -> None:
        """Close what other processes have a right to, of limits that they wait for."""
        if not self._options.connection_limits.keys().isdisjoint(contended):
            self._close_surplus()

    def sweep(self) -> None:
        """End mail that grew too old while it was ready."""
        if not any(self._is_old(entry) for entry in self._ready):
            return
        kept = []
        for entry in self._ready.drain():
            if self._is_old(entry):
                self.services.holding.give_up(entry, self)
            else:
                kept.append(entry)
        for entry in kept:
            self._ready.put_back(entry, parse_queue_name(entry.queue_name).tenant)

    def became_idle(self, session: Connection) -> None:
        """*session* waits for mail."""
        self._idle[session] = asyncio.get_running_loop().time()

    def became_busy(self, session: Connection) -> None:
        """*session* waits no more."""
        self._idle.pop(session, None)

    def must_leave(self, session: Connection) -> bool:
        """Whether *session* is to close, as of this moment."""
        slot = self._slots.get(session)
        return self._is_stopping or slot is None or not self.services.limits.may_stay(slot)

    async def stop(self, most_seconds: float | None) -> None:
        """Close idle connections, let transactions end for a while, then cut them off."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for session in self._sessions:
            session.leave()
        tasks = list(self._sessions.values())
        if not tasks:
            return
        longest = self._options.timeouts.shutdown
        patience = longest if most_seconds is None else min(longest, most_seconds)
        ends = asyncio.get_running_loop().time() + patience
        # Nothing has been sent over those that are opening, so there is little to wait for. But a
        # peer counts until it has seen the end, and others of the fleet may come right after.
        _, pending = await asyncio.wait(tasks, timeout=min(patience, _OPENING_SECONDS))
        for session, task in list(self._sessions.items()):
            if session.is_opening:
                task.cancel()
        if pending:
            left = ends - asyncio.get_running_loop().time()
            _, pending = await asyncio.wait(pending, timeout=max(0.0, left))
        for _ in range(2):
            # The first cancel ends the transaction, the second the wait for a spool that is stuck.
            for task in pending:
                task.cancel()
            if pending:
                _, pending = await asyncio.wait(pending, timeout=_LAST_SECONDS)

    @property
    def queued(self) -> ReadyQueue:
        """The ready queue, to be looked at."""
        return self._ready

    def entries_in_hand(self) -> list[Entry]:
        """The entries that sessions send, or whose outcome they store."""
        return [entry for session in self._sessions for entry in session.in_hand]

    def waits(self) -> list[QueueWait]:
        """What the mail of the ready queue waits for now; nothing: it goes, or there is none."""
        services, options = self.services, self._options
        found: list[QueueWait] = []
        if not services.results.is_healthy:
            found.append(waits.SPOOL)
        if hold := services.holds.of_path(self._policy):
            found.append(waits.held(hold, what="what goes over this path"))
        if not len(self._ready):
            return found
        if (wait := self._lease.wait) is not None:
            short, since = wait.limit, wait.since
            lent = services.limits.lent(short)
            found.append(waits.lease(short.key, short.units, lent=lent, since=since))
        now = services.clock()
        sending = services.limits.wait(options, Kind.MESSAGE_RATE)
        opening = services.limits.wait(options, Kind.CONNECTION_RATE)
        if 0 < sending.seconds < math.inf:
            found.append(waits.message_rate(options.message_rates, now + sending.seconds))
        if (full := services.limits.slots.first_full(options.connection_limits)) is not None:
            found.append(waits.connection_limit(full, options.connection_limits[full]))
        elif 0 < opening.seconds < math.inf:
            found.append(waits.connection_rate(options.connection_rates, now + opening.seconds))
        if self._opening():
            found.append(waits.connecting(self._policy.site_name, self.failures))
        return found

    def state(self, waiting: int) -> PathState:
        """The path as it is now; *waiting* entries wait for room in its ready queue."""
        rate = self._options.message_rate
        return PathState(
            path_name=self.name,
            provider=self._policy.provider_name,
            site_name=self._policy.site_name,
            egress_source=self._policy.egress_source,
            queued=self.ready_count + waiting,
            connections=self.connection_count,
            connection_limit=self._options.connection_limit,
            rate=str(rate) if rate else "",
            delivered=self.counters.delivered,
            transient=self.counters.transient,
            bounced=self.counters.bounced,
            suspended_until=self.suspended_until(),
            waits_for=self.lease_wait,
        )

    def _warn_of_tls(self) -> None:
        """Once a path, say which of its TLS options have no effect."""
        if self._has_warned or self._options.tls_mode is TlsMode.DISABLED:
            return
        if mistakes := without_effect(self._options.config):
            self._has_warned = True
            facts = {"path": self.name, "options": "; ".join(mistakes)}
            logger.warning("tls options without effect", extra=facts)

    def _wants_more(self) -> bool:
        if self.is_suspended:
            return False
        wanted = wanted_connections(len(self._ready), self._options.connection_limit)
        return len(self._sessions) < wanted

    def _wanted_connections(self, waiting: int) -> int:
        """
        How many connections the path can make use of now: those at work, or idle for a moment
        only, and those that its mail asks for as far as its rates would let them send.
        """
        recent = asyncio.get_running_loop().time() - _IDLE_COUNTS
        idle = sum(1 for since in self._idle.values() if since <= recent)
        in_use = len(self._sessions) - idle
        mail = len(self._ready) + waiting
        if not mail or self.is_suspended:
            return in_use
        if self._opening_wait().seconds > _OPEN_AHEAD and not self._lease.asks_for_rate:
            # One, to have it when the rate lets a message go.
            return max(in_use, 1)
        limit = self._options.connection_limit
        return max(in_use, wanted_connections(mail, limit))

    def _opening_wait(self) -> Wait:
        """How long until one more connection could be opened and could send something."""
        limits = self.services.limits
        sending = limits.wait(self._options, Kind.MESSAGE_RATE, len(self._sessions))
        opening = limits.wait(self._options, Kind.CONNECTION_RATE, self._opening())
        return max(sending, opening, key=lambda wait: wait.seconds)

    def _opening(self) -> int:
        return sum(1 for session in self._sessions if session.is_opening)

    def _try_take(self, kind: Kind, ahead: int) -> float:
        wait = self.services.limits.try_take(self._options, kind, ahead)
        if wait.short_of is not None:
            self._lease.begin(wait.short_of)
        else:
            self._lease.end_of(kind)
        return wait.seconds

    def _starve(self, wait: Wait) -> None:
        """Try again when something is given back or lent."""
        if wait.short_of is not None:
            self._lease.begin(wait.short_of)
            if wait.short_of.kind is Kind.CONNECTIONS:
                self.services.limits.make_room(wait.short_of)
            else:
                self.services.limits.on_shortage()
        self.services.holding.starves(self)
        self._maintain_in(min(_LONGEST_TIMER, self.services.limits.slots.retry_seconds))

    def look_at_wait(self) -> None:
        """Log a wait for a lease that lasts, or end one that has lost its reason."""
        wait = self._lease.wait
        if wait is None:
            return
        if not self.ready_count or wait.limit.key not in self._options.fleet_keys:
            self._lease.end()
        elif wait.limit.kind is not Kind.CONNECTIONS or not self._sessions:
            self._lease.log_if_long(self.ready_count)

    def _open(self, session: Connection, slot: Slot) -> None:
        self._lease.end_of(Kind.CONNECTIONS)
        self._slots[session] = slot
        task = asyncio.create_task(session.run(), name=f"session {self.name}")
        self._sessions[session] = task
        task.add_done_callback(lambda done: self._closed(session, done))

    def _closed(self, session: Connection, task: asyncio.Task[None]) -> None:
        del self._sessions[session]
        self._idle.pop(session, None)
        self._line.pop(session, None)
        self.services.limits.close(self._slots.pop(session))
        self.last_used = self.services.clock()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("session failed", exc_info=error, extra={"path": self.name})
        if not self._is_stopping:
            self._maintain_in(0.0 if task.cancelled() or not task.exception() else 1.0)
            self.services.holding.slots_freed()

    def _maintain_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + min(seconds, _LONGEST_TIMER)
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(when, self._on_timer), when

    def _on_timer(self) -> None:
        self._timer = None
        self.maintain()

    def _wake_one(self) -> None:
        if self._idle:
            session, _ = self._idle.popitem()
            session.wake()
        else:
            self._maintain_in(0.0)

    def _take_young(self) -> Entry | None:
        while (entry := self._ready.pop()) is not None:
            if not self._is_old(entry):
                return entry
            self.services.holding.give_up(entry, self)
        return None

    def _is_old(self, entry: Entry) -> bool:
        name = parse_queue_name(entry.queue_name)
        max_age = self.services.settings.queue_for(name.domain).max_age
        return is_too_old(
            created=entry.created, next_attempt=self.services.clock(), max_age=max_age
        )

    def _still_serves(self, name: QueueName) -> bool:
        policy = self.services.policies.lookup(name.next_domain, self._policy.egress_source)
        return policy is not None and policy.path_name == self.name and self._may_go(policy, name)

    def _may_go(self, policy: PathPolicy, name: QueueName) -> bool:
        """Whether neither a suspension holds the queue's mail here, nor a bounce ends it."""
        holds = self.services.holds
        return holds.of_way(policy, name) is None and holds.bounce_of(name) is None

    def _send_away_misplaced(self) -> None:
        """Mail whose path is now another, or is suspended, goes back to where it waits."""
        names = {entry.queue_name for entry in self._ready}
        serves = {name: self._still_serves(parse_queue_name(name)) for name in names}
        if all(serves.values()):
            return
        for entry in self._ready.drain():
            if not serves[entry.queue_name]:
                self.services.holding.take_back(entry)
                continue
            # What was in the queue fits, however small it has been made meanwhile.
            self._ready.put_back(entry, parse_queue_name(entry.queue_name).tenant)

    def _close_surplus(self) -> None:
        limits = self.services.limits
        limits.enforce(self._options.fleet_keys)
        staying = [session for session, slot in self._slots.items() if not slot.is_leaving]
        leaving = len(self._slots) - len(staying)
        surplus = max(
            limits.slots.surplus(name, limit) - leaving
            for name, limit in self._options.connection_limits.items()
        )
        if self.is_suspended:
            surplus = len(staying)
        staying.sort(key=lambda session: not session.is_idle)
        for session in staying[: max(0, surplus)]:
            self._slots[session].is_leaving = True
            session.leave()
