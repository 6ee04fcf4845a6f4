"""How mistakes in the configuration are put into words: where, what, and what to do about it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

_TABLE = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*[\"']?([^\s\"'=]+)[\"']?\s*=")
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([^.\s]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: names of tables and keys, and numbers in lists."""

    parts: tuple[int | str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The parts without the numbers."""
        return tuple(part for part in self.parts if isinstance(part, str))

    def __str__(self) -> str:
        text = ""
        for part in self.parts:
            if isinstance(part, int):
                text += f"[{part + 1}]"
            else:
                shown = f'"{part}"' if "." in part else part
                text += f".{shown}" if text else shown
        return text


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is nearest, or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def describe_mistakes(
    mistakes: Sequence[tuple[Place, Any]],
    *,
    file: str,
    text: str,
    known: Mapping[str, Sequence[str]],
) -> list[str]:
    """One line for each of pydantic's errors, in the order of the file."""
    lines: list[tuple[int, str]] = []
    for place, error in mistakes:
        line = line_of(text, place)
        where = ":".join(str(part) for part in (file, line) if part)
        for message in _words(place, error, known):
            shown = ": ".join(part for part in (where, str(place), message) if part)
            lines.append((line, shown))
    return list(dict.fromkeys(shown for _, shown in sorted(lines, key=lambda item: item[0])))


def _words(place: Place, error: Any, known: Mapping[str, Sequence[str]]) -> list[str]:
    if error["type"] == "extra_forbidden":
        return [_unknown_key(place, known)]
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]).split("\n")
    if error["type"] == "missing":
        return ["is required"]
    given = "" if isinstance(error["input"], dict | list) else f" (given: {error['input']!r})"
    message = str(error["msg"])
    return [message[:1].lower() + message[1:] + given]


def _unknown_key(place: Place, known: Mapping[str, Sequence[str]]) -> str:
    *tables, key = place.names
    section = ".".join(tables[:1] if tables[:1] == ["queue"] else tables)
    keys = known.get(section, ())
    hint = nearest(key, keys) or f"; known: {', '.join(keys)}"
    return f"unknown key{hint}"


def line_of(text: str, place: Place) -> int:
    """The line of the file, from 1, where *place* stands or its table begins; 0: unknown."""
    found = 0
    table: tuple[int | str, ...] = ()
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            names = _names(header[2])
            if header[1] == "[[":
                seen[names] = seen.get(names, -1) + 1
            table = (*names, seen[names]) if names in seen else names
            if place.parts[: len(table)] == table:
                found = number
        elif key := _KEY.match(line):
            # Inline tables stand on the line of the key that holds them.
            full = (*table, *_names(key[1]))
            if place.parts[: len(full)] == full:
                return number
    return found


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(next(part for part in match if part) for match in _PART.findall(dotted))
