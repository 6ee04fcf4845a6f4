"""
Engines: how connections of each kind of database are made, bounded and told to give up.

A read is one view of the database, however many statements it takes; a write on SQLite waits for
the other writers when it begins, on PostgreSQL where it meets them.
"""

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from policy_server.errors import PolicyServerError, StoreRefused, StoreUnavailable

#: Threads that read at a time.
READERS = 2
#: A command or a test may come from a thread of its own, beside those of the server.
_CONNECTIONS_BESIDE = 2
_WAIT_SECONDS = 5
_WAL_PAUSE_SECONDS = 0.01

_SQLITE_PRAGMAS = (
    f"PRAGMA busy_timeout = {_WAIT_SECONDS * 1000}",
    # An acknowledged outcome or import must survive a power cut.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)

#: A peer that is gone without a word is noticed within seconds; libpq's default is hours.
_POSTGRESQL_CONNECT = {
    "application_name": "penstock-server",
    "connect_timeout": _WAIT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_POSTGRESQL_SESSION = (
    "SET TimeZone = 'UTC'",
    # Times are read as text where a person may have written them (see `store.rows`).
    "SET DateStyle = 'ISO'",
    f"SET lock_timeout = '{_WAIT_SECONDS}s'",
    # Long, as the import of a million blocks is one statement at its end; it must end, though.
    "SET statement_timeout = '10min'",
    "SET idle_in_transaction_session_timeout = '5min'",
)
# A standby that a name led to after a failover: it takes no writes, and will not for a while.
_READ_ONLY = "25006"


def build_read_engine(url: URL) -> Engine:
    """Build the engine for reading."""
    if url.get_backend_name() == "sqlite":
        return _build_sqlite(url, begin="BEGIN", connections=READERS)
    engine = _build_postgresql(url, connections=READERS, isolation_level="REPEATABLE READ")
    return engine.execution_options(postgresql_readonly=True)


def build_write_engine(url: URL) -> Engine:
    """Build the engine for writing."""
    if url.get_backend_name() == "sqlite":
        return _build_sqlite(url, begin="BEGIN IMMEDIATE", connections=1)
    # Each statement sees what was committed before it: after a lock, what its holder did.
    return _build_postgresql(url, connections=1, isolation_level="READ COMMITTED")


def connect_arguments(url: URL) -> dict[str, Any]:
    """Say what psycopg needs to connect to a PostgreSQL, in its own words."""
    with_driver = _with_driver(url)
    _, arguments = with_driver.get_dialect()().create_connect_args(with_driver)
    return {**_POSTGRESQL_CONNECT, **arguments}


def to_store_error(error: SQLAlchemyError) -> PolicyServerError:
    """Say in our own words what went wrong: try again later, or fix the statement."""
    original = getattr(error, "orig", None) or error
    # What follows the first line repeats the row, which may hold a secret.
    message = f"database: {next(iter(str(original).splitlines()), '')}"
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    is_busy = isinstance(error, (OperationalError, PoolTimeoutError))
    if is_lost or is_busy or getattr(original, "sqlstate", None) == _READ_ONLY:
        return StoreUnavailable(message)
    return StoreRefused(message)


def _build_sqlite(url: URL, *, begin: str, connections: int) -> Engine:
    engine = create_engine(url, **_pool_size(connections))

    def prepare(connection: Any, _record: Any) -> None:
        # The driver's own notion of transactions is switched off: `begin` below is ours.
        connection.isolation_level = None
        _use_wal(connection)
        for pragma in _SQLITE_PRAGMAS:
            connection.execute(pragma)

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", start)
    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, once for every database."""
    # SQLite does not wait here for others that open a new database at the same time.
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(_WAL_PAUSE_SECONDS)


def _build_postgresql(url: URL, *, connections: int, isolation_level: str) -> Engine:
    engine = create_engine(
        _with_driver(url),
        isolation_level=isolation_level,
        connect_args={
            name: value for name, value in _POSTGRESQL_CONNECT.items() if name not in url.query
        },
        # A restart of the database is noticed before a statement is lost on it.
        pool_pre_ping=True,
        **_pool_size(connections),
    )

    def prepare(connection: Any, _record: Any) -> None:
        for statement in _POSTGRESQL_SESSION:
            connection.execute(statement)
        connection.commit()

    event.listen(engine, "connect", prepare)
    return engine


def _with_driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg")


def _pool_size(connections: int) -> dict[str, int]:
    return {
        "pool_size": connections,
        "max_overflow": _CONNECTIONS_BESIDE,
        "pool_timeout": _WAIT_SECONDS,
    }
