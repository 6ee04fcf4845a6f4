"""
What an import would change, worked out before anything is written.

It serves the commands and the RuleService alike. Sites are those that are known; no DNS is asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import Connection

from policy_server.importing.checks import check_together
from policy_server.rules.checks import CheckLevel
from policy_server.rules.diff import (
    AnswerDiff,
    LayerDiff,
    diff_answers,
    diff_layer,
    list_questions,
)
from policy_server.rules.layers import Issue, Layer, LayerDraft
from policy_server.rules.parse import parse_layer
from policy_server.rules.site import Site
from policy_server.rules.snapshot import Snapshot, compile_snapshot
from policy_server.rules.validity import layers_in_force
from policy_server.store.rules import read_rules
from policy_server.store.sites import load_sites

#: Egress paths whose answers are compared at most.
MAX_PATHS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRules:
    """Every layer as written, and the sites that are known, at one revision."""

    revision: int
    layers: tuple[LayerDraft, ...]
    sites: dict[str, Site]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPreview:
    """Which answers would change."""

    answers: tuple[AnswerDiff, ...]
    #: Paths that were compared, and known ones that were not.
    compared: int
    left_out: int


def read_known(connection: Connection) -> KnownRules:
    """Read what an import is compared with."""
    stored = read_rules(connection)
    sites = {domain: item.site for domain, item in load_sites(connection).items()}
    return KnownRules(revision=stored.revision, layers=stored.layers, sites=sites)


def put_in_place(
    layers: Sequence[LayerDraft], drafts: Sequence[LayerDraft]
) -> tuple[LayerDraft, ...]:
    """Return *layers* as they are once *drafts* are imported."""
    new = {draft.name: draft for draft in drafts}
    replaced = tuple(
        _replace(layer, new.pop(layer.name)) if layer.name in new else layer for layer in layers
    )
    return (*replaced, *new.values())


def preview_checks(
    known: KnownRules,
    drafts: Sequence[LayerDraft],
    *,
    levels: Mapping[str, CheckLevel] = MappingProxyType({}),
) -> tuple[Issue, ...]:
    """Return what would be odd after the import, though no file by itself is."""
    layers = _parse(put_in_place(known.layers, drafts))
    return check_together(layers, known.sites, drafts, levels=levels)


def preview_layers(known: KnownRules, drafts: Sequence[LayerDraft]) -> tuple[LayerDiff, ...]:
    """Return what would change in the layers that *drafts* make."""
    present = {layer.name: layer for layer in known.layers}
    return tuple(diff_layer(present.get(draft.name), draft) for draft in drafts)


def preview_answers(
    known: KnownRules, drafts: Sequence[LayerDraft], *, sources: Iterable[str], now: datetime
) -> AnswerPreview:
    """Return which answers would change, for known sites, *sources* and those that rules name."""
    after = put_in_place(known.layers, drafts)
    named = {block.source for layer in (*known.layers, *after) for block in layer.blocks}
    # Without any, ask for a source that no rule knows.
    asked = sorted({*named, *sources} - {""}) or [""]
    questions, left_out = list_questions(known.sites.values(), asked, limit=MAX_PATHS)
    old, new = (_compile(layers, known.sites, now) for layers in (known.layers, after))
    answers = tuple(diff_answers(old, new, questions))
    return AnswerPreview(answers=answers, compared=len(questions), left_out=left_out)


def _replace(layer: LayerDraft, draft: LayerDraft) -> LayerDraft:
    return LayerDraft(
        id=layer.id,
        name=layer.name,
        file=draft.file,
        description=draft.description or layer.description,
        blocks=draft.blocks,
        # A layer that is imported again keeps its switch and its dates.
        enabled=layer.enabled,
        valid_from=layer.valid_from,
        valid_until=layer.valid_until,
    )


def _parse(layers: Iterable[LayerDraft]) -> tuple[Layer, ...]:
    return tuple(parse_layer(layer)[0] for layer in layers)


def _compile(layers: Iterable[LayerDraft], sites: dict[str, Site], now: datetime) -> Snapshot:
    return compile_snapshot(layers_in_force(_parse(layers), now), sites=sites, revision=0)
