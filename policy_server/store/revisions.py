"""
The revision: one number that grows with every committed change of rules, actions and sites.

Triggers give a change made by hand a revision of its own; our own tools gather what they do in
one transaction under one revision, with author and summary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, func, insert, select, update

from policy_server.store.rows import insert_row
from policy_server.store.tables import datastore, policy_revisions


def read_revision(connection: Connection) -> int:
    """Read the newest revision; 0 before the first change."""
    newest = connection.execute(select(func.max(policy_revisions.c.id))).scalar()
    return int(newest or 0)


def read_newest(connection: Connection) -> tuple[int, str]:
    """Read the newest revision with its stamp (see `read_stamp`), as every look at it does."""
    columns = policy_revisions.c
    statement = select(columns.id, columns.committed_at).order_by(columns.id.desc()).limit(1)
    found = connection.execute(statement).first()
    return (0, "") if found is None else (found.id, found.committed_at.isoformat())


def read_stamp(connection: Connection, revision: int) -> str:
    """
    Read what tells a revision from the one of the same number that a database had before it was
    put back to an older state: the time of its commit; empty for a revision that is not known.
    """
    columns = policy_revisions.c
    found = connection.execute(select(columns.committed_at).where(columns.id == revision)).scalar()
    return found.isoformat() if found is not None else ""


def is_known_since(connection: Connection, revision: int) -> bool:
    """Whether every change after *revision* is still in the log."""
    forgotten = connection.execute(select(func.max(datastore.c.log_forgotten_until))).scalar()
    return revision >= int(forgotten or 0)


@contextmanager
def one_revision(connection: Connection, *, author: str, summary: str) -> Iterator[int]:
    """Gather the changes made within under one new revision, whose number is yielded."""
    statement = insert(policy_revisions).values(
        committed_at=datetime.now(UTC), author=author, summary=summary, is_open=True
    )
    revision = insert_row(connection, statement)
    yield revision
    if connection.dialect.name == "postgresql":
        # Its triggers wait for the commit; what was changed here belongs to this revision.
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
    connection.execute(
        update(policy_revisions).where(policy_revisions.c.id == revision).values(is_open=False)
    )
