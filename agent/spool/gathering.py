"""
Gathering: calls of one kind that are made in one turn of the loop go to the spool's writer as one,
which so needs few statements for many messages.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from agent.errors import SpoolUnavailable
from agent.spool.writer import Writer

Given = TypeVar("Given")
Done = TypeVar("Done")
Result = TypeVar("Result")


class Gathering(Generic[Given, Done, Result]):
    """Calls that wait for the end of the turn."""

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
        self._calls: list[tuple[Given, asyncio.Future[Result]]] = []

    def put(self, given: Given) -> asyncio.Future[Result]:
        """Have *given* written, as `Writer.run` does."""
        if not self._calls:
            self._loop.call_soon(self.hand_over)
        future: asyncio.Future[Result] = self._loop.create_future()
        self._calls.append((given, future))
        return future

    def hand_over(self) -> None:
        """Give the writer what waits."""
        calls, self._calls = self._calls, []
        if calls:
            self._run(calls)

    def _run(self, calls: list[tuple[Given, asyncio.Future[Result]]]) -> None:
        given = [one for one, _ in calls]
        done: asyncio.Future[Sequence[Result]] = self._writer.run(
            lambda connection: self._work(connection, given), then=partial(self._then, given)
        )
        done.add_done_callback(partial(self._on_done, calls))

    def _on_done(
        self,
        calls: list[tuple[Given, asyncio.Future[Result]]],
        done: asyncio.Future[Sequence[Result]],
    ) -> None:
        error = done.exception()
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
