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
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from agent.background import end
from agent.durable_files import sync_directory
from agent.errors import SpoolUnavailable
from agent.queue.entry import Entry
from agent.spool import rows
from agent.spool.bodies import BodyFiles
from agent.spool.changes import Changes, Settled
from agent.spool.fresh import FreshMessages
from agent.spool.fresh_records import FreshRecords
from agent.spool.gathering import Gathering
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
from agent.spool.schema import open_connection, prepare, touch
from agent.spool.writer import Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Bodies larger than this are files.
LARGE_BODY = 1024 * 1024
#: While nothing can be written, it is tried this often whether it can again, in seconds.
_PROBE_SECONDS = 2.0


class SqliteSpool:
    """Implements `agent.spool.messages.Spool`; to be made with `open`."""

    def __init__(
        self, directory: Path, connection: sqlite3.Connection, lock: int, large_body: int
    ) -> None:
        self._lock = lock
        self._bodies = BodyFiles(directory / "bodies")
        self._sweep(connection)
        changes = Changes(connection, large_body=large_body)
        self._is_large = changes.is_large
        #: Id of the newest entry that was here when the spool was opened.
        self.last_entry = changes.last_entry
        #: When the spool was last written before it was opened, seconds since the epoch; 0: new.
        self.last_change = 0.0
        # Used by the loop alone.
        self._entry_count = rows.count_entries(connection)
        self._record_count = rows.count_records(connection)
        self._fresh = FreshMessages()
        self._fresh_records = FreshRecords(changes.last_seq)
        self._tasks: set[asyncio.Task[list[Entry]]] = set()
        self._reader = open_connection(directory / "spool.db")
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-reader")
        self._filing = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spool-files")
        self._writer = Writer(directory / "spool.db", connection)
        self._adding = Gathering(self._writer, changes.add, self._note_added)
        self._settling = Gathering(self._writer, changes.settle, self._note_settled)
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
        await end([self._prober])
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._adding.hand_over()
        self._settling.hand_over()
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
            return self._adding.put(messages)
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
        return self._settling.put(settlements)

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
        fresh = self._fresh_records.after(after_seq, limit)
        if fresh is not None:
            return fresh
        return await self._read(lambda connection: rows.read_records(connection, after_seq, limit))

    async def forget_records(self, seqs: Sequence[int]) -> None:
        """Remove these records from the outbox: they are safe elsewhere."""

        def note_forgotten(count: int) -> None:
            self._record_count -= count
            self._fresh_records.forget(seqs)

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

    async def _add_large(
        self, messages: Sequence[NewMessage], large: Sequence[NewMessage]
    ) -> list[Entry]:
        written: list[str] = []
        try:
            for message in large:
                await self._in_files(partial(self._bodies.write, message.id, message.body))
                written.append(message.id)
            return await self._adding.put(messages)
        except BaseException:
            self._bodies.remove(written)
            raise

    def _note_added(
        self, calls: Sequence[Sequence[NewMessage]], added: Sequence[list[Entry]]
    ) -> Sequence[list[Entry]]:
        for messages, entries in zip(calls, added, strict=True):
            self._entry_count += len(entries)
            self._fresh.add(messages, entries)
        return added

    def _note_settled(
        self, calls: Sequence[Sequence[Settlement]], settled: Settled
    ) -> Sequence[list[Entry]]:
        self._entry_count += sum(map(len, settled.added)) - settled.ended
        self._record_count += len(settled.recorded)
        self._fresh_records.add(settled.recorded)
        if settled.in_files:
            self._filing.submit(self._remove_bodies, settled.in_files)
        return settled.added

    def _remove_bodies(self, message_ids: list[str]) -> None:
        try:
            self._bodies.remove(message_ids)
        except OSError as error:
            # Their messages are finished; the files are swept at the next start.
            logger.warning("spool files can't be removed", extra={"reason": str(error)})

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
