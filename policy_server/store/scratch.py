"""
A throw-away database, on which rules are tried: in memory, and on disk once it is large.

It is private to its one connection and gone when that is closed. Beside the ledger's own tables it
keeps outcomes until they can be run over in the order of their times.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, create_engine, func, select
from sqlalchemy.pool import StaticPool

from policy_server.automation.actions import ActionInForce, ActionState
from policy_server.store.actions import read_actions
from policy_server.store.tables import automation_actions, metadata

#: What SQLite holds in memory before it uses the disk, in KiB.
_CACHE_KIB = 64 * 1024
_PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# Not in `tables`, as no other database has it. Times are microseconds since 1970.
_PREPARE = (
    "PRAGMA synchronous = OFF",
    # A failed statement ends the trial, so nothing is ever taken back.
    "PRAGMA journal_mode = OFF",
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    "CREATE TABLE waiting"
    " (number INTEGER PRIMARY KEY, time INTEGER NOT NULL, outcome BLOB NOT NULL)",
)
_KEEP = "INSERT INTO waiting (time, outcome) VALUES (?, ?)"
_ORDER = "CREATE INDEX waiting_by_time ON waiting (time, number)"
_READ = (
    "SELECT time, number, outcome FROM waiting WHERE (time, number) > (?, ?) "
    f"ORDER BY time, number LIMIT {_PAGE}"
)


@contextmanager
def open_scratch() -> Iterator[Connection]:
    """Open a new throw-away database, for one thread."""
    # SQLite's own name for a database that is private, and on disk only as far as need be.
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(""),
        poolclass=StaticPool,
    )
    try:
        with engine.connect() as connection:
            for statement in _PREPARE:
                connection.exec_driver_sql(statement)
            metadata.create_all(connection)
            yield connection
    finally:
        engine.dispose()


def keep_waiting(connection: Connection, outcomes: Iterable[tuple[datetime, bytes]]) -> None:
    """Keep outcomes, each with its time, after those that are kept already."""
    rows = [((time - _EPOCH) // _MICROSECOND, outcome) for time, outcome in outcomes]
    if rows:
        connection.exec_driver_sql(_KEEP, rows)


def read_waiting(connection: Connection) -> Iterator[list[bytes]]:
    """Read the outcomes that were kept by time, then in the order in which they came."""
    connection.exec_driver_sql(_ORDER)
    # SQLite's smallest integer: before every time.
    place = (-(2**63), 0)
    while rows := connection.exec_driver_sql(_READ, place).all():
        yield [row.outcome for row in rows]
        place = (rows[-1].time, rows[-1].number)


def next_end(connection: Connection) -> datetime | None:
    """Say when the next action ends by itself."""
    column = automation_actions.c.expire_time
    statement = select(func.min(column)).where(automation_actions.c.state == ActionState.IN_FORCE)
    return connection.execute(statement).scalar()


def count_actions(connection: Connection) -> dict[str, int]:
    """Count the actions of each rule, by its key."""
    key = automation_actions.c.rule_key
    rows = connection.execute(select(key, func.count()).group_by(key))
    return {rule_key: int(count) for rule_key, count in rows}


def first_actions(connection: Connection, limit: int) -> Sequence[ActionInForce]:
    """List the first *limit* actions, in the order in which they began."""
    found = read_actions(
        connection, states=frozenset(ActionState), limit=limit, before_id=limit + 1
    )
    return found[::-1]
