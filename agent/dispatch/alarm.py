"""
Alarm: for deadlines that are set with every step and hardly ever come. The loop's timer is set for
one of them and left; when it goes off it is set anew for what has been set since.
"""

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls back when the deadline has come that was set last."""

    __slots__ = ("_due", "_on_due", "_timer", "_timer_at")

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        #: By the loop's clock; infinity: none is set.
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set(self, due: float) -> None:
        """Call back at *due*, by the loop's clock, and at no other time."""
        self._due = due
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def clear(self) -> None:
        """Do not call back until it is set again."""
        self._due = math.inf

    def close(self) -> None:
        """Let go of the timer too: it will not be set again soon."""
        self._due = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due == math.inf:
            return
        # The loop's timers may be a little early.
        if asyncio.get_running_loop().time() + 0.001 < self._due:
            self.set(self._due)
            return
        self._due = math.inf
        self._on_due()
