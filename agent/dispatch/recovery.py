"""
Recovery: hands the mail of the spool to the queues after a start.

It is read a few thousand entries at a time, oldest first, so that memory holds no second copy of
it. The first of it comes before the ports open; the rest beside the agent's work, so that a long
queue keeps no client waiting.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from agent.background import end
from agent.errors import SpoolUnavailable
from agent.queue.entry import Entry
from agent.queue.recovery import spread_overdue
from agent.spool.sqlite import SqliteSpool

logger = logging.getLogger(__name__)

#: Entries read at one time: what others wait for meanwhile is some milliseconds.
_AT_ONCE = 2000
#: Entries read before the ports open.
_AT_START = 5 * _AT_ONCE
_RETRY_SECONDS = 2.0


class Recovery:
    """Reads what the spool held when it was opened; newer mail comes to the queues by itself."""

    def __init__(
        self,
        spool: SqliteSpool,
        accept: Callable[[Sequence[Entry]], None],
        *,
        on_end: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """*accept* gets the entries; *on_end* is called when there are no more."""
        self._spool = spool
        self._accept = accept
        self._on_end = on_end
        self._clock = clock
        self._last = spool.last_entry
        self._after = 0
        self._started = clock()
        self._task: asyncio.Task[None] | None = None
        #: Entries that are in no queue yet.
        self.remaining = spool.entry_count

    async def start(self) -> None:
        """Read the first entries, and the rest in the background. Errors: `SpoolUnavailable`."""
        for _ in range(0, _AT_START, _AT_ONCE):
            if not await self._read():
                self._end()
                return
        self._task = asyncio.create_task(self._read_rest(), name="recovery")

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            await end([self._task])

    async def _read_rest(self) -> None:
        while True:
            try:
                if not await self._read():
                    self._end()
                    return
            except SpoolUnavailable as error:
                logger.error("queued mail can't be read", extra={"reason": str(error)})
                await asyncio.sleep(_RETRY_SECONDS)
            # Others go first, however fast the disk is.
            await asyncio.sleep(0)

    async def _read(self) -> bool:
        """Read the next entries; False: there are no more."""
        entries = await self._spool.entries(self._after, self._last, _AT_ONCE)
        if not entries:
            return False
        self._after = entries[-1].id
        self.remaining = max(0, self.remaining - len(entries))
        stopped = self._spool.last_change
        for entry in entries:
            entry.due = spread_overdue(entry.due, stopped=stopped, now=self._started)
        self._accept(entries)
        return True

    def _end(self) -> None:
        self.remaining = 0
        seconds = round(self._clock() - self._started, 3)
        logger.info("queued mail recovered", extra={"seconds": seconds})
        self._on_end()
