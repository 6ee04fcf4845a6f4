"""
Layers one by one: list, read, import, delete, reorder. All rules at once are read by `rules`.

An import writes what differs and nothing else: blocks keep their numbers, the history says what
changed, and a running server works out anew only what depends on that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from policy_server.errors import Aborted, InvalidRequest, NotFound
from policy_server.rules.layers import Issue, LayerDraft
from policy_server.store.block_rows import write_blocks
from policy_server.store.drafts import DraftMaker
from policy_server.store.images import RULE_TABLES, make_drafts, read_block_rows
from policy_server.store.revisions import one_revision, read_revision
from policy_server.store.rows import (
    insert_row,
    is_position,
    plain_columns,
    read_bool,
    read_position,
    read_time,
)
from policy_server.store.tables import (
    change_log,
    policy_revisions,
    rule_blocks,
    rule_layers,
)

_RULE_TABLES = sorted(table.name for table in RULE_TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer as lists show it."""

    id: int
    name: str
    position: int
    enabled: bool
    blocks: int
    valid_from: datetime | None
    valid_until: datetime | None
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedLayer:
    """What an import wrote."""

    layer: str
    blocks: int


def list_layers(connection: Connection) -> tuple[int, tuple[LayerRow, ...]]:
    """List the layers in order, with the revision."""
    counted = select(rule_blocks.c.layer_id, func.count()).group_by(rule_blocks.c.layer_id)
    counts = {row[0]: row[1] for row in connection.execute(counted)}
    statement = select(*plain_columns(connection, rule_layers)).order_by(
        rule_layers.c.position, rule_layers.c.id
    )
    layers = tuple(
        LayerRow(
            id=row["id"],
            name=str(row["name"]),
            position=read_position(row["position"]),
            enabled=_read_switch(row["enabled"]),
            blocks=counts.get(row["id"], 0),
            valid_from=_read_date(row["valid_from"]),
            valid_until=_read_date(row["valid_until"]),
            description=str(row["description"]),
        )
        for row in connection.execute(statement).mappings()
    )
    return read_revision(connection), layers


def read_layer(connection: Connection, name: str) -> tuple[LayerDraft, tuple[Issue, ...]]:
    """Read one layer, and which of its rows can't be read. Raises `NotFound`."""
    statement = select(*plain_columns(connection, rule_layers)).where(rule_layers.c.name == name)
    layer = connection.execute(statement).mappings().first()
    if layer is None:
        raise NotFound(f'no layer "{name}"')
    ids = select(rule_blocks.c.id).where(rule_blocks.c.layer_id == layer["id"])
    ordered = ids.order_by(rule_blocks.c.position, rule_blocks.c.id)
    numbers = connection.execute(ordered).scalars().all()
    maker = DraftMaker()
    blocks = make_drafts(maker, read_block_rows(connection, numbers))
    draft = LayerDraft(
        id=layer["id"],
        name=name,
        blocks=tuple(blocks[number] for number in numbers),
        enabled=_read_switch(layer["enabled"]),
        description=str(layer["description"]),
        valid_from=_read_date(layer["valid_from"]),
        valid_until=_read_date(layer["valid_until"]),
    )
    return draft, tuple(maker.issues)


def import_layers(
    connection: Connection,
    drafts: Sequence[LayerDraft],
    *,
    author: str,
    expected_revision: int = 0,
    base: str = "",
) -> tuple[int, tuple[ImportedLayer, ...]]:
    """
    Write *drafts*, all or none, and return the revision with what was written.

    A layer of the same name is replaced in its place and keeps its switch and its dates; others
    are appended in the order given, but the one named *base* goes before all others. Raises
    `Aborted` as `change_rules` does.
    """
    summary = f"imported {', '.join(draft.name for draft in drafts)}"
    with change_rules(connection, summary, author=author, expected=expected_revision) as revision:
        for draft in drafts:
            layer_id = _place_layer(connection, draft, is_base=draft.name == base)
            write_blocks(connection, draft.blocks, layer_id=layer_id)
    return revision, tuple(
        ImportedLayer(layer=draft.name, blocks=len(draft.blocks)) for draft in drafts
    )


def delete_layer(
    connection: Connection, name: str, *, author: str, expected_revision: int = 0
) -> int:
    """Delete a layer with all in it and return the revision. Raises `NotFound`, `Aborted`."""
    summary = f"deleted {name}"
    with change_rules(connection, summary, author=author, expected=expected_revision) as revision:
        gone = connection.execute(delete(rule_layers).where(rule_layers.c.name == name))
        if not gone.rowcount:
            raise NotFound(f'no layer "{name}"')
    return revision


def reorder_layers(
    connection: Connection, names: Sequence[str], *, author: str, expected_revision: int = 0
) -> int:
    """
    Put the layers in the order of *names*, which names each once; return the revision.

    Raises `NotFound`, `InvalidRequest`, `Aborted`.
    """
    summary = f"reordered layers: {', '.join(names)}"
    with change_rules(connection, summary, author=author, expected=expected_revision) as revision:
        listed = connection.execute(select(rule_layers.c.name, rule_layers.c.position))
        known = {row.name: row.position for row in listed}
        _check_order(names, known.keys())
        for position, name in enumerate(names):
            if known[name] != position:
                moved = update(rule_layers).where(rule_layers.c.name == name)
                connection.execute(moved.values(position=position))
    return revision


@contextmanager
def change_rules(
    connection: Connection, summary: str, *, author: str, expected: int = 0
) -> Iterator[int]:
    """
    Gather changes of the rules under one revision, whose number is yielded.

    Raises `Aborted` if the rules have changed since the revision *expected*, unless that is 0.
    """
    with one_revision(connection, author=author, summary=summary) as revision:
        # Asked after the revision was numbered: from then on no one else's can come before it.
        if expected:
            _require_unchanged(connection, expected, own=revision)
        yield revision


def _require_unchanged(connection: Connection, expected: int, *, own: int) -> None:
    newest = connection.execute(
        select(func.max(policy_revisions.c.id)).where(policy_revisions.c.id < own)
    ).scalar()
    if expected > int(newest or 0):
        raise Aborted(f"there is no revision {expected}; the newest is {newest or 0}")
    changed = connection.execute(
        select(func.max(change_log.c.revision)).where(
            change_log.c.revision > expected,
            change_log.c.revision < own,
            change_log.c.table_name.in_(_RULE_TABLES),
        )
    ).scalar()
    if changed is not None:
        raise Aborted(
            f"the rules have changed since revision {expected}, in revision {changed}: "
            "look at what changed and try again"
        )


def _check_order(names: Sequence[str], known: Any) -> None:
    for name in names:
        if name not in known:
            raise NotFound(f'no layer "{name}"')
    missing = ", ".join(f'"{name}"' for name in known if name not in names)
    if missing:
        raise InvalidRequest(f"name every layer once; {missing} is missing", field="layer_names")
    if len(set(names)) != len(names):
        raise InvalidRequest("name every layer once; one is named twice", field="layer_names")


def _place_layer(connection: Connection, draft: LayerDraft, *, is_base: bool) -> int:
    """Find the layer of the draft's name, or add one; return its number."""
    found = connection.execute(
        select(rule_layers.c.id, rule_layers.c.description).where(rule_layers.c.name == draft.name)
    ).first()
    if found is None:
        statement = insert(rule_layers).values(
            name=draft.name,
            position=_find_position(connection, is_base=is_base),
            enabled=draft.enabled,
            description=draft.description,
            valid_from=draft.valid_from,
            valid_until=draft.valid_until,
        )
        return insert_row(connection, statement)
    if draft.description and draft.description != found.description:
        described = update(rule_layers).where(rule_layers.c.id == found.id)
        connection.execute(described.values(description=draft.description))
    return int(found.id)


def _find_position(connection: Connection, *, is_base: bool) -> int:
    """Find the position after those of all layers, or before them."""
    layers = rule_layers.c
    ordered = select(layers.id, layers.position).order_by(layers.position, layers.id)
    known = connection.execute(ordered).all()
    if not known:
        return 0
    end = known[0].position if is_base else known[-1].position
    if isinstance(end, int):
        found = end - 1 if is_base else end + 1
        if is_position(found):
            return found
    # There is no room at that end, or no number: SQLite may hold texts, and puts them last.
    for position, row in enumerate(known):
        moved = update(rule_layers).where(layers.id == row.id)
        connection.execute(moved.values(position=position))
    return -1 if is_base else len(known)


def _read_switch(value: Any) -> bool:
    try:
        return read_bool(value)
    except ValueError:
        return False


def _read_date(value: Any) -> datetime | None:
    try:
        return read_time(value)
    except ValueError:
        return None
