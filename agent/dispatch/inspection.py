"""
Inspection: what is in the queues and what it waits for.

A look at every entry of a million takes a while, so it goes in steps that let others work, and
what it found is used again for a few seconds.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.dispatch import waits
from agent.dispatch.path import Path
from agent.dispatch.scheduler import Scheduler
from agent.dispatch.services import Services
from agent.dispatch.waits import UNDER_WAY, QueueWait
from agent.queue.names import QueueName, parse_queue_name
from agent.spool.messages import StoredEntry

#: Entries looked at before others get a turn.
_AT_ONCE = 2000
#: How long counts are used again, in seconds.
_FRESH_SECONDS = 5.0


class EntryState(StrEnum):
    """Where an entry is."""

    SCHEDULED = "scheduled"
    DUE = "due"
    READY = "ready"
    UNDER_WAY = "under_way"


@dataclass(slots=True)
class QueueCounts:
    """The entries of one scheduled queue."""

    scheduled: int = 0
    due: int = 0
    ready: int = 0
    #: When the oldest arrived, seconds since the epoch.
    oldest: float = float("inf")
    #: When the next comes due, seconds since the epoch; infinity: none waits for its time.
    next_due: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where an entry is, and what it waits for."""

    state: EntryState
    waits: tuple[QueueWait, ...]
    #: The path whose ready queue it is in; empty: none.
    path_name: str = ""


class Inspection:
    """Looks at the queues of one agent."""

    def __init__(self, services: Services, scheduler: Scheduler, paths: Mapping[str, Path]) -> None:
        self._services = services
        self._scheduler = scheduler
        self._paths = paths
        self._counts: dict[str, QueueCounts] = {}
        self._counted_at = float("-inf")
        self._counting = asyncio.Lock()

    async def counts(self) -> Mapping[str, QueueCounts]:
        """The scheduled queues that hold mail, by name; up to a few seconds old."""
        async with self._counting:
            loop = asyncio.get_running_loop()
            if loop.time() - self._counted_at > _FRESH_SECONDS:
                self._counts = await self._count()
                self._counted_at = loop.time()
            return self._counts

    def forget_counts(self) -> None:
        """Count anew the next time."""
        self._counted_at = float("-inf")

    def waits_of_queue(self, name: str, counts: QueueCounts) -> tuple[QueueWait, ...]:
        """What the mail of a scheduled queue waits for."""
        queue = parse_queue_name(name)
        if hold := self._services.holds.of_queue(queue):
            return (waits.held(hold, what="its mail"),)
        found = self._scheduler.waits_of(queue) if counts.due else []
        if counts.scheduled and not found:
            text = "the next attempt of the mail that was put off is later"
            reason = waits.WaitReason.RETRY
            found = [QueueWait(reason=reason, text=text, until=counts.next_due)]
        return tuple(found)

    def find(self, stored: StoredEntry) -> Whereabouts:
        """Where an entry is that the spool has."""
        queue = parse_queue_name(stored.queue_name)
        for path in self._paths_of(queue):
            if any(entry.id == stored.entry_id for entry in path.entries_in_hand()):
                return Whereabouts(
                    state=EntryState.UNDER_WAY, waits=(UNDER_WAY,), path_name=path.name
                )
            if path.queued.holds(stored.entry_id, queue.tenant):
                found = path.waits() or [waits.turn(path.name, len(path.queued))]
                return Whereabouts(state=EntryState.READY, waits=tuple(found), path_name=path.name)
        is_due = stored.due <= self._services.clock()
        if is_due and self._scheduler.is_due(stored.queue_name):
            found = self._scheduler.waits_of(queue) or [waits.due_turn()]
            return Whereabouts(state=EntryState.DUE, waits=tuple(found))
        if self._scheduler.count_scheduled(stored.queue_name):
            return self._scheduled(queue, stored)
        return Whereabouts(state=EntryState.UNDER_WAY, waits=(UNDER_WAY,))

    def _scheduled(self, queue: QueueName, stored: StoredEntry) -> Whereabouts:
        hold = self._services.holds.of_queue(queue)
        held = [waits.held(hold)] if hold else []
        if stored.due > self._services.clock():
            wait = waits.retry(stored.attempts, stored.due)
        else:
            # Put off for a moment, of which the spool knows nothing.
            wait = waits.soon()
        return Whereabouts(state=EntryState.SCHEDULED, waits=(*held, wait))

    def _paths_of(self, queue: QueueName) -> list[Path]:
        """The paths that a queue's mail may be on."""
        services = self._services
        pool = services.settings.pools[services.settings.queue_for(queue.domain).egress_pool]
        found = []
        for source in pool.weights:
            policy = services.policies.lookup(queue.next_domain, source)
            path = self._paths.get(policy.path_name) if policy is not None else None
            if path is not None:
                found.append(path)
        return found

    async def _count(self) -> dict[str, QueueCounts]:
        counts: dict[str, QueueCounts] = {}

        def of(name: str) -> QueueCounts:
            return counts.setdefault(name, QueueCounts())

        entries = self._scheduler.scheduled_snapshot()
        for begin in range(0, len(entries), _AT_ONCE):
            for entry in entries[begin : begin + _AT_ONCE]:
                queue = of(entry.queue_name)
                queue.oldest = min(queue.oldest, entry.created)
                queue.next_due = min(queue.next_due, entry.due)
            await asyncio.sleep(0)
        for name, number in self._scheduler.scheduled_counts().items():
            of(name).scheduled = number
        for name, (number, oldest) in self._scheduler.due_queues().items():
            of(name).due += number
            of(name).oldest = min(of(name).oldest, oldest)
        await self._count_ready(of)
        return {name: one for name, one in counts.items() if one.scheduled + one.due + one.ready}

    async def _count_ready(self, of: Callable[[str], QueueCounts]) -> None:
        for path in list(self._paths.values()):
            for entry in (*path.queued, *path.entries_in_hand()):
                queue = of(entry.queue_name)
                queue.ready += 1
                queue.oldest = min(queue.oldest, entry.created)
            await asyncio.sleep(0)
