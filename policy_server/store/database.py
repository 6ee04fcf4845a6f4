"""
The database: one writer thread, a few readers, errors in our own words.

Every write is one transaction on the single writer thread, so that the server never waits for
itself; other processes (commands, people) are waited for by SQLite's busy timeout.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from policy_server.errors import InvalidSettings, StoreRefused, StoreUnavailable

_Result = TypeVar("_Result")

_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    # An acknowledged outcome or import must survive a power cut.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
_READERS = 2


class Database:
    """A database of the policy server; close it after use."""

    def __init__(self, url: str) -> None:
        self.url = _parse_url(url)
        if self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self._write_engine = _build_engine(self.url, begin="BEGIN IMMEDIATE")
        self._read_engine = _build_engine(self.url, begin="BEGIN")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")

    async def write(self, change: Callable[[Connection], _Result]) -> _Result:
        """Run *change* in one transaction on the writer thread; return its result after commit."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self.write_now, change)

    async def read(self, question: Callable[[Connection], _Result]) -> _Result:
        """Run *question* in one read transaction off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self.read_now, question)

    def write_now(self, change: Callable[[Connection], _Result]) -> _Result:
        """Run *change* in one transaction, in this thread."""
        return _run(self._write_engine, change)

    def read_now(self, question: Callable[[Connection], _Result]) -> _Result:
        """Run *question* in one read transaction, in this thread."""
        return _run(self._read_engine, question)

    def close(self) -> None:
        """Finish what runs, then close every connection."""
        self._writer.shutdown()
        self._readers.shutdown()
        self._write_engine.dispose()
        self._read_engine.dispose()

    async def aclose(self) -> None:
        """Close without blocking the event loop while a transaction ends."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)


def database_problem(url: str) -> str:
    """Say what is wrong with a database url; empty if nothing is."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return f'database.url "{url}" is no url; write sqlite:///PATH'
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return "database.url: PostgreSQL comes with a later version; use sqlite:///PATH"
    if backend != "sqlite":
        return f'database.url: unknown kind of database "{backend}"; use sqlite:///PATH'
    if not parsed.database or parsed.database == ":memory:":
        return "database.url: a file is needed, as commands share it; use sqlite:///PATH"
    return ""


def _parse_url(url: str) -> URL:
    problem = database_problem(url)
    if problem:
        raise InvalidSettings([problem])
    return make_url(url)


def _build_engine(url: URL, *, begin: str) -> Engine:
    engine = create_engine(url)

    def prepare(connection: Any, _record: Any) -> None:
        # The driver's own notion of transactions is switched off: `begin` below is ours.
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", start)
    return engine


def _run(engine: Engine, work: Callable[[Connection], _Result]) -> _Result:
    try:
        with engine.begin() as connection:
            return work(connection)
    except OperationalError as error:
        raise StoreUnavailable(f"database: {error.orig}") from error
    except SQLAlchemyError as error:
        raise StoreRefused(f"database: {getattr(error, 'orig', None) or error}") from error
