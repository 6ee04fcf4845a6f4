"""
The rules of a running server, kept current with SQL.

At first everything is read; from then on only the blocks that the change log names are, parsed and
put into the book, which makes anew what depends on them. Where the log does not tell (another
database, a log that begins later, very many changes) everything is read again.

A block that is wrong keeps its last good version: the one that was in force, or, where none was or
the server has just started, the newest one in the history that parses.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from sqlalchemy import Connection

from policy_server.in_force.known_sites import KnownSites
from policy_server.rules.book import BookEntry, RuleBook, RulesChange
from policy_server.rules.layers import Block, Issue, Layer, LayerDraft
from policy_server.rules.parse import check_validity, parse_block, stands_twice
from policy_server.rules.site import MxHost
from policy_server.rules.validity import layers_in_force
from policy_server.store.changes import Changes, read_changes_since
from policy_server.store.history import last_good_block
from policy_server.store.rules import (
    StoredBlock,
    no_layer,
    read_all_blocks,
    read_blocks,
    read_layer_heads,
)
from policy_server.store.sites import StoredSite, load_sites, load_sites_of

#: With fewer blocks than this, the collector's pauses are not worth a thought.
_MANY = 10_000
#: Refused blocks whose history is searched when everything is read.
_MOST_SEARCHED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRules:
    """What is known of the rules besides their snapshot."""

    #: In order, each without its blocks.
    layers: tuple[Layer, ...]
    sites: Mapping[str, StoredSite]
    #: Host sets by site name; a name that stands for two host sets is left out.
    site_hosts: Mapping[str, tuple[MxHost, ...]]
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """Blocks read and parsed, before any of it is put into the book."""

    entries: dict[int, BookEntry]
    #: What is wrong with blocks, if anything is.
    issues: dict[int, tuple[Issue, ...]]


class RuleKeeper:
    """Reads rules and compiles them; not to be used by two threads at once."""

    def __init__(self) -> None:
        self._book = RuleBook()
        self._entries: dict[int, BookEntry] = {}
        self._issues: dict[int, tuple[Issue, ...]] = {}
        #: Blocks whose place is taken by another one of their layer.
        self._twice: dict[int, BookEntry] = {}
        self._layers: dict[int, Layer] = {}
        self._layer_issues: tuple[Issue, ...] = ()
        self._sites = KnownSites()
        self._is_loaded = False
        #: Whether the book was compiled since everything was read.
        self._is_compiled = False

    @property
    def rules(self) -> KeptRules:
        """What is known of the rules besides their snapshot."""
        twice = (
            stands_twice(entry.claim, first=entry.first.id)
            for _, entry in sorted(self._twice.items())
            if entry.claim is not None and entry.first is not None
        )
        of_blocks = chain.from_iterable(issues for _, issues in sorted(self._issues.items()))
        return KeptRules(
            layers=tuple(self._layers.values()),
            sites=self._sites.by_domain,
            site_hosts=self._sites.hosts,
            issues=(*self._layer_issues, *of_blocks, *twice),
        )

    def catch_up(self, connection: Connection, since: int, stamp: str | None = None) -> Changes:
        """Read what changed after revision *since*, in one transaction."""
        changes = read_changes_since(connection, since, stamp=stamp)
        if changes.is_known and self._is_loaded:
            self._read_changed(connection, changes)
        else:
            changes = replace(changes, is_known=False)
            self._read_all(connection)
        return changes

    def update_sites(self, changed: Mapping[str, StoredSite | None]) -> None:
        """Note the sites of domains; None for one that is not known any more."""
        self._sites.update(changed)
        self._book.set_sites(
            {domain: None if stored is None else stored.site for domain, stored in changed.items()}
        )

    def renew_sites(self, stored: Mapping[str, StoredSite]) -> None:
        """Note later expiries of sites that are otherwise as they were."""
        self._sites.renew(stored)

    def compile(self, *, revision: int, now: datetime) -> RulesChange:
        """Make anew what depends on what was read, and on what begins or ends by *now*."""
        in_force = layers_in_force(self._layers.values(), now)
        self._book.set_layers([layer.id for layer in in_force])
        if self._is_compiled:
            return self._book.compile(revision)
        with self._without_collector():
            self._is_compiled = True
            return self._book.compile(revision)

    # Reading. The database is asked first, as it may fail; then what was read is put in place.

    def _read_all(self, connection: Connection) -> None:
        with self._without_collector():
            drafts, unreadable = read_layer_heads(connection)
            read = self._parse(connection, read_all_blocks(connection), drafts)
            sites = load_sites(connection)
            self._book, self._twice, self._sites = RuleBook(), {}, KnownSites()
            self._entries, self._issues = read.entries, read.issues
            self._set_layers(drafts, unreadable)
            self._note_twice(self._book.replace((), list(read.entries.values())))
            self.update_sites(sites)
            self._is_loaded, self._is_compiled = True, False

    def _read_changed(self, connection: Connection, changes: Changes) -> None:
        if changes.blocks or changes.has_layers:
            self._read_changed_blocks(connection, changes)
        if changes.domains:
            self.update_sites(load_sites_of(connection, changes.domains))

    def _read_changed_blocks(self, connection: Connection, changes: Changes) -> None:
        # Layers are few, and a row may have gone by without a word, as SQLite's REPLACE does.
        drafts, unreadable = read_layer_heads(connection)
        wanted = changes.blocks | self._blocks_of(self._find_changed(drafts))
        read = self._parse(connection, read_blocks(connection, wanted), drafts)
        old = [self._entries.pop(number) for number in wanted if number in self._entries]
        for number in wanted:
            self._issues.pop(number, None)
            self._twice.pop(number, None)
        self._set_layers(drafts, unreadable)
        self._entries |= read.entries
        self._issues |= read.issues
        self._note_twice(self._book.replace(old, list(read.entries.values())))

    def _find_changed(self, drafts: Iterable[LayerDraft]) -> set[int]:
        """Return the layers that are new, gone, or have a new name, as their blocks tell of it."""
        known = {(number, layer.name) for number, layer in self._layers.items()}
        present = {(draft.id, draft.name) for draft in drafts}
        return {number for number, _ in known ^ present}

    def _blocks_of(self, layers: set[int]) -> set[int]:
        if not layers:
            return set()
        return {number for number, entry in self._entries.items() if entry.layer_id in layers}

    def _set_layers(self, drafts: Iterable[LayerDraft], unreadable: tuple[Issue, ...]) -> None:
        self._layers = {draft.id: _to_layer(draft) for draft in drafts}
        odd = chain.from_iterable(map(check_validity, drafts))
        self._layer_issues = (*unreadable, *odd)

    def _parse(
        self, connection: Connection, blocks: Iterable[StoredBlock], drafts: Iterable[LayerDraft]
    ) -> _Read:
        names = {draft.id: draft.name for draft in drafts}
        read = _Read({}, {})
        searched = 0
        for stored in blocks:
            number, layer = stored.draft.id, names.get(stored.layer_id, "")
            if stored.layer_id not in names:
                lost = no_layer(stored.draft, stored.layer_id)
                stored = replace(stored, issues=(*stored.issues, lost))
            entry, issues = self._make_entry(stored, layer)
            read.entries[number] = entry
            if issues:
                read.issues[number] = issues
            known = entry.last_good
            # What was parsed under another name of its layer still has that name in it.
            is_known = known is not None and known.layer == layer
            if stored.draft.enabled and entry.own is None and not is_known:
                searched += 1
                if searched <= _MOST_SEARCHED:
                    entry.last_good = _search_history(connection, number, layer) or known
        return read

    def _make_entry(self, stored: StoredBlock, layer: str) -> tuple[BookEntry, tuple[Issue, ...]]:
        draft = stored.draft
        block, found = parse_block(draft, layer=layer)
        is_good = draft.enabled and not stored.issues
        previous = self._entries.get(draft.id)
        entry = BookEntry(
            id=draft.id,
            layer_id=stored.layer_id,
            position=stored.position,
            own=block if is_good else None,
            last_good=previous.block if previous is not None and draft.enabled else None,
        )
        return entry, (*stored.issues, *found)

    @contextmanager
    def _without_collector(self) -> Iterator[None]:
        """Build what lives as long as the server without looking through it over and over."""
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if len(self._entries) >= _MANY:
                # Nor later: a look through a million blocks holds everything up for seconds.
                gc.freeze()
            if was_enabled:
                gc.enable()

    def _note_twice(self, changed: Iterable[BookEntry]) -> None:
        for entry in changed:
            if entry.first is None:
                self._twice.pop(entry.id, None)
            else:
                self._twice[entry.id] = entry


def _to_layer(draft: LayerDraft) -> Layer:
    return Layer(
        id=draft.id,
        name=draft.name,
        blocks=(),
        enabled=draft.enabled,
        valid_from=draft.valid_from,
        valid_until=draft.valid_until,
    )


def _search_history(connection: Connection, number: int, layer: str) -> Block | None:
    draft = last_good_block(connection, number)
    return None if draft is None else parse_block(draft, layer=layer)[0]
