"""
Watchdog: ends what makes no progress.

Every wait for a peer has a timeout of its own. This one is for what slips through all of them, and
for operators who want a session that stands still ended sooner: it goes off when nothing has
happened for long enough, whatever is waited for. It watches only while a session depends on others;
waits of our own (for mail, for a rate, for the disk) are not its business.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from agent.dispatch.alarm import Alarm


class Watchdog:
    """Watches one session."""

    def __init__(self) -> None:
        self._is_watching = False
        self._alarm = Alarm(self._look)
        self._progress_at = 0.0
        self._seconds = 0.0
        self._abort: Callable[[], object] | None = None
        #: What was going on at the last progress.
        self.phase = ""
        #: Whether it went off in the last block that was watched.
        self.has_tripped = False

    @property
    def still_seconds(self) -> float:
        """How long nothing has happened."""
        return asyncio.get_running_loop().time() - self._progress_at

    def progress(self, phase: str) -> None:
        """Something happened; *phase* goes on from here."""
        self.phase = phase
        self._progress_at = asyncio.get_running_loop().time()

    def watch(self, seconds: float, abort: Callable[[], object]) -> Self:
        """Call *abort*, once, if there is no progress for *seconds* in the block that follows."""
        self.has_tripped, self._abort, self._seconds = False, abort, seconds
        return self

    def __enter__(self) -> Self:
        self.progress(self.phase)
        self._is_watching = True
        self._alarm.set(self._progress_at + self._seconds)
        return self

    def __exit__(self, *raised: object) -> None:
        self._is_watching = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not watch in the block."""
        was_watching, self._is_watching = self._is_watching, False
        try:
            yield
        finally:
            if was_watching:
                self.__enter__()

    def close(self) -> None:
        """Watch no more."""
        self._is_watching = False
        self._alarm.close()

    def _look(self) -> None:
        if not self._is_watching:
            return
        # Progress only notes the time; the alarm is set anew here, not at every reply.
        if self.still_seconds + 0.001 < self._seconds:
            self._alarm.set(self._progress_at + self._seconds)
            return
        self.has_tripped, self._is_watching = True, False
        if self._abort is not None:
            self._abort()
