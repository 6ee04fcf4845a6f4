"""
Merging blocks into options, one block after the other, with a record of who said what.

The rules of merging:
1. A later block wins, option by option.
2. In the three maps entries merge by key; a later block wins key by key.
3. `None` removes what earlier blocks set: an option's value, all entries of a map, or the entries
   that a `provider_*` option implied.
4. A provider's `provider_*` limits and rates imply entries of the maps, under a name made of the
   provider and the source, so that all its sites share them. Entries written out win over them.
5. A provider's blocks imply `provider_name`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.layers import Block
from policy_server.rules.values import OptionValue

#: The map and the ending of the name of the entry that each provider option implies.
_IMPLIED = MappingProxyType(
    {
        "provider_connection_limit": ("additional_connection_limits", "limit"),
        "provider_max_message_rate": ("additional_message_rate_throttles", "rate"),
        "provider_source_selection_rate": ("additional_source_selection_rates", "selection-rate"),
    }
)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The block or action that set a value."""

    layer: str
    #: default, provider, domain, or site for an action on a whole site.
    scope: str
    name: str
    source: str
    block_id: int | None = None
    automation_action_id: int | None = None


_NO_ENTRIES: Mapping[str, Origin] = MappingProxyType({})
Overrode = tuple[tuple[OptionValue, Origin], ...]


class ResolvedOption(msgspec.Struct, frozen=True):
    """An option's value and how it came to be."""

    value: OptionValue
    #: None: the built-in default.
    set_by: Origin | None = None
    #: What it replaced, in the order it was said.
    overrode: Overrode = ()
    #: For the three maps: who set each entry.
    entries: Mapping[str, Origin] = _NO_ENTRIES


class _Said(msgspec.Struct, frozen=True):
    value: OptionValue
    origin: Origin
    #: For an entry of a map: the provider option that implied it.
    implied_by: str = ""


class Merge:
    """Options in the making, for one source."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._provider = ""
        self._maps = build_catalogue().maps
        self._said: dict[str, _Said] = {}
        self._entries: dict[str, dict[str, _Said]] = {}
        self._overrode: dict[str, list[tuple[OptionValue, Origin]]] = {}

    def apply_block(self, block: Block, provider: str = "") -> None:
        """Apply a block; *provider* names the provider whose block it is."""
        origin = origin_of(block)
        if provider and provider != self._provider:
            self._provider = provider
            self.apply_value("provider_name", provider, origin)
        for name, value in block.options.items():
            if value is None:
                self._unset(name, provider)
        if provider:
            self._imply(block, provider, origin)
        for name, value in block.options.items():
            if value is not None:
                self.apply_value(name, value, origin)

    def apply_value(self, name: str, value: OptionValue, origin: Origin) -> None:
        """Apply one value; the entries of a map join those that are there."""
        if name in self._maps and isinstance(value, Mapping):
            entries: Mapping[str, Any] = value
            for key, entry in entries.items():
                self._set_entry(name, key, _Said(entry, origin))
            self._said[name] = _Said(value, origin)
            return
        earlier = self._said.get(name)
        if earlier is not None:
            self._overrode.setdefault(name, []).append((earlier.value, earlier.origin))
        self._said[name] = _Said(value, origin)

    def value_of(self, name: str) -> OptionValue | None:
        """Return the value that was said last of an option that is no map."""
        said = self._said.get(name)
        return None if said is None else said.value

    def finish(self, built_in: Mapping[str, ResolvedOption]) -> dict[str, ResolvedOption]:
        """Return the options of which anything was said, those that are back as *built_in* too."""
        options = {
            name: ResolvedOption(said.value, said.origin, tuple(self._overrode.pop(name, ())))
            for name, said in self._said.items()
            if name not in self._maps
        }
        for name in self._maps:
            if name in self._said or name in self._entries:
                options[name] = self._finish_map(name)
        for name, overrode in self._overrode.items():
            # Unset, so back at the built-in value if it has one.
            if name in built_in and name not in self._maps:
                options[name] = ResolvedOption(built_in[name].value, None, tuple(overrode))
        return options

    def _finish_map(self, name: str) -> ResolvedOption:
        entries = self._entries.get(name, {})
        said = self._said.get(name)
        value: Any = MappingProxyType({key: entry.value for key, entry in entries.items()})
        return ResolvedOption(
            value,
            said.origin if said else None,
            tuple(self._overrode.get(name, ())),
            MappingProxyType({key: entry.origin for key, entry in entries.items()}),
        )

    def _imply(self, block: Block, provider: str, origin: Origin) -> None:
        for option, (map_name, ending) in _IMPLIED.items():
            value = block.options.get(option)
            if value is not None:
                key = f"shaping-provider-{provider}-{self._source}-{ending}"
                self._set_entry(map_name, key, _Said(value, origin, option))
                self._said[map_name] = _Said(value, origin)

    def _set_entry(self, name: str, key: str, said: _Said) -> None:
        entries = self._entries.setdefault(name, {})
        if key in entries:
            self._note_entry(name, key, entries[key])
        entries[key] = said

    def _note_entry(self, name: str, key: str, said: _Said) -> None:
        entry: Any = {key: said.value}
        self._overrode.setdefault(name, []).append((entry, said.origin))

    def _unset(self, name: str, provider: str) -> None:
        if name in self._maps:
            for key in list(self._entries.get(name, ())):
                self._drop_entry(name, key)
        elif name in _IMPLIED:
            self._unset_implied(name, provider)
        earlier = self._said.pop(name, None)
        if earlier is not None and name not in self._maps:
            self._overrode.setdefault(name, []).append((earlier.value, earlier.origin))

    def _unset_implied(self, option: str, provider: str) -> None:
        map_name, ending = _IMPLIED[option]
        own = f"shaping-provider-{provider}-{self._source}-{ending}"
        for key, said in list(self._entries.get(map_name, {}).items()):
            if said.implied_by == option and (not provider or key == own):
                self._drop_entry(map_name, key)

    def _drop_entry(self, name: str, key: str) -> None:
        self._note_entry(name, key, self._entries[name].pop(key))
        if not self._entries[name]:
            self._said.pop(name, None)


def origin_of(block: Block) -> Origin:
    """Return where a block stands."""
    return Origin(
        layer=block.layer,
        scope=block.scope.value,
        name=block.name,
        source=block.source,
        block_id=block.id or None,
    )
