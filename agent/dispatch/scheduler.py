"""
Scheduler: keeps mail until it is due, then finds the path it leaves by.

For each due entry: the MX hosts of its routing domain, a source of its pool by weighted round
robin, the policy of that path, a place in its ready queue. What is known already is taken at
once, in `choice`; lookups run beside, in `lookups`. What can't go on waits in its lane; what ends
without a peer is settled in `endings`, what is ordered to bounce in `bounces`.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from agent.background import end
from agent.delivery import internal
from agent.delivery.plan import is_null_mx
from agent.delivery.record import Response
from agent.dispatch import waits
from agent.dispatch.bell import Bell
from agent.dispatch.bounces import Bounces
from agent.dispatch.choice import LONGEST_WAIT, Choice
from agent.dispatch.endings import Endings
from agent.dispatch.held_lanes import HeldLanes
from agent.dispatch.holds import HoldKind
from agent.dispatch.lanes import Ending, HeldQueue, Lane, Lookup, Wait
from agent.dispatch.lookups import Lookups
from agent.dispatch.path import Path
from agent.dispatch.services import Services
from agent.dispatch.settling import Way
from agent.dispatch.waits import UNDER_WAY, QueueWait
from agent.policy.answer import MxHost, PathPolicy
from agent.queue.backoff import is_too_old
from agent.queue.entry import Entry
from agent.queue.names import QueueName
from agent.queue.scheduled import ScheduledQueues

logger = logging.getLogger(__name__)

_DUE_AT_ONCE = 500
_LANES_AT_ONCE = 100
_ENTRIES_AT_ONCE = 50
#: Lanes that are woken after a change of policy, and entries that end for their age, before others
#: get a turn.
_WOKEN_AT_ONCE = 1000
_ENDED_AT_ONCE = 1000
#: Lanes to be looked at or looked up beyond which further mail waits in its scheduled queue, where
#: it needs less memory. Lanes of doubtful domains do not count: they may stay for long.
_MOST_ACTIVE = 10_000
#: A list of waiting lanes up to this long is left as it is, lanes that were woken and all.
_SMALL_LIST = 1024


class Scheduler:
    """All mail that is not on a path."""

    def __init__(
        self,
        services: Services,
        find_path: Callable[[PathPolicy], Path],
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._services = services
        self._on_failure = on_failure
        self._choice = Choice(services, find_path)
        self._scheduled = ScheduledQueues()
        self._lanes: dict[str, Lane] = {}
        self._runnable: deque[Lane] = deque()
        #: Lanes to be woken, as the policy has changed.
        self._stale: OrderedDict[Lane, None] = OrderedDict()
        self._held = HeldLanes()
        self._waiting: list[tuple[float, Lane]] = []
        self._lookups = Lookups(services, self)
        self._endings = Endings(services.results, self.add)
        self._bounces = Bounces(services, self._scheduled, self._endings)
        self._bell = Bell()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to promote due mail."""
        self._tasks = [
            asyncio.create_task(self._run(), name="scheduler"),
            *map(asyncio.create_task, self._lookups.work()),
            *map(asyncio.create_task, self._endings.work()),
            asyncio.create_task(self._bounces.work(), name="bounces"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    async def stop(self) -> None:
        """Promote nothing more; all of it is on disk."""
        await end(self._tasks)
        self._tasks = []
        self._bell.close()

    @property
    def scheduled_count(self) -> int:
        """Entries whose time has not come."""
        return len(self._scheduled)

    @property
    def lane_count(self) -> int:
        """Due entries that are on no path."""
        return sum(len(lane) for lane in self._lanes.values()) + len(self._endings)

    def waiting_by_path(self) -> dict[str, int]:
        """Due entries by the path they wait for."""
        counts: dict[str, int] = {}
        for lane in self._lanes.values():
            if lane.path_name:
                counts[lane.path_name] = counts.get(lane.path_name, 0) + len(lane)
        return counts

    def waits_of(self, queue: QueueName) -> list[QueueWait]:
        """What due mail of a queue waits for now; nothing: it may go on."""
        services, domain = self._services, queue.next_domain
        if services.holds.bounce_of(queue):
            return [UNDER_WAY]
        if hold := services.holds.of_queue(queue):
            return [waits.held(hold)]
        if services.resolver.known_mx(domain) is None:
            return [waits.mx_lookup(domain)]
        lane = self._lanes.get(str(queue))
        return self._choice.waits_of(queue, lane)

    def scheduled_counts(self) -> dict[str, int]:
        """How many entries of each queue wait for their time."""
        return self._scheduled.counts()

    def count_scheduled(self, queue_name: str) -> int:
        """How many entries of one queue wait for their time."""
        return self._scheduled.count_of(queue_name)

    def scheduled_snapshot(self) -> list[Entry]:
        """All entries that wait for their time, to be looked at a few at a time."""
        return self._scheduled.snapshot()

    def take_scheduled(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take out those of *entries* that still wait; they are the caller's to keep."""
        return self._scheduled.take(entries)

    def due_queues(self) -> dict[str, tuple[int, float]]:
        """How many entries of each queue are due, and when the oldest of them was created."""
        found = {}
        for lane in self._lanes.values():
            if (oldest := lane.oldest()) is not None:
                found[lane.queue_name] = (len(lane), oldest.created)
        return found

    def is_due(self, queue_name: str) -> bool:
        """Whether entries of a queue are due, and on no path yet."""
        return queue_name in self._lanes

    def take_due(self, queue_name: str, limit: int) -> list[Entry]:
        """Take out at most *limit* due entries of a queue; they are the caller's to keep."""
        lane = self._lanes.get(queue_name)
        if lane is None:
            return []
        held = lane.held_by
        self._held.release(lane)
        entries = [lane.pop() for _ in range(min(limit, len(lane)))]
        if lane.heap and held is not None:
            self._held.hold(lane, held)
        if not lane.heap:
            self._forget(lane)
        return entries

    def add(self, entry: Entry) -> None:
        """Take an entry; it is promoted when it is due."""
        if entry.due > self._services.clock() or self._is_crowded:
            self._scheduled.add(entry)
            self._bell.ring()
        else:
            self._add_due(entry)

    def path_has_room(self, path: Path) -> None:
        """Let lanes that wait for this path's room go on, each in its turn."""
        # Not all: they may be very many, and the room is for as many messages at most.
        for lane in self._choice.take_hungry(path, _WOKEN_AT_ONCE):
            self._make_runnable(lane)

    def _fill_room(self) -> None:
        """Go on where those that were let go on did not need all the room."""
        for path in self._choice.paths_with_room():
            self.path_has_room(path)

    def selection_changed(self, path_name: str) -> None:
        """Let the lanes that wait for a path's selection rate look again."""
        for lane in self._choice.paced(path_name):
            self._make_runnable(lane)

    def held_counts(self) -> dict[HoldKind, int]:
        """Due entries that suspensions hold, by how much of the mail those hold."""
        return self._held.counts()

    def held_queues(self, most: int) -> list[HeldQueue]:
        """The queues that suspensions hold, those with the most mail first, *most* at most."""
        return self._held.largest(most, self._scheduled.count_of)

    def look_again(self) -> None:
        """The policy has changed: whatever waits may go on now."""
        for lane in self._lanes.values():
            self._stale[lane] = None
        self._bell.ring()
        self._bounces.look_again()

    def _wake_stale(self) -> None:
        for _ in range(min(len(self._stale), _WOKEN_AT_ONCE - len(self._runnable))):
            lane, _ = self._stale.popitem(last=False)
            if self._lanes.get(lane.queue_name) is not lane:
                continue
            lane.unknown = None
            if not self._is_held_still(lane):
                self._make_runnable(lane)

    def _is_held_still(self, lane: Lane) -> bool:
        """
        Whether nothing that changed can let the lane's mail go or end it. What holds a path alone
        is looked at anew, for another source may have become usable.
        """
        held, holds = lane.held_by, self._services.holds
        return (
            held is not None
            and not held.is_of_way
            and holds.is_in_force(held)
            and holds.bounce_of(lane.queue) is None
        )

    def sweep_bounces(self) -> None:
        """Look through all mail for some that is to be bounced."""
        self._bounces.sweep()

    def end_entries(self, ending: Ending) -> None:
        """Settle entries without a peer."""
        self._endings.put(ending)

    @property
    def _is_crowded(self) -> bool:
        return len(self._runnable) + len(self._lookups) >= _MOST_ACTIVE

    async def _run(self) -> None:
        while True:
            self._bell.silence()
            now = self._services.clock()
            if not self._is_crowded:
                for entry in self._scheduled.pop_due(now, _DUE_AT_ONCE):
                    self._add_due(entry)
            while self._waiting and self._waiting[0][0] <= now:
                when, lane = heappop(self._waiting)
                if lane.wake_at == when:
                    self._make_runnable(lane)
            self._wake_stale()
            for _ in range(min(len(self._runnable), _LANES_AT_ONCE)):
                lane = self._runnable.popleft()
                lane.is_busy = False
                self._advance_safely(lane)
            await self._sleep()

    async def _sleep(self) -> None:
        """Until something is due or something happens."""
        if not self._runnable and not self._stale:
            self._fill_room()
        now = self._services.clock()
        times = [self._waiting[0][0]] if self._waiting else []
        if not self._is_crowded and (due := self._scheduled.next_due()) is not None:
            times.append(due)
        seconds = min(times, default=now + LONGEST_WAIT) - now
        if self._runnable or self._stale or seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._bell.wait(min(seconds, LONGEST_WAIT))

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.critical("dispatch stopped", exc_info=error, extra={"task": task.get_name()})
        if self._on_failure is not None:
            self._on_failure(error)

    def _add_due(self, entry: Entry) -> None:
        lane = self._lanes.get(entry.queue_name)
        if lane is None:
            lane = Lane(entry.queue_name, [entry])
            self._lanes[entry.queue_name] = lane
        else:
            lane.add(entry)
            self._held.count_added(lane)
        if not lane.wake_at:
            self._make_runnable(lane)

    def _make_runnable(self, lane: Lane) -> None:
        if lane.is_busy:
            return
        lane.is_busy, lane.wake_at = True, 0.0
        self._held.release(lane)
        self._choice.stop_pacing(lane)
        self._runnable.append(lane)
        self._bell.ring()

    def _advance(self, lane: Lane) -> None:
        """Let the lane's mail go as far as it can, or find out what it waits for."""
        if self._end_old(lane):
            return
        queue = lane.queue
        if bounce := self._services.holds.bounce_of(queue):
            entries = lane.drain()
            self._bounces.end(queue, entries, bounce)
            self._forget(lane)
            return
        if held := self._services.holds.of_queue(queue):
            self._held.hold(lane, held)
            self._wait(lane, held.until)
            return
        mx_hosts = self._services.resolver.known_mx(queue.next_domain)
        if mx_hosts is None:
            self._lookups.start(lane, Lookup())
            return
        if is_null_mx([host.host for host in mx_hosts]):
            self.end_all(lane, internal.NULL_MX)
            return
        if not self._promote(lane, mx_hosts):
            return
        if lane.heap:
            self._make_runnable(lane)
        else:
            self._forget(lane)

    def _promote(self, lane: Lane, mx_hosts: tuple[MxHost, ...]) -> bool:
        """Put some of the mail on paths; False: the lane has to wait, or be looked up, first."""
        for _ in range(min(_ENTRIES_AT_ONCE, len(lane))):
            match self._choice.choose(lane, mx_hosts):
                case Path() as path:
                    entry = lane.pop()
                    if not path.put(entry, lane.queue.tenant):
                        lane.add(entry)
                case Lookup() as lookup:
                    self._lookups.start(lane, lookup)
                    return False
                case Wait(until=until, held_by=held_by):
                    if held_by is not None:
                        self._held.hold(lane, held_by)
                    self._wait(lane, until)
                    return False
        return True

    def _advance_safely(self, lane: Lane) -> None:
        try:
            self._advance(lane)
        except Exception:
            # Supervisor: what is wrong with one lane must not hold up the others.
            logger.exception("queue can't be promoted", extra={"queue": lane.queue_name})
            self._wait(lane, self._services.clock() + LONGEST_WAIT)

    def _forget(self, lane: Lane) -> None:
        """An empty lane goes; another may have taken its name already."""
        if not lane.heap and self._lanes.get(lane.queue_name) is lane:
            del self._lanes[lane.queue_name]

    def _wait(self, lane: Lane, until: float) -> None:
        now = self._services.clock()
        oldest = lane.oldest()
        if oldest is not None:
            max_age = self._services.settings.queue_for(lane.queue.domain).max_age
            until = min(until, oldest.created + max_age.total_seconds() + 0.001)
        lane.wake_at = max(min(until, now + 3600.0), now + 0.001)
        heappush(self._waiting, (lane.wake_at, lane))
        # Lanes that were woken early leave their old places behind.
        if len(self._waiting) > max(_SMALL_LIST, 2 * len(self._lanes)):
            latest = {lane: item for item in self._waiting if (lane := item[1]).wake_at == item[0]}
            self._waiting = list(latest.values())
            heapify(self._waiting)

    def _end_old(self, lane: Lane) -> bool:
        """End what has grown too old, a part at a time; True: there is nothing else to do now."""
        old: list[Entry] = []
        while len(old) < _ENDED_AT_ONCE and self._is_too_old(lane):
            old.append(lane.pop())
        if old:
            self.end_entries(Ending(entries=old, way=self.way_of(lane), response=None))
        if not lane.heap:
            self._forget(lane)
            return True
        if len(old) == _ENDED_AT_ONCE:
            self._make_runnable(lane)
            return True
        return False

    def _is_too_old(self, lane: Lane) -> bool:
        entry = lane.oldest()
        if entry is None:
            return False
        max_age = self._services.settings.queue_for(lane.queue.domain).max_age
        return is_too_old(
            created=entry.created, next_attempt=self._services.clock(), max_age=max_age
        )

    # What lookups lead to.

    def go_on(self, lane: Lane) -> None:
        """What the lane needed was looked up, whatever came of it."""
        if lane.heap:
            self._make_runnable(lane)
        else:
            self._forget(lane)

    def end_all(self, lane: Lane, response: Response) -> None:
        """Settle the lane's mail, which can't go on."""
        self.end_entries(Ending(entries=lane.drain(), way=self.way_of(lane), response=response))
        self._forget(lane)

    def repeat_later(self, lane: Lane) -> None:
        """A lookup has failed unforeseen."""
        self._wait(lane, self._services.clock() + LONGEST_WAIT)

    def way_of(self, lane: Lane) -> Way:
        """The way that the lane's mail takes, as far as it is known."""
        return Way(pool=self._services.settings.queue_for(lane.queue.domain).egress_pool)

    def has_fewer_lookups(self) -> None:
        """One lookup less waits for its turn: there may be room for more mail."""
        if len(self._lookups) == _MOST_ACTIVE - 1:
            self._bell.ring()
