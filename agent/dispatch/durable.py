"""
Durable: has the spool take what happened, however long the disk is full.

No task is needed for a write that succeeds at once, as nearly all do. One that fails is held in
memory and tried again until it succeeds.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from agent.errors import SpoolUnavailable
from agent.queue.entry import Entry
from agent.spool.messages import Settlement, Spool

logger = logging.getLogger(__name__)

_FIRST_RETRY, _LONGEST_RETRY = 0.1, 5.0


class _Write(msgspec.Struct):
    settlements: Sequence[Settlement]
    #: Done when the spool has taken them, and everybody has been told.
    done: asyncio.Future[None]
    retry_seconds: float = _FIRST_RETRY
    is_failing: bool = False


class DurableWrites:
    """Settlements on their way to the disk."""

    def __init__(
        self, spool: Spool, tell: Callable[[Sequence[Settlement], Sequence[Entry]], None]
    ) -> None:
        """
        *tell* is told of settlements that the spool has taken, and of the entries of messages that
        came about with them, even if nobody waits for it any more.
        """
        self._spool = spool
        self._tell = tell
        self._writes: set[asyncio.Future[None]] = set()
        self._unsettled = 0
        self._failing = 0

    @property
    def is_healthy(self) -> bool:
        """Whether no write is being tried again."""
        return self._failing == 0

    @property
    def unsettled(self) -> int:
        """How many settlements wait for the spool."""
        return self._unsettled

    def write(self, settlements: Sequence[Settlement]) -> asyncio.Future[None]:
        """
        Have *settlements* written. The future is done once they are durable and told of; it is to
        be waited for by `until_done`, for to cancel it gives the write up where it fails.
        """
        write = _Write(settlements, asyncio.get_running_loop().create_future())
        self._unsettled += len(settlements)
        self._writes.add(write.done)
        self._try(write)
        return write.done

    async def drain(self, deadline: float) -> None:
        """Wait for all writes, at most *deadline* seconds; then give them up."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=deadline)
        for done in tuple(self._writes):
            done.cancel()

    def _try(self, write: _Write) -> None:
        if write.done.done():
            # Given up.
            self._end(write)
            return
        tried = self._spool.settle(write.settlements)
        tried.add_done_callback(partial(self._on_tried, write))

    def _on_tried(self, write: _Write, tried: asyncio.Future[list[Entry]]) -> None:
        error = tried.exception()
        if isinstance(error, SpoolUnavailable):
            self._try_later(write, error)
            return
        self._end(write)
        try:
            if error is not None:
                raise error
            self._tell(write.settlements, tried.result())
        # Whoever waits hears of it, whatever it is.
        except Exception as mistake:
            if not write.done.done():
                write.done.set_exception(mistake)
        else:
            if not write.done.done():
                write.done.set_result(None)

    def _try_later(self, write: _Write, error: SpoolUnavailable) -> None:
        if not write.is_failing:
            write.is_failing = True
            self._failing += 1
            logger.error("outcome not yet durable, held in memory", exc_info=error)
        asyncio.get_running_loop().call_later(write.retry_seconds, self._try, write)
        write.retry_seconds = min(write.retry_seconds * 2, _LONGEST_RETRY)

    def _end(self, write: _Write) -> None:
        self._writes.discard(write.done)
        self._unsettled -= len(write.settlements)
        self._failing -= write.is_failing


async def until_done(future: asyncio.Future[Any]) -> None:
    """Wait for *future*, whatever comes of it; to give up waiting does nothing to it."""
    if future.done():
        return
    woken = asyncio.get_running_loop().create_future()

    def wake(_: object) -> None:
        if not woken.done():
            woken.set_result(None)

    future.add_done_callback(wake)
    try:
        await woken
    finally:
        future.remove_done_callback(wake)
