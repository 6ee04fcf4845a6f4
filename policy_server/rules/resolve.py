"""
The answer to a question: every option resolved, with who set it.

The order of merging (later wins; `replace_base` has been applied by `snapshot`):
1. `default`, then `default` for this source.
2. Every matching provider, in the order of the rules.
3. Those providers for this source, after all of step 2.
4. The site: domains with `mx_rollup`.
5. The domain: without `mx_rollup`.
6. The site for this source.
7. The domain for this source.
8. Actions in force.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import msgspec

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.layers import Block
from policy_server.rules.merge import Merge, Origin, ResolvedOption
from policy_server.rules.scopes import (
    Question,
    Scopes,
    blocks_for,
    consulted_rules,
    find_scopes,
    is_singled_out,
)
from policy_server.rules.site import normalise_domain
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.values import Limit, OptionValue, Rate

__all__ = [
    "Question",
    "Override",
    "Origin",
    "ResolvedOption",
    "Resolution",
    "Merged",
    "resolve",
    "resolve_scopes",
    "merge_scopes",
    "order_overrides",
    "name_path",
    "built_in_options",
    "consulted_rules",
]

#: Sorts alike for all that have no end.
_NO_END = datetime.max.replace(tzinfo=UTC)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An option set by an action in force."""

    action_id: int
    #: Empty for the whole site.
    routing_domain: str
    site_name: str
    egress_source: str
    option: str
    value: OptionValue
    #: None: it is pinned, and has no end of its own.
    expire_time: datetime | None
    #: It has no effect where it would raise a limit or rate.
    lowers: bool = False
    #: Who acted: automation, or an operator.
    layer: str = "automation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The answer; options without a value are left out."""

    site_name: str
    path_name: str
    #: That matched, in the order of the rules.
    provider_names: tuple[str, ...]
    #: Options of which anything was said, and what follows from them.
    changed: Mapping[str, ResolvedOption]

    @property
    def options(self) -> Mapping[str, ResolvedOption]:
        """Every option that has a value, put together anew at each call."""
        return MappingProxyType({**built_in_options(), **self.changed})


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says that is the same for all domains and sites in the same scopes."""

    #: That matched, in the order of the rules.
    provider_names: tuple[str, ...]
    #: Options of which anything was said, and what follows from them.
    changed: Mapping[str, ResolvedOption]
    #: The domain has a path of its own, apart from its site.
    is_alone: bool


def resolve(
    snapshot: Snapshot, question: Question, overrides: Iterable[Override] = ()
) -> Resolution:
    """Answer *question* from *snapshot*, with the *overrides* that concern it applied."""
    return resolve_scopes(find_scopes(snapshot, question), question, overrides)


def resolve_scopes(
    scopes: Scopes, question: Question, overrides: Iterable[Override] = ()
) -> Resolution:
    """Answer *question* from its scopes, which `find_scopes` found."""
    merged = merge_scopes(scopes, question.egress_source, order_overrides(overrides, question))
    return Resolution(
        site_name=question.site_name,
        path_name=name_path(question, is_alone=merged.is_alone),
        provider_names=merged.provider_names,
        changed=merged.changed,
    )


def merge_scopes(scopes: Scopes, source: str, overrides: Sequence[Override] = ()) -> Merged:
    """Merge what the scopes say for a source, and then *overrides*, which are in their order."""
    merge = Merge(source)
    for block, provider in _order_blocks(scopes, source):
        merge.apply_block(block, provider)
    for override in overrides:
        if not override.lowers or _is_lower(override.value, _value_so_far(merge, override.option)):
            merge.apply_value(override.option, override.value, _origin_of_override(override))
    # Two configurations never share a path.
    is_alone = is_singled_out(scopes, source) or any(o.routing_domain for o in overrides)
    return Merged(
        provider_names=tuple(matched.provider.name for matched in scopes.providers),
        changed=MappingProxyType(_finish(merge)),
        is_alone=is_alone,
    )


def _order_blocks(scopes: Scopes, source: str) -> Iterator[tuple[Block, str]]:
    """Yield the blocks of steps 1 to 7, each with the provider it belongs to or ''."""
    for block in (*scopes.default.base, *blocks_for(scopes.default, source)):
        yield block, ""
    for matched in scopes.providers:
        for block in matched.provider.blocks.base:
            yield block, matched.provider.name
    for matched in scopes.providers:
        for block in blocks_for(matched.provider.blocks, source):
            yield block, matched.provider.name
    own_scopes = (*scopes.site, scopes.domain)
    for blocks in own_scopes:
        for block in blocks.base:
            yield block, ""
    for blocks in own_scopes:
        for block in blocks_for(blocks, source):
            yield block, ""


def order_overrides(overrides: Iterable[Override], question: Question) -> list[Override]:
    """
    Return the overrides for the question: the site's first, then its domain's.

    Of each the longest-lived come last; those that have no end are the longest-lived.
    """
    domain = normalise_domain(question.routing_domain)
    concerned = [
        override
        for override in overrides
        if override.egress_source == question.egress_source
        and (
            override.routing_domain == domain
            if override.routing_domain
            else override.site_name == question.site_name
        )
    ]
    return sorted(
        concerned,
        key=lambda entry: (
            entry.routing_domain != "",
            entry.expire_time is None,
            entry.expire_time or _NO_END,
            entry.action_id,
        ),
    )


def _value_so_far(merge: Merge, option: str) -> OptionValue | None:
    return merge.value_of(option) or build_catalogue().defaults.get(option)


def _is_lower(value: OptionValue, present: OptionValue | None) -> bool:
    match value, present:
        case Limit(), Limit():
            return value.value < present.value
        case Rate(), Rate():
            # In whole seconds, as spans of such size do not fit a timedelta.
            return value.count * (present.period // _SECOND) < present.count * (
                value.period // _SECOND
            )
        case _:
            return present is None


def _origin_of_override(override: Override) -> Origin:
    return Origin(
        layer=override.layer,
        scope="domain" if override.routing_domain else "site",
        name=override.routing_domain or override.site_name,
        source=override.egress_source,
        automation_action_id=override.action_id,
    )


def name_path(question: Question, *, is_alone: bool) -> str:
    """Name the path of a question; *is_alone*: its domain has one of its own."""
    path = f"{question.egress_source}->{question.site_name}"
    if is_alone or not question.site_name:
        return f"{path}#{normalise_domain(question.routing_domain)}"
    return path


@functools.cache
def built_in_options() -> Mapping[str, ResolvedOption]:
    """Return every option that has a value where no rule sets one."""
    defaults = build_catalogue().defaults
    built_in = {name: ResolvedOption(value) for name, value in defaults.items()}
    return MappingProxyType({**built_in, **_derive(built_in)})


def _finish(merge: Merge) -> dict[str, ResolvedOption]:
    changed = merge.finish(built_in_options())
    return {**_derive(changed), **changed}


def _derive(options: Mapping[str, ResolvedOption]) -> dict[str, ResolvedOption]:
    """Work out the options that follow from *options*, where these are not as built in."""
    derived = {}
    for option in build_catalogue().derived:
        if not options.keys().isdisjoint(option.derived_from):
            terms = (_term(options, name) for name in option.derived_from)
            derived[option.name] = ResolvedOption(sum(terms, timedelta()))
    return derived


def _term(options: Mapping[str, ResolvedOption], name: str) -> timedelta:
    resolved = options.get(name)
    value = build_catalogue().defaults.get(name) if resolved is None else resolved.value
    return value if isinstance(value, timedelta) else timedelta()
