"""
The layout of a rule file: from a TOML or JSON document to a draft of a layer.

Checked here is only what the layout itself can get wrong: tables where values belong, keys that
are no option because they say how a block applies. Names and values of options are checked by
`parse`, so that rows from SQL pass the same checks.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.comments import Comment, Path, sort_comments
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
_RULE_FIELDS = ("regex", "action", "trigger", "duration", "match_internal", "mode", "enabled")
#: Keys of a block that are no options, by scope.
_STRUCTURE: Mapping[Scope, frozenset[str]] = MappingProxyType(
    {
        Scope.DEFAULT: frozenset({"sources", "automation", "unset", "replace_base", "enabled"}),
        Scope.PROVIDER: frozenset(
            {"sources", "automation", "unset", "replace_base", "enabled", "match"}
        ),
        Scope.DOMAIN: frozenset(
            {"sources", "automation", "unset", "replace_base", "enabled", "mx_rollup"}
        ),
    }
)
_ALL_STRUCTURE = frozenset().union(*_STRUCTURE.values())
#: Keys of a block that its sources don't have.
_NOT_OF_SOURCES = frozenset({"sources", "match"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """What the text of a file says beside its document."""

    #: The comment at the head of the file.
    head: str = ""
    comments: tuple[Comment, ...] = ()
    #: Tables with a header of their own.
    headers: Collection[Path] = frozenset()


def read_document(
    document: Any, *, name: str, file: str, find_line: FindLine, remarks: Remarks | None = None
) -> tuple[LayerDraft, tuple[Issue, ...]]:
    """Turn the content of a rule file into the draft of the layer *name*."""
    remarks = remarks or Remarks()
    reader = _Reader(file, find_line, remarks, document)
    blocks: list[BlockDraft] = []
    if is_too_deep(document):
        message = f"nested more than {MAX_DEPTH} levels deep: no rule needs that"
        reader.report("too_deep", message, path=())
    elif not isinstance(document, Mapping):
        reader.report("not_a_table", "a rule file is a table of blocks", path=())
    else:
        blocks = list(_read_blocks(document, reader))
        if all(block.line is not None for block in blocks):
            # Providers are one table, and yet may stand between domains.
            blocks.sort(key=lambda block: block.line or 0)
    description = "\n".join(filter(None, (remarks.head, reader.comment(()).strip("\n"))))
    draft = LayerDraft(name=name, blocks=tuple(blocks), description=description, file=file)
    return draft, tuple(reader.issues)


class _Reader:
    """Gathers issues, and knows where things stand and what comments say of them."""

    def __init__(self, file: str, find_line: FindLine, remarks: Remarks, document: Any) -> None:
        self._file = file
        self.find_line = find_line
        self.headers = remarks.headers
        # Options that are unset have comments of their own, among the entries of a list.
        needs_unset = any(comment.path[-2:-1] == ("unset",) for comment in remarks.comments)
        unset = _find_unset(document) if needs_unset else {}
        self._comments = sort_comments(remarks.comments, unset)
        self.issues: list[Issue] = []

    def comment(self, path: Path) -> str:
        return self._comments.get(path, "")

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


def is_too_deep(document: Any) -> bool:
    """Whether a document is nested deeper than any rule is."""
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


def _find_unset(document: Any) -> Mapping[Path, tuple[str, ...]]:
    """Find the options that the lists of `unset` name, by the lists' places."""
    found: dict[Path, tuple[str, ...]] = {}
    level: list[tuple[Path, Any]] = [((), document)]
    for _ in range(MAX_DEPTH):
        inner: list[tuple[Path, Any]] = []
        for path, value in level:
            if isinstance(value, Mapping):
                inner += (((*path, key), entry) for key, entry in value.items())
            elif isinstance(value, list) and path[-1:] == ("unset",):
                found[path] = tuple(map(str, value))
        level = inner
    return found


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
    defaults = BlockDraft(scope=scope, name=name)
    block = _read_table(table, defaults, path=path, allowed=_STRUCTURE[scope], reader=reader)
    # A table that only holds those of its sources says nothing for every source.
    if path in reader.headers or block.comment or table.keys() != {"sources"}:
        yield block
    yield from _read_sources(table, block, path=path, reader=reader)


def _read_sources(
    table: Mapping[str, Any], base: BlockDraft, *, path: Path, reader: _Reader
) -> Iterator[BlockDraft]:
    sources = table.get("sources", {})
    title = block_title(base.scope, base.name, "")
    if not isinstance(sources, Mapping):
        message = f'sources is a table: write [{title}.sources."source name"]'
        reader.report("bad_sources", message, path=(*path, "sources"), block=title, value=sources)
        return
    allowed = _STRUCTURE[base.scope] - _NOT_OF_SOURCES
    for source, options in sources.items():
        title = block_title(base.scope, base.name, source)
        source_path = (*path, "sources", source)
        if not isinstance(options, Mapping) or not source:
            message = f"a source is a table with a name: write [{title}]"
            reader.report("bad_sources", message, path=source_path, block=title, value=options)
            continue
        defaults = BlockDraft(
            scope=base.scope,
            name=base.name,
            source=source,
            mx_rollup=base.mx_rollup,
            enabled=base.enabled,
        )
        yield _read_table(options, defaults, path=source_path, allowed=allowed, reader=reader)


def _read_table(
    table: Mapping[str, Any],
    defaults: BlockDraft,
    *,
    path: Path,
    allowed: frozenset[str],
    reader: _Reader,
) -> BlockDraft:
    """Read what a table says of its own block, on top of what holds without it."""
    title = block_title(defaults.scope, defaults.name, defaults.source)
    _check_structure(table, allowed, path=path, block=title, reader=reader)
    matches: list[tuple[str, str]] = []
    if "match" in allowed:
        matches = list(_read_matches(table, path=path, block=title, reader=reader))
    options = _read_options(table, path=path, block=title, reader=reader)

    def flag(key: str, default: bool) -> bool:
        return _read_bool(table, key, default, path=path, block=title, reader=reader)

    return replace(
        defaults,
        mx_rollup=flag("mx_rollup", defaults.mx_rollup),
        replace_base=flag("replace_base", defaults.replace_base),
        enabled=flag("enabled", defaults.enabled),
        options=options,
        matches=tuple(dict.fromkeys(matches)),
        automation=tuple(_read_automation(table, path=path, block=title, reader=reader)),
        comment=reader.comment(path),
        option_comments=_find_option_comments(options, path, reader),
        match_comments=_find_match_comments(matches, path, reader),
        line=reader.find_line(path),
        option_lines=_find_option_lines(table, path, reader),
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
    unset = table.get("unset", [])
    if not isinstance(unset, list) or not all(isinstance(name, str) for name in unset):
        message = f'unset {quote_value(unset)}: write a list of options, such as ["max_ready"]'
        reader.report("bad_value", message, path=(*path, "unset"), block=block, value=unset)
        unset = []
    options: dict[str, Any] = {}
    for name, value in table.items():
        if name == "unset":
            options |= {name: None for name in unset if name not in table}
        elif name not in _ALL_STRUCTURE:
            options[name] = value
    for name in unset:
        if options.get(name) is not None:
            message = f"{name} is both set and unset: remove one of the two"
            reader.report("set_and_unset", message, path=(*path, name), block=block, value=name)
    return MappingProxyType(options)


def _find_option_comments(
    options: Mapping[str, Any], path: Path, reader: _Reader
) -> Mapping[str, str]:
    comments = {name: reader.comment((*path, name)) for name in options}
    return MappingProxyType({name: text for name, text in comments.items() if text})


def _find_match_comments(
    matches: Iterable[tuple[str, str]], path: Path, reader: _Reader
) -> Mapping[tuple[str, str], str]:
    comments = {
        match: reader.comment((*path, "match", place)) for place, match in enumerate(matches)
    }
    return MappingProxyType({match: text for match, text in comments.items() if text})


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
        enabled=_read_bool(entry, "enabled", True, path=path, block=block, reader=reader),
        comment=reader.comment(path),
        line=reader.find_line(path),
        field_lines=_find_option_lines(entry, path, reader),
    )


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
