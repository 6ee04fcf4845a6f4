"""
SqliteSpool: mail and the outbox in one SQLite database.

Writes go through one thread (see `writer`), reads through another with a connection of its own.
Bodies up to 1 MiB are in the database, larger ones in files: written before the commit that
refers to them, removed after the commit that ends their last entry. A crash between leaves a file
that nothing refers to; it is swept at the next start.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from agent.delivery.record import REPORTED
from agent.errors import SpoolUnavailable
from agent.queue.entry import Entry
from agent.spool import rows
from agent.spool.bodies import BodyFiles, sync_directory
from agent.spool.fresh import FreshMessages
from agent.spool.lock import take_lock
from agent.spool.messages import (
    LAST_ENTRY,
    Move,
    NewMessage,
    PendingRecord,
    Settlement,
    SpooledMessage,
    StoredMessage,
)
from agent.spool.records import encode_record
from agent.spool.schema import open_connection, prepare, touch
from agent.spool.writer import Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Bodies larger than this are files.
LARGE_BODY = 1024 * 1024
#: While nothing can be written, it is tried this often whether it can again, in seconds.
_PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    """What a settlement has changed."""

    #: Entries that ended, and messages with bodies in files that ended with them.
    ended: int
    in_files: list[str]
    #: Records put into the outbox.
    recorded: int
    #: Entries of the messages that were stored with it.
    added: list[Entry]


class SqliteSpool:
    """Implements `agent.spool.messages.Spool`; to be made with `open`."""

    def __init__(
        self, directory: Path, connection: sqlite3.Connection, lock: int, large_body: int
    ) -> None:
        self._lock = lock
        self._large_body = large_body
        self._bodies = BodyFiles(directory / "bodies")
        self._sweep(connection)
        # Used by the writer's thread alone.
        self._last_message = rows.highest(connection, "messages", "number")
        self._last_entry = rows.highest(connection, "entries", "id")
        self._last_seq = rows.highest(connection, "outbox", "seq")
        #: Id of the newest entry that was here when the spool was opened.
        self.last_entry = self._last_entry
        #: When the spool was last written before it was opened, seconds since the epoch; 0: new.
        self.last_change = 0.0
        # Used by the loop alone.
        self._entry_count = rows.count_entries(connection)
        self._record_count = rows.count_records(connection)
        self._fresh = FreshMessages()
        self._tasks: set[asyncio.Task[list[Entry]]] = set()
        self._reader = open_connection(directory / "spool.db")
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-reader")
        self._filing = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spool-files")
        self._writer = Writer(directory / "spool.db", connection)
        self._prober = asyncio.create_task(self._probe(), name="spool probe")

    @classmethod
    async def open(cls, data_dir: str | Path, *, large_body: int = LARGE_BODY) -> Self:
        """
        Open, or make, the spool in `spool/` under *data_dir*. Errors: `SpoolRefused` if another
        process has it or its version is another; `SpoolUnavailable`.
        """
        place = Path(data_dir) / "spool"
        try:
            last_change = _last_change(place)
            lock = take_lock(place)
            try:
                spool = cls._open_locked(place, lock, large_body)
                spool.last_change = last_change
                return spool
            except BaseException:
                os.close(lock)
                raise
        except (sqlite3.Error, OSError) as error:
            raise SpoolUnavailable(f"{place}: the spool can't be opened: {error}") from error

    @classmethod
    def _open_locked(cls, place: Path, lock: int, large_body: int) -> Self:
        connection = open_connection(place / "spool.db")
        try:
            prepare(connection, place / "spool.db")
            sync_directory(place)
            return cls(place, connection, lock, large_body)
        except BaseException:
            connection.close()
            raise

    async def close(self) -> None:
        """Finish what was begun and let go of the spool."""
        if self._lock < 0:
            return
        lock, self._lock = self._lock, -1
        self._prober.cancel()
        await asyncio.gather(self._prober, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._writer.close()
        await asyncio.to_thread(self._reading.shutdown)
        await asyncio.to_thread(self._filing.shutdown)
        self._reader.close()
        os.close(lock)

    @property
    def entry_count(self) -> int:
        """How many entries are queued."""
        return self._entry_count

    @property
    def record_count(self) -> int:
        """How many records are in the outbox."""
        return self._record_count

    @property
    def is_healthy(self) -> bool:
        """Whether the last change could be written."""
        return self._writer.is_healthy

    def add(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[Entry]]:
        """Store *messages*; return one entry a destination, due at once, in order."""
        large = [message for message in messages if self._is_large(message)]
        if not large:
            return self._add(messages)
        # A task of its own: giving up half-way would part the files from their messages.
        task = asyncio.create_task(self._add_large(messages, large))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def load(self, entry_id: int) -> SpooledMessage | None:
        """Read what a delivery needs; None if the entry is finished."""
        fresh = self._fresh.take(entry_id)
        if fresh is not None:
            return fresh

        def read(connection: sqlite3.Connection) -> SpooledMessage | None:
            row = rows.read_message(connection, entry_id)
            if row is None:
                return None
            *_, size, checksum, body = row
            if body is None:
                body = self._bodies.read(row[0])
            if mistake := rows.body_mistake(body, size, checksum):
                # Never sent as it is; `penstock-agent check --spool` says what to do.
                raise SpoolUnavailable(f"the body of {row[0]} is damaged: {mistake}")
            return rows.make_message(entry_id, row, body)

        return await self._read(read)

    def settle(self, settlements: Sequence[Settlement]) -> asyncio.Future[list[Entry]]:
        """
        Strike delivered recipients, set due times, write records and store new messages, all in
        one transaction; return the entries of the new messages. Repeated, it stores none twice.
        """

        for settlement in settlements:
            # Whatever becomes of the entry, it is not what it was when it came.
            self._fresh.take(settlement.entry_id)

        def write(connection: sqlite3.Connection) -> _Settled:
            return self._write_settlements(connection, settlements)

        return self._writer.run(write, then=self._note_settled)

    async def postpone(self, due_by_entry: Sequence[tuple[int, float]]) -> None:
        """Set new due times without using an attempt."""
        await self._writer.run(lambda connection: rows.set_due_times(connection, due_by_entry))

    async def rebind(self, moves: Sequence[Move]) -> list[StoredMessage]:
        """
        Put entries into other queues, all of them or none; return each that is here, in order, as
        a message with that one entry.
        """
        return await self._writer.run(lambda connection: rows.move_entries(connection, moves))

    async def find(self, message_id: str) -> StoredMessage | None:
        """Look a message up; None: it is not here, or all its entries are finished."""
        return await self._read(lambda connection: rows.find_message(connection, message_id))

    async def entries(
        self, after: int = 0, up_to: int = LAST_ENTRY, limit: int = LAST_ENTRY
    ) -> list[Entry]:
        """
        Entries with their due times and attempts, oldest first: at most *limit* with an id above
        *after* and at most *up_to*.
        """
        return await self._read(
            lambda connection: rows.read_entries(connection, after, up_to, limit)
        )

    async def pending_records(self, after_seq: int, limit: int) -> list[PendingRecord]:
        """The next records of the outbox, oldest first."""
        return await self._read(lambda connection: rows.read_records(connection, after_seq, limit))

    async def forget_records(self, seqs: Sequence[int]) -> None:
        """Remove these records from the outbox: they are safe elsewhere."""

        def note_forgotten(count: int) -> None:
            self._record_count -= count

        await self._writer.run(
            lambda connection: rows.delete_records(connection, seqs), then=note_forgotten
        )

    async def _probe(self) -> None:
        """Notice that the spool can be written again, even if no mail comes in to show it."""
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            if not self.is_healthy:
                with contextlib.suppress(SpoolUnavailable):
                    await self._writer.run(touch)

    def _add(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[Entry]]:
        def write(connection: sqlite3.Connection) -> list[Entry]:
            return self._write_messages(connection, messages)

        def note_added(entries: list[Entry]) -> list[Entry]:
            self._entry_count += len(entries)
            self._fresh.add(messages, entries)
            return entries

        return self._writer.run(write, then=note_added)

    async def _add_large(
        self, messages: Sequence[NewMessage], large: Sequence[NewMessage]
    ) -> list[Entry]:
        written: list[str] = []
        try:
            for message in large:
                await self._in_files(partial(self._bodies.write, message.id, message.body))
                written.append(message.id)
            return await self._add(messages)
        except BaseException:
            self._bodies.remove(written)
            raise

    def _write_messages(
        self, connection: sqlite3.Connection, messages: Sequence[NewMessage]
    ) -> list[Entry]:
        return [
            entry
            for message in messages
            for entry in self._write_message(connection, message, in_file=self._is_large(message))
        ]

    def _write_message(
        self, connection: sqlite3.Connection, message: NewMessage, *, in_file: bool
    ) -> list[Entry]:
        self._last_message += 1
        number, entries = self._last_message, []
        rows.insert_message(connection, number, message, in_file=in_file)
        for destination in message.destinations:
            self._last_entry += 1
            entries.append(
                rows.insert_entry(connection, self._last_entry, number, destination, message)
            )
        return entries

    def _write_settlements(
        self, connection: sqlite3.Connection, settlements: Sequence[Settlement]
    ) -> _Settled:
        ended, in_files, recorded = 0, [], 0
        added: list[Entry] = []
        for settlement in settlements:
            if settlement.remaining:
                is_here = rows.keep_entry(connection, settlement)
            else:
                count, files = rows.end_entry(connection, settlement.entry_id)
                is_here = count > 0
                ended += count
                in_files += files
            for message in settlement.new_messages:
                added += self._write_once(connection, message, is_caused=is_here)
            for record in settlement.records:
                if record.type in REPORTED:
                    self._last_seq += 1
                    recorded += 1
                    rows.insert_record(connection, self._last_seq, encode_record(record))
        return _Settled(ended=ended, in_files=in_files, recorded=recorded, added=added)

    def _write_once(
        self, connection: sqlite3.Connection, message: NewMessage, *, is_caused: bool
    ) -> list[Entry]:
        """
        Store a message of a settlement unless it is there: a commit that seemed to fail may have
        reached the disk, and is tried again. One whose entry had ended before causes none.
        """
        if entries := rows.read_entries_of(connection, message.id):
            return entries
        return self._write_message(connection, message, in_file=False) if is_caused else []

    def _note_settled(self, settled: _Settled) -> list[Entry]:
        self._entry_count += len(settled.added) - settled.ended
        self._record_count += settled.recorded
        if settled.in_files:
            self._filing.submit(self._remove_bodies, settled.in_files)
        return settled.added

    def _remove_bodies(self, message_ids: list[str]) -> None:
        try:
            self._bodies.remove(message_ids)
        except OSError as error:
            # Their messages are finished; the files are swept at the next start.
            logger.warning("spool files can't be removed", extra={"reason": str(error)})

    def _is_large(self, message: NewMessage) -> bool:
        return len(message.body) > self._large_body

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._reading, work, self._reader)
        # RuntimeError: the spool was closed meanwhile.
        except (sqlite3.Error, OSError, RuntimeError) as error:
            raise SpoolUnavailable(f"the spool can't be read: {error}") from error

    async def _in_files(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._filing, work)
        except (OSError, RuntimeError) as error:
            raise SpoolUnavailable(f"the spool's files can't be written: {error}") from error

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Make files and messages match again after a crash."""
        in_files = rows.messages_in_files(connection)
        if swept := self._bodies.sweep(in_files):
            logger.info("spool files without a message removed", extra={"files": swept})
        # A commit that failed may come to light after a crash; it was never acknowledged.
        if lost := in_files - self._bodies.names():
            logger.error("messages without a body removed", extra={"message_ids": sorted(lost)})
            rows.drop_messages(connection, lost)


def _last_change(place: Path) -> float:
    """When the database was last written, as far as the files tell; 0: there is none."""
    times = [0.0]
    for name in ("spool.db", "spool.db-wal"):
        with contextlib.suppress(FileNotFoundError):
            times.append((place / name).stat().st_mtime)
    return max(times)
