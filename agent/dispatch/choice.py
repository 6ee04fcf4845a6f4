"""
Choice: by which source, and so on which path, a lane's next entry leaves, or what it waits for.

It remembers which lanes wait for room on a path, and which for the selection rate of one, so that
they go on when there is some.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from agent.dispatch import waits
from agent.dispatch.holds import MailHold
from agent.dispatch.lanes import Lane, Lookup, Wait
from agent.dispatch.limits import NO_WAIT
from agent.dispatch.path import Path
from agent.dispatch.services import Services
from agent.dispatch.waits import QueueWait
from agent.limits.limit import Kind
from agent.policy.answer import MxHost, PathPolicy
from agent.queue.names import QueueName
from agent.queue.pool import SourcePool

#: A waiting lane is looked at this often even if nothing happens, in seconds.
LONGEST_WAIT = 60.0


class Choice:
    """Chooses among the sources of the pools."""

    def __init__(self, services: Services, find_path: Callable[[PathPolicy], Path]) -> None:
        self._services = services
        self._find_path = find_path
        self._pools = {
            name: SourcePool(pool.weights) for name, pool in services.settings.pools.items()
        }
        #: Lanes that wait for room on a path, the longest first.
        self._hungry: dict[Path, OrderedDict[Lane, None]] = {}
        #: Lanes that wait for the selection rate of a path.
        self._pacing: dict[str, dict[Lane, None]] = {}

    def paths_with_room(self) -> list[Path]:
        """The paths that lanes wait for though they have room now."""
        return [path for path in self._hungry if not path.is_full]

    def take_hungry(self, path: Path, most: int) -> list[Lane]:
        """The lanes that have waited longest for room on *path*, at most *most*; no longer."""
        if not (lanes := self._hungry.get(path)):
            return []
        taken = [lanes.popitem(last=False)[0] for _ in range(min(len(lanes), most))]
        if not lanes:
            del self._hungry[path]
        return taken

    def paced(self, path_name: str) -> Iterable[Lane]:
        """The lanes that wait for a path's selection rate."""
        return list(self._pacing.get(path_name, ()))

    def stop_pacing(self, lane: Lane) -> None:
        """The lane waits for no selection rate any more."""
        for path_name in lane.paced_by:
            self._pacing[path_name].pop(lane, None)
            if not self._pacing[path_name]:
                del self._pacing[path_name]
        lane.paced_by = ()

    def waits_of(self, queue: QueueName, lane: Lane | None) -> list[QueueWait]:
        """
        What keeps a queue's mail, due in *lane*, from each source of its pool; none: it may go on.
        """
        found: list[QueueWait] = []
        pool_name = self._services.settings.queue_for(queue.domain).egress_pool
        for source in self._pools[pool_name].sources:
            wait = self._wait_of_source(queue, source, lane)
            if wait is None:
                return []
            found.append(wait)
        return found

    def choose(self, lane: Lane, mx_hosts: tuple[MxHost, ...]) -> Path | Lookup | Wait:
        """Choose the source of the lane's next entry, and so its path."""
        now = self._services.clock()
        pool_name = self._services.settings.queue_for(lane.queue.domain).egress_pool
        ends: list[float] = []
        holds: list[MailHold] = []
        policies: dict[str, PathPolicy | None] = {}

        def is_usable(source: str) -> bool:
            policies[source] = policy = self._services.policies.lookup(
                lane.queue.next_domain, source
            )
            wait = self._wait_for(lane, source, policy, now, holds)
            if wait > now:
                ends.append(wait)
            return wait <= now

        source = lane.chosen if lane.chosen and is_usable(lane.chosen) else None
        lane.chosen = ""
        if source is None:
            ends.clear()
            holds.clear()
            source = self._pools[pool_name].choose(is_usable)
        if source is None:
            is_held = holds and len(holds) == len(ends)
            held_by = min(holds, key=lambda held: held.until) if is_held else None
            return Wait(min(ends, default=now + LONGEST_WAIT), held_by)
        policy = policies[source]
        if policy is None:
            lane.chosen = source
            return Lookup(source, mx_hosts)
        path = self._find_path(policy)
        self._services.limits.try_take(path.options, Kind.SELECTION_RATE)
        lane.path_name = path.name
        return path

    def _wait_for(
        self,
        lane: Lane,
        source: str,
        policy: PathPolicy | None,
        now: float,
        holds: list[MailHold],
    ) -> float:
        """
        Until when *source* can't take the lane's next entry by *policy*; not after *now*: it can.
        What holds it is added to *holds*.
        """
        if (unknown_until := lane.unknown_until(source)) > now:
            return unknown_until
        if policy is None:
            return now
        # The path is made even if it is suspended, so that people see the mail that waits for it.
        path = self._find_path(policy)
        lane.path_name = path.name
        if held := self._services.holds.of_way(policy, lane.queue):
            holds.append(held)
            return held.until
        if path.is_full:
            self._hungry.setdefault(path, OrderedDict())[lane] = None
            return now + LONGEST_WAIT
        return now + self._selection_wait(lane, path)

    def _selection_wait(self, lane: Lane, path: Path) -> float:
        """
        How long until the source may be chosen, in seconds. Lanes that wait get times along the
        rate, so that they do not all wake for one place.
        """
        limits, options = self._services.limits, path.options
        if not options.selection_rates or limits.wait(options, Kind.SELECTION_RATE) is NO_WAIT:
            return 0.0
        others = self._pacing.setdefault(path.name, {})
        others.pop(lane, None)
        wait = limits.wait(options, Kind.SELECTION_RATE, len(others))
        others[lane] = None
        if path.name not in lane.paced_by:
            lane.paced_by = (*lane.paced_by, path.name)
        if wait.short_of is not None:
            limits.on_shortage()
        return min(wait.seconds, LONGEST_WAIT)

    def _wait_of_source(self, queue: QueueName, source: str, lane: Lane | None) -> QueueWait | None:
        """What keeps a queue's mail from going by a source; None: nothing."""
        services, now = self._services, self._services.clock()
        until = lane.unknown_until(source) if lane is not None else 0.0
        if until > now:
            return waits.policy_unknown(queue.next_domain, source, until)
        policy = services.policies.lookup(queue.next_domain, source)
        if policy is None:
            return waits.policy_unknown(queue.next_domain, source, None)
        if hold := services.holds.of_way(policy, queue):
            return waits.held(hold, source=source, what=f"what leaves from {source}")
        path = self._find_path(policy)
        if path.is_full:
            return waits.ready_queue_full(path.name, path.options.max_ready, source)
        wait = services.limits.wait(path.options, Kind.SELECTION_RATE)
        if wait.short_of is not None:
            short = wait.short_of
            return waits.lease(short.key, short.units, lent=services.limits.lent(short))
        rates = path.options.selection_rates
        return waits.selection_rate(source, rates, now + wait.seconds) if wait.seconds else None
