"""
Drafts to documents: the way back from a layer to what a rule file says.

Reading a document made here gives the same layer again: the same blocks in the same order, with
the same values as written. A layer for which that can't be is refused, with the reason.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.issues import block_title
from policy_server.rules.layers import (
    AutomationDraft,
    BlockDraft,
    Issue,
    LayerDraft,
    MatchKind,
    Scope,
    Severity,
)
from policy_server.rules.parse import parse_layer

_MATCH_KEYS: Mapping[str, str] = MappingProxyType(
    {
        MatchKind.MX_SUFFIX: "MXSuffix",
        MatchKind.HOST_NAME: "HostName",
        MatchKind.DOMAIN_SUFFIX: "DomainSuffix",
    }
)
#: Keys of a document that are no domains.
_RESERVED = frozenset({"default", "provider"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBlock:
    """A block as a table of a document."""

    block: BlockDraft
    path: tuple[str, ...]
    #: What the table says, without automation and sources.
    table: Mapping[str, Any]
    automation: tuple[Mapping[str, Any], ...]


def find_obstacles(layer: LayerDraft) -> tuple[Issue, ...]:
    """Say why *layer* can't be a rule file; nothing if it can."""
    wrong = [issue for issue in parse_layer(layer)[1] if issue.severity is Severity.ERROR]
    return (*wrong, *_find_unwritable(layer))


def export_blocks(layer: LayerDraft) -> Iterator[ExportBlock]:
    """Turn each block of a layer without obstacles into a table, in order."""
    bases = {_table_path(block): block for block in layer.blocks if not block.source}
    for block in layer.blocks:
        path = _table_path(block)
        base = bases.get(path, BlockDraft(scope=block.scope, name=block.name))
        without = base if block.source else BlockDraft(scope=block.scope, name=block.name)
        yield ExportBlock(
            block=block,
            path=(*path, "sources", block.source) if block.source else path,
            table=_make_table(block, without),
            automation=tuple(map(_make_rule, block.automation)),
        )


def to_document(layer: LayerDraft) -> dict[str, Any]:
    """Make the document of a layer without obstacles; it has no comments."""
    document: dict[str, Any] = {}
    for exported in export_blocks(layer):
        table = document
        for key in exported.path:
            table = table.setdefault(key, {})
        table.update(exported.table)
        if exported.automation:
            table["automation"] = list(exported.automation)
    return document


def _table_path(block: BlockDraft) -> tuple[str, ...]:
    match block.scope:
        case Scope.DEFAULT:
            return ("default",)
        case Scope.PROVIDER:
            return ("provider", block.name)
        case Scope.DOMAIN:
            return (block.name,)


def _make_table(block: BlockDraft, without: BlockDraft) -> dict[str, Any]:
    """Make the table of *block*, leaving out what holds *without* its saying so."""
    table: dict[str, Any] = {}
    if block.scope is Scope.DOMAIN and block.mx_rollup != without.mx_rollup:
        table["mx_rollup"] = block.mx_rollup
    if block.replace_base:
        table["replace_base"] = True
    if block.enabled != without.enabled:
        table["enabled"] = block.enabled
    if block.matches:
        table["match"] = [{_MATCH_KEYS[kind]: value} for kind, value in block.matches]
    unset = [name for name, value in block.options.items() if value is None]
    for name, value in block.options.items():
        if value is None:
            table["unset"] = unset
        else:
            table[name] = value
    return table


def _make_rule(rule: AutomationDraft) -> dict[str, Any]:
    table: dict[str, Any] = {"regex": _single(rule.regexes), "action": _single(rule.actions)}
    if rule.trigger != "Immediate":
        table["trigger"] = rule.trigger
    table["duration"] = rule.duration
    if rule.match_internal:
        table["match_internal"] = True
    if rule.mode != "enforce":
        table["mode"] = rule.mode
    if not rule.enabled:
        table["enabled"] = False
    return table


def _single(entries: tuple[Any, ...]) -> Any:
    return entries[0] if len(entries) == 1 else list(entries)


def _find_unwritable(layer: LayerDraft) -> Iterator[Issue]:
    seen: dict[tuple[str, ...], BlockDraft] = {}
    for block in layer.blocks:
        if block.scope is Scope.DOMAIN and block.name in _RESERVED:
            yield _refuse(block, f'a rule file can\'t name a domain "{block.name}"')
        place = (*_table_path(block), block.source)
        if place in seen:
            yield _refuse(block, "the block stands twice: merge the two, or disable and move one")
        seen[place] = block
        yield from _find_unwritable_values(block)


def _find_unwritable_values(block: BlockDraft) -> Iterator[Issue]:
    options = build_catalogue().options
    for name, value in block.options.items():
        if isinstance(value, Mapping) and "key_data" in value and options[name].is_secret:
            message = (
                f"{name} holds the secret itself, which is never exported:"
                ' refer to a file or to {env = "NAME"} instead'
            )
            yield _refuse(block, message, code="secret", option=name)
        elif (why := _find_bad_text(value)) is not None:
            yield _refuse(block, f"{name}: {why}", option=name)
    for rule in block.automation:
        if (why := _find_bad_text([rule.regexes, rule.actions])) is not None:
            yield _refuse(block, f"automation: {why}", option="automation")
    texts = [block.name, block.source, [value for _, value in block.matches]]
    if (why := _find_bad_text(texts)) is not None:
        yield _refuse(block, why)


def _find_bad_text(value: Any) -> str | None:
    """Say what no file can hold in *value*."""
    match value:
        case str() if any("\ud800" <= sign <= "\udfff" for sign in value):
            return "half a surrogate pair, which is no character"
        case float() if not math.isfinite(value):
            return "not a number"
        case Mapping():
            return _find_bad_text([*value.keys(), *value.values()])
        case list() | tuple():
            return next(filter(None, map(_find_bad_text, value)), None)
    return None


def _refuse(
    block: BlockDraft, message: str, *, code: str = "not_exportable", option: str = ""
) -> Issue:
    return Issue(
        code=code,
        message=message,
        block=block_title(block.scope, block.name, block.source),
        option=option,
        block_id=block.id or None,
    )
