"""
The history of the rules: who changed which row when, from what to what.

Triggers write it, so edits by hand are in it as well. How it is taken back stands in `rollback`,
how it is kept within bounds in `retention`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, or_, select

from policy_server.rules.automation_rules import hide_secret
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.issues import plain
from policy_server.rules.layers import BlockDraft
from policy_server.rules.parse import parse_block
from policy_server.rules.values import show_secret
from policy_server.store.drafts import DraftMaker
from policy_server.store.images import (
    ChangedRow,
    Image,
    RowKey,
    make_drafts,
    read_block_rows,
    read_changes,
    row_key,
    to_plain_row,
)
from policy_server.store.tables import (
    automation_rules,
    policy_revisions,
    rule_blocks,
    rule_history,
    rule_layers,
    rule_options,
)

#: So far back a good version of a block is looked for.
_MOST_STEPS_BACK = 100
_MOST_ROWS_BACK = 5000

_history = rule_history.c
_revisions = policy_revisions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One committed change of the rules."""

    id: int
    committed_at: datetime
    author: str
    summary: str
    #: How many rows it changed.
    changes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilter:
    """Which changes are asked for; what is empty does not narrow it."""

    #: Name of a layer, now or then.
    layer: str = ""
    #: Name of a block, now or then: a domain, a provider, or "default".
    block: str = ""
    block_id: int | None = None
    first_revision: int = 0
    last_revision: int | None = None
    #: Only changes older than this one: to go on where a list ended.
    before_id: int | None = None


def read_rules_revision(connection: Connection) -> int:
    """Read the newest revision that changed rules; 0 before the first."""
    return int(connection.execute(select(func.max(_history.revision))).scalar() or 0)


def list_history(
    connection: Connection, chosen: HistoryFilter | None = None, *, limit: int = 100
) -> tuple[ChangedRow, ...]:
    """List up to *limit* changes, newest first; secrets in them are hidden."""
    conditions = _conditions(chosen or HistoryFilter())
    changes = read_changes(connection, conditions, is_newest_first=True, limit=limit)
    return tuple(
        replace(
            change,
            old=_hide_secrets(change.table, change.old),
            new=_hide_secrets(change.table, change.new),
        )
        for change in changes
    )


def _hide_secrets(table: Table, row: Image | None) -> Image | None:
    if row is None:
        return None
    if table is rule_options and row.get("value") is not None:
        option = build_catalogue().options.get(str(row.get("name")))
        if option is not None and option.is_secret:
            # Also what is no reference: its key may be misspelt, and its value be the secret.
            return {**row, "value": show_secret(row["value"])}
    if table is automation_rules and isinstance(actions := row.get("actions"), list):
        row = {**row, "actions": [hide_secret(action) for action in actions]}
    shown: Image = plain(row)
    return shown


def list_revisions(
    connection: Connection, *, limit: int = 100, before: int | None = None
) -> tuple[Revision, ...]:
    """List up to *limit* revisions of the rules, newest first, older than *before*."""
    counts = select(_history.revision, func.count().label("changes")).group_by(_history.revision)
    if before is not None:
        counts = counts.where(_history.revision < before)
    newest = counts.order_by(_history.revision.desc()).limit(limit).subquery()
    statement = (
        select(policy_revisions, newest.c.changes)
        .join(newest, newest.c.revision == _revisions.id)
        .order_by(_revisions.id.desc())
    )
    return tuple(
        Revision(
            id=row.id,
            committed_at=row.committed_at,
            author=row.author,
            summary=row.summary,
            changes=row.changes,
        )
        for row in connection.execute(statement)
    )


def last_good_block(connection: Connection, block_id: int) -> BlockDraft | None:
    """
    Rebuild the newest earlier version of a block that parses; None if the history has none.

    One revision after the other is undone, from the rows as they are now.
    """
    rows = read_block_rows(connection, (block_id,))
    for changes in _steps_back(connection, block_id):
        for change in changes:
            _undo(rows, change)
        draft = _parse(rows, block_id)
        if draft is not None:
            return draft
    return None


def _conditions(chosen: HistoryFilter) -> Iterator[ColumnElement[bool]]:
    yield _history.revision >= chosen.first_revision
    if chosen.last_revision is not None:
        yield _history.revision <= chosen.last_revision
    if chosen.before_id is not None:
        yield _history.id < chosen.before_id
    if chosen.block_id is not None:
        yield _history.block_id == chosen.block_id
    if chosen.layer:
        now = select(rule_layers.c.id).where(rule_layers.c.name == chosen.layer)
        then = _ever(rule_layers.name, chosen.layer, _history.layer_id)
        yield or_(_history.layer_id.in_(now), _history.layer_id.in_(then))
    if chosen.block:
        name = "" if chosen.block == "default" else chosen.block
        now = select(rule_blocks.c.id).where(rule_blocks.c.name == name)
        then = _ever(rule_blocks.name, name, _history.block_id)
        yield or_(_history.block_id.in_(now), _history.block_id.in_(then))


def _ever(table: str, name: str, number: ColumnElement[Any]) -> Any:
    """Select the numbers of rows that had this name at any time."""
    was = or_(_history.old["name"].as_string() == name, _history.new["name"].as_string() == name)
    return select(number).where(_history.table_name == table, was)


def _steps_back(connection: Connection, block_id: int) -> Iterator[list[ChangedRow]]:
    """Yield the changes of a block, newest first, a revision at a time."""
    of_block = [_history.block_id == block_id]
    changes = read_changes(connection, of_block, is_newest_first=True, limit=_MOST_ROWS_BACK)
    steps = groupby(changes, key=lambda change: change.revision)
    for _, (_, of_revision) in zip(range(_MOST_STEPS_BACK), steps, strict=False):
        yield list(of_revision)


def _undo(rows: dict[RowKey, Image], change: ChangedRow) -> None:
    if change.new is not None:
        rows.pop(row_key(change.table, change.new), None)
    if change.old is not None:
        rows[row_key(change.table, change.old)] = to_plain_row(change.table, change.old)


def _parse(rows: dict[RowKey, Image], block_id: int) -> BlockDraft | None:
    maker = DraftMaker()
    draft = make_drafts(maker, rows).get(block_id)
    if draft is None or maker.issues or parse_block(draft, layer="")[0] is None:
        return None
    return draft
