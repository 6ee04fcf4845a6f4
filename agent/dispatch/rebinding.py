"""
Rebinding: moves queued mail to other scheduled queues.

1. Mail that is meant is held meanwhile, so that none slips through between two looks: what is in
   a ready queue comes back, what comes due stays. A transaction under way ends as it does.
2. It goes in steps, each durable before the mail may go again: so a message is in its old queue or
   in its new one, whatever happens.
3. What has moved is due at once. Attempts and age are kept.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from sys import intern
from uuid import uuid4

from msgspec.structs import replace

from agent.delivery.record import Record, RecordType, Response
from agent.dispatch.path import Path
from agent.dispatch.results import RecordSink
from agent.dispatch.scheduler import Scheduler
from agent.dispatch.services import Services
from agent.errors import RebindUnderWay
from agent.orders.order import QueueScope, scope_of_queue
from agent.queue.entry import Entry
from agent.queue.names import QueueName, parse_queue_name
from agent.spool.messages import Move, Spool, StoredMessage

#: Entries that move in one transaction.
_AT_ONCE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebinding:
    """Where mail goes; None: that part stays as it is."""

    domain: str | None = None
    routing_domain: str | None = None
    tenant: str | None = None
    campaign: str | None = None
    #: Make mail due at once even where its queue stays.
    always_flush: bool = False
    is_silent: bool = False
    #: For people, on one line.
    reason: str = ""

    def target(self, queue: QueueName) -> QueueName:
        """The queue that a queue's mail goes to."""
        given = {
            name: part
            for name in ("domain", "routing_domain", "tenant", "campaign")
            if (part := getattr(self, name)) is not None
        }
        moved = replace(queue, **given)
        # What goes to the domain itself needs no other name for it.
        is_plain = moved.routing_domain == moved.domain
        return replace(moved, routing_domain="") if is_plain else moved


@dataclass(slots=True)
class Moved:
    """How much has moved, in entries."""

    moved: int = 0
    #: In the right queue already, and left as they were.
    unchanged: int = 0
    #: By the queue that they are in now.
    arrived: Counter[str] = field(default_factory=Counter)

    def count(self, names: Iterable[str]) -> None:
        """Count entries that are in these queues now."""
        self.arrived.update(names)
        self.moved = self.arrived.total()


class Rebinder:
    """Moves mail of one agent."""

    def __init__(
        self,
        services: Services,
        spool: Spool,
        log: RecordSink,
        scheduler: Scheduler,
        *,
        paths: Callable[[], Iterable[Path]],
    ) -> None:
        self._services = services
        self._spool = spool
        self._log = log
        self._scheduler = scheduler
        self._paths = paths
        self._is_busy = False
        #: Entries that are in no queue while they move.
        self.moving = 0

    async def rebind(self, scope: QueueScope, rebinding: Rebinding) -> Moved:
        """
        Move the mail that *scope* covers. Errors: `RebindUnderWay`; `SpoolUnavailable`, after none
        or some of it has moved.
        """
        if self._is_busy:
            raise RebindUnderWay("mail is being moved already; try again when that is done")
        self._is_busy = True
        self._services.holds.hold_moving(scope)
        try:
            for path in self._paths():
                path.apply_policy()
                await asyncio.sleep(0)
            return await self._move(scope, rebinding)
        finally:
            self._is_busy = False
            self._services.holds.hold_moving(None)
            self._scheduler.look_again()

    async def _move(self, scope: QueueScope, rebinding: Rebinding) -> Moved:
        moved = Moved()
        target = cache(lambda name: intern(str(rebinding.target(parse_queue_name(name)))))
        is_meant = cache(lambda name: scope.covers(scope_of_queue(parse_queue_name(name))))

        def is_leaving(name: str) -> bool:
            return is_meant(name) and target(name) != name

        entries = self._scheduler.scheduled_snapshot()
        is_wanted = is_meant if rebinding.always_flush else is_leaving
        for begin in range(0, len(entries), _AT_ONCE):
            part = [one for one in entries[begin : begin + _AT_ONCE] if one.is_waiting]
            wanted = self._scheduler.take_scheduled(
                entry for entry in part if is_wanted(entry.queue_name)
            )
            await self._move_some(wanted, target, rebinding)
            moved.count(entry.queue_name for entry in wanted)
            await asyncio.sleep(0)
        while names := [name for name in self._scheduler.due_queues() if is_leaving(name)]:
            for name in names:
                while entries := self._scheduler.take_due(name, _AT_ONCE):
                    await self._move_some(entries, target, rebinding)
                    moved.count(entry.queue_name for entry in entries)
        if not rebinding.always_flush:
            # Else what is left was due already: there was nothing to flush.
            left = Counter({name: one for name, (one, _) in self._scheduler.due_queues().items()})
            left.update(self._scheduler.scheduled_counts())
            moved.unchanged = sum((left - moved.arrived)[name] for name in left if is_meant(name))
        return moved

    async def _move_some(
        self, entries: Sequence[Entry], target: Callable[[str], str], rebinding: Rebinding
    ) -> None:
        if not entries:
            return
        now = self._services.clock()
        moves = [
            Move(entry_id=entry.id, queue_name=target(entry.queue_name), due=min(now, entry.due))
            for entry in entries
        ]
        self.moving += len(entries)
        try:
            stored = await self._spool.rebind(moves)
            before = {entry.id: entry.queue_name for entry in entries}
            for entry, move in zip(entries, moves, strict=True):
                entry.queue_name, entry.due = move.queue_name, move.due
        finally:
            # Moved or not, they wait on.
            self.moving -= len(entries)
            for entry in entries:
                self._scheduler.add(entry)
        if not rebinding.is_silent:
            records = [_record(one, before, rebinding, now) for one in stored]
            self._log.write([record for record in records if record is not None])


def _record(
    message: StoredMessage, before: dict[int, str], rebinding: Rebinding, now: float
) -> Record | None:
    (entry,) = message.entries
    if before[entry.entry_id] == entry.queue_name:
        return None
    queue = parse_queue_name(entry.queue_name)
    because = f": {rebinding.reason}" if rebinding.reason else ""
    return Record(
        type=RecordType.ADMIN_REBIND,
        event_id=uuid4().hex,
        timestamp=now,
        id=message.id,
        sender=message.sender,
        recipients=entry.recipients,
        response=Response(
            code=250,
            content=f"Rebound from {before[entry.entry_id]} to {entry.queue_name}{because}",
            internal=True,
        ),
        created=message.created,
        queue=entry.queue_name,
        routing_domain=queue.next_domain,
        recipient_domain=entry.recipients[0].rpartition("@")[2],
        size=message.size,
        num_attempts=entry.attempts,
        tenant=queue.tenant,
        campaign=queue.campaign,
        reception_protocol=message.reception_protocol,
    )
