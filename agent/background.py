"""How work in the background is ended."""

import asyncio
from collections.abc import Collection
from typing import Any

_CANCEL_AGAIN_SECONDS = 0.2


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """
    Cancel *tasks* and return when all of them have ended, whatever they end with.

    One cancel may not be enough: a stream of grpc.aio loses one that comes when its call has failed
    and its first read has not begun, and `asyncio.wait_for`, which libraries call, one that comes
    with its result (CPython issue 86296, before Python 3.12).
    """
    # The collection may change as they end.
    all_of_them = pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
    for task in all_of_them:
        # Looked at, else its failure would be reported as one that nobody has seen.
        if not task.cancelled():
            task.exception()
