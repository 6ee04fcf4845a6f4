"""
Results: works out what happened, makes it durable, then tells the log and the queues.

What an attempt led to is held in memory until the spool has taken it, however long the disk is
full; meanwhile the entry is in no queue, so it is not sent again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from msgspec.structs import replace

from agent.delivery.record import Record, Response
from agent.dispatch.durable import DurableWrites, until_done
from agent.dispatch.event_ids import EventIds
from agent.dispatch.notices import Origin, told_records, with_notice
from agent.dispatch.settling import (
    Attempt,
    Chance,
    Way,
    delayed_record,
    expire,
    same_for_all,
    settle_attempt,
)
from agent.errors import SpoolUnavailable
from agent.queue.entry import Entry
from agent.queue.names import parse_queue_name
from agent.settings import Settings
from agent.smtp.message_ids import MessageIds
from agent.spool.messages import Settlement, Spool, SpooledMessage

logger = logging.getLogger(__name__)

#: How often a message is read in vain before others go first.
_MOST_READS = 5
#: How long it waits for the second read; twice as long each further time.
_FIRST_RETRY = 0.1
#: When a message that can't be read is tried again, in seconds.
_UNREAD_SECONDS = 60.0
#: How long the last outcomes may take to reach the disk at the end, in seconds.
_LAST_SECONDS = 2.0
#: Entries that end without a peer are settled so many at a time.
_BULK = 100


class RecordSink(Protocol):
    """Where records are written once they are durable."""

    def write(self, records: Sequence[Record]) -> None:
        """Write *records*."""


class Results:
    """Settles entries; where they are queued again is up to the caller."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        log: RecordSink,
        *,
        accept: Callable[[Sequence[Entry]], None],
        host_name: str,
        clock: Callable[[], float] = time.time,
        random: Random,
    ) -> None:
        """
        *accept* gets the entries of messages to senders; *host_name* stands in those messages where
        no source has a name of its own.
        """
        self._settings = settings
        self._spool = spool
        self._log = log
        self._accept = accept
        self._host_name = host_name
        self._ids = MessageIds(secrets.randbits)
        self._event_ids = EventIds(secrets.randbits)
        self._clock = clock
        self._random = random
        self._writes = DurableWrites(spool, self._tell)

    @property
    def is_healthy(self) -> bool:
        """Whether the spool takes what happened; if not, nothing more should be made to happen."""
        return self._writes.is_healthy

    @property
    def unsettled(self) -> int:
        """How many settlements wait for the spool."""
        return self._writes.unsettled

    def settle(self, attempt: Attempt) -> tuple[Settlement, asyncio.Future[None]]:
        """
        Make an attempt's results durable: what holds then, and when, however long it takes; to be
        waited for by `until_done`. What it means for the entry is left to the caller.
        """
        settings = self._settings.queue_for(attempt.queue.domain)
        settlement = self._noticed(attempt, settle_attempt(attempt, settings, self._chance()))
        return settlement, self._writes.write([settlement])

    async def load(self, entry_id: int) -> SpooledMessage | None:
        """Read an entry's message; None if it is finished. Errors: `SpoolUnavailable`."""
        for delay in (_FIRST_RETRY * 2**number for number in range(_MOST_READS - 1)):
            try:
                return await self._spool.load(entry_id)
            except SpoolUnavailable as error:
                extra = {"entry": entry_id, "reason": str(error)}
                logger.warning("message not readable", extra=extra)
                await asyncio.sleep(delay)
        return await self._spool.load(entry_id)

    async def finish(
        self, entries: Sequence[Entry], way: Way, response: Response, *, is_recorded: bool = True
    ) -> list[Entry]:
        """Give every recipient of *entries* one response; return the entries that wait again."""

        def decide(attempt: Attempt) -> Settlement:
            settlement = self._answered(attempt, response)
            return settlement if is_recorded else replace(settlement, records=())

        return await self._in_bulk(entries, way, decide)

    async def expire(self, entries: Sequence[Entry], way: Way) -> list[Entry]:
        """End entries that have grown too old; return those that could not be read."""
        return await self._in_bulk(entries, way, self._expired)

    async def delay(self, entries: Sequence[Entry], way: Way, response: Response) -> None:
        """Log that *entries* wait without using an attempt."""
        for start in range(0, len(entries), _BULK):
            attempts, _ = await self._attempts(entries[start : start + _BULK], way)
            chance = self._chance()
            self._log.write([delayed_record(attempt, response, chance) for attempt in attempts])

    async def _in_bulk(
        self, entries: Sequence[Entry], way: Way, decide: Callable[[Attempt], Settlement]
    ) -> list[Entry]:
        waiting: list[Entry] = []
        for start in range(0, len(entries), _BULK):
            attempts, unread = await self._attempts(entries[start : start + _BULK], way)
            waiting += unread
            settlements = [decide(attempt) for attempt in attempts]
            if settlements:
                durable = self._writes.write(settlements)
                await until_done(durable)
                durable.result()
            for attempt, settlement in zip(attempts, settlements, strict=True):
                if settlement.remaining:
                    attempt.entry.due = settlement.due
                    attempt.entry.attempts = settlement.attempts
                    waiting.append(attempt.entry)
        return waiting

    async def _attempts(
        self, entries: Sequence[Entry], way: Way
    ) -> tuple[list[Attempt], list[Entry]]:
        """An attempt for each entry that is not finished, and those that can't be read now."""
        attempts: list[Attempt] = []
        unread: list[Entry] = []
        for entry in entries:
            try:
                message = await self.load(entry.id)
            except SpoolUnavailable:
                entry.due = self._clock() + _UNREAD_SECONDS
                unread.append(entry)
                continue
            if message is None:
                continue
            queue = parse_queue_name(entry.queue_name)
            attempts.append(Attempt(entry=entry, queue=queue, message=message, way=way, results=()))
        return attempts, unread

    def _answered(self, attempt: Attempt, response: Response) -> Settlement:
        results = same_for_all(attempt.message, response)
        answered = Attempt(
            entry=attempt.entry,
            queue=attempt.queue,
            message=attempt.message,
            way=attempt.way,
            results=results,
        )
        settings = self._settings.queue_for(attempt.queue.domain)
        return self._noticed(answered, settle_attempt(answered, settings, self._chance()))

    def _expired(self, attempt: Attempt) -> Settlement:
        settings = self._settings.queue_for(attempt.queue.domain)
        return self._noticed(attempt, expire(attempt, settings, self._chance()))

    def _noticed(self, attempt: Attempt, settlement: Settlement) -> Settlement:
        """Add what the sender is to be told."""
        settings = self._settings.queue_for(attempt.queue.domain)
        told = told_records(settlement, attempt, settings)
        if not told:
            return settlement
        origin = Origin(
            message_id=self._ids.next(told[0].timestamp),
            host_name=self._settings.ehlo_name(attempt.way.source, settings) or self._host_name,
        )
        return with_notice(settlement, told, attempt, settings, origin)

    async def drain(self, deadline: float = _LAST_SECONDS) -> None:
        """Wait for what is on its way to the disk, at most *deadline* seconds; then give it up."""
        await self._writes.drain(deadline)

    def _tell(self, settlements: Sequence[Settlement], added: Sequence[Entry]) -> None:
        if added:
            self._accept(added)
        records = [record for settlement in settlements for record in settlement.records]
        if records:
            self._log.write(records)

    def _chance(self) -> Chance:
        return Chance(
            now=self._clock(), jitter=self._random.random(), event_id=self._event_ids.next
        )
