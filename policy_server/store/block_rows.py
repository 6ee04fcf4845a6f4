"""
The rows of a layer's blocks: what must be written so that they say what a draft says.

Stored rows are compared with those wanted; rows that differ are written, all others left alone.
"""

import json
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from policy_server.rules.layers import AutomationDraft, BlockDraft
from policy_server.store.rows import is_position, plain_columns, read_bool, read_json
from policy_server.store.tables import (
    automation_rules,
    provider_matches,
    rule_blocks,
    rule_options,
)

Row = Mapping[str, Any]

#: Room between blocks, so that one put between two others moves none of them.
_GAP = 10
_CHUNK = 500
#: What tells one row of a part from another of the same block.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "rule_blocks": ("scope", "name", "source"),
    "rule_options": ("name",),
    "provider_matches": ("kind", "value"),
    "automation_rules": ("regexes", "actions", "trigger", "duration"),
}


@dataclass(slots=True)
class _Changes:
    """What must be written to one table."""

    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    deletes: list[dict[str, Any]] = field(default_factory=list)


def write_blocks(connection: Connection, drafts: Sequence[BlockDraft], *, layer_id: int) -> None:
    """Make the layer's blocks those of *drafts*, in their order."""
    stored = _read_blocks(connection, layer_id)
    found = _match_rows(rule_blocks, stored, map(_block_values, drafts))
    kept = {row["id"] for row in found if row is not None}
    _delete_blocks(connection, [row["id"] for row in stored if row["id"] not in kept])
    positions = place_in_order([None if row is None else _read_position(row) for row in found])
    wanted = [
        _block_values(draft) | {"position": position}
        for draft, position in zip(drafts, positions, strict=True)
    ]
    parts = [_read_parts(connection, table, layer_id) for table, _ in _PARTS]
    numbers = _write_block_rows(connection, found, wanted, layer_id=layer_id)
    blocks = list(zip(numbers, drafts, strict=True))
    for (table, make_rows), present in zip(_PARTS, parts, strict=True):
        _write_parts(connection, table, make_rows, blocks, stored=present)


def place_in_order(known: Sequence[int | None]) -> list[int]:
    """
    Give each of a row of things a position, rising, keeping as many as can be kept.

    >>> place_in_order([0, None, 10, 5, 20])
    [0, 5, 10, 15, 20]
    """
    keep = _longest_rise(known)
    placed: list[int] = []
    last = -_GAP
    for index, position in enumerate(known):
        if index < len(placed):
            continue
        if index in keep and position is not None and position > last:
            placed.append(position)
        else:
            placed += _fill_run(known, keep, index, last)
        last = placed[-1]
    if placed and not is_position(placed[-1]):
        # There is no room left after those that were kept.
        return [_GAP * number for number in range(len(placed))]
    return placed


def _read_position(row: Row) -> int | None:
    position = row["position"]
    # SQLite may hold other ones, which are written anew.
    return position if is_position(position) else None


def _fill_run(known: Sequence[int | None], keep: set[int], start: int, last: int) -> list[int]:
    """Place what stands from *start* on, up to the next that can keep its position."""
    end = start + 1
    while end < len(known):
        following = known[end]
        if end in keep and following is not None and following > last + end - start:
            step = (following - last) // (end - start + 1)
            return [last + step * number for number in range(1, end - start + 1)]
        end += 1
    return [last + _GAP * number for number in range(1, end - start + 1)]


def _longest_rise(known: Sequence[int | None]) -> set[int]:
    """Find which positions to keep so that they rise and are the most possible."""
    tails: list[int] = []
    ends: list[int] = []
    before: dict[int, int] = {}
    for index, position in enumerate(known):
        if position is None:
            continue
        place = bisect_left(tails, position)
        if place:
            before[index] = ends[place - 1]
        tails[place : place + 1] = [position]
        ends[place : place + 1] = [index]
    kept: set[int] = set()
    current = ends[-1] if ends else None
    while current is not None:
        kept.add(current)
        current = before.get(current)
    return kept


def _match_rows(table: Table, stored: Iterable[Row], wanted: Iterable[Row]) -> list[Row | None]:
    """Find for each wanted row the stored one that is the same thing, each used once."""
    names = _KEYS[table.name]
    waiting: dict[str, deque[Row]] = defaultdict(deque)
    for row in stored:
        waiting[_spell(row, names)].append(row)
    rows = (waiting.get(_spell(row, names)) for row in wanted)
    return [same.popleft() if same else None for same in rows]


def _spell(row: Row, names: Iterable[str]) -> str:
    # As JSON, for which 1, 1.0 and true are three values.
    return json.dumps([row[name] for name in names])


def _differs(stored: Row, wanted: Row) -> bool:
    return _spell(stored, wanted) != _spell(wanted, wanted)


def _write_block_rows(
    connection: Connection,
    found: Sequence[Row | None],
    wanted: Sequence[dict[str, Any]],
    *,
    layer_id: int,
) -> list[int]:
    """Write the blocks themselves; return the number of each."""
    changes = _Changes()
    for row, values in zip(found, wanted, strict=True):
        if row is None:
            changes.inserts.append(values | {"layer_id": layer_id})
        elif _differs(row, values):
            changes.updates.append({"key_id": row["id"]} | values)
    _update(connection, rule_blocks, changes.updates)
    numbers: Iterator[int] = iter(())
    if changes.inserts:
        number = insert(rule_blocks).returning(rule_blocks.c.id, sort_by_parameter_order=True)
        numbers = connection.execute(number, changes.inserts).scalars()
    return [int(next(numbers)) if row is None else row["id"] for row in found]


def _write_parts(
    connection: Connection,
    table: Table,
    make_rows: Callable[[BlockDraft], list[dict[str, Any]]],
    blocks: Iterable[tuple[int, BlockDraft]],
    *,
    stored: Mapping[int, Sequence[Row]],
) -> None:
    keys = [column.name for column in table.primary_key.columns]
    changes = _Changes()
    for block_id, draft in blocks:
        present = stored.get(block_id, ())
        wanted = [row | {"block_id": block_id} for row in make_rows(draft)]
        found = _match_rows(table, present, wanted)
        kept = {id(row) for row in found}
        changes.deletes += (_key(row, keys) for row in present if id(row) not in kept)
        for row, values in zip(found, wanted, strict=True):
            if row is None:
                changes.inserts.append(values)
            elif _differs(row, values):
                changes.updates.append(_key(row, keys) | values)
    if changes.deletes:
        connection.execute(delete(table).where(*_is_key(table, keys)), changes.deletes)
    _update(connection, table, changes.updates)
    if changes.inserts:
        connection.execute(insert(table), changes.inserts)


def _key(row: Row, keys: Iterable[str]) -> dict[str, Any]:
    return {f"key_{name}": row[name] for name in keys}


def _is_key(table: Table, keys: Iterable[str]) -> list[ColumnElement[bool]]:
    return [table.c[name] == bindparam(f"key_{name}") for name in keys]


def _update(connection: Connection, table: Table, changed: Sequence[dict[str, Any]]) -> None:
    if not changed:
        return
    keys = [column.name for column in table.primary_key.columns]
    values: dict[str, Any] = {
        name: bindparam(name) for name in changed[0] if not name.startswith("key_")
    }
    statement = update(table).where(*_is_key(table, keys)).values(values)
    connection.execute(statement, changed)


def _delete_blocks(connection: Connection, numbers: Sequence[int]) -> None:
    for start in range(0, len(numbers), _CHUNK):
        some = numbers[start : start + _CHUNK]
        connection.execute(delete(rule_blocks).where(rule_blocks.c.id.in_(some)))


def _read_blocks(connection: Connection, layer_id: int) -> list[Row]:
    return _read(connection, rule_blocks, rule_blocks.c.layer_id == layer_id)


def _read_parts(connection: Connection, table: Table, layer_id: int) -> Mapping[int, list[Row]]:
    of_layer = select(rule_blocks.c.id).where(rule_blocks.c.layer_id == layer_id)
    parts: dict[int, list[Row]] = defaultdict(list)
    for row in _read(connection, table, table.c.block_id.in_(of_layer)):
        parts[row["block_id"]].append(row)
    return parts


def _read(connection: Connection, table: Table, where: ColumnElement[bool]) -> list[Row]:
    order = [table.c.position, *table.primary_key.columns]
    statement = select(*plain_columns(connection, table)).where(where).order_by(*order)
    return [
        {name: _read_value(table.c[name], value) for name, value in row.items()}
        for row in connection.execute(statement).mappings()
    ]


def _read_value(column: Column[Any], value: Any) -> Any:
    try:
        if isinstance(column.type, JSON):
            return read_json(value)
        return read_bool(value) if isinstance(column.type, Boolean) else value
    except ValueError:
        # What can't be read is like nothing that is wanted, so it is written anew.
        return {"unreadable": str(value)}


def _block_values(draft: BlockDraft) -> dict[str, Any]:
    return {
        "scope": draft.scope.value,
        "name": draft.name,
        "source": draft.source,
        "mx_rollup": draft.mx_rollup,
        "replace_base": draft.replace_base,
        "enabled": draft.enabled,
        "comment": draft.comment,
    }


def _option_rows(draft: BlockDraft) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "value": value,
            "comment": draft.option_comments.get(name, ""),
            "position": position,
        }
        for position, (name, value) in enumerate(draft.options.items())
    ]


def _match_values(draft: BlockDraft) -> list[dict[str, Any]]:
    return [
        {
            "kind": str(kind),
            "value": value,
            "comment": draft.match_comments.get((kind, value), ""),
            "position": position,
        }
        for position, (kind, value) in enumerate(dict.fromkeys(draft.matches))
    ]


def _automation_rows(draft: BlockDraft) -> list[dict[str, Any]]:
    return [
        _automation_values(rule) | {"position": position}
        for position, rule in enumerate(draft.automation)
    ]


def _automation_values(rule: AutomationDraft) -> dict[str, Any]:
    return {
        "regexes": list(rule.regexes),
        "actions": list(rule.actions),
        "trigger": rule.trigger,
        "duration": rule.duration,
        "match_internal": bool(rule.match_internal),
        "mode": rule.mode,
        "enabled": rule.enabled,
        "comment": rule.comment,
    }


_PARTS: tuple[tuple[Table, Callable[[BlockDraft], list[dict[str, Any]]]], ...] = (
    (rule_options, _option_rows),
    (provider_matches, _match_values),
    (automation_rules, _automation_rows),
)
