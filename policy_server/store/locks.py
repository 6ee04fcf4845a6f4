"""
Locks between server processes on one PostgreSQL; SQLite has one writer anyway.

Each lasts until the transaction ends. Where a transaction takes several, it takes them in the
order in which they stand here.
"""

from enum import IntEnum

from sqlalchemy import Connection, func, select

# Applications that share a database share the space of lock numbers; this prefix is ours.
_PREFIX = 0x50454E53 << 32


class Lock(IntEnum):
    """What only one transaction may do at a time."""

    #: Migrating, and what a new database is given once.
    SETUP = _PREFIX | 1
    #: Counting outcomes: two servers that don't see each other's would both stay under a threshold.
    COUNTING = _PREFIX | 2
    #: Numbering a revision: held until the commit, so that numbers and commits have one order.
    REVISIONS = _PREFIX | 3
    #: Writing `rule_errors`.
    RULE_ERRORS = _PREFIX | 4


def take_lock(connection: Connection, lock: Lock) -> None:
    """Wait for *lock* and hold it until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(int(lock))))
