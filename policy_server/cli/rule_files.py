"""
Rule files as commands name them: local paths, http and https addresses, and the built-in rules.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import click

from policy_server.builtin import builtin_rules_path
from policy_server.cli.session import run_async
from policy_server.importing.checks import check_drafts
from policy_server.rule_files.reader import read_rule_file
from policy_server.rule_files.remote import fetch_rule_file, is_remote
from policy_server.rules.checks import DEFAULT_LEVELS, CheckLevel
from policy_server.rules.issues import describe_issue
from policy_server.rules.layers import Issue, LayerDraft, Severity

_Read = tuple[LayerDraft, tuple[Issue, ...]]
_Function = TypeVar("_Function", bound=Callable[..., Any])

#: What becomes of a file that can't be had.
_LOAD_LEVELS: Mapping[str, CheckLevel] = MappingProxyType(
    dict.fromkeys(("local_load", "remote_load"), CheckLevel.ERROR)
)


def check_option(command: _Function) -> _Function:
    """Let a command take levels of checks."""
    names = sorted({**DEFAULT_LEVELS, **_LOAD_LEVELS})

    def read(
        _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
    ) -> dict[str, CheckLevel]:
        levels = {}
        for value in values:
            name, _, level = value.partition("=")
            if name not in names or level not in list(CheckLevel):
                raise click.BadParameter(f'"{value}" is not NAME=LEVEL')
            levels[name] = CheckLevel(level)
        return levels

    return click.option(
        "--check",
        "levels",
        multiple=True,
        metavar="NAME=LEVEL",
        callback=read,
        help=f"Level {', '.join(CheckLevel)} of a check: {', '.join(names)}. Repeatable.",
    )(command)


def read_files(
    files: Sequence[str],
    *,
    layer: str | None = None,
    builtin: bool = False,
    levels: Mapping[str, CheckLevel] = _LOAD_LEVELS,
) -> tuple[list[LayerDraft], list[Issue]]:
    """
    Read and check rule files, with all that is wrong in any of them.

    One that can't be had is left out where *levels* says no more than to warn of it.
    """
    if not files and not builtin:
        raise click.UsageError("Missing argument 'FILES...'.")
    if layer is not None and len(files) + builtin > 1:
        raise click.UsageError("--layer names the layer of a single file")
    named = [str(builtin_rules_path()), *files] if builtin else list(files)
    read: dict[str, _Read] = {}
    remote = [file for file in named if is_remote(file)]
    if remote:
        run_async(_fetch_all(remote, read))
    drafts: list[LayerDraft] = []
    issues: list[Issue] = []
    for file in named:
        draft, found = read[file] if file in read else read_rule_file(file)
        level = {**_LOAD_LEVELS, **levels}["remote_load" if file in read else "local_load"]
        if level is not CheckLevel.ERROR and any(map(_is_missing, found)):
            warnings = (replace(issue, severity=Severity.WARNING) for issue in found)
            issues += warnings if level is CheckLevel.WARN else ()
            continue
        drafts.append(draft if layer is None else replace(draft, name=layer))
        issues += found
    return drafts, [*issues, *check_drafts(drafts)]


async def _fetch_all(addresses: Sequence[str], into: dict[str, _Read]) -> None:
    # Not returned: asyncio.run spells out what its task returns, however large that is.
    into |= zip(addresses, await asyncio.gather(*map(fetch_rule_file, addresses)), strict=True)


def _is_missing(issue: Issue) -> bool:
    return issue.code == "unreadable_file"


def errors_of(issues: Sequence[Issue]) -> list[Issue]:
    """Choose the issues that stop an import."""
    return [issue for issue in issues if issue.severity is Severity.ERROR]


def warnings_of(issues: Sequence[Issue]) -> list[Issue]:
    """Choose the issues that don't stop an import."""
    return [issue for issue in issues if issue.severity is Severity.WARNING]


def report_issues(issues: Sequence[Issue]) -> None:
    """Tell people of issues, one a line."""
    for issue in issues:
        click.echo(f"{issue.severity}: {describe_issue(issue)}", err=True)
