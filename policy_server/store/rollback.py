"""
Rolling the rules back: what every row was at an earlier revision, written in a new one.

Nothing is lost from the history by it, so a rollback can be rolled back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, delete, insert, select, update

from policy_server.errors import InvalidRequest, NotFound
from policy_server.rules.issues import describe_issue
from policy_server.rules.layers import Issue, Severity
from policy_server.rules.parse import parse_block
from policy_server.store.drafts import DraftMaker
from policy_server.store.images import (
    RULE_TABLES,
    Image,
    RowKey,
    make_drafts,
    read_block_rows,
    read_changes,
    row_key,
    to_values,
)
from policy_server.store.layers import change_rules
from policy_server.store.tables import datastore, rule_blocks, rule_history, rule_layers

_SHOWN_ISSUES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """What a rollback did."""

    #: The new revision that it made.
    revision: int
    #: How many rows it wrote.
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """A row as it is and as it was; None where there is none."""

    table: Table
    now: Image | None
    then: Image | None


def rollback_to(
    connection: Connection, revision: int, *, author: str, expected_revision: int = 0
) -> RolledBack:
    """
    Make the rules what they were after *revision*, in one new revision.

    Raises `NotFound` for a revision that is not known any more or not yet, `InvalidRequest` if
    the rules of that time don't parse, `Aborted` if the rules' newest revision is another than
    *expected_revision* (0: whichever it is).
    """
    summary = f"rolled back to revision {revision}"
    with change_rules(connection, summary, author=author, expected=expected_revision) as made:
        _check_reach(connection, revision, made)
        differences = _differences_since(connection, revision)
        try:
            _write(connection, differences)
        except ValueError as error:
            raise InvalidRequest(f"revision {revision} can't be brought back: {error}") from error
        _check_blocks(connection, differences, revision)
    return RolledBack(revision=made, rows=len(differences))


def _check_reach(connection: Connection, revision: int, made: int) -> None:
    if not 0 <= revision < made:
        raise NotFound(f"there is no revision {revision}")
    forgotten = connection.execute(select(datastore.c.history_forgotten_until)).scalar() or 0
    if revision < forgotten:
        raise NotFound(f"revision {revision} is forgotten; the oldest that is kept is {forgotten}")


def _differences_since(connection: Connection, revision: int) -> list[_Difference]:
    """Find the rows that are not what they were: the first `old` since then, the last `new`."""
    then: dict[RowKey, Image | None] = {}
    now: dict[RowKey, Image | None] = {}
    tables = {table.name: table for table in RULE_TABLES}
    for change in read_changes(connection, [rule_history.c.revision > revision]):
        # Two keys where an update changed it: the row of the new one was not there before.
        if change.old is not None:
            key = row_key(change.table, change.old)
            then.setdefault(key, change.old)
            now[key] = None
        if change.new is not None:
            key = row_key(change.table, change.new)
            then.setdefault(key, None)
            now[key] = change.new
    return [
        _Difference(table=tables[key[0]], now=now[key], then=then[key])
        for key in then
        if now[key] != then[key]
    ]


def _write(connection: Connection, differences: Iterable[_Difference]) -> None:
    by_table: dict[str, list[_Difference]] = {table.name: [] for table in RULE_TABLES}
    for item in differences:
        by_table[item.table.name].append(item)
    for table in reversed(RULE_TABLES):
        _delete_rows(connection, table, by_table[table.name])
    _free_names(connection, by_table[rule_layers.name])
    for table in RULE_TABLES:
        _insert_rows(connection, table, by_table[table.name])
        _update_rows(connection, table, by_table[table.name])


def _delete_rows(connection: Connection, table: Table, items: Iterable[_Difference]) -> None:
    keys = [_key_values(table, item.now) for item in items if item.now and not item.then]
    if keys:
        connection.execute(delete(table).where(_is_row(table)), keys)


def _free_names(connection: Connection, layers: Iterable[_Difference]) -> None:
    """Let layers that get another name lose theirs first, as two may have changed places."""
    for item in layers:
        if item.now and item.then and item.now["name"] != item.then["name"]:
            row = rule_layers.c.id == item.now["id"]
            name = f"rolled back: {item.now['id']}"
            connection.execute(update(rule_layers).where(row).values(name=name))


def _insert_rows(connection: Connection, table: Table, items: Iterable[_Difference]) -> None:
    rows = [to_values(table, item.then) for item in items if item.then and not item.now]
    if rows:
        connection.execute(insert(table), rows)


def _update_rows(connection: Connection, table: Table, items: Iterable[_Difference]) -> None:
    rows = [
        to_values(table, item.then) | _key_values(table, item.now)
        for item in items
        if item.now and item.then
    ]
    if rows:
        connection.execute(update(table).where(_is_row(table)), rows)


def _is_row(table: Table) -> Any:
    return and_(*(column == bindparam(f"key_{column.name}") for column in table.primary_key))


def _key_values(table: Table, image: Image) -> dict[str, Any]:
    return {f"key_{column.name}": image[column.name] for column in table.primary_key}


def _check_blocks(
    connection: Connection, differences: Iterable[_Difference], revision: int
) -> None:
    issues = _find_issues(connection, _touched_blocks(differences))
    if not issues:
        return
    shown = [describe_issue(issue) for issue in issues[:_SHOWN_ISSUES]]
    head = f"the rules of revision {revision} don't parse any more:"
    raise InvalidRequest("\n".join([head, *shown]))


def _touched_blocks(differences: Iterable[_Difference]) -> set[int]:
    images: Iterable[tuple[Table, Mapping[str, Any]]] = (
        (item.table, item.then) for item in differences if item.then
    )
    return {
        image["id"] if table is rule_blocks else image["block_id"]
        for table, image in images
        if table is not rule_layers
    }


def _find_issues(connection: Connection, block_ids: Iterable[int]) -> list[Issue]:
    maker = DraftMaker()
    drafts = make_drafts(maker, read_block_rows(connection, block_ids))
    found = [issue for draft in drafts.values() for issue in parse_block(draft, layer="")[1]]
    return [issue for issue in (*maker.issues, *found) if issue.severity is Severity.ERROR]
