"""
penstock-server rules diff: what an import would change, in the rules and in the answers.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console

from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.rule_files import errors_of, read_files, report_issues, warnings_of
from policy_server.cli.session import (
    Session,
    config_option,
    json_option,
    keeping_objects,
    open_database,
)
from policy_server.importing.preview import (
    AnswerPreview,
    preview_answers,
    preview_checks,
    preview_layers,
    read_known,
)
from policy_server.rules.diff import AnswerDiff, Change, LayerDiff, OptionDiff
from policy_server.rules.issues import issue_json, quote_value

#: Rows that a table for people shows; JSON has all of them.
_SHOWN = 200


@click.command()
@click.argument("files", nargs=-1)
@click.option("--layer", metavar="NAME", help="Name of the layer; default: the file's stem.")
@click.option("--builtin", is_flag=True, help="Compare the rules that come with this program.")
@click.option(
    "--source", "sources", multiple=True, help="Egress source to compare answers for; repeatable."
)
@json_option
@config_option
@click.pass_context
@keeping_objects()
def diff(
    context: click.Context,
    files: tuple[str, ...],
    *,
    layer: str | None,
    builtin: bool,
    sources: tuple[str, ...],
    as_json: bool,
) -> None:
    """
    Show what importing these files would change: layers, blocks and options, and the answers for
    every known site and every source that rules name or --source does. Nothing is written.
    """
    settings = context.ensure_object(Session).settings()
    drafts, issues = read_files(files, layer=layer, builtin=builtin)
    with open_database(settings) as database:
        known = database.read_now(read_known)
    refused = errors_of(issues)
    layers: tuple[LayerDiff, ...] = ()
    answers = AnswerPreview(answers=(), compared=0, left_out=0)
    if not refused:
        issues += preview_checks(known, drafts)
        layers = preview_layers(known, drafts)
        answers = preview_answers(known, drafts, sources=sources, now=datetime.now(UTC))
    if as_json:
        document = {
            "revision": known.revision,
            "layers": [_describe_layer(item) for item in layers],
            "answers": [_describe_answer(item) for item in answers.answers],
            "answers_compared": answers.compared,
            "answers_left_out": answers.left_out,
            "warnings": [issue_json(issue) for issue in warnings_of(issues)],
            "errors": [issue_json(issue) for issue in refused],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        report_issues(issues)
        if not refused:
            _print_layers(layers)
            _print_answers(answers)
    if refused:
        context.exit(1)


def _describe_layer(item: LayerDiff) -> dict[str, Any]:
    return {
        "layer": item.layer,
        "change": item.change,
        "reordered": item.is_reordered,
        "blocks": [
            {
                "block": block.block,
                "change": block.change,
                "options": [_describe_option(option) for option in block.options],
            }
            for block in item.blocks
        ],
    }


def _describe_option(option: OptionDiff) -> dict[str, Any]:
    return {
        "option": option.option,
        "change": option.change,
        "old": option.old,
        "new": option.new,
    }


def _describe_answer(item: AnswerDiff) -> dict[str, Any]:
    return {
        "routing_domain": item.question.routing_domain,
        "egress_source": item.question.egress_source,
        "site_name": item.question.site_name,
        "old_path_name": item.old_path_name,
        "new_path_name": item.new_path_name,
        "options": [_describe_option(option) for option in item.options],
    }


def _print_layers(layers: Iterable[LayerDiff]) -> None:
    console = open_console()
    rows = [
        (item.layer, block.block, block.change, option)
        for item in layers
        for block in item.blocks
        for option in block.options or (None,)
    ]
    for item in layers:
        click.echo(f"layer {item.layer}: {_summarise(item)}")
    table = build_table("layer", "block", "", "option", "old", "new")
    for layer, block, change, option in rows[:_SHOWN]:
        table.add_row(plain(layer), plain(block), change, *_cells(option))
    _print(console, table, len(rows), what="changes")


def _summarise(item: LayerDiff) -> str:
    if item.change is None:
        return "no change"
    counts = {change: sum(block.change is change for block in item.blocks) for change in Change}
    parts = [f"{count} blocks {change}" for change, count in counts.items() if count]
    if item.is_reordered:
        parts.append("blocks in another order")
    new = "new, " if item.change is Change.ADDED else ""
    return new + (", ".join(parts) or "without blocks")


def _print_answers(preview: AnswerPreview) -> None:
    console = open_console()
    rows = [(item, option) for item in preview.answers for option in item.options or (None,)]
    table = build_table("routing domain", "source", "option", "old", "new")
    for item, option in rows[:_SHOWN]:
        source = item.question.egress_source or "(any other)"
        cells = _cells(option)
        if option is None:
            cells = ("path name", plain(item.old_path_name), plain(item.new_path_name))
        table.add_row(plain(item.question.routing_domain), plain(source), *cells)
    click.echo(
        f"answers: {len(preview.answers)} of {preview.compared} known egress paths change"
        + (f"; {preview.left_out} more were not compared" if preview.left_out else "")
    )
    _print(console, table, len(rows), what="changes of answers")


def _print(console: Console, table: Any, count: int, *, what: str) -> None:
    if count:
        console.print(table)
    if count > _SHOWN:
        click.echo(f"… and {count - _SHOWN} more {what}; --json has all of them")


def _cells(option: OptionDiff | None) -> tuple[str, str, str]:
    if option is None:
        return "", "", ""
    old = "" if option.change is Change.ADDED else _spell(option.old)
    new = "" if option.change is Change.REMOVED else _spell(option.new)
    return option.option, plain(old), plain(new)


def _spell(value: Any) -> str:
    if value is None:
        return "unset"
    return value if isinstance(value, str) else quote_value(value)
