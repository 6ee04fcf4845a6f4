"""
Checks of an import: of each file, and of all layers together with the sites that are known.

No DNS is asked, so that an import needs no network; `check` asks it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from policy_server.rules.checks import CheckLevel, check_layers
from policy_server.rules.issues import block_title
from policy_server.rules.layers import BlockDraft, Issue, Layer, LayerDraft, Scope
from policy_server.rules.parse import parse_layer
from policy_server.rules.site import Site, normalise_domain

# A site that nobody has looked up yet is no mistake of the file.
_LEVELS: Mapping[str, CheckLevel] = MappingProxyType({"dns_fail": CheckLevel.IGNORE})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_NAME = 255


def check_drafts(drafts: Sequence[LayerDraft]) -> tuple[Issue, ...]:
    """Check drafts of files, each by itself, and that each makes a layer of its own."""
    issues: list[Issue] = []
    names: set[str] = set()
    for draft in drafts:
        issues += parse_layer(draft)[1]
        if draft.name in names:
            message = f'two files make the layer "{draft.name}"; import one of them with --layer'
            issues.append(Issue(code="layer_twice", message=message, file=draft.file))
        if not draft.name or _CONTROL.search(draft.name) or len(draft.name) > _LONGEST_NAME:
            message = f"a layer's name has 1 to {_LONGEST_NAME} characters and no line ends"
            issues.append(Issue(code="bad_layer_name", message=message, file=draft.file))
        names.add(draft.name)
    return tuple(issues)


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
