"""
LoopLag: how late the event loop is. Everything that the agent does takes its turn in one loop; what
does not let others have theirs shows here.
"""

import asyncio
from collections.abc import Callable

#: How often it is measured, in seconds.
_EVERY = 0.25


class LoopLag:
    """Measures how much later than asked for the loop wakes a sleeper."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """*observe* gets each lateness, in seconds."""
        self._observe = observe
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._task = asyncio.create_task(self._measure(), name="loop lag")

    async def stop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time() + _EVERY
            await asyncio.sleep(_EVERY)
            self._observe(max(0.0, loop.time() - asked))
