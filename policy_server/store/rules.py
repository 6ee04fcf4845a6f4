"""
Rules in SQL: imported as layers, read back as drafts.

What a row means is not decided here: drafts go through `policy_server.rules.parse`, the same for
files and rows. A row that can't even be read becomes an issue and takes its block out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, update

from policy_server.rules.layers import (
    AutomationDraft,
    BlockDraft,
    Issue,
    LayerDraft,
    Scope,
)
from policy_server.store.revisions import one_revision, read_revision
from policy_server.store.rows import insert_row, read_bool, read_json, read_rows, read_time
from policy_server.store.tables import (
    automation_rules,
    provider_matches,
    rule_blocks,
    rule_errors,
    rule_layers,
    rule_options,
)


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
class LayerRow:
    """A layer as `rules list` shows it."""

    name: str
    position: int
    enabled: bool
    blocks: int
    valid_from: datetime | None
    valid_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedLayer:
    """What an import wrote."""

    layer: str
    blocks: int


def import_layers(
    connection: Connection, drafts: Sequence[LayerDraft], *, author: str
) -> tuple[int, tuple[ImportedLayer, ...]]:
    """
    Write *drafts*, all or none, and return the revision with what was written.

    A layer of the same name is replaced in its place and keeps its switch and its dates; others
    are appended in the order given.
    """
    names = ", ".join(draft.name for draft in drafts)
    with one_revision(connection, author=author, summary=f"imported {names}") as revision:
        imported = tuple(_import_layer(connection, draft) for draft in drafts)
    return revision, imported


def read_rules(connection: Connection) -> StoredRules:
    """Read every layer, its blocks and their parts."""
    return _Reader(connection).read()


def list_layers(connection: Connection) -> tuple[int, tuple[LayerRow, ...]]:
    """List the layers in order, with the revision."""
    counts: dict[int, int] = defaultdict(int)
    for block in read_rows(connection, rule_blocks, order_by=("id",)):
        counts[block["layer_id"]] += 1
    layers = tuple(
        LayerRow(
            name=str(row["name"]),
            position=row["position"],
            enabled=_lenient(read_bool, row["enabled"], fallback=False),
            blocks=counts[row["id"]],
            valid_from=_lenient(read_time, row["valid_from"], fallback=None),
            valid_until=_lenient(read_time, row["valid_until"], fallback=None),
        )
        for row in read_rows(connection, rule_layers, order_by=("position", "id"))
    )
    return read_revision(connection), layers


def replace_rule_errors(connection: Connection, issues: Iterable[Issue], *, revision: int) -> bool:
    """Make `rule_errors` say exactly *issues*; what it said before keeps its first revision."""
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
        "table_name": "automation_rules" if issue.option == "automation" else "rule_blocks",
        "block_id": issue.block_id,
        "option": issue.option,
        "value": issue.value if _is_json(issue.value) else str(issue.value),
        "message": issue.message,
    }


def _error_key(values: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in ("severity", "code", "block_id", "option", "message"))


def _is_json(value: Any) -> bool:
    match value:
        case None | bool() | int() | float() | str():
            return True
        case list() | tuple():
            return all(map(_is_json, value))
        case dict():
            return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return False


def _lenient(read: Callable[[Any], Any], value: Any, *, fallback: Any) -> Any:
    try:
        return read(value)
    except ValueError:
        return fallback


def _import_layer(connection: Connection, draft: LayerDraft) -> ImportedLayer:
    layer_id = _place_layer(connection, draft)
    connection.execute(delete(rule_blocks).where(rule_blocks.c.layer_id == layer_id))
    for position, block in enumerate(draft.blocks):
        _insert_block(connection, block, layer_id=layer_id, position=position)
    return ImportedLayer(layer=draft.name, blocks=len(draft.blocks))


def _place_layer(connection: Connection, draft: LayerDraft) -> int:
    name = rule_layers.c.name == draft.name
    known = connection.execute(select(rule_layers.c.id).where(name)).scalar()
    if known is not None:
        if draft.description:
            values = {"description": draft.description}
            connection.execute(update(rule_layers).where(name).values(values))
        return int(known)
    last = connection.execute(select(func.max(rule_layers.c.position))).scalar()
    statement = insert(rule_layers).values(
        name=draft.name,
        position=0 if last is None else last + 1,
        enabled=draft.enabled,
        description=draft.description,
        valid_from=draft.valid_from,
        valid_until=draft.valid_until,
    )
    return insert_row(connection, statement)


def _insert_block(
    connection: Connection, block: BlockDraft, *, layer_id: int, position: int
) -> None:
    statement = insert(rule_blocks).values(
        layer_id=layer_id,
        scope=block.scope.value,
        name=block.name,
        source=block.source,
        mx_rollup=block.mx_rollup,
        replace_base=block.replace_base,
        enabled=block.enabled,
        position=position,
        comment=block.comment,
    )
    block_id = insert_row(connection, statement)
    _insert_all(
        connection,
        rule_options,
        [
            {"block_id": block_id, "name": name, "value": value}
            for name, value in block.options.items()
        ],
    )
    _insert_all(
        connection,
        provider_matches,
        [
            {"block_id": block_id, "kind": str(kind), "value": value}
            for kind, value in dict.fromkeys(block.matches)
        ],
    )
    _insert_all(
        connection,
        automation_rules,
        [
            _automation_values(rule) | {"block_id": block_id, "position": place}
            for place, rule in enumerate(block.automation)
        ],
    )


def _insert_all(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


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


class _Reader:
    """Reads all rows in one pass a table, noting what can't be read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._issues: list[Issue] = []
        self._unreadable: set[int] = set()

    def read(self) -> StoredRules:
        revision = read_revision(self._connection)
        parts = (self._options(), self._matches(), self._automation())
        blocks = self._blocks(*parts)
        layers = tuple(
            self._layer(row, tuple(blocks[row["id"]]))
            for row in read_rows(self._connection, rule_layers, order_by=("position", "id"))
        )
        return StoredRules(
            revision=revision,
            layers=layers,
            issues=tuple(self._issues),
            unreadable=frozenset(self._unreadable),
        )

    def _layer(self, row: dict[str, Any], blocks: tuple[BlockDraft, ...]) -> LayerDraft:
        draft = LayerDraft(
            id=row["id"],
            name=str(row["name"]),
            description=str(row["description"]),
            blocks=blocks,
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
            self._issues.append(Issue(code="unreadable_row", message=message, block=draft.name))
            return replace(draft, enabled=False)

    def _blocks(
        self,
        options: dict[int, dict[str, Any]],
        matches: dict[int, list[tuple[str, str]]],
        automation: dict[int, list[AutomationDraft]],
    ) -> dict[int, list[BlockDraft]]:
        blocks: dict[int, list[BlockDraft]] = defaultdict(list)
        for row in read_rows(self._connection, rule_blocks, order_by=("position", "id")):
            block_id = row["id"]
            blocks[row["layer_id"]].append(
                BlockDraft(
                    id=block_id,
                    scope=Scope(row["scope"]),
                    name=str(row["name"]),
                    source=str(row["source"]),
                    comment=str(row["comment"]),
                    mx_rollup=self._bool(row, "mx_rollup", block_id, fallback=True),
                    replace_base=self._bool(row, "replace_base", block_id, fallback=False),
                    enabled=self._bool(row, "enabled", block_id, fallback=True),
                    options=options.get(block_id, {}),
                    matches=tuple(matches.get(block_id, ())),
                    automation=tuple(automation.get(block_id, ())),
                )
            )
        return blocks

    def _options(self) -> dict[int, dict[str, Any]]:
        options: dict[int, dict[str, Any]] = defaultdict(dict)
        for row in read_rows(self._connection, rule_options, order_by=("block_id", "name")):
            name = str(row["name"])
            options[row["block_id"]][name] = self._json(row, "value", row["block_id"], name)
        return options

    def _matches(self) -> dict[int, list[tuple[str, str]]]:
        matches: dict[int, list[tuple[str, str]]] = defaultdict(list)
        order = ("block_id", "kind", "value")
        for row in read_rows(self._connection, provider_matches, order_by=order):
            matches[row["block_id"]].append((str(row["kind"]), str(row["value"])))
        return matches

    def _automation(self) -> dict[int, list[AutomationDraft]]:
        rules: dict[int, list[AutomationDraft]] = defaultdict(list)
        order = ("block_id", "position", "id")
        for row in read_rows(self._connection, automation_rules, order_by=order):
            block_id = row["block_id"]
            regexes = self._json(row, "regexes", block_id, "automation")
            actions = self._json(row, "actions", block_id, "automation")
            rules[block_id].append(
                AutomationDraft(
                    id=row["id"],
                    regexes=tuple(regexes) if isinstance(regexes, list) else (regexes,),
                    actions=tuple(actions) if isinstance(actions, list) else (actions,),
                    trigger=self._json(row, "trigger", block_id, "automation"),
                    duration=self._json(row, "duration", block_id, "automation"),
                    match_internal=self._bool(row, "match_internal", block_id, fallback=False),
                    mode=row["mode"],
                    enabled=self._bool(row, "enabled", block_id, fallback=True),
                    comment=str(row["comment"]),
                )
            )
        return rules

    def _json(self, row: dict[str, Any], column: str, block_id: int, option: str) -> Any:
        try:
            return read_json(row[column])
        except ValueError:
            # Not the value: it may be a secret, spelt badly.
            self._refuse(
                block_id,
                option,
                None,
                f'{column} is not JSON; write texts in double quotes, such as "50/s"',
            )
            return None

    def _bool(self, row: dict[str, Any], column: str, block_id: int, *, fallback: bool) -> bool:
        try:
            return read_bool(row[column])
        except ValueError as error:
            self._refuse(block_id, "", row[column], f"{column}: {error}")
            return fallback

    def _refuse(self, block_id: int, option: str, value: Any, message: str) -> None:
        self._unreadable.add(block_id)
        self._issues.append(
            Issue(
                code="unreadable_row",
                message=message,
                option=option,
                value=value,
                block_id=block_id,
            )
        )
