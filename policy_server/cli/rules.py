"""
penstock-server rules: import rule files as layers, and list the layers.
"""

import getpass
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from policy_server.cli.session import Session, config_option, json_option, open_database
from policy_server.rule_files.reader import read_rule_file
from policy_server.rules.issues import describe_issue, issue_json
from policy_server.rules.layers import Issue, LayerDraft, Severity
from policy_server.rules.parse import parse_layer
from policy_server.store.rules import ImportedLayer, import_layers, list_layers
from policy_server.store.rules import LayerRow as _LayerRow


@click.group()
def rules() -> None:
    """Import and list layers of rules."""


@rules.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--layer", metavar="NAME", help="Name of the layer; default: the file's stem.")
@json_option
@config_option
@click.pass_context
def import_files(
    context: click.Context, files: tuple[str, ...], layer: str | None, as_json: bool
) -> None:
    """Import rule files, one layer a file: all of them or, after any error, none."""
    if layer is not None and len(files) > 1:
        raise click.UsageError("--layer names the layer of a single file")
    settings = context.find_object(Session).settings()  # type: ignore[union-attr]  # set by the group
    drafts, issues = read_files(files, layer=layer)
    errors = [issue for issue in issues if issue.severity is Severity.ERROR]
    warnings = [issue for issue in issues if issue.severity is Severity.WARNING]
    imported: tuple[ImportedLayer, ...] = ()
    with open_database(settings) as database:
        if errors:
            revision, _ = database.read_now(list_layers)
        else:
            revision, imported = database.write_now(
                lambda connection: import_layers(connection, drafts, author=_author())
            )
    if as_json:
        click.echo(json.dumps(_describe(imported, revision, warnings, errors), indent=1))
    else:
        _report(imported, revision, issues)
    if errors:
        context.exit(1)


def read_files(
    files: Sequence[str], *, layer: str | None = None
) -> tuple[list[LayerDraft], list[Issue]]:
    """Read and check rule files, with all that is wrong in any of them."""
    drafts: list[LayerDraft] = []
    issues: list[Issue] = []
    for file in files:
        draft, found = read_rule_file(file)
        named = draft if layer is None else replace(draft, name=layer)
        issues += [*found, *parse_layer(named)[1]]
        if any(named.name == other.name for other in drafts):
            message = f'two files make the layer "{named.name}"; import one of them with --layer'
            issues.append(Issue(code="layer_twice", message=message, file=file))
        drafts.append(named)
    return drafts, issues


@rules.command("list")
@json_option
@config_option
@click.pass_obj
def list_command(session: Session, as_json: bool) -> None:
    """List the layers in the order they apply."""
    with open_database(session.settings()) as database:
        revision, layers = database.read_now(list_layers)
    if as_json:
        document = {"revision": revision, "layers": [_describe_layer(row) for row in layers]}
        click.echo(json.dumps(document, indent=1))
        return
    table = Table("position", "layer", "enabled", "blocks", "valid from", "valid until")
    for row in layers:
        cells = _describe_layer(row)
        table.add_row(
            str(row.position),
            row.name,
            "yes" if row.enabled else "no",
            str(row.blocks),
            cells["valid_from"] or "",
            cells["valid_until"] or "",
        )
    Console().print(table)
    click.echo(f"revision {revision}")


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return ""


def _report(imported: Sequence[ImportedLayer], revision: int, issues: Sequence[Issue]) -> None:
    for issue in issues:
        click.echo(f"{issue.severity}: {describe_issue(issue)}", err=True)
    if not imported:
        click.echo("nothing was imported", err=True)
    for layer in imported:
        click.echo(f"{layer.layer}: {layer.blocks} blocks, revision {revision}")


def _describe(
    imported: Sequence[ImportedLayer],
    revision: int,
    warnings: Sequence[Issue],
    errors: Sequence[Issue],
) -> dict[str, Any]:
    return {
        "imported": [{"layer": item.layer, "blocks": item.blocks} for item in imported],
        "revision": revision,
        "warnings": [issue_json(issue) for issue in warnings],
        "errors": [issue_json(issue) for issue in errors],
    }


def _describe_layer(row: _LayerRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "position": row.position,
        "enabled": row.enabled,
        "blocks": row.blocks,
        "valid_from": row.valid_from and row.valid_from.isoformat(),
        "valid_until": row.valid_until and row.valid_until.isoformat(),
    }
