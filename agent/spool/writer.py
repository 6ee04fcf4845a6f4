"""
Writer: one thread that changes the spool, many calls a transaction.

A call waits in the inbox; the thread takes all that wait, runs them in one transaction and commits
once. Callers hear of success after the commit. Where a call fails by itself (a constraint), which
is rare, all are run anew, each in a savepoint, so that it is undone alone; where the database fails
(disk full, no write access, broken file) every call of the transaction hears `SpoolUnavailable`,
the connection is opened anew, and the next call tries again: so the spool recovers by itself. How
many calls may wait is up to those who make them.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import SpoolConflict, SpoolUnavailable
from agent.spool.schema import open_connection

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[sqlite3.Connection], T]

#: What SQLite raises where one call is wrong and the database is well.
_MISTAKES = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
#: Calls in one transaction; more would make the first of them wait for long.
_MOST_TOGETHER = 512


def _as_it_is(result: Any) -> Any:
    """What follows where nothing is to follow."""
    return result


@dataclass(slots=True)
class _Call:
    work: Work[Any]
    then: Callable[[Any], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """The only place that writes to the spool's database."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._is_closed = False
        self._is_healthy = True
        self._thread.start()

    @property
    def is_healthy(self) -> bool:
        """Whether the last transaction was committed."""
        return self._is_healthy

    def run(self, work: Work[T], then: Callable[[T], R] = _as_it_is) -> asyncio.Future[R]:
        """
        Run *work* in a transaction, twice if it has to be. Once that is durable *then* is called
        in the loop with its result, and what that returns is the future's; so it is even if
        whoever waits for the future gives up. Errors: `SpoolUnavailable`, and what *work* raises.
        """
        future: asyncio.Future[R] = self._loop.create_future()
        if self._is_closed:
            future.set_exception(SpoolUnavailable("the spool is closed"))
        else:
            self._inbox.put(_Call(work, then, future))
        return future

    async def close(self) -> None:
        """Finish what waits, then stop the thread and close the database."""
        if self._is_closed:
            return
        self._is_closed = True
        self._inbox.put(None)
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        is_open = True
        while is_open:
            calls, is_open = self._collect()
            if calls:
                self._commit(calls)
                self._loop.call_soon_threadsafe(self._answer, calls)
        self._disconnect()

    def _collect(self) -> tuple[list[_Call], bool]:
        """Wait for a call and take all that wait with it; False with the last of all."""
        calls: list[_Call] = []
        call = self._inbox.get()
        while call is not None:
            calls.append(call)
            if len(calls) == _MOST_TOGETHER:
                return calls, True
            try:
                call = self._inbox.get_nowait()
            except queue.Empty:
                return calls, True
        return calls, False

    def _commit(self, calls: list[_Call]) -> None:
        try:
            connection = self._connect()
            if not _run_together(connection, calls):
                _run_apart(connection, calls)
            connection.execute("COMMIT")
        # Supervisor: what the database raises, or whatever it is, is told to every caller of the
        # transaction; the thread lives on, so that nobody waits for ever.
        except Exception as error:
            self._fail(calls, error)
        else:
            if not self._is_healthy:
                logger.info("spool writes again")
            self._is_healthy = True

    def _fail(self, calls: list[_Call], error: Exception) -> None:
        if self._is_healthy:
            is_foreseen = isinstance(error, (sqlite3.Error, OSError))
            logger.error(
                "spool can't be written",
                exc_info=None if is_foreseen else error,
                extra={"reason": str(error)},
            )
        self._is_healthy = False
        for call in calls:
            call.error = SpoolUnavailable(f"the spool can't be written: {error}")
            call.error.__cause__ = error
        self._disconnect()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_connection(self._path)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing rolls an open transaction back.
            connection.close()

    def _answer(self, calls: list[_Call]) -> None:
        for call in calls:
            result = None
            if call.error is None:
                try:
                    result = call.then(call.result)
                # Supervisor: the others are answered whatever this one's follow-up raises.
                except Exception as error:
                    call.error = error
            if call.future.done():
                continue
            if call.error is not None:
                call.future.set_exception(call.error)
            else:
                call.future.set_result(result)


def _run_together(connection: sqlite3.Connection, calls: list[_Call]) -> bool:
    """Begin a transaction and run *calls* in it; False: one has failed, and nothing is begun."""
    connection.execute("BEGIN IMMEDIATE")
    for call in calls:
        if _run_one(connection, call) is not None:
            connection.execute("ROLLBACK")
            return False
    return True


def _run_apart(connection: sqlite3.Connection, calls: list[_Call]) -> None:
    """Begin a transaction and run *calls* so that a failure undoes nothing but its own changes."""
    connection.execute("BEGIN IMMEDIATE")
    for call in calls:
        connection.execute("SAVEPOINT call")
        call.error = _run_one(connection, call)
        if call.error is not None:
            connection.execute("ROLLBACK TO call")
        connection.execute("RELEASE call")


def _run_one(connection: sqlite3.Connection, call: _Call) -> Exception | None:
    """Run one call; return what went wrong with it. Errors: those of the database itself."""
    try:
        call.result = call.work(connection)
    except _MISTAKES as error:
        conflict = SpoolConflict(f"the spool refuses this change: {error}")
        conflict.__cause__ = error
        return conflict
    except (sqlite3.Error, OSError):
        # The database fails, not the call.
        raise
    # Supervisor of foreign work: whatever it raises belongs to its caller alone.
    except Exception as error:
        return error
    return None
