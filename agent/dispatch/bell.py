"""A bell: rung when something has changed, for one who waits for that, or for a while at most."""

import asyncio

from agent.dispatch.alarm import Alarm


class Bell:
    """Stays rung until it is silenced, so that no change between two waits is missed."""

    __slots__ = ("_alarm", "_is_rung", "_waiter")

    def __init__(self) -> None:
        self._is_rung = False
        self._waiter: asyncio.Future[None] | None = None
        self._alarm = Alarm(self._wake)

    def ring(self) -> None:
        """Something has changed."""
        self._is_rung = True
        self._wake()

    def silence(self) -> None:
        """What has changed so far is known."""
        self._is_rung = False

    async def wait(self, seconds: float) -> bool:
        """Wait until it is rung, at most so long; whether it was."""
        if not self._is_rung:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            self._alarm.set(loop.time() + seconds)
            try:
                await self._waiter
            finally:
                self._alarm.clear()
                self._waiter = None
        return self._is_rung

    def close(self) -> None:
        """Nobody waits any more."""
        self._alarm.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
