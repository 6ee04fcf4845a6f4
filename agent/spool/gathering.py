"""
Gathering: calls of one kind that wait for the spool's writer are done as one, which so needs few
statements for many messages.

A ticket stands in the writer's line for all of them. Which calls it is for shows when its turn
comes: while one transaction is on its way to the disk, those of the next gather.

1. A call waits before the ticket is looked at, and the ticket is given up before the calls are
   taken: so the writer takes a call, or a ticket is got for it.
2. A ticket too many does no harm: there is nothing left for it.
"""

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from agent.errors import SpoolUnavailable
from agent.spool.writer import Writer

Given = TypeVar("Given")
Done = TypeVar("Done")
Result = TypeVar("Result")

_Call = tuple[Given, asyncio.Future[Result]]
#: Calls that one ticket is for; more would make the first of them wait for long.
_MOST_TOGETHER = 512


class Gathering(Generic[Given, Done, Result]):
    """Calls that wait for the writer."""

    def __init__(
        self,
        writer: Writer,
        work: Callable[[sqlite3.Connection, Sequence[Given]], Done],
        then: Callable[[Sequence[Given], Done], Sequence[Result]],
    ) -> None:
        """
        *work* is done for several calls at once; *then*, in the loop, tells the result of each, as
        `Writer.run` has it.
        """
        self._writer = writer
        self._work = work
        self._then = then
        self._loop = asyncio.get_running_loop()
        #: Added to by the loop, taken from by the writer's thread.
        self._calls: deque[_Call[Given, Result]] = deque()
        #: Whether a ticket stands in line, or will at the end of this turn.
        self._has_ticket = False

    def put(self, given: Given) -> asyncio.Future[Result]:
        """Have *given* written, as `Writer.run` does."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._calls.append((given, future))
        if not self._has_ticket:
            self._has_ticket = True
            self._loop.call_soon(self.hand_over)
        return future

    def hand_over(self) -> None:
        """Stand in line for what waits."""
        self._has_ticket = bool(self._calls)
        if self._has_ticket:
            self._run([])

    def _take(self) -> list[_Call[Given, Result]]:
        """The calls that wait; called by the writer's thread, or where that has failed."""
        self._has_ticket = False
        taken: list[_Call[Given, Result]] = []
        # The other thread may take the last of them at any time.
        with contextlib.suppress(IndexError):
            while len(taken) < _MOST_TOGETHER:
                taken.append(self._calls.popleft())
        return taken

    def _run(self, calls: list[_Call[Given, Result]]) -> None:
        """Have *calls* done; none: those that wait when their turn comes."""

        def work(connection: sqlite3.Connection) -> Any:
            if not calls:
                # Kept, for it may have to be repeated.
                calls.extend(self._take())
            return self._work(connection, [given for given, _ in calls]) if calls else None

        def then(done: Any) -> Sequence[Result]:
            return self._then([given for given, _ in calls], done) if calls else ()

        self._writer.run(work, then=then).add_done_callback(partial(self._on_done, calls))

    def _on_done(
        self, calls: list[_Call[Given, Result]], done: asyncio.Future[Sequence[Result]]
    ) -> None:
        error = done.exception()
        if error is not None and not calls:
            # The writer has failed before it came to them.
            calls = self._take()
        if self._calls and not self._has_ticket:
            self.hand_over()
        if error is not None and len(calls) > 1 and not isinstance(error, SpoolUnavailable):
            # One of them is wrong, and fails alone.
            for call in calls:
                self._run([call])
            return
        results: Sequence[Any] = done.result() if error is None else calls
        for (_, future), result in zip(calls, results, strict=True):
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
