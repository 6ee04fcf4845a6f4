"""
The rules, compiled: what answers are made from.

Compiling decides which blocks stand in which scope, in which order, and what `replace_base`
discards. Merging their options is left to `resolve`. A snapshot never changes; a change of the
rules or of a site makes a new one.

Scopes are: `default`; a provider; a site, that is all domains with `mx_rollup` that map to it; a
domain without `mx_rollup`. Rolled-up domains whose site is not known (yet) are kept apart, and
concern nothing but questions for that very domain.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from policy_server.rules.layers import Block, Layer, Scope
from policy_server.rules.providers import ProviderIndex, build_index
from policy_server.rules.site import Site, host_set

_NO_SOURCES: Mapping[str, tuple[Block, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ScopeBlocks:
    """The blocks of one scope, in the order they apply."""

    #: For every source.
    base: tuple[Block, ...] = ()
    by_source: Mapping[str, tuple[Block, ...]] = field(default_factory=lambda: _NO_SOURCES)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider: its name and blocks."""

    name: str
    blocks: ScopeBlocks


@dataclass(frozen=True, slots=True)
class SiteRules:
    """The blocks of one site, with the host set that tells it from others of the same name."""

    hosts: frozenset[str]
    blocks: ScopeBlocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All rules at one revision, indexed."""

    revision: int
    default: ScopeBlocks
    providers: tuple[Provider, ...]
    provider_index: ProviderIndex
    #: By site name; more than one where different host sets make the same name.
    sites: Mapping[str, tuple[SiteRules, ...]]
    #: Domains without roll-up.
    domains: Mapping[str, ScopeBlocks]
    #: Rolled-up domains whose site is not known.
    unplaced: Mapping[str, ScopeBlocks]
    #: The domains whose site must be known.
    rolled_up_domains: frozenset[str]


@dataclass(frozen=True, slots=True)
class _SiteKey:
    site_name: str
    hosts: frozenset[str]


@dataclass(frozen=True, slots=True)
class _UnplacedKey:
    domain: str


@dataclass(frozen=True, slots=True)
class _DomainKey:
    domain: str


@dataclass(frozen=True, slots=True)
class _ProviderKey:
    name: str


_DEFAULT_KEY = "default"


def compile_snapshot(
    layers: Sequence[Layer], *, sites: Mapping[str, Site], revision: int
) -> Snapshot:
    """Compile the enabled ones of *layers*, in their order, with the sites known of domains."""
    scopes: dict[Hashable, list[Block]] = {}
    for layer in layers:
        if layer.enabled:
            _add_layer(layer, scopes, sites)
    frozen = {key: split_by_source(blocks) for key, blocks in scopes.items()}
    providers = [key for key in scopes if isinstance(key, _ProviderKey)]
    return Snapshot(
        revision=revision,
        default=frozen.get(_DEFAULT_KEY, ScopeBlocks()),
        providers=tuple(Provider(key.name, frozen[key]) for key in providers),
        provider_index=build_index(
            [[match for block in scopes[key] for match in block.matches] for key in providers]
        ),
        sites=_group_sites(frozen),
        domains={key.domain: frozen[key] for key in scopes if isinstance(key, _DomainKey)},
        unplaced={key.domain: frozen[key] for key in scopes if isinstance(key, _UnplacedKey)},
        rolled_up_domains=frozenset(find_rolled_up_domains(layers)),
    )


def find_rolled_up_domains(layers: Iterable[Layer]) -> set[str]:
    """Return the domains whose site must be known for the rules of *layers*."""
    return {
        block.name
        for layer in layers
        if layer.enabled
        for block in layer.blocks
        if block.scope is Scope.DOMAIN and block.mx_rollup
    }


def _add_layer(
    layer: Layer, scopes: dict[Hashable, list[Block]], sites: Mapping[str, Site]
) -> None:
    placed = [
        (key, block) for block in layer.blocks if (key := _find_scope(block, sites)) is not None
    ]
    # What earlier layers said goes first, so that the order within the layer does not matter.
    for key, block in placed:
        if block.replace_base and key in scopes:
            scopes[key] = keep_earlier(block, scopes[key])
    for key, block in placed:
        scopes.setdefault(key, []).append(block)


def keep_earlier(block: Block, earlier: Iterable[Block]) -> list[Block]:
    """Return the blocks of earlier layers that a block with `replace_base` leaves in its scope."""
    return [kept for kept in earlier if block.source and block.source != kept.source]


def _find_scope(block: Block, sites: Mapping[str, Site]) -> Hashable | None:
    """Return the key of the block's scope; None if it can't apply to anything."""
    match block.scope:
        case Scope.DEFAULT:
            return _DEFAULT_KEY
        case Scope.PROVIDER:
            return _ProviderKey(block.name)
        case Scope.DOMAIN if not block.mx_rollup:
            return _DomainKey(block.name)
        case Scope.DOMAIN:
            return _find_site_scope(block, sites.get(block.name))


def _find_site_scope(block: Block, site: Site | None) -> Hashable | None:
    if site is None:
        return _UnplacedKey(block.name)
    if not site.site_name:
        return None
    return _SiteKey(site.site_name, site_hosts(site.domain, site))


def site_hosts(domain: str, site: Site) -> frozenset[str]:
    """Return the hosts of a site; the domain itself where it has no MX records."""
    return host_set(site.mx_hosts) or frozenset({domain})


def split_by_source(blocks: Sequence[Block]) -> ScopeBlocks:
    """Make a scope of its blocks, which are in the order they apply."""
    by_source: dict[str, list[Block]] = {}
    for block in blocks:
        by_source.setdefault(block.source, []).append(block)
    base = tuple(by_source.pop("", ()))
    if not by_source:
        # Most scopes: a million of them share one empty table.
        return ScopeBlocks(base)
    return ScopeBlocks(base, {source: tuple(found) for source, found in by_source.items()})


def _group_sites(frozen: Mapping[Hashable, ScopeBlocks]) -> Mapping[str, tuple[SiteRules, ...]]:
    grouped: dict[str, tuple[SiteRules, ...]] = {}
    for key, blocks in frozen.items():
        if isinstance(key, _SiteKey):
            rules = SiteRules(key.hosts, blocks)
            grouped[key.site_name] = (*grouped.get(key.site_name, ()), rules)
    return grouped
