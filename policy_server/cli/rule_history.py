"""
penstock-server rules history, rollback and errors: what was done to the rules, and what is wrong.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click
from sqlalchemy import Connection

from policy_server.cli.author import read_author
from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.session import (
    Session,
    config_option,
    expect_option,
    json_option,
    open_database,
)
from policy_server.rules.issues import block_title, quote_value
from policy_server.rules.issues import plain as plain_value
from policy_server.rules.layers import Issue
from policy_server.rules.parse import parse_layer
from policy_server.store.history import HistoryFilter, Revision, list_history, list_revisions
from policy_server.store.images import ChangedRow
from policy_server.store.rollback import rollback_to
from policy_server.store.rule_errors import RuleError, list_rule_errors
from policy_server.store.rules import read_rules

_MOST_ERRORS = 10_000


@click.command()
@click.option("--layer", default="", help="Only row by row, of this layer.")
@click.option("--block", default="", help='Only row by row, of this domain, provider or "default".')
@click.option("--revision", type=click.IntRange(1), help="Only row by row, of this revision.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
@config_option
@click.pass_obj
def history(
    session: Session, *, layer: str, block: str, revision: int | None, limit: int, as_json: bool
) -> None:
    """
    List the revisions of the rules, newest first: when, who, what.

    With --layer, --block or --revision, list every row that was changed, old and new.
    """
    chosen = HistoryFilter(
        layer=layer, block=block, first_revision=revision or 0, last_revision=revision
    )
    wants_rows = bool(layer or block or revision)
    with open_database(session.settings()) as database:
        if wants_rows:
            changes = database.read_now(lambda c: list_history(c, chosen, limit=limit))
            _print_changes(changes, as_json=as_json)
        else:
            revisions = database.read_now(lambda c: list_revisions(c, limit=limit))
            _print_revisions(revisions, as_json=as_json)


@click.command()
@click.argument("revision", type=click.IntRange(0))
@expect_option
@json_option
@config_option
@click.pass_obj
def rollback(session: Session, revision: int, *, expected_revision: int, as_json: bool) -> None:
    """Make all rules what they were at REVISION, as a new revision."""
    with open_database(session.settings()) as database:
        done = database.write_now(
            lambda connection: rollback_to(
                connection,
                revision,
                author=read_author(),
                expected_revision=expected_revision,
            )
        )
    if as_json:
        document = {"rolled_back_to": revision, "revision": done.revision, "rows": done.rows}
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(
            f"rules are as at revision {revision}: {done.rows} rows written,"
            f" revision {done.revision}"
        )


@click.command()
@json_option
@config_option
@click.pass_obj
def errors(session: Session, as_json: bool) -> None:
    """
    List what is refused in the rules or odd in them, until it is repaired.

    Of a refused block the last good version stays in force.
    """
    with open_database(session.settings()) as database:
        found = database.read_now(_find_errors)
    if as_json:
        document = {"errors": [_describe_error(error) for error in found]}
        click.echo(json.dumps(document, indent=1))
        return
    table = build_table("severity", "layer", "block", "row", "option", "what", "since")
    for error in found:
        table.add_row(
            error.severity,
            plain(error.layer),
            plain(error.block),
            "" if error.block_id is None else f"rule_blocks {error.block_id}",
            plain(error.option),
            plain(error.message),
            f"revision {error.since_revision}" if error.since_revision else "not seen yet",
        )
    if found:
        open_console().print(table)
    click.echo(f"{len(found)} in all" if found else "none")


def _find_errors(connection: Connection) -> list[RuleError]:
    """Return what is wrong now: what the server wrote down, put right where it is behind."""
    recorded = list_rule_errors(connection, limit=_MOST_ERRORS)
    present = dict(_check_rules(connection))
    known = {_key(error) for error in recorded}
    kept = [error for error in recorded if error.severity != "error" or _key(error) in present]
    return kept + [error for key, error in present.items() if key not in known]


def _check_rules(connection: Connection) -> Iterator[tuple[tuple[Any, ...], RuleError]]:
    stored = read_rules(connection)
    names: dict[int, tuple[str, str]] = {}
    found: list[Issue] = list(stored.issues)
    for layer in stored.layers:
        for block in layer.blocks:
            names[block.id] = layer.name, block_title(block.scope, block.name, block.source)
        found += (issue for issue in parse_layer(layer)[1] if issue.severity == "error")
    for issue in found:
        layer_name, title = names.get(issue.block_id or 0, ("", issue.block))
        error = RuleError(
            id=0,
            severity=issue.severity.value,
            code=issue.code,
            layer=layer_name,
            block=title,
            block_id=issue.block_id,
            option=issue.option,
            value=plain_value(issue.value),
            message=issue.message,
            since_revision=0,
        )
        yield _key(error), error


def _key(error: RuleError) -> tuple[Any, ...]:
    return error.severity, error.code, error.block_id, error.option, error.message


def _describe_error(error: RuleError) -> dict[str, Any]:
    return {
        "severity": error.severity,
        "code": error.code,
        "layer": error.layer,
        "block": error.block,
        "block_id": error.block_id,
        "option": error.option,
        "value": error.value,
        "message": error.message,
        "since_revision": error.since_revision or None,
    }


def _print_revisions(revisions: tuple[Revision, ...], *, as_json: bool) -> None:
    if as_json:
        document = {"revisions": [_describe_revision(item) for item in revisions]}
        click.echo(json.dumps(document, indent=1))
        return
    table = build_table("revision", "when", "who", "what", "rows")
    for item in revisions:
        table.add_row(
            str(item.id),
            _spell_time(item.committed_at),
            plain(item.author),
            plain(item.summary),
            str(item.changes),
        )
    open_console().print(table)


def _describe_revision(item: Revision) -> dict[str, Any]:
    return {
        "revision": item.id,
        "time": item.committed_at.isoformat(),
        "author": item.author,
        "summary": item.summary,
        "rows": item.changes,
    }


def _print_changes(changes: tuple[ChangedRow, ...], *, as_json: bool) -> None:
    if as_json:
        document = {"changes": [_describe_change(change) for change in changes]}
        click.echo(json.dumps(document, indent=1))
        return
    table = build_table("revision", "when", "who", "table", "row", "what", "old", "new")
    for change in changes:
        old, new = _shown(change)
        table.add_row(
            str(change.revision),
            _spell_time(change.changed_at),
            plain(change.author),
            change.table.name,
            plain(" ".join(map(str, change.key.values()))),
            change.operation,
            plain(old),
            plain(new),
        )
    open_console().print(table)


def _describe_change(change: ChangedRow) -> dict[str, Any]:
    return {
        "revision": change.revision,
        "time": change.changed_at and change.changed_at.isoformat(),
        "author": change.author,
        "table": change.table.name,
        "row": dict(change.key),
        "operation": change.operation,
        "old": change.old,
        "new": change.new,
    }


def _shown(change: ChangedRow) -> tuple[str, str]:
    """Show the columns that an update changed, or the whole row."""
    old, new = change.old or {}, change.new or {}
    if change.old and change.new:
        # The whole row where all that differs is hidden.
        changed = [name for name in new if old.get(name) != new[name]] or list(new)
        old = {name: old.get(name) for name in changed}
        new = {name: new[name] for name in changed}
    return _spell(old), _spell(new)


def _spell(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {quote_value(value)}" for name, value in row.items())


def _spell_time(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else ""
