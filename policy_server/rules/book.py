"""
The book of rules: parsed blocks by the place they have, from which snapshots are made.

`compile_snapshot` makes a snapshot of all rules at once. A book makes the same one, and then,
after a change, only anew what the change concerns:

1. A *place* is what a block's name and kind say: the default, a provider, a domain alone, or a
   rolled-up domain. Changing a block touches its place; so does a layer that begins, ends or moves
   for all its blocks, and a domain whose site changed for the domain.
2. Each scope that a touched place belongs to is compiled from its blocks. All others stay the
   same objects, so that who holds one can tell that nothing changed by looking at it.
3. A block that is wrong keeps the place of its last good version. In one layer the first block of
   a place stands, and another one for the same source is refused. So what is in force follows
   from the blocks and their last good versions alone, not from what was in force before.

Snapshots given out never change: their tables are copied before entries are replaced. A plain copy
of 100,000 entries takes a few milliseconds, and a look-up in it less than in a persistent map.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby
from operator import attrgetter
from typing import TypeVar

from policy_server.rules.layers import Block, ProviderMatch, Scope
from policy_server.rules.providers import ProviderIndex, build_index
from policy_server.rules.site import Site
from policy_server.rules.snapshot import (
    Provider,
    ScopeBlocks,
    SiteRules,
    Snapshot,
    keep_earlier,
    site_hosts,
    split_by_source,
)

_Value = TypeVar("_Value")
_EMPTY = ScopeBlocks()
_ORDER = attrgetter("layer_id", "position", "id")


class PlaceKind(IntEnum):
    """What a place is."""

    DEFAULT = 0
    PROVIDER = 1
    #: A domain without roll-up.
    ALONE = 2
    #: A domain with roll-up.
    ROLLED_UP = 3


_Place = tuple[PlaceKind, str]


@dataclass(slots=True, eq=False)
class BookEntry:
    """A row of rule_blocks, as the book keeps it."""

    id: int
    layer_id: int
    #: Blocks of one layer are ordered by position, then by id.
    position: float
    #: As parsed; None if the row is switched off or refused.
    own: Block | None
    #: The last good version of a row that is refused.
    last_good: Block | None = None
    #: The entry that has the same place in the same layer, and comes first.
    first: "BookEntry | None" = None

    @property
    def claim(self) -> Block | None:
        """The block that says which place the entry has."""
        return self.last_good if self.own is None else self.own

    @property
    def block(self) -> Block | None:
        """The block in force, if its layer is."""
        return self.claim if self.first is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesChange:
    """Which questions a step from one snapshot to the next can concern."""

    after: Snapshot
    #: Every question: the default or a provider changed, or it is not known what did.
    is_wide: bool = False
    #: Names of sites and of domains.
    sites: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()


def _place_of(block: Block) -> _Place:
    match block.scope:
        case Scope.DEFAULT:
            return PlaceKind.DEFAULT, ""
        case Scope.PROVIDER:
            return PlaceKind.PROVIDER, block.name
        case Scope.DOMAIN:
            kind = PlaceKind.ROLLED_UP if block.mx_rollup else PlaceKind.ALONE
            return kind, block.name


@dataclass(slots=True)
class _Touched:
    """What has to be compiled anew."""

    places: set[_Place] = field(default_factory=set)
    #: Names of sites that a domain has left.
    sites: set[str] = field(default_factory=set)


class RuleBook:
    """Parsed blocks of all layers; not to be used by two threads at once."""

    def __init__(self) -> None:
        self._places: tuple[dict[str, tuple[BookEntry, ...]], ...] = tuple({} for _ in PlaceKind)
        self._sites: dict[str, Site] = {}
        #: Rolled-up domains that have blocks, by the name of their site.
        self._domains: dict[str, tuple[str, ...]] = {}
        #: Place in the order of the layers in force, by layer.
        self._ranks: dict[int, int] = {}
        self._touched = _Touched()
        self._snapshot: Snapshot | None = None
        #: Patterns of each provider in force.
        self._matches: dict[str, tuple[ProviderMatch, ...]] = {}

    def replace(self, old: Iterable[BookEntry], new: Sequence[BookEntry]) -> list[BookEntry]:
        """
        Put *new* entries in the place of *old* ones.

        Return the entries, new or not, whose place was found to be taken by another one, or no
        longer so.
        """
        claims = [(entry, entry.claim) for entry in old]
        places = {self._take(entry, claim) for entry, claim in claims if claim is not None}
        claims = [(entry, entry.claim) for entry in new]
        places.update(self._put(entry, claim) for entry, claim in claims if claim is not None)
        self._touched.places |= places
        return [entry for place in places for entry in self._find_first(place)]

    def set_sites(self, changed: Mapping[str, Site | None]) -> None:
        """Note the sites of domains; None for one that is not known any more."""
        rolled_up = self._places[PlaceKind.ROLLED_UP]
        for domain, site in changed.items():
            is_concerned = domain in rolled_up and self._sites.get(domain) != site
            if is_concerned:
                self._leave_site(domain)
            if site is None:
                self._sites.pop(domain, None)
            else:
                self._sites[domain] = site
            if is_concerned:
                self._join_site(domain)
                self._touched.places.add((PlaceKind.ROLLED_UP, domain))

    def set_layers(self, in_force: Sequence[int]) -> None:
        """Say which layers are in force, in their order."""
        ranks = {layer_id: rank for rank, layer_id in enumerate(in_force)}
        moved = _find_moved(list(self._ranks), list(ranks))
        self._ranks = ranks
        if not moved:
            return
        for kind in PlaceKind:
            for name, entries in self._places[kind].items():
                if any(entry.layer_id in moved for entry in entries):
                    self._touched.places.add((kind, name))

    def compile(self, revision: int) -> RulesChange:
        """Make the snapshot anew where something was touched."""
        before, touched = self._snapshot, self._touched
        if before is not None and not touched.places and not touched.sites:
            return RulesChange(after=before)
        names: dict[PlaceKind, set[str]] = defaultdict(set)
        for kind, name in touched.places:
            names[kind].add(name)
        rolled_up = names[PlaceKind.ROLLED_UP]
        sites = touched.sites | {
            site.site_name
            for domain in rolled_up
            if (site := self._sites.get(domain)) is not None and site.site_name
        }
        base = before or _nothing()
        providers, index = self._compile_providers(base, names[PlaceKind.PROVIDER])
        after = Snapshot(
            revision=revision,
            default=self._compile_default(base, names[PlaceKind.DEFAULT]),
            providers=providers,
            provider_index=index,
            sites=_change(base.sites, {site: self._compile_site(site) for site in sites}),
            domains=self._compile_alone(base, names[PlaceKind.ALONE]),
            unplaced=self._compile_unplaced(base, rolled_up),
            rolled_up_domains=self._compile_rolled_up(base, rolled_up),
        )
        self._snapshot, self._touched = after, _Touched()
        return RulesChange(
            after=after,
            is_wide=before is None
            or after.default is not before.default
            or after.providers is not before.providers,
            sites=frozenset(sites),
            domains=frozenset(names[PlaceKind.ALONE] | rolled_up),
        )

    # Places.

    def _take(self, entry: BookEntry, claim: Block) -> _Place:
        place = kind, name = _place_of(claim)
        left = tuple(other for other in self._places[kind][name] if other is not entry)
        if left:
            self._places[kind][name] = left
        else:
            del self._places[kind][name]
            if kind is PlaceKind.ROLLED_UP:
                self._leave_site(name)
        return place

    def _put(self, entry: BookEntry, claim: Block) -> _Place:
        place = kind, name = _place_of(claim)
        present = self._places[kind].get(name)
        if present is None:
            self._places[kind][name] = (entry,)
            if kind is PlaceKind.ROLLED_UP:
                self._join_site(name)
        else:
            self._places[kind][name] = (*present, entry)
        return place

    def _find_first(self, place: _Place) -> list[BookEntry]:
        """Find out which blocks stand in a touched place, and return where that changed."""
        kind, name = place
        entries = self._places[kind].get(name, ())
        firsts: dict[tuple[int, str, bool], BookEntry] = {}
        changed = []
        for entry in sorted(entries, key=_ORDER) if len(entries) > 1 else entries:
            if (claim := entry.claim) is None:
                continue
            first = firsts.setdefault((entry.layer_id, claim.source, claim.mx_rollup), entry)
            found = None if first is entry else first
            if entry.first is not found:
                entry.first = found
                changed.append(entry)
        return changed

    def _leave_site(self, domain: str) -> None:
        site = self._sites.get(domain)
        if site is None or not site.site_name:
            return
        left = tuple(other for other in self._domains.get(site.site_name, ()) if other != domain)
        self._touched.sites.add(site.site_name)
        if left:
            self._domains[site.site_name] = left
        else:
            self._domains.pop(site.site_name, None)

    def _join_site(self, domain: str) -> None:
        site = self._sites.get(domain)
        if site is not None and site.site_name:
            self._domains[site.site_name] = (*self._domains.get(site.site_name, ()), domain)

    # Scopes.

    def _in_force(self, places: Iterable[_Place]) -> list[BookEntry]:
        """Return the entries in force in these places, in the order they apply."""
        entries = [
            entry
            for kind, name in places
            for entry in self._places[kind].get(name, ())
            if entry.layer_id in self._ranks and entry.block is not None
        ]
        entries.sort(key=lambda entry: (self._ranks[entry.layer_id], entry.position, entry.id))
        return entries

    def _compile_default(self, base: Snapshot, touched: set[str]) -> ScopeBlocks:
        if not touched:
            return base.default
        return _merge_layers(self._in_force([(PlaceKind.DEFAULT, "")]))

    def _compile_alone(self, base: Snapshot, touched: set[str]) -> Mapping[str, ScopeBlocks]:
        found = {name: self._in_force([(PlaceKind.ALONE, name)]) for name in touched}
        return _change(base.domains, {name: _or_none(blocks) for name, blocks in found.items()})

    def _compile_unplaced(self, base: Snapshot, touched: set[str]) -> Mapping[str, ScopeBlocks]:
        return _change(
            base.unplaced,
            {
                domain: None
                if domain in self._sites
                else _or_none(self._in_force([(PlaceKind.ROLLED_UP, domain)]))
                for domain in touched
            },
        )

    def _compile_rolled_up(self, base: Snapshot, touched: set[str]) -> frozenset[str]:
        present = {domain for domain in touched if self._in_force([(PlaceKind.ROLLED_UP, domain)])}
        new, gone = present - base.rolled_up_domains, (touched - present) & base.rolled_up_domains
        return (base.rolled_up_domains | new) - gone if new or gone else base.rolled_up_domains

    def _compile_site(self, site_name: str) -> tuple[SiteRules, ...] | None:
        by_hosts: dict[frozenset[str], list[_Place]] = {}
        for domain in self._domains.get(site_name, ()):
            hosts = site_hosts(domain, self._sites[domain])
            by_hosts.setdefault(hosts, []).append((PlaceKind.ROLLED_UP, domain))
        rules = tuple(
            SiteRules(hosts, _merge_layers(entries))
            for hosts, places in by_hosts.items()
            if (entries := self._in_force(places))
        )
        return rules or None

    def _compile_providers(
        self, base: Snapshot, touched: set[str]
    ) -> tuple[tuple[Provider, ...], ProviderIndex]:
        if not touched:
            return base.providers, base.provider_index
        known = {provider.name: provider for provider in base.providers}
        order: list[tuple[int, float, int, str]] = []
        matches_changed = False
        for name in self._places[PlaceKind.PROVIDER]:
            entries = self._in_force([(PlaceKind.PROVIDER, name)])
            if not entries:
                continue
            first = entries[0]
            order.append((self._ranks[first.layer_id], first.position, first.id, name))
            if name in touched or name not in known:
                blocks = _merge_layers(entries)
                matches = _matches_of(blocks)
                matches_changed |= self._matches.get(name) != matches
                known[name], self._matches[name] = Provider(name, blocks), matches
        names = [name for *_, name in sorted(order)]
        for gone in self._matches.keys() - set(names):
            del self._matches[gone]
        providers = tuple(known[name] for name in names)
        if not matches_changed and names == [provider.name for provider in base.providers]:
            return providers, base.provider_index
        return providers, build_index([self._matches[name] for name in names])


def _find_moved(before: list[int], after: list[int]) -> set[int]:
    """Return the layers that are new, gone, or stand in another order than before."""
    moved = set(before) ^ set(after)
    old = [layer for layer in before if layer not in moved]
    new = [layer for layer in after if layer not in moved]
    return moved | {
        layer for pair in zip(old, new, strict=True) if pair[0] != pair[1] for layer in pair
    }


def _merge_layers(entries: Sequence[BookEntry]) -> ScopeBlocks:
    kept: list[Block] = []
    for _, group in groupby(entries, key=attrgetter("layer_id")):
        blocks = [entry.block for entry in group if entry.block is not None]
        # What earlier layers said goes first, so that the order within the layer does not matter.
        for block in blocks:
            if block.replace_base:
                kept = keep_earlier(block, kept)
        kept += blocks
    return split_by_source(kept)


def _or_none(entries: Sequence[BookEntry]) -> ScopeBlocks | None:
    return _merge_layers(entries) if entries else None


def _matches_of(blocks: ScopeBlocks) -> tuple[ProviderMatch, ...]:
    return tuple(match for block in blocks.base for match in block.matches)


def _change(
    table: Mapping[str, _Value], changes: Mapping[str, _Value | None]
) -> Mapping[str, _Value]:
    """Return *table* with *changes* made to it; None takes an entry out."""
    if not changes:
        return table
    changed = dict(table)
    for name, value in changes.items():
        if value is None:
            changed.pop(name, None)
        else:
            changed[name] = value
    return changed


def _nothing() -> Snapshot:
    return Snapshot(
        revision=0,
        default=_EMPTY,
        providers=(),
        provider_index=build_index([]),
        sites={},
        domains={},
        unplaced={},
        rolled_up_domains=frozenset(),
    )
