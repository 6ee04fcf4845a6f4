"""
The history and the ledger, kept within bounds: the oldest go first, a few at a time.

Of the history whole revisions go.

What every change touched (`change_log`) is kept for weeks, as clients go on from it; what the
rules were (`rule_history`) for much longer, as people ask for it. The newest revision always
stays: it is what the next one is counted from.

Of the ledger those actions go that have ended. One that somebody took back is kept for as long as
a late match could bring it back, which is as long as any rule's actions last.
"""

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    Text,
    cast,
    delete,
    func,
    or_,
    select,
    update,
)

from policy_server.automation.actions import ActionState
from policy_server.rules.values import parse_duration
from policy_server.store.datastore import read_or_make_datastore
from policy_server.store.locks import Lock, take_lock
from policy_server.store.revisions import one_revision, read_revision
from policy_server.store.rows import read_json
from policy_server.store.tables import (
    automation_actions,
    automation_evidence,
    automation_rules,
    change_log,
    datastore,
    policy_revisions,
    rule_history,
)

_revisions = policy_revisions.c
_actions = automation_actions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBounds:
    """How much of the history is kept: whichever bound is reached first."""

    age: timedelta = timedelta(days=30)
    #: Of each table but the next.
    rows: int = 1_000_000
    #: Of `rule_history`, which has no bound of age.
    rule_rows: int = 2_000_000
    #: Most rows of a table that go in one transaction, so that nobody waits long for the writer.
    step: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerBounds:
    """How many of the actions that have ended are kept: whichever bound is reached first."""

    age: timedelta = timedelta(days=90)
    rows: int = 100_000
    #: Most actions that go in one transaction, so that nobody waits long for the writer.
    step: int = 500


def forget_actions(connection: Connection, *, bounds: LedgerBounds, now: datetime) -> bool:
    """Forget one step of the ended actions beyond *bounds*; say whether there may be more."""
    # A step adds to the history and wakes every server: none is made for nothing.
    ids = _find_ended(connection, bounds, now)
    if not ids:
        return False
    take_lock(connection, Lock.REVISIONS)
    with one_revision(connection, author="server", summary=f"{len(ids)} ended actions forgotten"):
        connection.execute(
            delete(automation_evidence).where(automation_evidence.c.action_id.in_(ids))
        )
        # What has ended does not come back to life, so it still is what it was when it was found.
        connection.execute(delete(automation_actions).where(_actions.id.in_(ids)))
    return len(ids) == bounds.step


def _find_ended(connection: Connection, bounds: LedgerBounds, now: datetime) -> list[int]:
    may_come_back = now - _longest_duration(connection)
    ended = or_(
        _actions.state == ActionState.EXPIRED,
        (_actions.state == ActionState.CANCELLED) & (_actions.expire_time <= may_come_back),
        (_actions.state == ActionState.OBSERVED) & (_actions.expire_time <= now),
    )
    kept = func.count(_actions.id).label("kept")
    surplus = int(connection.execute(select(kept).where(ended)).scalar() or 0) - bounds.rows
    too_old = select(_actions.id).where(ended, _actions.expire_time < now - bounds.age)
    oldest = select(_actions.id).where(ended)
    limit = min(max(surplus, 0), bounds.step)
    found: dict[int, None] = {}
    for statement, most in ((too_old, bounds.step), (oldest, limit)):
        rows = statement.order_by(_actions.expire_time, _actions.id).limit(most)
        found.update(dict.fromkeys(connection.execute(rows).scalars()))
    return list(found)[: bounds.step]


def _longest_duration(connection: Connection) -> timedelta:
    """Find how long the actions of any rule last; those that can't be read make none."""
    duration = cast(automation_rules.c.duration, Text)
    longest = timedelta()
    for spelt in connection.execute(select(duration).distinct()).scalars():
        with contextlib.suppress(ValueError, TypeError):
            longest = max(longest, parse_duration(read_json(spelt)))
    return longest


def forget_history(connection: Connection, *, bounds: HistoryBounds, now: datetime) -> bool:
    """Forget one step of what is beyond *bounds*; say whether there may be more."""
    read_or_make_datastore(connection)
    has_more = _forget_log(connection, bounds, now)
    return _forget_rules(connection, bounds) or has_more


def _forget_log(connection: Connection, bounds: HistoryBounds, now: datetime) -> bool:
    known_from = _read(connection, datastore.c.log_forgotten_until)
    statement = (
        select(_revisions.id, _is_due(connection, bounds, now).label("is_due"))
        .where(_revisions.id > known_from, _revisions.id < read_revision(connection))
        .order_by(_revisions.id)
        .limit(bounds.step)
    )
    # Only from the oldest on, without a gap: a client goes on from the oldest that is kept.
    due = list(takewhile(lambda row: row.is_due, connection.execute(statement)))
    until = due[-1].id if due else known_from
    # Said before the rows go, which takes several steps where a revision is large.
    connection.execute(update(datastore).values(log_forgotten_until=until))
    changes = _delete(connection, change_log, change_log.c.revision <= until, bounds.step)
    # Who changed rules, and why, is kept as long as what they changed.
    of_rules = select(rule_history.c.id).where(rule_history.c.revision == _revisions.id).exists()
    forgotten = (_revisions.id <= until) & ~of_rules
    revisions = _delete(connection, policy_revisions, forgotten, bounds.step)
    return bounds.step in (len(due), changes, revisions)


def _forget_rules(connection: Connection, bounds: HistoryBounds) -> bool:
    known_from = _read(connection, datastore.c.history_forgotten_until)
    until = max(known_from, _surplus(connection, rule_history, bounds.rule_rows))
    connection.execute(update(datastore).values(history_forgotten_until=until))
    forgotten = rule_history.c.revision <= until
    return _delete(connection, rule_history, forgotten, bounds.step) == bounds.step


def _is_due(connection: Connection, bounds: HistoryBounds, now: datetime) -> ColumnElement[bool]:
    surplus = _surplus(connection, change_log, bounds.rows)
    return or_(
        _revisions.committed_at < now - bounds.age,
        _revisions.id <= max(surplus, read_revision(connection) - bounds.rows),
    )


def _surplus(connection: Connection, table: Table, rows: int) -> int:
    """Name the revision up to which a table holds more than *rows*; 0 if it does not."""
    # Rows are numbered without gaps worth counting.
    newest = connection.execute(select(func.max(table.c.id))).scalar() or 0
    last_surplus = (
        select(table.c.revision)
        .where(table.c.id <= newest - rows)
        .order_by(table.c.id.desc())
        .limit(1)
    )
    return int(connection.execute(last_surplus).scalar() or 0)


def _delete(
    connection: Connection, table: Table, condition: ColumnElement[bool], limit: int
) -> int:
    some = select(table.c.id).where(condition).order_by(table.c.id).limit(limit)
    return connection.execute(delete(table).where(table.c.id.in_(some))).rowcount


def _read(connection: Connection, column: ColumnElement[int]) -> int:
    return int(connection.execute(select(column)).scalar() or 0)
