"""
Lines of a TOML document: which key path stands where.

`tomllib` says what a document holds but not where. This scanner splits the text into statements
(table headers, and keys with their values) and lets `tomllib` itself read the keys, so that both
agree on quoting. It is meant for text that `tomllib` has accepted.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping

from policy_server.rules.document import Path

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# What must be skipped as a whole to find the end of a key or value. Longest quotes first.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}=\n]"
    r"|[^\"'\#\[\]{}=\n]+",
    re.DOTALL,
)
_DEPTH = {"[": 1, "{": 1, "]": -1, "}": -1}


def locate_toml(text: str) -> Mapping[Path, int]:
    """Map the key path of each table and key of *text* to its line, from 1."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    line, counted = 1, 0
    for start, header, key in _split_statements(text):
        line += text.count("\n", counted, start)
        counted = start
        if header:
            table = _enter(_read_key(key), counts, is_array=header == "[[")
            # A table may stand without a header of its own: then the first below it tells.
            for length in range(1, len(table) + 1):
                lines.setdefault(table[:length], line)
        else:
            lines.setdefault((*table, *_read_key(key)), line)
    return lines


def _split_statements(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the start, the opening bracket or brackets if a header, and the key as written."""
    position = 0
    while True:
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        if position >= len(text):
            return
        start = position
        if text[position] == "[":
            opening = "[[" if text.startswith("[[", position) else "["
            end = _find_end(text, position + len(opening), "]")
            yield start, opening, text[start + len(opening) : end]
            position = _find_end(text, end, "\n")
        else:
            end = _find_end(text, position, "=")
            yield start, "", text[start:end]
            position = _find_end(text, end + 1, "\n")


def _find_end(text: str, position: int, stop: str) -> int:
    """Return where *stop* stands outside of quotes, comments and brackets."""
    depth = 0
    while match := _TOKEN.match(text, position):
        token = match[0]
        if depth <= 0 and token == stop:
            return position
        depth += _DEPTH.get(token, 0)
        position = match.end()
    return len(text)


def _read_key(text: str) -> Path:
    bare = text.strip()
    if _BARE_KEY.fullmatch(bare):
        return (bare,)
    document = tomllib.loads(f"{bare} = 0")
    path: Path = ()
    while isinstance(document, dict):
        ((name, document),) = document.items()
        path = (*path, name)
    return path


def _enter(key: Path, counts: dict[Path, int], *, is_array: bool) -> Path:
    """Return the path of a header's table: below an array of tables, its newest element."""
    path: Path = ()
    for position, name in enumerate(key):
        path = (*path, name)
        is_last = position == len(key) - 1
        if is_last and is_array:
            counts[path] = counts.get(path, 0) + 1
        if path in counts and (is_array or not is_last):
            path = (*path, counts[path] - 1)
    return path
