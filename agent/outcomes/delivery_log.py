"""
Delivery log: what happened to each message, one line of JSON a record, in `log/` under the data
directory.

Records are taken at once and written by a thread of its own within a tenth of a second, so that
a slow disk delays no delivery. The buffer is bounded: if the disk takes nothing for long, records
are left out of the log, counted, and said so. Records of reported types are in the spool's outbox
until the policy server has them; those that a crash kept out of the log are written at the next
start, under the same event id.
"""

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.delivery.record import REPORTED, Record
from agent.outcomes.lines import format_line
from agent.outcomes.log_file import KEPT_FILES, ROTATE_BYTES, LogFile, written_lately
from agent.spool.messages import Spool

logger = logging.getLogger(__name__)

#: Most records that wait to be written.
MAX_BUFFERED = 100_000
_GATHER_SECONDS = 0.02
_RETRY_SECONDS = 1.0
_BATCH = 2000
#: Records are logged in about the order of their times; this is how far out of it they may be.
_DISORDER_SECONDS = 60.0


class DeliveryLog:
    """Takes records, writes lines; a `RecordSink`."""

    def __init__(
        self,
        directory: Path,
        *,
        node_id: str,
        clock: Callable[[], float],
        rotate_bytes: int = ROTATE_BYTES,
        kept_files: int = KEPT_FILES,
        max_buffered: int = MAX_BUFFERED,
    ) -> None:
        """Write to *directory*; *node_id* names this agent in every line."""
        self._directory = directory
        self._node_id = node_id
        self._clock = clock
        self._file = LogFile(directory, rotate_bytes=rotate_bytes, kept_files=kept_files)
        self._max_buffered = max_buffered
        self._buffer: deque[Record | concurrent.futures.Future[None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[Sequence[Record]], None]] = []
        #: Records left out because the buffer was full or the line could not be made.
        self.dropped = 0
        #: Lines written, and whether the last write went well.
        self.written = 0
        self.is_healthy = True

    @property
    def buffered(self) -> int:
        """How many records wait to be written."""
        return len(self._buffer)

    def subscribe(self, listener: Callable[[Sequence[Record]], None]) -> None:
        """Call *listener* with every batch of records, on the event loop."""
        self._listeners.append(listener)

    async def open(self, spool: Spool | None = None) -> int:
        """
        Begin to write, first the records of the outbox that the log lacks; return their number.
        """
        self._thread = threading.Thread(target=self._run, name="delivery-log", daemon=True)
        self._thread.start()
        return await self._write_lost(spool) if spool is not None else 0

    def write(self, records: Sequence[Record]) -> None:
        """Take *records* to be written; never waits."""
        room = self._max_buffered - len(self._buffer)
        if len(records) <= room:
            self._buffer.extend(records)
        else:
            room = max(0, room)
            self._buffer.extend(records[:room])
            if self.dropped == 0:
                logger.error("delivery log full, records are left out")
            self.dropped += len(records) - room
        if not self._wake.is_set():
            self._wake.set()
        for listener in self._listeners:
            listener(records)

    async def flush(self, timeout: float = 2.0) -> None:
        """Wait until what was taken so far is written, or for *timeout* seconds."""
        if self._thread is None or not self._thread.is_alive():
            return
        if len(self._buffer) >= self._max_buffered:
            # The disk takes nothing: markers must not pile up behind what waits already.
            await asyncio.sleep(timeout)
            return
        marker: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._buffer.append(marker)
        self._wake.set()
        await asyncio.wait([asyncio.wrap_future(marker)], timeout=timeout)

    async def close(self) -> None:
        """Write what is left and close."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    async def _write_lost(self, spool: Spool) -> int:
        event_ids, oldest = await asyncio.to_thread(written_lately, self._directory)
        after, lost = 0, 0
        while pending := await spool.pending_records(after, _BATCH):
            after = pending[-1].seq
            missing = [
                one.record
                for one in pending
                if one.record.event_id not in event_ids
                and one.record.timestamp >= oldest - _DISORDER_SECONDS
            ]
            self._buffer.extend(missing)
            lost += len(missing)
            await self.flush(timeout=_RETRY_SECONDS)
            if len(self._buffer) >= self._max_buffered:
                # The disk takes none; these and the rest are tried again at the next start.
                logger.error("lost lines not written", extra={"buffered": len(self._buffer)})
                break
        return lost

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            stopping = self._stopping
            while self._buffer and self._write_batch():
                pass
            if stopping:
                break
            time.sleep(_GATHER_SECONDS if self.is_healthy else _RETRY_SECONDS)
            if self._buffer:
                self._wake.set()
        try:
            self._file.close()
        except OSError as error:
            logger.error("delivery log not closed", extra={"error": str(error)})

    def _write_batch(self) -> bool:
        """Write the oldest records; False, and keep them, if the disk does not take them."""
        batch = [self._buffer[number] for number in range(min(_BATCH, len(self._buffer)))]
        lines = [line for one in batch if isinstance(one, Record) and (line := self._line(one))]
        try:
            if lines:
                self._file.append(b"".join(lines), self._clock())
        # Supervisor: whatever one write does, the thread that writes must live on.
        except Exception as error:
            if self.is_healthy:
                logger.error("delivery log not written", extra={"error": str(error)})
            self.is_healthy = False
            return False
        self.is_healthy = True
        self.written += len(lines)
        for one in batch:
            self._buffer.popleft()
            if not isinstance(one, Record) and one.set_running_or_notify_cancel():
                one.set_result(None)
        return True

    def _line(self, record: Record) -> bytes:
        try:
            return format_line(record, node_id=self._node_id)
        except (ValueError, TypeError, OverflowError, OSError):
            self.dropped += 1
            logger.exception("record not fit for the delivery log", extra={"id": record.id})
            return b""


def has_reported(records: Sequence[Record]) -> bool:
    """Say whether any of *records* is one that the policy server is told of."""
    return not REPORTED.isdisjoint([record.type for record in records])
