"""
Values of rows that people may have written by hand, read without trust.

SQLAlchemy's own readers raise at the first odd value and take the whole answer with them; here
each value is read by itself, so that one bad row is refused alone.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Insert, Table, select, type_coerce
from sqlalchemy.types import NullType


def read_rows(
    connection: Connection, table: Table, *, order_by: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Read every row of *table* as plain driver values, ordered."""
    columns = [type_coerce(column, NullType()).label(column.name) for column in table.columns]
    order = [table.columns[name] for name in order_by]
    for row in connection.execute(select(*columns).order_by(*order)):
        yield dict(row._mapping)


def read_json(value: Any) -> Any:
    """
    Read a JSON column; ValueError if it holds no JSON.

    >>> read_json('"50/s"'), read_json(7)
    ('50/s', 7)
    """
    # SQLite keeps bare numbers as numbers, and may be asked to keep bytes.
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str):
        return value
    return json.loads(value)


def read_time(value: Any) -> datetime | None:
    """
    Read a time column as UTC; ValueError if it holds no time.

    >>> read_time("2026-08-01").isoformat()
    '2026-08-01T00:00:00+00:00'
    """
    if value is None or isinstance(value, datetime):
        time = value
    else:
        time = datetime.fromisoformat(str(value))
    if time is None:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def read_bool(value: Any) -> bool:
    """
    Read a boolean column; ValueError if it holds anything else.

    >>> read_bool(1), read_bool("false")
    (True, False)
    """
    known = {"1": True, "true": True, "0": False, "false": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise ValueError(f'"{value}" is neither 1 nor 0') from None


def insert_row(connection: Connection, statement: Insert) -> int:
    """Insert one row and return its number."""
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return int(key[0])
