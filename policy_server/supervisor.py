"""
Background work that must not end by itself: one unforeseen error is logged, and the work begins
again; and how it is ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_CANCEL_AGAIN_SECONDS = 0.2


async def keep_running(work: Callable[[], Awaitable[None]]) -> None:
    """Run *work* for ever; it ends with the task that runs it."""
    while True:
        try:
            await work()
        # The supervisor of all background work: whatever it was, the next turn may succeed.
        except Exception:
            logger.exception("background work failed, starting it again")
        await asyncio.sleep(_PAUSE_SECONDS)


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """
    Cancel *tasks* and return when all of them have ended.

    Libraries call `asyncio.wait_for`, which before Python 3.12 loses a cancel that comes in the
    moment that it has its result (CPython issue 86296), so one cancel may not be enough.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
