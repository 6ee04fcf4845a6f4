"""
Lines of a JSON document: which key path stands where, and which keys stand twice.

Meant for text that `json` has accepted; it says neither lines nor repeated keys by itself.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from policy_server.rules.comments import Path

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,\n]|[^\s"{}\[\]:,]+', re.DOTALL)


@dataclass(slots=True)
class _Level:
    """One open object or list."""

    is_list: bool
    key: str | int = 0
    #: The next text is a key.
    at_key: bool = True


@dataclass(slots=True)
class JsonPlaces:
    """Where the keys of a document stand."""

    lines: dict[Path, int] = field(default_factory=dict)
    #: Keys that stand twice in one object, with the line of the later.
    repeated: list[tuple[Path, int]] = field(default_factory=list)


def locate_json(text: str) -> JsonPlaces:
    """Map the key path of each member and element of *text* to its line, from 1."""
    places = JsonPlaces()
    levels: list[_Level] = []
    line = 1
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token in "{[":
            _note_element(levels, places.lines, line)
            levels.append(_Level(is_list=token == "["))
        elif token in "}]":
            levels.pop()
        elif token == ",":
            _step(levels[-1])
        elif token == ":":
            levels[-1].at_key = False
        elif levels and levels[-1].at_key and not levels[-1].is_list:
            levels[-1].key = json.loads(token)
            _note_key(levels, places, line)
        else:
            _note_element(levels, places.lines, line)
    return places


def _path(levels: list[_Level]) -> Path:
    return tuple(level.key for level in levels)


def _step(level: _Level) -> None:
    level.at_key = True
    if level.is_list and isinstance(level.key, int):
        level.key += 1


def _note_key(levels: list[_Level], places: JsonPlaces, line: int) -> None:
    path = _path(levels)
    if path in places.lines:
        places.repeated.append((path, line))
    places.lines[path] = line


def _note_element(levels: list[_Level], lines: dict[Path, int], line: int) -> None:
    if levels and levels[-1].is_list:
        lines.setdefault(_path(levels), line)


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """Return the line of *path*, or of the nearest thing around it."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None
