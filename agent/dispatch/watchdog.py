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


class Watchdog:
    """Watches one session."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
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

    @contextmanager
    def watch(self, seconds: float, abort: Callable[[], object]) -> Iterator[None]:
        """Call *abort*, once, if there is no progress for *seconds* in the block."""
        self.has_tripped, self._abort, self._seconds = False, abort, seconds
        self.progress(self.phase)
        self._arm()
        try:
            yield
        finally:
            self._disarm()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not watch in the block."""
        is_watching = self._timer is not None
        self._disarm()
        try:
            yield
        finally:
            if is_watching:
                self.progress(self.phase)
                self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._progress_at + self._seconds, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # Progress only notes the time; the timer is set anew here, not at every reply.
        self._timer = None
        if self.still_seconds + 0.001 < self._seconds:
            self._arm()
            return
        self.has_tripped = True
        if self._abort is not None:
            self._abort()
