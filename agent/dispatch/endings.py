"""
Endings: settles mail that ends, or is put off, without a peer; a few settlements at a time.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from agent.dispatch.lanes import Ending
from agent.dispatch.results import Results
from agent.queue.entry import Entry

logger = logging.getLogger(__name__)

_AT_ONCE = 4
#: Entries being settled beyond which whoever has many more to end waits.
_MOST = 5000


class Endings:
    """Entries that are being settled without a peer."""

    def __init__(self, results: Results, on_waiting: Callable[[Entry], None]) -> None:
        """*on_waiting* is given each entry that is to wait on."""
        self._results = results
        self._on_waiting = on_waiting
        self._endings: deque[Ending] = deque()
        self._wake = asyncio.Semaphore(0)
        self._ended = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, ending: Ending) -> None:
        """Have entries settled."""
        self._count += len(ending.entries)
        self._endings.append(ending)
        self._wake.release()

    async def wait_for_room(self) -> None:
        """Return once few enough entries are being settled."""
        while self._count > _MOST:
            await self._ended.wait()
            self._ended.clear()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What settles them, each of it for ever."""
        return [self._end() for _ in range(_AT_ONCE)]

    async def _end(self) -> None:
        while True:
            await self._wake.acquire()
            ending = self._endings.popleft()
            waiting: list[Entry] = []
            try:
                waiting = await self._settle(ending)
            except Exception:
                # Supervisor: what can't be settled stays in the spool for the next start.
                logger.exception("mail can't be settled", extra={"entries": len(ending.entries)})
            finally:
                self._count -= len(ending.entries)
                self._ended.set()
            for entry in waiting:
                self._on_waiting(entry)

    async def _settle(self, ending: Ending) -> list[Entry]:
        """Settle entries; return those that wait again."""
        if ending.response is None:
            return await self._results.expire(ending.entries, ending.way)
        return await self._results.finish(
            ending.entries, ending.way, ending.response, is_recorded=ending.is_recorded
        )
