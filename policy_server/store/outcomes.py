"""
The newest outcomes that agents reported: what rules are tried on before they are trusted.

They are kept in the transaction that counts them, each event once, without the local parts of
addresses, and within bounds of age and number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql

from policy_server.automation.outcomes import (
    MAX_REPLY_LENGTH,
    Outcome,
    OutcomeType,
    Reply,
    remove_local_parts,
)
from policy_server.store.rows import storable
from policy_server.store.tables import outcomes as outcomes_table

#: Longest command kept, in characters; RFC 5321 4.5.3.1.4 allows 512.
_MAX_COMMAND = 1024
#: So much more is read of a text that is cut, so that no address is cut in two.
_MARGIN = 512
#: The largest number that a column takes.
_MAX_INTEGER = 2**31 - 1

_outcomes = outcomes_table.c
#: What is kept of an outcome; the database numbers the rows itself.
_KEPT = tuple(column for column in outcomes_table.columns if column is not _outcomes.id)
#: Tells the values of a new row from the columns.
_NEW = "new_"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeBounds:
    """How many outcomes are kept: whichever bound is reached first."""

    #: By event time.
    age: timedelta = timedelta(days=7)
    rows: int = 500_000


def keep_outcomes(connection: Connection, outcomes: Iterable[Outcome]) -> int:
    """Keep *outcomes*; say how many of them were not known."""
    # In one order everywhere, so that two servers can't wait for each other.
    rows = sorted(map(_to_row, outcomes), key=lambda row: str(row[f"{_NEW}event_id"]))
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        statement, values = _insert_arrays(rows), None
    else:
        statement, values = _insert_each(), rows
    counting = statement.execution_options(preserve_rowcount=True)
    return connection.execute(counting, values).rowcount


def _insert_each() -> Insert:
    """Insert one row after the other, each if it is new."""
    values = [bindparam(f"{_NEW}{column.name}", type_=column.type) for column in _KEPT]
    is_known = exists().where(_outcomes.event_id == bindparam(f"{_NEW}event_id"))
    # Not by their conflict alone: that would use up numbers, by which the rows are counted.
    return insert(outcomes_table).from_select(_KEPT, select(*values).where(~is_known))


def _insert_arrays(rows: Sequence[Mapping[str, Any]]) -> Insert:
    """Insert *rows* in one statement that has an array for each column, the fastest by far."""
    arrays = [
        literal([row[f"{_NEW}{column.name}"] for row in rows], postgresql.ARRAY(column.type))
        for column in _KEPT
    ]
    new = func.unnest(*arrays).table_valued(*(column.name for column in _KEPT)).render_derived()
    is_known = exists().where(_outcomes.event_id == new.c.event_id)
    statement = postgresql.insert(outcomes_table).from_select(_KEPT, select(new).where(~is_known))
    # One event may stand in them twice.
    return statement.on_conflict_do_nothing(index_elements=[_outcomes.event_id])


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
    # Cut twice: what a peer wrote may be megabytes long.
    return storable(remove_local_parts(text[: longest + _MARGIN])[:longest])


def _to_row(outcome: Outcome) -> dict[str, Any]:
    reply = outcome.reply
    values = {
        "event_id": outcome.event_id,
        "event_time": outcome.event_time,
        "type": outcome.type.value,
        "recipient_domain": outcome.recipient_domain,
        "routing_domain": outcome.routing_domain,
        "site_name": outcome.site_name,
        "path_name": outcome.path_name,
        "egress_source": outcome.egress_source,
        "egress_pool": outcome.egress_pool,
        "provider_name": outcome.provider_name,
        "tenant": outcome.tenant,
        "campaign": outcome.campaign,
        "code": min(reply.code, _MAX_INTEGER),
        "enhanced_code": ".".join(map(str, reply.enhanced_code or ())),
        "content": _bare(reply.content, MAX_REPLY_LENGTH),
        "command": _bare(reply.command, _MAX_COMMAND),
        "internal": outcome.internal,
        "num_attempts": min(outcome.num_attempts, _MAX_INTEGER),
    }
    return {f"{_NEW}{name}": value for name, value in values.items()}


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
