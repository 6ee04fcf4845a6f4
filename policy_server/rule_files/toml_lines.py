"""
What `tomllib` does not say of a TOML document: which key stands on which line, which tables have
a header of their own, and the comments.

This scanner splits the text into statements (table headers, and keys with their values) and lets
`tomllib` itself read the keys, so that both agree on quoting. It is meant for text that `tomllib`
has accepted.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

from policy_server.rules.comments import Comment, Path

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED_KEY = re.compile(r"\"[^\"\\]*\"|'[^']*'")
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


@dataclass(slots=True)
class TomlPlaces:
    """Where the keys, tables and comments of a document stand."""

    #: Lines of tables and keys, from 1.
    lines: dict[Path, int] = field(default_factory=dict)
    #: Tables with a header of their own.
    headers: set[Path] = field(default_factory=set)
    comments: list[Comment] = field(default_factory=list)
    #: The comment at the head of the file, apart from the first table's.
    head: str = ""


@dataclass(slots=True)
class _Statement:
    """A table header, or a key with its value; the last may be the blank end of the file."""

    start: int
    #: Blanks and comments before it.
    lead: str
    #: The opening bracket or brackets of a header.
    header: str
    key: str
    #: The value, or the end of the header, with the comments in and after it.
    rest: str


def locate_toml(text: str) -> TomlPlaces:
    """Find the places of a document."""
    places = TomlPlaces()
    counts: dict[Path, int] = {}
    table: Path = ()
    path: Path = ()
    line, counted, is_first = 1, 0, True
    for statement in _split_statements(text):
        line += text.count("\n", counted, statement.start)
        counted = statement.start
        if statement.header:
            is_array = statement.header == "[["
            path = table = _enter(_read_key(statement.key), counts, is_array=is_array)
            _note_header(places, table, line)
        elif statement.key:
            path = (*table, *_read_key(statement.key))
            _note_key(places, path, line)
        lead = statement.lead
        if "#" in lead:
            if is_first:
                places.head, lead = _split_head(lead, is_alone=not statement.key)
            _note_lead(places, path, lead)
        if "#" in statement.rest:
            places.comments += _find_inner(statement, path)
        is_first = False
    return places


def _note_header(places: TomlPlaces, table: Path, line: int) -> None:
    if table not in places.headers:
        places.headers.add(table)
        places.lines[table] = line
    # A table may stand without a header of its own: then the first below it tells.
    for length in range(1, len(table)):
        places.lines.setdefault(table[:length], line)


def _note_key(places: TomlPlaces, path: Path, line: int) -> None:
    for length in range(1, len(path) + 1):
        places.lines.setdefault(path[:length], line)


def _split_head(lead: str, *, is_alone: bool) -> tuple[str, str]:
    """Split off the comment of the file, which a blank line parts from what follows."""
    lines = [line.strip() for line in lead.split("\n")]
    # The last part of the lead stands on the first statement's own line.
    blanks = (number for number, line in enumerate(lines[:-1], start=1) if not line)
    end = len(lines) if is_alone else max(blanks, default=0)
    head = "\n".join(map(_read_comment, lines[:end]))
    return head.strip("\n"), "\n".join(lines[end:])


def _note_lead(places: TomlPlaces, path: Path, lead: str) -> None:
    lines = [line.strip() for line in lead.split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    if lines:
        places.comments.append(Comment(path, tuple(map(_read_comment, lines))))


def _read_comment(line: str) -> str:
    return line.removeprefix("#").removeprefix(" ").rstrip()


def _find_inner(statement: _Statement, path: Path) -> Iterator[Comment]:
    """Find the comments among the entries of a list, and the one after the value."""
    depth = entry = 0
    is_line_empty = is_entry_begun = False
    for match in _TOKEN.finditer(statement.rest):
        token = match[0]
        depth += _DEPTH.get(token, 0)
        if token == "\n":
            is_line_empty = True
        elif token[0] != "#":
            is_line_empty = is_line_empty and not token.strip()
            # Commas of inner lists stand deeper; those of texts are within their quotes.
            is_plain = token[0] not in "\"'"
            commas = token.count(",") if depth == 1 and is_plain else 0
            entry += commas
            is_entry_begun = bool(token.strip(", \t\r")) or (is_entry_begun and not commas)
        elif not (text := _read_comment(token)) and not is_line_empty:
            continue
        elif depth == 0:
            yield Comment(path, (text,), is_trailing=True)
        elif is_line_empty:
            yield Comment((*path, entry), (text,))
        else:
            place = entry if is_entry_begun else max(0, entry - 1)
            yield Comment((*path, place), (text,), is_trailing=True)


def _split_statements(text: str) -> Iterator[_Statement]:
    position = 0
    while True:
        blank = _BLANK.match(text, position)
        lead = blank[0] if blank else ""
        position = blank.end() if blank else position
        start = position
        if position >= len(text):
            yield _Statement(start, lead, "", "", "")
            return
        if text[position] == "[":
            header = "[[" if text.startswith("[[", position) else "["
            key_start = start + len(header)
            key_end = _find_end(text, key_start, "]")
            rest = key_end + len(header)
        else:
            header, key_start = "", start
            key_end = _find_end(text, position, "=")
            rest = key_end + 1
        position = _find_end(text, rest, "\n")
        yield _Statement(start, lead, header, text[key_start:key_end], text[rest:position])


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
    if _QUOTED_KEY.fullmatch(bare):
        return (bare[1:-1],)
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
