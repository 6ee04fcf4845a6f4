"""
Background work that must not end: one unforeseen error is logged, and the work begins again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0


async def keep_running(work: Callable[[], Awaitable[None]]) -> None:
    """Run *work* for ever; it ends with the task that runs it."""
    while True:
        try:
            await work()
        # The supervisor of all background work: whatever it was, the next turn may succeed.
        except Exception:
            logger.exception("background work failed, starting it again")
        await asyncio.sleep(_PAUSE_SECONDS)
