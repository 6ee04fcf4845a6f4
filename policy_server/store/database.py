"""
The database: one writer thread, a few readers, errors in our own words.

Every write is one transaction on the single writer thread, so that the server never waits for
itself; other processes (commands, people, further servers) are waited for a few seconds. SQLite
and PostgreSQL differ in `store.engines`, `store.locks` and `store.triggers` alone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from policy_server.errors import InvalidSettings
from policy_server.store.engines import (
    READERS,
    build_read_engine,
    build_write_engine,
    to_store_error,
)

_Result = TypeVar("_Result")
_EXAMPLES = "use sqlite:///PATH or postgresql://USER@HOST/DATABASE"


class Database:
    """A database of the policy server; close it after use."""

    def __init__(self, url: str) -> None:
        self.url = _parse_url(url)
        if self.is_sqlite:
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
        self._write_engine = build_write_engine(self.url)
        self._read_engine = build_read_engine(self.url)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database, which a server migrates by itself."""
        return self.url.get_backend_name() == "sqlite"

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
        return f"database.url: this is no url; {_EXAMPLES}"
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _postgresql_problem(parsed)
    if backend != "sqlite":
        return f'database.url: unknown kind of database "{backend}"; {_EXAMPLES}'
    if not parsed.database or parsed.database == ":memory:":
        return "database.url: a file is needed, as commands share it; use sqlite:///PATH"
    return ""


def _postgresql_problem(url: URL) -> str:
    if url.drivername != "postgresql":
        return f'database.url: "{url.drivername}" names a driver; write postgresql:// alone'
    if not url.database:
        return f"database.url: the name of the database is missing; {_EXAMPLES}"
    return ""


def _parse_url(url: str) -> URL:
    problem = database_problem(url)
    if problem:
        raise InvalidSettings([problem])
    return make_url(url)


def _run(engine: Engine, work: Callable[[Connection], _Result]) -> _Result:
    try:
        with engine.begin() as connection:
            return work(connection)
    except SQLAlchemyError as error:
        raise to_store_error(error) from error
