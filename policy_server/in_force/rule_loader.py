"""
Loading all rules from SQL at once, with the last good version of each block at hand.

Commands use it; a server keeps its rules with `rule_keeper`, to the same effect.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from sqlalchemy import Connection

from policy_server.rules.layers import Block, BlockDraft, Issue, Layer
from policy_server.rules.parse import (
    check_validity,
    make_layer,
    parse_block,
    place_in_layer,
    stands_twice,
)
from policy_server.store.rules import StoredRules, read_rules
from policy_server.store.sites import StoredSite, load_sites


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRules:
    """Rules read and parsed, with what is wrong in them."""

    revision: int
    layers: tuple[Layer, ...]
    sites: dict[str, StoredSite]
    issues: tuple[Issue, ...]


def read_everything(connection: Connection) -> tuple[StoredRules, dict[str, StoredSite]]:
    """Read rules and sites in one transaction."""
    return read_rules(connection), load_sites(connection)


class RuleLoader:
    """Parses stored rules; a block that is wrong keeps its last good version."""

    def __init__(self) -> None:
        #: Bounded by the blocks that exist.
        self._last_good: dict[int, Block] = {}

    def load(
        self,
        stored: StoredRules,
        sites: dict[str, StoredSite],
        *,
        search: Callable[[int], BlockDraft | None] = lambda number: None,
    ) -> LoadedRules:
        """Parse what was read; *search* finds earlier versions of blocks that are not at hand."""
        issues = list(stored.issues)
        layers = []
        for draft in stored.layers:
            issues += check_validity(draft)
            claims: dict[Hashable, Block] = {}
            for block in draft.blocks:
                own, found = parse_block(block, layer=draft.name)
                issues += found
                if not block.enabled:
                    continue
                if own is None or block.id in stored.unreadable:
                    own = self._find_last_good(block.id, draft.name, search)
                if own is None:
                    continue
                first = claims.setdefault(place_in_layer(own), own)
                if first is not own:
                    issues.append(stands_twice(own, first=first.id))
            layers.append(make_layer(draft, claims.values()))
        self._last_good = {block.id: block for layer in layers for block in layer.blocks}
        return LoadedRules(
            revision=stored.revision, layers=tuple(layers), sites=sites, issues=tuple(issues)
        )

    def _find_last_good(
        self, number: int, layer: str, search: Callable[[int], BlockDraft | None]
    ) -> Block | None:
        known = self._last_good.get(number)
        # What was parsed under another name of its layer still has that name in it.
        if known is not None and known.layer == layer:
            return known
        draft = search(number)
        return known if draft is None else parse_block(draft, layer=layer)[0] or known
