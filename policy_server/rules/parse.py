"""
Drafts to parsed layers: the one validation of rules, for files and SQL rows alike.

Everything wrong is reported at once, as issues. How a file is laid out is not known here (see
`document`), nor what another layer says (see `checks`).
"""

import functools
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from policy_server.rules.automation_rules import Finding, parse_rule, rule_text
from policy_server.rules.catalogue import Option, build_catalogue
from policy_server.rules.issues import block_title, plain, quote_value
from policy_server.rules.layers import (
    AutomationDraft,
    AutomationRule,
    Block,
    BlockDraft,
    Issue,
    Layer,
    LayerDraft,
    MatchKind,
    ProviderMatch,
    Scope,
    Severity,
)
from policy_server.rules.nearest import suggest
from policy_server.rules.site import normalise_domain, read_address_literal
from policy_server.rules.values import InvalidValueError, OptionValue

#: Provider options that a provider's `sources` may set too.
_PROVIDER_SOURCE_OPTIONS = frozenset({"provider_source_selection_rate"})
# RFC 1035 2.3.4 bounds the lengths; underscores are seen in real names.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_DOMAIN = 253
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse_layer(draft: LayerDraft) -> tuple[Layer, tuple[Issue, ...]]:
    """Parse a layer; blocks with errors are left out of it, and the issues say why."""
    blocks: list[Block] = []
    issues: list[Issue] = list(check_validity(draft))
    seen: dict[Hashable, BlockDraft] = {}
    for block_draft in draft.blocks:
        block, found = parse_block(block_draft, layer=draft.name, file=draft.file)
        issues.extend(found)
        if block is None or not block_draft.enabled:
            continue
        first = seen.setdefault(place_in_layer(block), block_draft)
        if first is block_draft:
            blocks.append(block)
        else:
            issues.append(_stands_twice(block_draft, first, draft.file))
    return make_layer(draft, blocks), tuple(issues)


def make_layer(draft: LayerDraft, blocks: Iterable[Block]) -> Layer:
    """Make the layer of a draft, with what its blocks were parsed to."""
    return Layer(
        id=draft.id,
        name=draft.name,
        blocks=tuple(blocks),
        enabled=draft.enabled,
        valid_from=draft.valid_from,
        valid_until=draft.valid_until,
    )


def place_in_layer(block: Block) -> Hashable:
    """What only one block of a layer can have."""
    return block.scope, block.name, block.source, block.mx_rollup


def parse_block(
    draft: BlockDraft, *, layer: str, file: str = ""
) -> tuple[Block | None, tuple[Issue, ...]]:
    """Parse a block; None when anything in it is an error."""
    place = _Place(draft, file)
    issues = list(_check_name(draft, place))
    name = draft.name if issues else _normalise_name(draft)
    named = draft if name == draft.name else replace(draft, name=name)
    options = _parse_options(draft, place, issues)
    matches = _parse_matches(draft, place, issues)
    automation = _parse_automation(named, layer=layer, place=place, issues=issues)
    if any(issue.severity is Severity.ERROR for issue in issues):
        return None, tuple(issues)
    block = Block(
        id=draft.id,
        layer=layer,
        scope=draft.scope,
        name=named.name,
        source=draft.source,
        mx_rollup=draft.mx_rollup,
        replace_base=draft.replace_base,
        options=options,
        matches=matches,
        automation=automation,
    )
    return block, tuple(issues)


class _Place:
    """Where a block stands: makes issues that point at it."""

    def __init__(self, draft: BlockDraft, file: str) -> None:
        self._draft = draft
        self._file = file

    def issue(
        self,
        code: str,
        message: str,
        *,
        option: str = "",
        value: Any = None,
        line: int | None = None,
        severity: Severity = Severity.ERROR,
        table: str = "rule_blocks",
    ) -> Issue:
        return Issue(
            code=code,
            message=message,
            severity=severity,
            file=self._file,
            line=line or self._draft.option_lines.get(option) or self._draft.line,
            block=block_title(self._draft.scope, self._draft.name, self._draft.source),
            option=option,
            value=plain(value),
            block_id=self._draft.id or None,
            table=table,
        )


def check_validity(draft: LayerDraft) -> Iterator[Issue]:
    """Report dates between which a layer is never in force."""
    start, end = draft.valid_from, draft.valid_until
    if start is not None and end is not None and start >= end:
        yield Issue(
            code="bad_validity",
            message=f"layer {quote_value(draft.name)}: valid_from is not before valid_until: the "
            "layer would never be in force",
            file=draft.file,
            option="valid_until",
            table="rule_layers",
        )


def stands_twice(block: Block, *, first: int) -> Issue:
    """Report a block whose place the block numbered *first* has in the same layer."""
    return Issue(
        code="duplicate_block",
        message=_twice_message(f" as rule_blocks {first}"),
        block=block_title(block.scope, block.name, block.source),
        value=block.name,
        block_id=block.id,
    )


def _stands_twice(draft: BlockDraft, first: BlockDraft, file: str) -> Issue:
    where = ""
    if first.line is not None:
        where = f" in line {first.line}"
    elif first.id:
        where = f" as rule_blocks {first.id}"
    return _Place(draft, file).issue("duplicate_block", _twice_message(where), value=draft.name)


def _twice_message(where: str) -> str:
    return f"the block stands already{where}: merge the two, or put this one in another layer"


def _normalise_name(draft: BlockDraft) -> str:
    return normalise_domain(draft.name) if draft.scope is Scope.DOMAIN else draft.name


def _check_name(draft: BlockDraft, place: _Place) -> Iterator[Issue]:
    if draft.scope is not Scope.DEFAULT and not draft.name:
        yield place.issue("bad_name", f"a {draft.scope} block needs a name")
    elif _CONTROL.search(draft.name + draft.source):
        message = "the name of a block or source has a control character such as a line end"
        yield place.issue("bad_name", message)
    elif draft.scope is Scope.DOMAIN:
        yield from _check_domain(draft, place)


def _check_domain(draft: BlockDraft, place: _Place) -> Iterator[Issue]:
    try:
        domain = normalise_domain(draft.name)
    except InvalidValueError as error:
        message = f"{quote_value(draft.name)}: {error}"
        yield place.issue("bad_domain", message, value=draft.name)
        return
    # Without roll-up any name may stand: queues of other programs have names of their own.
    if not draft.mx_rollup or read_address_literal(domain) is not None:
        return
    if "." not in domain and _LABEL.fullmatch(domain):
        yield place.issue(
            "single_label_domain",
            f"{quote_value(draft.name)} is a single label, not a domain: write the whole name in"
            ' quotes, as in ["foo.com"], or add mx_rollup = false if this name is meant',
            value=draft.name,
        )
    elif len(domain) > _MAX_DOMAIN or not all(map(_LABEL.fullmatch, domain.split("."))):
        yield place.issue(
            "bad_domain",
            f"{quote_value(draft.name)} is no domain name: correct it, or write mx_rollup = false"
            " if it names a queue that is not looked up by MX",
            value=draft.name,
        )


def _parse_options(
    draft: BlockDraft, place: _Place, issues: list[Issue]
) -> Mapping[str, OptionValue | None]:
    options = build_catalogue().options
    parsed: dict[str, OptionValue | None] = {}
    for name, raw in draft.options.items():
        option = options.get(name)
        if option is None:
            message = f"unknown option {quote_value(name)}{_hint(name, raw, options)}"
            issues.append(
                place.issue("unknown_option", message, option=name, value=raw, table="rule_options")
            )
        elif raw is None:
            parsed[name] = None
        elif not _may_set(draft, option):
            issues.append(_misplaced(place, draft, option, raw))
        else:
            try:
                parsed[name] = _parse_value(option, raw)
            except InvalidValueError as error:
                issues.append(_bad_value(place, option, raw, error))
    return MappingProxyType(parsed)


def _parse_value(option: Option, raw: Any) -> OptionValue:
    # Most values stand in many blocks; what is equal is parsed, and kept in memory, once.
    if isinstance(raw, str | int) and not option.is_secret:
        return _parse_plain(option.name, raw)
    return option.parse(raw)


@functools.lru_cache(maxsize=20_000, typed=True)
def _parse_plain(name: str, raw: str | int) -> OptionValue:
    return build_catalogue().options[name].parse(raw)


def _hint(name: str, raw: Any, known: Mapping[str, Option]) -> str:
    hint = suggest(name, known)
    if hint or not isinstance(raw, Mapping):
        return hint or "; see the list of options"
    return '; a name with dots needs quotes, as in ["foo.com"]'


def _may_set(draft: BlockDraft, option: Option) -> bool:
    if not option.provider_only:
        return True
    if draft.scope is not Scope.PROVIDER:
        return False
    return not draft.source or option.name in _PROVIDER_SOURCE_OPTIONS


def _misplaced(place: _Place, draft: BlockDraft, option: Option, raw: Any) -> Issue:
    where = "a provider block, not in its sources" if draft.source else "a provider block"
    other = option.name.removeprefix("provider_")
    message = f"{option.name} {quote_value(raw)} belongs in {where}; here, set {other}"
    return place.issue(
        "misplaced_option", message, option=option.name, value=raw, table="rule_options"
    )


def _bad_value(place: _Place, option: Option, raw: Any, error: InvalidValueError) -> Issue:
    shown = "" if option.is_secret else f" {quote_value(raw)}"
    value = None if option.is_secret else raw
    message = f"{option.name}{shown}: {error}"
    return place.issue("bad_value", message, option=option.name, value=value, table="rule_options")


def _parse_matches(
    draft: BlockDraft, place: _Place, issues: list[Issue]
) -> tuple[ProviderMatch, ...]:
    if draft.matches and (draft.scope is not Scope.PROVIDER or draft.source):
        message = "match belongs in a provider block"
        issues.append(
            place.issue("misplaced_match", message, option="match", table="provider_matches")
        )
        return ()
    parsed = []
    for kind, text in draft.matches:
        try:
            parsed.append(_parse_match(kind, text))
        except ValueError as error:
            message = f"match {quote_value(text)}: {error}"
            issues.append(
                place.issue(
                    "bad_match", message, option="match", value=text, table="provider_matches"
                )
            )
    return tuple(dict.fromkeys(parsed))


def _parse_match(kind: str, text: Any) -> ProviderMatch:
    if kind not in list(MatchKind):
        raise InvalidValueError(f"unknown kind {quote_value(kind)}, known are {list(MatchKind)}")
    if not isinstance(text, str) or not text.strip().strip(".") or _CONTROL.search(text):
        raise InvalidValueError("a pattern is a text with at least one label")
    return ProviderMatch(kind=MatchKind(kind), value=normalise_domain(text.strip().rstrip(".")))


def _parse_automation(
    draft: BlockDraft, *, layer: str, place: _Place, issues: list[Issue]
) -> tuple[AutomationRule, ...]:
    rules: list[AutomationRule] = []
    seen: Counter[str] = Counter()
    for position, rule_draft in enumerate(draft.automation):
        text = rule_text(rule_draft)
        rule, findings = parse_rule(
            rule_draft, block=draft, layer=layer, position=position, ordinal=seen[text]
        )
        seen[text] += 1
        issues += (
            _automation_issue(place, rule_draft, found, position=position) for found in findings
        )
        if rule is not None and rule_draft.enabled:
            rules.append(rule)
    return tuple(rules)


def _automation_issue(
    place: _Place, draft: AutomationDraft, found: Finding, *, position: int
) -> Issue:
    shown = "" if found.value is None else f" {quote_value(found.value)}"
    # A rule in a file is known by its line, one in SQL by its place in the block and its number.
    row = f"automation_rules {draft.id}: " if draft.id else ""
    return place.issue(
        found.code,
        f"{row}automation {found.field}{shown}: {found.message}",
        option=f"automation[{position}].{found.field}" if draft.id else found.field,
        value=found.value,
        line=draft.field_lines.get(found.field) or draft.line,
        severity=Severity.WARNING if found.is_warning else Severity.ERROR,
        table="automation_rules",
    )
