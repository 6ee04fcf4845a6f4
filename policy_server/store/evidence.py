"""
Evidence: the newest replies that led to each action.

Most of what a storm of replies writes beside the outcomes themselves is this, so all of it goes
straight to the driver.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, func, select

from policy_server.automation.actions import EVIDENCE_KEPT, Evidence
from policy_server.store.arrays import write_arrays
from policy_server.store.column_types import sqlite_time
from policy_server.store.rows import storable
from policy_server.store.tables import automation_evidence

#: SQLite allows 32,766 values in one statement.
_ACTIONS_PER_STATEMENT = 500

_evidence = automation_evidence.c
_INTO = "INSERT INTO automation_evidence (action_id, event_id, event_time, reply)"
_INSERT_EACH = f"{_INTO} VALUES (?, ?, ?, ?)"
_INSERT_ARRAYS = (
    f"{_INTO} SELECT * FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::text[])"
)


def read_evidence(connection: Connection, *, action_id: int) -> tuple[Evidence, ...]:
    """Read the newest replies that led to an action, newest first."""
    rows = connection.execute(
        select(automation_evidence)
        .where(_evidence.action_id == action_id)
        .order_by(_evidence.event_time.desc(), _evidence.event_id.desc())
    )
    return tuple(
        Evidence(event_id=row.event_id, event_time=row.event_time, reply=row.reply) for row in rows
    )


def add_evidence(connection: Connection, added: Sequence[tuple[int, Evidence]]) -> None:
    """Add replies to actions, of which all but the newest are forgotten."""
    if not added:
        return
    if connection.dialect.name == "postgresql":
        arrays = write_arrays(
            (action_id, one.event_id, one.event_time, storable(one.reply))
            for action_id, one in added
        )
        connection.exec_driver_sql(_INSERT_ARRAYS, arrays)
    else:
        connection.exec_driver_sql(
            _INSERT_EACH,
            [
                (action_id, one.event_id, sqlite_time(one.event_time), storable(one.reply))
                for action_id, one in added
            ],
        )
    _forget_oldest(connection, {action_id for action_id, _ in added})


def read_evidence_ids(connection: Connection, action_ids: Iterable[int]) -> set[tuple[int, str]]:
    """Read which events are evidence of these actions: pairs of action and event id."""
    ordered = sorted(action_ids)
    known: set[tuple[int, str]] = set()
    for start in range(0, len(ordered), _ACTIONS_PER_STATEMENT):
        some = ordered[start : start + _ACTIONS_PER_STATEMENT]
        statement = select(_evidence.action_id, _evidence.event_id)
        rows = connection.execute(statement.where(_evidence.action_id.in_(some)))
        known.update((row.action_id, row.event_id) for row in rows)
    return known


def _forget_oldest(connection: Connection, action_ids: Iterable[int]) -> None:
    ordered = sorted(action_ids)
    rank = func.row_number().over(
        partition_by=_evidence.action_id,
        order_by=(_evidence.event_time.desc(), _evidence.event_id.desc()),
    )
    for start in range(0, len(ordered), _ACTIONS_PER_STATEMENT):
        some = ordered[start : start + _ACTIONS_PER_STATEMENT]
        ranked = (
            select(_evidence.id, rank.label("rank")).where(_evidence.action_id.in_(some)).subquery()
        )
        old = select(ranked.c.id).where(ranked.c.rank > EVIDENCE_KEPT)
        connection.execute(delete(automation_evidence).where(_evidence.id.in_(old)))
