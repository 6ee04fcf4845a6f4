"""
An alarm for one waiter: it wakes when it is rung, or when its time has come.

An event with a timeout does the same at several times the cost, and every stream waits many times
a second while much changes.
"""

import asyncio


class Alarm:
    """Wakes whoever waits; rung while nobody waits, it wakes the next one at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_rung = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def ring(self) -> None:
        """Wake the waiter."""
        self._is_rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Wait until it is rung, at most until a time of the loop's; it may wake too soon."""
        if not self._is_rung:
            self._set_timer(until)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_rung = False

    def close(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, until: float) -> None:
        # One that goes off sooner is left: to set it anew costs more than to wake once too often.
        if self._timer is not None:
            if self._timer_at <= until:
                return
            self._timer.cancel()
            self._timer = None
        if until < float("inf"):
            self._timer_at = until
            self._timer = self._loop.call_at(until, self._go_off)

    def _go_off(self) -> None:
        self._timer = None
        self.ring()
