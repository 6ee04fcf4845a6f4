"""
Writes layers as rule files, TOML with their comments or JSON without.

The text is put together here, as its layout is ours; how keys and values are quoted is left to
tomlkit, but for the plain ones that are most.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomlkit

from policy_server.rule_files.reader import FileFormat
from policy_server.rules.comments import split_comment
from policy_server.rules.export import ExportBlock, export_blocks, find_obstacles, to_document
from policy_server.rules.layers import AutomationDraft, Issue, LayerDraft

_WIDTH = 100
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_TEXT = re.compile(r"[^\x00-\x1f\x7f\"\\]*")
# What can stand in single quotes as it is.
_LITERAL_TEXT = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f']*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def write_rules(layer: LayerDraft, format: FileFormat) -> tuple[str, tuple[Issue, ...]]:
    """Write *layer* as a file; the text is empty where the issues say why it can't be."""
    obstacles = find_obstacles(layer)
    if obstacles:
        return "", obstacles
    match format:
        case FileFormat.JSON:
            return json.dumps(to_document(layer), indent=2, ensure_ascii=False) + "\n", ()
        case FileFormat.TOML:
            return "\n".join(_write_layer(layer)), ()


def _write_layer(layer: LayerDraft) -> Iterator[str]:
    if layer.description:
        # The blank line that follows tells it from the first block's own comment.
        yield "".join(f"{_comment(line)}\n" for line in layer.description.split("\n"))
    for exported in export_blocks(layer):
        yield "".join(f"{line}\n" for line in _write_block(exported))


def _write_block(exported: ExportBlock) -> Iterator[str]:
    block = exported.block
    title = _title(exported.path)
    yield from _commented(f"[{title}]", block.comment)
    for key, value in exported.table.items():
        if key == "unset":
            comments = [block.option_comments.get(name, "") for name in value]
            yield from _write_list(key, value, comments)
        elif key == "match":
            comments = [block.match_comments.get(match, "") for match in block.matches]
            yield from _write_list(key, value, comments)
        else:
            yield from _write_entry(key, value, block.option_comments.get(key, ""))
    for rule, table in zip(block.automation, exported.automation, strict=True):
        yield from _write_rule(title, rule, table)


def _write_rule(title: str, rule: AutomationDraft, table: Mapping[str, Any]) -> Iterator[str]:
    yield from _commented(f"[[{title}.automation]]", rule.comment)
    for key, value in table.items():
        yield from _write_entry(key, value, "")


def _write_entry(key: str, value: Any, comment: str) -> Iterator[str]:
    line = f"{_key(key)} = {_value(value)}"
    if isinstance(value, list | tuple) and value and len(line) > _WIDTH:
        entries = "".join(f"  {_value(entry)},\n" for entry in value)
        line = f"{_key(key)} = [\n{entries}]"
    yield from _commented(line, comment)


def _write_list(key: str, entries: Sequence[Any], comments: Sequence[str]) -> Iterator[str]:
    """Write a list whose entries have comments of their own."""
    if not any(comments):
        yield from _write_entry(key, entries, "")
        return
    yield f"{key} = ["
    for entry, comment in zip(entries, comments, strict=True):
        for line in _commented(f"{_value(entry)},", comment):
            yield f"  {line}"
    yield "]"


def _commented(line: str, comment: str) -> Iterator[str]:
    above, trailing = split_comment(comment)
    yield from map(_comment, above)
    yield f"{line}  {_comment(trailing)}" if trailing.strip() else line


def _comment(text: str) -> str:
    clean = _CONTROL.sub(" ", text).rstrip()
    return f"#{clean}" if not clean or clean.startswith("#") else f"# {clean}"


def _title(path: tuple[str, ...]) -> str:
    # Names are always quoted, as a domain without quotes would be tables within tables.
    keys = [_quoted(key) for key in path]
    if len(path) > 1 and path[0] == "provider":
        keys[0] = "provider"
    if len(path) > 2 and path[-2] == "sources":
        keys[-2] = "sources"
    return ".".join(keys)


def _key(text: str) -> str:
    return text if _BARE_KEY.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    if _PLAIN_TEXT.fullmatch(text):
        return f'"{text}"'
    return tomlkit.string(text).as_string()


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() if not _PLAIN_TEXT.fullmatch(value) and _LITERAL_TEXT.fullmatch(value):
            # Patterns are easier to read with their backslashes single.
            return f"'{value}'"
        case str():
            return _quoted(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            entries = ", ".join(f"{_key(key)} = {_value(entry)}" for key, entry in value.items())
            return f"{{ {entries} }}" if entries else "{}"
        case _:
            return str(tomlkit.item(value).as_string())
