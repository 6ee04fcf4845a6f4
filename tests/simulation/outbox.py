"""The outbox of one agent's spool, on the spool's own tables, without its threads."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.delivery.record import Record
from agent.spool import rows
from agent.spool.messages import PendingRecord
from agent.spool.records import encode_record
from agent.spool.schema import open_connection, prepare


class Outbox:
    """What an uploader sees of the spool; the file outlives the agent."""

    def __init__(self, path: Path, *, on_forgotten: Callable[[str], None]) -> None:
        """Open the outbox at *path*; *on_forgotten* is told the event of each record that goes."""
        self._connection = open_connection(path)
        # What the process was killed with is lost to no power cut here.
        self._connection.execute("PRAGMA synchronous = OFF")
        prepare(self._connection, path)
        self._last_seq = rows.highest(self._connection, "outbox", "seq")
        self._on_forgotten = on_forgotten
        self._thread = ThreadPoolExecutor(1)

    async def add(self, record: Record) -> None:
        """Put a record in, as settling a delivery does."""
        self._last_seq += 1
        await self._run(rows.insert_records, [(self._last_seq, encode_record(record))])

    async def pending_records(self, after_seq: int, limit: int) -> list[PendingRecord]:
        """The next records, oldest first."""
        return await self._run(rows.read_records, after_seq, limit)

    async def forget_records(self, seqs: Sequence[int]) -> None:
        """Remove these records."""

        def forget(connection: Any) -> None:
            gone = [one for one in rows.read_records(connection, 0, -1) if one.seq in set(seqs)]
            rows.delete_records(connection, seqs)
            for one in gone:
                self._on_forgotten(one.record.event_id)

        await self._run(forget)

    def count(self) -> int:
        """How many records there are."""
        return rows.count_records(self._connection)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    async def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._connection, *args)
