"""
Rules in SQL, read as drafts; `layers` writes them.

What a row means is not decided here: drafts go through `policy_server.rules.parse`, the same for
files and rows. A row that can't even be read becomes an issue and takes its block out.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, insert, select

from policy_server.rules.issues import block_title
from policy_server.rules.layers import (
    BlockDraft,
    Issue,
    LayerDraft,
    Severity,
)
from policy_server.store.drafts import BlockParts, DraftMaker
from policy_server.store.locks import Lock, take_lock
from policy_server.store.revisions import read_revision
from policy_server.store.rows import (
    is_position,
    plain_columns,
    read_bool,
    read_rows,
    read_time,
)
from policy_server.store.tables import (
    automation_rules,
    provider_matches,
    rule_blocks,
    rule_errors,
    rule_layers,
    rule_options,
)

#: Blocks whose rows are held in memory at a time.
_CHUNK = 2000
# SQLite takes few parameters for one statement.
_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRules:
    """Every layer as its rows say, in order, at one revision."""

    revision: int
    layers: tuple[LayerDraft, ...]
    #: Rows that could not be read.
    issues: tuple[Issue, ...] = ()
    #: Blocks that such a row makes unusable.
    unreadable: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlock:
    """A block by itself, as its rows say."""

    layer_id: int
    #: Blocks of one layer are ordered by position, then by number.
    position: float
    draft: BlockDraft
    #: What could not be read, which makes the block unusable.
    issues: tuple[Issue, ...] = ()


def read_rules(connection: Connection) -> StoredRules:
    """Read every layer, its blocks and their parts."""
    return _Reader(connection).read()


def replace_rule_errors(connection: Connection, issues: Iterable[Issue], *, revision: int) -> bool:
    """Make `rule_errors` say exactly *issues*; what it said before keeps its first revision."""
    # Several servers on one database find the same, and must not write it twice.
    take_lock(connection, Lock.RULE_ERRORS)
    wanted = {_error_key(values): values for values in map(_error_values, issues)}
    present = {}
    for row in read_rows(connection, rule_errors, order_by=("id",)):
        present[_error_key(row)] = row["id"]
    gone = [present[key] for key in present.keys() - wanted.keys()]
    new = [wanted[key] | {"since_revision": revision} for key in wanted if key not in present]
    for row_id in gone:
        connection.execute(delete(rule_errors).where(rule_errors.c.id == row_id))
    if new:
        connection.execute(insert(rule_errors), new)
    return bool(gone or new)


def _error_values(issue: Issue) -> dict[str, Any]:
    return {
        "severity": issue.severity.value,
        "code": issue.code,
        "table_name": issue.table,
        "block_id": issue.block_id,
        "option": issue.option,
        "value": issue.value if _is_json(issue.value) else str(issue.value),
        "message": issue.message,
    }


def _error_key(values: dict[str, Any]) -> tuple[Any, ...]:
    names = ("severity", "code", "table_name", "block_id", "option", "message")
    return tuple(values[name] for name in names)


def _is_json(value: Any) -> bool:
    match value:
        case None | bool() | int() | float() | str():
            return True
        case list() | tuple():
            return all(map(_is_json, value))
        case dict():
            return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return False


def read_layer_heads(connection: Connection) -> tuple[tuple[LayerDraft, ...], tuple[Issue, ...]]:
    """Read every layer in order, without its blocks, and what could not be read of them."""
    issues: list[Issue] = []
    rows = read_rows(connection, rule_layers, order_by=("position", "id"))
    return tuple(_read_layer(row, (), issues) for row in rows), tuple(issues)


def read_all_blocks(connection: Connection) -> Iterator[StoredBlock]:
    """Read every block by itself, in the order of the numbers, a chunk at a time."""
    last: int | None = None
    while True:
        statement = _select(connection, rule_blocks).order_by(rule_blocks.c.id).limit(_CHUNK)
        if last is not None:
            statement = statement.where(rule_blocks.c.id > last)
        rows = _fetch(connection, statement)
        if not rows:
            return
        first, last = rows[0]["id"], rows[-1]["id"]
        yield from _make_blocks(connection, rows, lambda column: column.between(first, last))  # noqa: B023 consumed at once


def read_blocks(connection: Connection, ids: Iterable[int]) -> Iterator[StoredBlock]:
    """Read these blocks; those that are gone are left out."""
    wanted = sorted(ids)
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        some = wanted[start : start + _IDS_AT_ONCE]
        rows = _fetch(
            connection, _select(connection, rule_blocks).where(rule_blocks.c.id.in_(some))
        )
        yield from _make_blocks(connection, rows, lambda column: column.in_(some))  # noqa: B023


def _select(connection: Connection, table: Table) -> Select[Any]:
    return select(*plain_columns(connection, table))


def _fetch(connection: Connection, statement: Select[Any]) -> list[dict[str, Any]]:
    result = connection.execute(statement)
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def _make_blocks(
    connection: Connection,
    rows: Iterable[dict[str, Any]],
    is_wanted: Callable[[ColumnElement[int]], ColumnElement[bool]],
) -> Iterator[StoredBlock]:
    parts = [
        _fetch_parts(connection, table, is_wanted, order)
        for table, order in (
            (rule_options, ("position", "name")),
            (provider_matches, ("position", "kind", "value")),
            (automation_rules, ("position", "id")),
        )
    ]
    for row in rows:
        maker = DraftMaker()
        options, matches, automation = (found.get(row["id"], ()) for found in parts)
        draft = maker.block(
            row, BlockParts(options=options, matches=matches, automation=automation)
        )
        place = row["position"]
        yield StoredBlock(
            layer_id=row["layer_id"],
            # SQLite takes any text for a number, and puts it last.
            position=place if isinstance(place, int | float) else math.inf,
            draft=draft,
            issues=tuple(maker.issues),
        )


def _fetch_parts(
    connection: Connection,
    table: Table,
    is_wanted: Callable[[ColumnElement[int]], ColumnElement[bool]],
    order: Iterable[str],
) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    columns = [table.columns[name] for name in order]
    statement = _select(connection, table).where(is_wanted(table.c.block_id))
    for row in _fetch(connection, statement.order_by(table.c.block_id, *columns)):
        found[row["block_id"]].append(row)
    return found


def no_layer(draft: BlockDraft, layer_id: int) -> Issue:
    """Report a block whose layer is not there, as tools without foreign keys may leave one."""
    return Issue(
        code="no_layer",
        message=f"there is no layer {layer_id}: give the block another layer_id, or delete it",
        block=block_title(draft.scope, draft.name, draft.source),
        value=layer_id,
        block_id=draft.id,
    )


def _read_layer(
    row: dict[str, Any], blocks: tuple[BlockDraft, ...], issues: list[Issue]
) -> LayerDraft:
    draft = LayerDraft(
        id=row["id"],
        name=str(row["name"]),
        description=str(row["description"]),
        blocks=blocks,
    )
    if not is_position(row["position"]):
        message = (
            f'rule_layers "{draft.name}": position {row["position"]} is no whole number between '
            "-2147483648 and 2147483647; correct it, or put the layers in order by rules reorder"
        )
        issues.append(
            Issue(
                code="unreadable_row",
                message=message,
                block=draft.name,
                severity=Severity.WARNING,
                option="position",
                table="rule_layers",
            )
        )
    try:
        return replace(
            draft,
            enabled=read_bool(row["enabled"]),
            valid_from=read_time(row["valid_from"]),
            valid_until=read_time(row["valid_until"]),
        )
    except ValueError as error:
        # Dates that nobody can read must not put rules in force: the layer is out.
        message = (
            f'rule_layers "{draft.name}": {error}; the layer is switched off until '
            "enabled is 0 or 1 and the dates look like 2026-08-01 12:00:00"
        )
        issues.append(
            Issue(code="unreadable_row", message=message, block=draft.name, table="rule_layers")
        )
        return replace(draft, enabled=False)


class _Reader:
    """Reads all rows in one pass a table, noting what can't be read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._maker = DraftMaker()

    def read(self) -> StoredRules:
        revision = read_revision(self._connection)
        blocks = self._blocks()
        layers = tuple(
            _read_layer(row, tuple(blocks.pop(row["id"], ())), self._maker.issues)
            for row in read_rows(self._connection, rule_layers, order_by=("position", "id"))
        )
        self._maker.issues += (
            no_layer(draft, layer_id) for layer_id, lost in blocks.items() for draft in lost
        )
        return StoredRules(
            revision=revision,
            layers=layers,
            issues=tuple(self._maker.issues),
            unreadable=frozenset(self._maker.unreadable),
        )

    def _blocks(self) -> dict[int, list[BlockDraft]]:
        options = self._by_block(rule_options, "position", "name")
        matches = self._by_block(provider_matches, "position", "kind", "value")
        automation = self._by_block(automation_rules, "position", "id")
        blocks: dict[int, list[BlockDraft]] = defaultdict(list)
        for row in read_rows(self._connection, rule_blocks, order_by=("position", "id")):
            parts = BlockParts(
                options=options.get(row["id"], ()),
                matches=matches.get(row["id"], ()),
                automation=automation.get(row["id"], ()),
            )
            blocks[row["layer_id"]].append(self._maker.block(row, parts))
        return blocks

    def _by_block(self, table: Table, *order: str) -> dict[int, list[dict[str, Any]]]:
        rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in read_rows(self._connection, table, order_by=("block_id", *order)):
            rows[row["block_id"]].append(row)
        return rows
