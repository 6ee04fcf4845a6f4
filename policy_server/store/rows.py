"""
Values of rows that people may have written by hand, read without trust.

SQLAlchemy's own readers raise at the first odd value and take the whole answer with them; here
each value is read by itself, so that one bad row is refused alone.
"""

import functools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Insert,
    Label,
    Table,
    Text,
    cast,
    select,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import NullType

from policy_server.rules.document import is_too_deep
from policy_server.store.column_types import UtcTime

#: Databases keep booleans as numbers or as such; people write them as texts as well.
_BOOLEANS = MappingProxyType(
    {1: True, "1": True, "true": True, 0: False, "0": False, "false": False}
)
_POSITIONS = range(-(2**31), 2**31)


def read_rows(
    connection: Connection, table: Table, *, order_by: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Read every row of *table* as plain driver values, ordered; JSON and times as text."""
    order = [table.columns[name] for name in order_by]
    for row in connection.execute(select(*plain_columns(connection, table)).order_by(*order)):
        yield dict(row._mapping)


def plain_columns(connection: Connection, table: Table) -> list[Label[Any]]:
    """Name the columns of *table* so that no value can fail to be read."""
    is_sqlite = connection.dialect.name == "sqlite"
    return [
        (type_coerce(column, NullType()) if is_sqlite else _as_plain(column)).label(column.name)
        for column in table.columns
    ]


def _as_plain(column: Column[Any]) -> ColumnElement[Any]:
    # The driver of PostgreSQL reads JSON by itself, and fails at times such as "infinity".
    return cast(column, Text) if isinstance(column.type, (JSON, UtcTime)) else column


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
    if not value.lstrip().startswith(("[", "{")):
        return _read_scalar(value)
    try:
        read = json.loads(value)
    except RecursionError:
        # SQLite takes deeper JSON than Python does.
        raise ValueError("nested too deep") from None
    if is_too_deep(read):
        raise ValueError("nested too deep")
    return read


@functools.lru_cache(maxsize=20_000)
def _read_scalar(text: str) -> Any:
    # The same few values stand in very many rows.
    return json.loads(text)


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
    try:
        return _BOOLEANS[value if isinstance(value, int) else str(value).lower()]
    except KeyError:
        raise ValueError(f'"{value}" is neither 1 nor 0') from None


def is_position(value: Any) -> bool:
    """Whether a value is a position as PostgreSQL and the wire keep it."""
    return isinstance(value, int) and value in _POSITIONS


def read_position(value: Any) -> int:
    """
    Read a position, or the one next to it that the wire can keep.

    >>> read_position(3), read_position(1.5), read_position(10**14), read_position("abc")
    (3, 1, 2147483647, 2147483647)
    """
    if not isinstance(value, int | float):
        try:
            value = int(value)
        except ValueError:
            # SQLite puts texts last.
            return _POSITIONS[-1]
    return int(min(max(value, _POSITIONS[0]), _POSITIONS[-1]))


def insert_row(connection: Connection, statement: Insert) -> int:
    """Insert one row and return its number."""
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return int(key[0])


def insert_or(connection: Connection, table: Table) -> Any:
    """Begin an insert that can say what to do about a row that exists, by `on_conflict_…`."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def storable(text: str) -> str:
    """
    Replace what PostgreSQL can't keep in a text.

    >>> storable("4\\x002")
    '4\ufffd2'
    """
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}") if "\x00" in text else text
