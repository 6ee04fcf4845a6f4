"""
Column types that mean the same on SQLite and PostgreSQL.
"""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, DateTime, Dialect, Integer
from sqlalchemy.types import TypeDecorator

#: A row's number. SQLite numbers rows by itself only under the exact type INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


def sqlite_time(time: datetime) -> str:
    """
    Write a time as `UtcTime` keeps it on SQLite.

    >>> sqlite_time(datetime(2026, 8, 1, 12, tzinfo=UTC))
    '2026-08-01 12:00:00.000000'
    """
    return time.astimezone(UTC).isoformat(" ", "microseconds").removesuffix("+00:00")


class UtcTime(TypeDecorator[datetime]):
    """A time: aware and UTC in Python, whatever the database keeps of its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC, as SQLite drops the zone; a time without one is a mistake."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back the zone that SQLite dropped."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
