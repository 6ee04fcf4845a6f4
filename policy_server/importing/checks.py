"""
Checks of an import: of each file, and of all layers together with the sites that are known.

No DNS is asked, so that an import needs no network; `check` asks it.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from policy_server.automation.matching import Effort
from policy_server.automation.traps import find_traps
from policy_server.rules.checks import CheckLevel, check_layers
from policy_server.rules.issues import block_title
from policy_server.rules.layers import (
    AutomationRule,
    BlockDraft,
    Issue,
    Layer,
    LayerDraft,
    Scope,
    Severity,
)
from policy_server.rules.parse import parse_layer
from policy_server.rules.site import Site, normalise_domain
from policy_server.rules.values import InvalidValueError, has_control

# A site that nobody has looked up yet is no mistake of the file.
_LEVELS: Mapping[str, CheckLevel] = MappingProxyType({"dns_fail": CheckLevel.IGNORE})
_LONGEST_NAME = 255


def check_drafts(drafts: Sequence[LayerDraft]) -> tuple[Issue, ...]:
    """Check drafts of files, each by itself, and that each makes a layer of its own."""
    issues: list[Issue] = []
    names: set[str] = set()
    for draft in drafts:
        layer, found = parse_layer(draft)
        issues += found
        issues += check_traps(layer, draft)
        if draft.name in names:
            message = f'two files make the layer "{draft.name}"; import one of them with --layer'
            issues.append(Issue(code="layer_twice", message=message, file=draft.file))
        if message := find_name_mistake(draft.name):
            issues.append(Issue(code="bad_layer_name", message=message, file=draft.file))
        names.add(draft.name)
    return tuple(issues)


def find_name_mistake(name: str) -> str:
    """Say what is wrong with the name of a layer to be made; empty if nothing is."""
    if name and len(name) <= _LONGEST_NAME and not has_control(name):
        return ""
    return f"a layer's name has 1 to {_LONGEST_NAME} characters and no line ends"


def check_traps(layer: Layer, draft: LayerDraft) -> tuple[Issue, ...]:
    """Warn of rules of a file that feed themselves."""
    if not any(rule.match_internal for rule in _rules_of(layer)):
        return ()
    lines = _find_lines(draft)
    return warn_of_traps(
        _rules_of(layer),
        file=draft.file,
        line_of=lambda rule: lines.get((_place_of(rule), rule.position)),
    )


def warn_of_traps(
    rules: Iterable[AutomationRule],
    *,
    file: str = "",
    line_of: Callable[[AutomationRule], int | None] = lambda rule: None,
) -> tuple[Issue, ...]:
    """Warn of those *rules* that feed themselves; thousands of them take seconds at most."""
    return tuple(
        Issue(
            code="trap",
            message=f"automation regex {trap.message}",
            severity=Severity.WARNING,
            file=file,
            line=line_of(trap.rule),
            block=block_title(trap.rule.scope, trap.rule.name, trap.rule.source),
            option="regex",
            value=trap.pattern,
        )
        for trap in find_traps(rules, Effort(clock=time.monotonic))
    )


def _rules_of(layer: Layer) -> Iterator[AutomationRule]:
    # Most of very many blocks have none.
    return (rule for block in layer.blocks if block.automation for rule in block.automation)


_Place = tuple[Scope, str, str, bool]


def _place_of(rule: AutomationRule) -> _Place:
    return (rule.scope, rule.name, rule.source, rule.mx_rollup)


def _find_lines(draft: LayerDraft) -> dict[tuple[_Place, int], int | None]:
    """Return the line of each automation rule, by its block and its position there."""
    lines: dict[tuple[_Place, int], int | None] = {}
    for block in draft.blocks:
        for position, rule in enumerate(block.automation):
            line = rule.field_lines.get("regex") or rule.line or block.line
            lines.setdefault((_block_place(block), position), line)
    return lines


def _block_place(block: BlockDraft) -> _Place:
    name = block.name
    if block.scope is Scope.DOMAIN:
        with contextlib.suppress(InvalidValueError):
            name = normalise_domain(name)
    return (block.scope, name, block.source, block.mx_rollup)


def check_together(
    layers: Sequence[Layer],
    sites: Mapping[str, Site],
    drafts: Sequence[LayerDraft],
    *,
    levels: Mapping[str, CheckLevel],
) -> tuple[Issue, ...]:
    """
    Check *layers* as they are after an import; return what concerns blocks of *drafts*.

    A check that *levels* does not name has its usual level.
    """
    places = _find_places(drafts)
    return tuple(
        replace(issue, file=places[issue.block][0], line=places[issue.block][1])
        for issue in check_layers(layers, sites, levels={**_LEVELS, **levels})
        if issue.block in places
    )


def _find_places(drafts: Iterable[LayerDraft]) -> dict[str, tuple[str, int | None]]:
    """Return file and line of each block that checks look at, by its title."""
    places: dict[str, tuple[str, int | None]] = {}
    for draft, block in _blocks_of(drafts):
        is_domain = block.scope is Scope.DOMAIN
        if is_domain and not block.mx_rollup:
            # It has no site, and no part in a rolled-up block of the same title elsewhere.
            continue
        name = normalise_domain(block.name) if is_domain else block.name
        title = block_title(block.scope, name, block.source)
        places.setdefault(title, (draft.file, block.line))
    return places


def _blocks_of(drafts: Iterable[LayerDraft]) -> Iterator[tuple[LayerDraft, BlockDraft]]:
    return ((draft, block) for draft in drafts for block in draft.blocks)
