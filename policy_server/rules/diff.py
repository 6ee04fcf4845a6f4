"""
What a change of the rules would change: first in the layers as written, then in the answers.

Values are compared by what they mean, so that another spelling of the same value is no change.
Comments are not compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.issues import block_title, plain
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.rules.resolve import Question, Resolution, resolve
from policy_server.rules.site import Site, normalise_domain
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.values import InvalidValueError, OptionValue, Secret, format_value

_HIDDEN = "(hidden)"
_FLAGS = ("mx_rollup", "replace_base", "enabled")


@dataclass(frozen=True, slots=True)
class _Spelt:
    """A value as it is shown, and what it is compared by: of two secrets the same is shown."""

    shown: Any
    meaning: Any


class Change(StrEnum):
    """What happens to a thing."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionDiff:
    """One option, or another key of a block, before and after, as rule files spell it."""

    option: str
    change: Change
    #: None where there is none, and where it unsets.
    old: Any = None
    new: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDiff:
    """What changes in one block."""

    block: str
    change: Change
    options: tuple[OptionDiff, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiff:
    """What changes in one layer; `change` is None if nothing does."""

    layer: str
    change: Change | None
    blocks: tuple[BlockDiff, ...] = ()
    #: Blocks that are in both stand in another order.
    is_reordered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDiff:
    """How the answer for one egress path changes."""

    question: Question
    old_path_name: str
    new_path_name: str
    options: tuple[OptionDiff, ...]


def diff_layer(old: LayerDraft | None, new: LayerDraft) -> LayerDiff:
    """Compare a layer with what is to replace it; None: there is no such layer yet."""
    before = _by_place(old.blocks if old else ())
    after = _by_place(new.blocks)
    blocks = tuple(_diff_blocks(before, after))
    common = [place for place in before if place in after]
    is_reordered = common != [place for place in after if place in before]
    if old is None:
        change: Change | None = Change.ADDED
    else:
        change = Change.CHANGED if blocks or is_reordered else None
    return LayerDiff(layer=new.name, change=change, blocks=blocks, is_reordered=is_reordered)


def diff_answers(
    before: Snapshot, after: Snapshot, questions: Iterable[Question]
) -> Iterator[AnswerDiff]:
    """Ask each question of both and yield where the answers differ."""
    for question in questions:
        old, new = resolve(before, question, ()), resolve(after, question, ())
        options = tuple(_diff_options(_spell_answer(old), _spell_answer(new)))
        if options or old.path_name != new.path_name:
            yield AnswerDiff(
                question=question,
                old_path_name=old.path_name,
                new_path_name=new.path_name,
                options=options,
            )


def list_questions(
    sites: Iterable[Site], sources: Sequence[str], *, limit: int
) -> tuple[tuple[Question, ...], int]:
    """Make a question of each site and source, up to *limit*; say how many are left out."""
    known = list(sites)
    asked = (
        Question(
            routing_domain=site.domain,
            egress_source=source,
            site_name=site.site_name,
            mx_hosts=site.mx_hosts,
        )
        for site in known
        for source in sources
    )
    questions = tuple(islice(asked, limit))
    return questions, len(known) * len(sources) - len(questions)


def _by_place(blocks: Iterable[BlockDraft]) -> dict[tuple[Any, ...], BlockDraft]:
    """Index blocks by where they stand; what stands twice is told apart by its number."""
    found: dict[tuple[Any, ...], BlockDraft] = {}
    for block in blocks:
        place: tuple[Any, ...] = (block.scope, _name(block), block.source)
        while place in found:
            place = (*place, block.id)
        found[place] = block
    return found


def _name(block: BlockDraft) -> str:
    if block.scope is not Scope.DOMAIN:
        return block.name
    try:
        return normalise_domain(block.name)
    except InvalidValueError:
        return block.name


def _diff_blocks(
    before: Mapping[tuple[Any, ...], BlockDraft], after: Mapping[tuple[Any, ...], BlockDraft]
) -> Iterator[BlockDiff]:
    for place, block in before.items():
        if place not in after:
            yield _block_diff(block, Change.REMOVED, _diff_options(_spell_block(block), {}))
    for place, block in after.items():
        old = before.get(place)
        if old is None:
            yield _block_diff(block, Change.ADDED, _diff_options({}, _spell_block(block)))
        elif changed := tuple(_diff_options(_spell_block(old), _spell_block(block))):
            yield _block_diff(block, Change.CHANGED, changed)


def _block_diff(block: BlockDraft, change: Change, options: Iterable[OptionDiff]) -> BlockDiff:
    title = block_title(block.scope, block.name, block.source)
    return BlockDiff(block=title, change=change, options=tuple(options))


def _diff_options(old: Mapping[str, _Spelt], new: Mapping[str, _Spelt]) -> Iterator[OptionDiff]:
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield OptionDiff(option=name, change=Change.REMOVED, old=old[name].shown)
        elif name not in old:
            yield OptionDiff(option=name, change=Change.ADDED, new=new[name].shown)
        elif old[name].meaning != new[name].meaning:
            yield OptionDiff(
                option=name, change=Change.CHANGED, old=old[name].shown, new=new[name].shown
            )


def _spell_block(block: BlockDraft) -> dict[str, _Spelt]:
    """Spell what a block says, leaving out what holds without its saying so."""
    usual = BlockDraft(scope=block.scope)
    spelt: dict[str, Any] = {
        flag: getattr(block, flag)
        for flag in _FLAGS
        if getattr(block, flag) != getattr(usual, flag)
    }
    if block.matches:
        spelt["match"] = [f"{kind}:{value}" for kind, value in block.matches]
    options = {name: _spell_raw(name, raw) for name, raw in block.options.items()}
    rules = [_spell_rule(rule) for rule in block.automation]
    return (
        {name: _Spelt(value, value) for name, value in spelt.items()}
        | options
        | ({"automation": _Spelt(rules, rules)} if rules else {})
    )


def _spell_raw(name: str, raw: Any) -> _Spelt:
    option = build_catalogue().options.get(name)
    shown = plain(raw)
    if option is None or raw is None:
        return _Spelt(shown, shown)
    try:
        return _spell_value(option.parse(raw))
    except InvalidValueError:
        return _Spelt(_HIDDEN if option.is_secret else shown, raw if option.is_secret else shown)


def _spell_value(value: OptionValue) -> _Spelt:
    shown = format_value(value)
    return _Spelt(shown, value if isinstance(value, Secret) else shown)


def _spell_rule(rule: AutomationDraft) -> dict[str, Any]:
    return {
        "regex": plain(rule.regexes),
        "action": plain(rule.actions),
        "trigger": plain(rule.trigger),
        "duration": plain(rule.duration),
        "match_internal": rule.match_internal,
        "mode": rule.mode,
        "enabled": rule.enabled,
    }


def _spell_answer(resolution: Resolution) -> dict[str, _Spelt]:
    return {name: _spell_value(found.value) for name, found in resolution.options.items()}
