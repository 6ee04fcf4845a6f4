"""
The newest outcomes that agents reported: what rules are tried on before they are trusted.

They are kept in the transaction that counts them, each event once, without the local parts of
addresses, and within bounds of age and number.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    func,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql

from policy_server.automation.actions import Evidence
from policy_server.automation.outcomes import (
    MAX_REPLY_LENGTH,
    Outcome,
    OutcomeType,
    Reply,
    cut_bare,
    evidence_text,
)
from policy_server.store.arrays import write_arrays
from policy_server.store.column_types import sqlite_time
from policy_server.store.rows import storable
from policy_server.store.tables import outcomes as outcomes_table

#: Longest command kept, in characters; RFC 5321 4.5.3.1.4 allows 512.
_MAX_COMMAND = 1024
#: SQLite allows 32,766 values in one statement.
_IDS_PER_STATEMENT = 2000
#: The largest number that a column takes.
_MAX_INTEGER = 2**31 - 1

_outcomes = outcomes_table.c
#: What is kept of an outcome; the database numbers the rows itself.
_KEPT = tuple(column for column in outcomes_table.columns if column is not _outcomes.id)
_NAMES = ", ".join(column.name for column in _KEPT)
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types for it
# Not by their conflict alone are known ones kept out: that would use up numbers, by which rows are
# counted.
_INSERT_EACH = (
    f"INSERT INTO outcomes ({_NAMES}) SELECT {', '.join('?' * len(_KEPT))} "
    "WHERE NOT EXISTS (SELECT 1 FROM outcomes WHERE event_id = ?1)"
)
#: One statement with an array for each column, the fastest by far; an event may be in it twice.
_INSERT_ARRAYS = (
    f"INSERT INTO outcomes ({_NAMES}) SELECT {_NAMES} FROM unnest("
    f"{', '.join(f'%s::{column.type.compile(_POSTGRESQL)}[]' for column in _KEPT)}"
    f") AS new ({_NAMES}) "
    "WHERE NOT EXISTS (SELECT 1 FROM outcomes AS known WHERE known.event_id = new.event_id) "
    "ON CONFLICT (event_id) DO NOTHING"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeBounds:
    """How many outcomes are kept: whichever bound is reached first."""

    #: By event time.
    age: timedelta = timedelta(days=7)
    rows: int = 500_000


def keep_outcomes(connection: Connection, outcomes: Iterable[Outcome]) -> int:
    """Keep *outcomes*; say how many of them were not known."""
    # In one order everywhere, so that two servers can't wait for each other.
    ordered = sorted(outcomes, key=lambda outcome: outcome.event_id)
    if not ordered:
        return 0
    # Straight to the driver: at thousands a second, converting each value would take most of it.
    if connection.dialect.name == "postgresql":
        arrays = write_arrays(map(_to_row, ordered))
        return connection.exec_driver_sql(_INSERT_ARRAYS, arrays).rowcount
    rows = [_to_sqlite_row(outcome) for outcome in ordered]
    return connection.exec_driver_sql(_INSERT_EACH, rows).rowcount


def read_outcomes(
    connection: Connection,
    *,
    start: datetime,
    end: datetime,
    after_id: str = "",
    limit: int,
) -> tuple[Outcome, ...]:
    """
    Read up to *limit* outcomes from *start* on and before *end*, by event time.

    The next page begins at the event time of the last one read, after its event id.
    """
    statement = (
        select(outcomes_table)
        .where(_outcomes.event_time >= start, _outcomes.event_time < end)
        .where(or_(_outcomes.event_time > start, _outcomes.event_id > after_id))
        .order_by(_outcomes.event_time, _outcomes.event_id)
        .limit(limit)
    )
    return tuple(map(_to_outcome, connection.execute(statement)))


def read_evidence_of(connection: Connection, event_ids: Collection[str]) -> dict[str, Evidence]:
    """Read the replies of these events, as far as they are kept."""
    found: dict[str, Evidence] = {}
    ordered = sorted(event_ids)
    for start in range(0, len(ordered), _IDS_PER_STATEMENT):
        some = ordered[start : start + _IDS_PER_STATEMENT]
        statement = select(
            _outcomes.event_id,
            _outcomes.event_time,
            _outcomes.code,
            _outcomes.enhanced_code,
            _outcomes.content,
        ).where(_outcomes.event_id.in_(some))
        for row in connection.execute(statement):
            reply = evidence_text(
                Reply(
                    code=row.code,
                    enhanced_code=_read_enhanced(row.enhanced_code),
                    content=row.content,
                )
            )
            found[row.event_id] = Evidence(
                event_id=row.event_id, event_time=row.event_time, reply=reply
            )
    return found


def sweep_outcomes(
    connection: Connection, *, bounds: OutcomeBounds, now: datetime, limit: int
) -> bool:
    """Forget up to *limit* outcomes beyond each of *bounds*; say whether there may be more."""
    # Rows are numbered without gaps worth counting.
    newest = connection.execute(select(func.max(_outcomes.id))).scalar() or 0
    surplus = _delete(connection, _outcomes.id <= newest - bounds.rows, _outcomes.id, limit)
    old = _delete(connection, _outcomes.event_time < now - bounds.age, _outcomes.event_time, limit)
    return limit in (surplus, old)


def _delete(
    connection: Connection, condition: ColumnElement[bool], order: ColumnElement[Any], limit: int
) -> int:
    some = select(_outcomes.id).where(condition).order_by(order).limit(limit)
    # Two servers that sweep the same rows must not wait for each other.
    some = some.with_for_update(skip_locked=True)
    return connection.execute(delete(outcomes_table).where(_outcomes.id.in_(some))).rowcount


def _bare(text: str, longest: int) -> str:
    return storable(cut_bare(text, longest=longest))


def _to_row(outcome: Outcome) -> tuple[Any, ...]:
    """Write an outcome in the order of `_KEPT`."""
    reply = outcome.reply
    return (
        outcome.event_id,
        outcome.event_time,
        outcome.type.value,
        outcome.recipient_domain,
        outcome.routing_domain,
        outcome.site_name,
        outcome.path_name,
        outcome.egress_source,
        outcome.egress_pool,
        outcome.provider_name,
        outcome.tenant,
        outcome.campaign,
        min(reply.code, _MAX_INTEGER),
        ".".join(map(str, reply.enhanced_code)) if reply.enhanced_code else "",
        _bare(reply.content, MAX_REPLY_LENGTH),
        _bare(reply.command, _MAX_COMMAND),
        outcome.internal,
        min(outcome.num_attempts, _MAX_INTEGER),
    )


def _to_sqlite_row(outcome: Outcome) -> tuple[Any, ...]:
    event_id, event_time, *others = _to_row(outcome)
    return (event_id, sqlite_time(event_time), *others)


def _to_outcome(row: Any) -> Outcome:
    return Outcome(
        event_id=row.event_id,
        event_time=row.event_time,
        type=OutcomeType(row.type),
        recipient_domain=row.recipient_domain,
        routing_domain=row.routing_domain,
        site_name=row.site_name,
        path_name=row.path_name,
        egress_source=row.egress_source,
        egress_pool=row.egress_pool,
        tenant=row.tenant,
        campaign=row.campaign,
        reply=Reply(
            code=row.code,
            enhanced_code=_read_enhanced(row.enhanced_code),
            content=row.content,
            command=row.command,
        ),
        internal=row.internal,
        num_attempts=row.num_attempts,
        provider_name=row.provider_name,
    )


def _read_enhanced(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    first, second, third = map(int, text.split("."))
    return (first, second, third)
