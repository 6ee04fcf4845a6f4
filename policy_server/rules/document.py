"""
The layout of a rule file: from a TOML or JSON document to a draft of a layer.

Checked here is only what the layout itself can get wrong: tables where values belong, keys that
are no option because they say how a block applies. Names and values of options are checked by
`parse`, so that rows from SQL pass the same checks.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.issues import block_title, plain, quote_value
from policy_server.rules.layers import (
    AutomationDraft,
    BlockDraft,
    Issue,
    LayerDraft,
    MatchKind,
    Scope,
)
from policy_server.rules.nearest import suggest

#: A place in a document: keys, and positions in lists.
Path = tuple[str | int, ...]
#: Tells the line of a place; None where it is not known.
FindLine = Callable[[Path], int | None]

#: Deeper documents are refused; the deepest rule has seven levels.
MAX_DEPTH = 32
_MATCH_KINDS = MappingProxyType(
    {
        "MXSuffix": MatchKind.MX_SUFFIX,
        "HostName": MatchKind.HOST_NAME,
        "DomainSuffix": MatchKind.DOMAIN_SUFFIX,
    }
)
_RULE_FIELDS = ("regex", "action", "trigger", "duration", "match_internal", "mode")
#: Keys of a block that are no options, by scope.
_STRUCTURE: Mapping[Scope, frozenset[str]] = MappingProxyType(
    {
        Scope.DEFAULT: frozenset({"replace_base", "sources", "automation", "unset"}),
        Scope.PROVIDER: frozenset({"replace_base", "sources", "automation", "unset", "match"}),
        Scope.DOMAIN: frozenset({"replace_base", "sources", "automation", "unset", "mx_rollup"}),
    }
)
_SOURCE_STRUCTURE = frozenset({"automation", "unset"})
_ALL_STRUCTURE = frozenset().union(*_STRUCTURE.values())


def read_document(
    document: Any, *, name: str, file: str, find_line: FindLine
) -> tuple[LayerDraft, tuple[Issue, ...]]:
    """Turn the content of a rule file into the draft of the layer *name*."""
    reader = _Reader(file, find_line)
    blocks: tuple[BlockDraft, ...] = ()
    if _is_too_deep(document):
        message = f"nested more than {MAX_DEPTH} levels deep: no rule needs that"
        reader.report("too_deep", message, path=())
    elif not isinstance(document, Mapping):
        reader.report("not_a_table", "a rule file is a table of blocks", path=())
    else:
        blocks = tuple(_read_blocks(document, reader))
    return LayerDraft(name=name, blocks=blocks, file=file), tuple(reader.issues)


class _Reader:
    """Gathers issues and knows where things stand."""

    def __init__(self, file: str, find_line: FindLine) -> None:
        self._file = file
        self.find_line = find_line
        self.issues: list[Issue] = []

    def report(
        self, code: str, message: str, *, path: Path, block: str = "", value: Any = None
    ) -> None:
        option = str(path[-1]) if block and path else ""
        self.issues.append(
            Issue(
                code=code,
                message=message,
                file=self._file,
                line=self.find_line(path) if path else None,
                block=block,
                option=option,
                value=plain(value),
            )
        )


def _is_too_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        children: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                children.extend(value.values())
            elif isinstance(value, list):
                children.extend(value)
        if not children:
            return False
        level = children
    return True


def _read_blocks(document: Mapping[str, Any], reader: _Reader) -> Iterator[BlockDraft]:
    for key, table in document.items():
        if not isinstance(table, Mapping):
            _report_stray(key, table, reader)
        elif key == "default":
            yield from _read_block(Scope.DEFAULT, "", table, path=(key,), reader=reader)
        elif key == "provider":
            yield from _read_providers(table, reader)
        elif forgotten := _find_forgotten_quotes((key,), table):
            for path in forgotten:
                _report_forgotten_quotes(path, reader)
        else:
            yield from _read_block(Scope.DOMAIN, key, table, path=(key,), reader=reader)


def _report_stray(key: str, value: Any, reader: _Reader) -> None:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        message = f'[[{key}]] is a list of tables: write ["{key}"] for a block'
    else:
        message = f'{key} stands outside any block: put it below a line such as ["default"]'
    reader.report("stray_key", message, path=(key,), value=value)


def _read_providers(providers: Mapping[str, Any], reader: _Reader) -> Iterator[BlockDraft]:
    for name, table in providers.items():
        path = ("provider", name)
        if isinstance(table, Mapping):
            yield from _read_block(Scope.PROVIDER, name, table, path=path, reader=reader)
        else:
            message = f'{name} stands in no provider: write [provider."name"] above it'
            reader.report("stray_key", message, path=path, value=table)


def _find_forgotten_quotes(path: tuple[str, ...], table: Mapping[str, Any]) -> list[Path]:
    """
    Return the tables that stand where dots in a name made tables of its labels, as in [foo.com].

    >>> _find_forgotten_quotes(("foo",), {"co": {"uk": {"max_ready": 5}}})
    [('foo', 'co', 'uk')]
    """
    if "." in path[0]:
        return []
    known = _ALL_STRUCTURE | build_catalogue().options.keys()
    found: list[Path] = []
    for name, value in table.items():
        if isinstance(value, Mapping) and name not in known:
            found.extend(_find_forgotten_quotes((*path, name), value) or [(*path, name)])
    return found


def _report_forgotten_quotes(path: Path, reader: _Reader) -> None:
    meant = ".".join(map(str, path))
    reader.report(
        "single_label_domain",
        f'"{path[0]}" is a single label, not a domain; did you forget the quotes: ["{meant}"]?',
        path=path,
        block=meant,
        value=path[0],
    )


def _read_block(
    scope: Scope, name: str, table: Mapping[str, Any], *, path: Path, reader: _Reader
) -> Iterator[BlockDraft]:
    block = block_title(scope, name, "")
    _check_structure(table, _STRUCTURE[scope], path=path, block=block, reader=reader)
    mx_rollup = _read_bool(table, "mx_rollup", True, path=path, block=block, reader=reader)
    yield BlockDraft(
        scope=scope,
        name=name,
        mx_rollup=mx_rollup,
        replace_base=_read_bool(
            table, "replace_base", False, path=path, block=block, reader=reader
        ),
        options=_read_options(table, path=path, block=block, reader=reader),
        matches=(
            tuple(_read_matches(table, path=path, block=block, reader=reader))
            if scope is Scope.PROVIDER
            else ()
        ),
        automation=tuple(_read_automation(table, path=path, block=block, reader=reader)),
        line=reader.find_line(path),
        option_lines=_find_option_lines(table, path, reader),
    )
    yield from _read_sources(scope, name, table, mx_rollup=mx_rollup, path=path, reader=reader)


def _read_sources(
    scope: Scope,
    name: str,
    table: Mapping[str, Any],
    *,
    mx_rollup: bool,
    path: Path,
    reader: _Reader,
) -> Iterator[BlockDraft]:
    sources = table.get("sources", {})
    if not isinstance(sources, Mapping):
        block = block_title(scope, name, "")
        message = f'sources is a table: write [{block}.sources."source name"]'
        reader.report("bad_sources", message, path=(*path, "sources"), block=block, value=sources)
        return
    for source, options in sources.items():
        block = block_title(scope, name, source)
        source_path = (*path, "sources", source)
        if not isinstance(options, Mapping) or not source:
            message = f"a source is a table with a name: write [{block}]"
            reader.report("bad_sources", message, path=source_path, block=block, value=options)
            continue
        _check_structure(options, _SOURCE_STRUCTURE, path=source_path, block=block, reader=reader)
        yield BlockDraft(
            scope=scope,
            name=name,
            source=source,
            mx_rollup=mx_rollup,
            options=_read_options(options, path=source_path, block=block, reader=reader),
            automation=tuple(
                _read_automation(options, path=source_path, block=block, reader=reader)
            ),
            line=reader.find_line(source_path),
            option_lines=_find_option_lines(options, source_path, reader),
        )


def _check_structure(
    table: Mapping[str, Any], allowed: frozenset[str], *, path: Path, block: str, reader: _Reader
) -> None:
    for key in table:
        if key in _ALL_STRUCTURE and key not in allowed:
            message = f"{key} does not belong in [{block}]"
            reader.report(
                "misplaced_key", message, path=(*path, key), block=block, value=table[key]
            )


def _read_bool(
    table: Mapping[str, Any],
    key: str,
    default: bool,
    *,
    path: Path,
    block: str,
    reader: _Reader,
) -> bool:
    value = table.get(key, default)
    if isinstance(value, bool):
        return value
    message = f"{key} {quote_value(value)}: write true or false, without quotes"
    reader.report("bad_value", message, path=(*path, key), block=block, value=value)
    # A name that need not be a domain's raises no second issue.
    return False


def _read_options(
    table: Mapping[str, Any], *, path: Path, block: str, reader: _Reader
) -> Mapping[str, Any]:
    options = {name: value for name, value in table.items() if name not in _ALL_STRUCTURE}
    unset = table.get("unset", [])
    if not isinstance(unset, list) or not all(isinstance(name, str) for name in unset):
        message = f'unset {quote_value(unset)}: write a list of options, such as ["max_ready"]'
        reader.report("bad_value", message, path=(*path, "unset"), block=block, value=unset)
        return MappingProxyType(options)
    for name in unset:
        if options.get(name) is not None:
            message = f"{name} is both set and unset: remove one of the two"
            reader.report("set_and_unset", message, path=(*path, name), block=block, value=name)
        options.setdefault(name, None)
    return MappingProxyType(options)


def _find_option_lines(table: Mapping[str, Any], path: Path, reader: _Reader) -> Mapping[str, int]:
    lines = {name: reader.find_line((*path, name)) for name in table}
    unset = table.get("unset")
    if isinstance(unset, list):
        lines |= {str(name): lines["unset"] for name in unset if str(name) not in lines}
    return MappingProxyType({name: line for name, line in lines.items() if line is not None})


def _read_matches(
    table: Mapping[str, Any], *, path: Path, block: str, reader: _Reader
) -> Iterator[tuple[str, str]]:
    entries = table.get("match", [])
    if not isinstance(entries, list):
        message = 'match is a list: write match = [{MXSuffix=".example.com"}]'
        reader.report("bad_match", message, path=(*path, "match"), block=block, value=entries)
        return
    for entry in entries:
        kind, text = next(iter(entry.items())) if _is_single(entry) else ("", None)
        if kind in _MATCH_KINDS and isinstance(text, str):
            yield _MATCH_KINDS[kind].value, text
            continue
        message = (
            f"match {quote_value(entry)}: an entry is one of {', '.join(_MATCH_KINDS)}"
            f' with a text, as in {{MXSuffix=".example.com"}}{suggest(kind, _MATCH_KINDS)}'
        )
        reader.report("bad_match", message, path=(*path, "match"), block=block, value=entry)


def _is_single(entry: Any) -> bool:
    return isinstance(entry, Mapping) and len(entry) == 1


def _read_automation(
    table: Mapping[str, Any], *, path: Path, block: str, reader: _Reader
) -> Iterator[AutomationDraft]:
    entries = table.get("automation", [])
    path = (*path, "automation")
    if not isinstance(entries, list):
        message = f"automation is a list of tables: write [[{block}.automation]]"
        reader.report("bad_automation", message, path=path, block=block, value=entries)
        return
    for position, entry in enumerate(entries):
        entry_path = (*path, position)
        if isinstance(entry, Mapping):
            yield _read_rule(entry, path=entry_path, block=block, reader=reader)
        else:
            message = f"an automation rule is a table: write [[{block}.automation]]"
            reader.report("bad_automation", message, path=path, block=block, value=entry)


def _read_rule(
    entry: Mapping[str, Any], *, path: Path, block: str, reader: _Reader
) -> AutomationDraft:
    for name in entry:
        if name not in _RULE_FIELDS:
            message = f"unknown field {quote_value(name)}{suggest(name, _RULE_FIELDS)}"
            reader.report(
                "unknown_field", message, path=(*path, name), block=block, value=entry[name]
            )
    return AutomationDraft(
        regexes=_listed(entry.get("regex", [])),
        actions=_listed(entry.get("action", [])),
        trigger=entry.get("trigger", "Immediate"),
        duration=entry.get("duration"),
        match_internal=entry.get("match_internal", False),
        mode=entry.get("mode", "enforce"),
        line=reader.find_line(path),
        field_lines=_find_option_lines(entry, path, reader),
    )


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
