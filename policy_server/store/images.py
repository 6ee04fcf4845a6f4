"""
Rows of the rules as `rule_history` keeps them: whole, as JSON, before and after each change.

An image may be older than a column of today; it then stands for the column's default.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ColumnElement, Connection, Integer, Table, select

from policy_server.rules.layers import BlockDraft
from policy_server.store.column_types import UtcTime
from policy_server.store.drafts import BlockParts, DraftMaker
from policy_server.store.rows import plain_columns, read_bool, read_json, read_position, read_time
from policy_server.store.tables import (
    automation_rules,
    provider_matches,
    rule_blocks,
    rule_history,
    rule_layers,
    rule_options,
)

Image = Mapping[str, Any]
#: A table's name and the primary key of a row.
RowKey = tuple[str, tuple[Any, ...]]

#: The tables that have a history, parents first.
RULE_TABLES = (rule_layers, rule_blocks, rule_options, provider_matches, automation_rules)
_TABLES_BY_NAME = {table.name: table for table in RULE_TABLES}

_ORDER = {
    "rule_options": ("position", "name"),
    "provider_matches": ("position", "kind", "value"),
    "automation_rules": ("position", "id"),
}
#: Stands in an image for JSON that can't be read, such as one nested too deep.
_UNREADABLE = "(unreadable)"
#: SQLite allows 32,766 values in one statement.
_BLOCKS_PER_STATEMENT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRow:
    """One change of one row, as the history keeps it."""

    id: int
    revision: int
    table: Table
    #: Row of rule_blocks that it is or belongs to.
    block_id: int | None
    #: Row of rule_layers that it is or belongs to.
    layer_id: int | None
    #: Primary key, by column.
    key: Mapping[str, Any]
    #: "insert", "update" or "delete".
    operation: str
    old: Image | None
    new: Image | None
    changed_at: datetime | None
    author: str


def read_changes(
    connection: Connection,
    conditions: Iterable[ColumnElement[bool]],
    *,
    is_newest_first: bool = False,
    limit: int | None = None,
) -> Iterator[ChangedRow]:
    """Read changes under these conditions, in order or from the newest back."""
    statement = select(*plain_columns(connection, rule_history)).where(*conditions)
    number = rule_history.c.id
    ordered = statement.order_by(number.desc() if is_newest_first else number).limit(limit)
    return map(_to_change, connection.execute(ordered))


def row_key(table: Table, image: Image) -> RowKey:
    """Identify the row that an image or a plain row is of."""
    return table.name, tuple(image[column.name] for column in table.primary_key)


def to_plain_row(table: Table, image: Image) -> dict[str, Any]:
    """Spell an image as `read_rows` reads the row: JSON as text."""
    row = {}
    for column in table.columns:
        value = image.get(column.name, _default(column))
        is_json = isinstance(column.type, JSON) and value is not _UNREADABLE
        row[column.name] = json.dumps(value) if is_json else value
    return row


def to_values(table: Table, image: Image) -> dict[str, Any]:
    """Turn an image into values to write; ValueError for one that nobody could read anyway."""
    values = {}
    for column in table.columns:
        value = image.get(column.name, _default(column))
        if value is _UNREADABLE:
            raise ValueError(f"{table.name}.{column.name} is nested too deep")
        match column.type:
            case Boolean():
                value = read_bool(value)
            case UtcTime():
                value = read_time(value)
            case Integer() if not isinstance(column.type, BigInteger):
                value = read_position(value)
        values[column.name] = value
    return values


def read_block_rows(connection: Connection, block_ids: Iterable[int]) -> dict[RowKey, Image]:
    """Read the rows of these blocks and of their parts, as plain rows."""
    ids = sorted(block_ids)
    rows: dict[RowKey, Image] = {}
    for table in RULE_TABLES[1:]:
        column = table.c.id if table is rule_blocks else table.c.block_id
        for start in range(0, len(ids), _BLOCKS_PER_STATEMENT):
            some = column.in_(ids[start : start + _BLOCKS_PER_STATEMENT])
            statement = select(*plain_columns(connection, table)).where(some)
            for found in connection.execute(statement):
                row = found._asdict()
                rows[row_key(table, row)] = row
    return rows


def make_drafts(maker: DraftMaker, rows: Mapping[RowKey, Image]) -> dict[int, BlockDraft]:
    """Make drafts of the blocks among plain rows, by their numbers."""
    parts: dict[tuple[str, int], list[Image]] = defaultdict(list)
    for (table, _), row in rows.items():
        if table in _ORDER:
            parts[table, row["block_id"]].append(row)
    for (table, _), found in parts.items():
        found.sort(key=lambda row, order=_ORDER[table]: [_rank(row[name]) for name in order])  # type: ignore[misc]  # a default binds the loop's value
    return {
        row["id"]: maker.block(
            row,
            BlockParts(
                options=parts["rule_options", row["id"]],
                matches=parts["provider_matches", row["id"]],
                automation=parts["automation_rules", row["id"]],
            ),
        )
        for (table, _), row in rows.items()
        if table == "rule_blocks"
    }


def _rank(value: Any) -> tuple[bool, Any]:
    """Order as SQLite does where a position is a text: after all numbers."""
    return isinstance(value, str), value


def _to_change(row: Any) -> ChangedRow:
    table = _TABLES_BY_NAME[row.table_name]
    key = read_json(row.row_key)
    return ChangedRow(
        id=row.id,
        revision=row.revision,
        table=table,
        block_id=row.block_id,
        layer_id=row.layer_id,
        key=key,
        operation=row.operation,
        old=_read_image(table, key, row.old),
        new=_read_image(table, key, row.new),
        changed_at=read_time(row.changed_at),
        author=row.author,
    )


def _read_image(table: Table, key: Image, text: str | None) -> Image | None:
    try:
        image: Image | None = read_json(text)
    except ValueError:
        return {
            column.name: _UNREADABLE for column in table.columns if isinstance(column.type, JSON)
        } | dict(key)
    return image


def _default(column: Any) -> Any:
    default = column.server_default
    return None if default is None else default.arg
