"""
penstock-server rules: layers of rules from files and back, their order, and their history.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from policy_server.cli.author import read_author
from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.rule_diff import diff
from policy_server.cli.rule_files import (
    check_option,
    errors_of,
    read_files,
    report_issues,
    warnings_of,
)
from policy_server.cli.rule_history import errors, history, rollback
from policy_server.cli.rule_test import test
from policy_server.cli.session import (
    Session,
    config_option,
    expect_option,
    json_option,
    keeping_objects,
    open_database,
)
from policy_server.importing.preview import preview_checks, preview_layers, read_known
from policy_server.rule_files.reader import FileFormat, find_format
from policy_server.rule_files.writer import write_rules
from policy_server.rules.checks import CheckLevel
from policy_server.rules.diff import LayerDiff
from policy_server.rules.issues import issue_json
from policy_server.rules.layers import Issue
from policy_server.store.layers import (
    ImportedLayer,
    LayerRow,
    delete_layer,
    import_layers,
    list_layers,
    read_layer,
    reorder_layers,
)


@click.group()
def rules() -> None:
    """Import, export, compare, try and order layers of rules; look at their history."""


for _command in (diff, history, rollback, errors, test):
    rules.add_command(_command)


@rules.command("import")
@click.argument("files", nargs=-1)
@click.option("--layer", metavar="NAME", help="Name of the layer; default: the file's stem.")
@click.option("--builtin", is_flag=True, help="Import the rules that come with this program.")
@click.option("--dry-run", is_flag=True, help="Check everything, and write nothing.")
@check_option
@expect_option
@json_option
@config_option
@click.pass_context
@keeping_objects()
def import_files(
    context: click.Context,
    files: tuple[str, ...],
    *,
    layer: str | None,
    builtin: bool,
    dry_run: bool,
    levels: dict[str, CheckLevel],
    expected_revision: int,
    as_json: bool,
) -> None:
    """
    Import rule files, TOML or JSON, from paths or http(s) addresses, one layer a file: all of them
    or, after any error, none.

    New layers come after the present ones in the order given, but the built-in one before all
    others; a layer of the same name is replaced in its place.
    """
    settings = context.ensure_object(Session).settings()
    drafts, issues = read_files(files, layer=layer, builtin=builtin, levels=levels)
    imported: tuple[ImportedLayer, ...] = ()
    with open_database(settings) as database:
        known = database.read_now(read_known)
        revision = known.revision
        if not errors_of(issues):
            issues += preview_checks(known, drafts, levels=levels)
        refused = errors_of(issues)
        if not refused:
            imported = tuple(
                ImportedLayer(layer=draft.name, blocks=len(draft.blocks)) for draft in drafts
            )
        if imported and not dry_run:
            revision, imported = database.write_now(
                lambda connection: import_layers(
                    connection,
                    drafts,
                    author=read_author(),
                    expected_revision=expected_revision,
                    base=drafts[0].name if builtin else "",
                )
            )
    if as_json:
        changes = () if refused else preview_layers(known, drafts)
        document = _describe_import(imported, revision, issues, changes)
        click.echo(json.dumps(document | {"dry_run": dry_run}, indent=1))
    else:
        report_issues(issues)
        _report_import(imported, revision, dry_run=dry_run)
    if refused:
        context.exit(1)


@rules.command("export")
@click.argument("layer")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([format.value for format in FileFormat]),
    help="Default: as the name after --output ends, else toml.",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard output.")
@config_option
@click.pass_context
def export(
    context: click.Context, layer: str, *, format_name: str | None, output: str | None
) -> None:
    """
    Write a layer as a rule file, in order and, in TOML, with its comments.

    What the file doesn't say: whether the layer is enabled, and from when until when it is valid.
    """
    settings = context.ensure_object(Session).settings()
    format = FileFormat(format_name) if format_name else find_format(output or "")
    with open_database(settings) as database:
        draft, unreadable = database.read_now(lambda connection: read_layer(connection, layer))
    text, obstacles = ("", unreadable) if unreadable else write_rules(draft, format)
    if obstacles:
        report_issues(obstacles)
        click.echo(f'nothing was exported: layer "{layer}" can\'t be written as a file', err=True)
        context.exit(1)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from error


@rules.command("list")
@json_option
@config_option
@click.pass_obj
def list_command(session: Session, as_json: bool) -> None:
    """List the layers in the order they apply; later ones win."""
    with open_database(session.settings()) as database:
        revision, layers = database.read_now(list_layers)
    _print_layers(revision, layers, as_json=as_json)


@rules.command()
@click.argument("layer")
@expect_option
@json_option
@config_option
@click.pass_obj
def delete(session: Session, layer: str, *, expected_revision: int, as_json: bool) -> None:
    """Delete a layer with everything in it; a rollback brings it back."""
    with open_database(session.settings()) as database:
        revision = database.write_now(
            lambda connection: delete_layer(
                connection, layer, author=read_author(), expected_revision=expected_revision
            )
        )
    if as_json:
        click.echo(json.dumps({"deleted": layer, "revision": revision}, indent=1))
    else:
        click.echo(f"{layer}: deleted, revision {revision}")


@rules.command()
@click.argument("layers", nargs=-1, required=True)
@expect_option
@json_option
@config_option
@click.pass_obj
def reorder(
    session: Session, layers: tuple[str, ...], *, expected_revision: int, as_json: bool
) -> None:
    """Put the layers in this order, each named once; later ones win."""
    with open_database(session.settings()) as database:
        database.write_now(
            lambda connection: reorder_layers(
                connection, layers, author=read_author(), expected_revision=expected_revision
            )
        )
        revision, rows = database.read_now(list_layers)
    _print_layers(revision, rows, as_json=as_json)


def _print_layers(revision: int, layers: Sequence[LayerRow], *, as_json: bool) -> None:
    if as_json:
        document = {"revision": revision, "layers": [_describe_layer(row) for row in layers]}
        click.echo(json.dumps(document, indent=1))
        return
    table = build_table("position", "layer", "enabled", "blocks", "valid from", "valid until")
    for row in layers:
        table.add_row(
            str(row.position),
            plain(row.name),
            "yes" if row.enabled else "no",
            str(row.blocks),
            _spell_time(row.valid_from) or "",
            _spell_time(row.valid_until) or "",
        )
    open_console().print(table)
    click.echo(f"revision {revision}")


def _report_import(imported: Sequence[ImportedLayer], revision: int, *, dry_run: bool) -> None:
    if dry_run or not imported:
        click.echo("nothing was imported", err=True)
    for layer in imported:
        end = "would be imported" if dry_run else f"revision {revision}"
        click.echo(f"{layer.layer}: {layer.blocks} blocks, {end}")


def _describe_import(
    imported: Sequence[ImportedLayer],
    revision: int,
    issues: Sequence[Issue],
    changes: Sequence[LayerDiff],
) -> dict[str, Any]:
    changed = {diff.layer: len(diff.blocks) for diff in changes}
    return {
        "imported": [
            {
                "layer": item.layer,
                "blocks": item.blocks,
                "changed_blocks": changed.get(item.layer, 0),
            }
            for item in imported
        ],
        "revision": revision,
        "warnings": [issue_json(issue) for issue in warnings_of(issues)],
        "errors": [issue_json(issue) for issue in errors_of(issues)],
    }


def _describe_layer(row: LayerRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "position": row.position,
        "enabled": row.enabled,
        "blocks": row.blocks,
        "valid_from": _spell_time(row.valid_from),
        "valid_until": _spell_time(row.valid_until),
    }


def _spell_time(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None
