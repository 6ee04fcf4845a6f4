"""
Loading all rules from SQL at once, with the last good version of each block at hand.

Commands use it; a server keeps its rules with `rule_keeper`, to the same effect.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from policy_server.rules.layers import Block, BlockDraft, Issue, Layer, LayerDraft, Severity
from policy_server.rules.parse import parse_block, parse_layer
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
            readable = tuple(b for b in draft.blocks if b.id not in stored.unreadable)
            layer, found = parse_layer(replace(draft, blocks=readable))
            for block in draft.blocks:
                if block.id in stored.unreadable:
                    found += parse_block(block, layer=draft.name)[1]
            issues += found
            refused = stored.unreadable | _refused(found)
            lost = stored.unreadable | _refused(
                issue for issue in found if issue.code != "duplicate_block"
            )
            for block in draft.blocks:
                if block.id in lost and block.enabled and block.id not in self._last_good:
                    self._remember(search(block.id), draft.name)
            layers.append(self._repair(draft, layer, refused))
        self._last_good = {block.id: block for layer in layers for block in layer.blocks}
        return LoadedRules(
            revision=stored.revision, layers=tuple(layers), sites=sites, issues=tuple(issues)
        )

    def _remember(self, draft: BlockDraft | None, layer: str) -> None:
        block = None if draft is None else parse_block(draft, layer=layer)[0]
        if block is not None:
            self._last_good[block.id] = block

    def _repair(self, draft: LayerDraft, layer: Layer, refused: frozenset[int]) -> Layer:
        """Put the last good version in the place of each refused block."""
        if not any(block.id in refused for block in draft.blocks):
            return layer
        good: dict[int, Block] = {block.id: block for block in layer.blocks}
        chosen = [
            self._last_good.get(block.id) if block.id in refused else good.get(block.id)
            for block in draft.blocks
            if block.enabled
        ]
        return replace(layer, blocks=tuple(block for block in chosen if block is not None))


def _refused(issues: Iterable[Issue]) -> frozenset[int]:
    return frozenset(
        issue.block_id
        for issue in issues
        if issue.severity is Severity.ERROR and issue.block_id is not None
    )
