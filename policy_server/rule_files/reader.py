"""
Reads rule files: TOML or JSON text to the draft of a layer.

What cannot be read at all is an issue like any other, with its line, so that all files of an
import are reported together.
"""

import functools
import json
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path as FilePath
from typing import Any

from policy_server.rule_files.json_lines import line_of, locate_json
from policy_server.rule_files.toml_lines import locate_toml
from policy_server.rules.comments import Path
from policy_server.rules.document import Remarks, read_document
from policy_server.rules.layers import Issue, LayerDraft

#: Larger files are refused: a rule file of 100,000 domains has some 20 MiB.
MAX_FILE_SIZE = 64 * 1024 * 1024
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")


class _UnreadableError(Exception):
    """The text of a file is no document at all."""

    def __init__(self, code: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line


class FileFormat(StrEnum):
    """How a rule file is written."""

    TOML = "toml"
    JSON = "json"


def read_rule_file(path: str) -> tuple[LayerDraft, tuple[Issue, ...]]:
    """
    Read the file at *path*, TOML unless its name ends in .json, as the layer of its stem's name.

    The issues have everything that its layout gets wrong; `parse` finds the rest.
    """
    name = FilePath(path).stem
    try:
        with FilePath(path).open("rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:
        # ValueError: a path with a null byte.
        reason = getattr(error, "strerror", None) or str(error)
        issue = Issue(code="unreadable_file", message=f"cannot be read: {reason}", file=path)
        return LayerDraft(name=name, file=path), (issue,)
    return read_content(content, name=name, file=path, format=find_format(path))


def find_format(name: str) -> FileFormat:
    """Tell the format of a file by its name."""
    return FileFormat.JSON if name.lower().endswith(".json") else FileFormat.TOML


def read_content(
    content: bytes, *, name: str, file: str, format: FileFormat
) -> tuple[LayerDraft, tuple[Issue, ...]]:
    """Read the content of *file* as the layer *name*."""
    remarks, repeated = Remarks(), tuple[Issue, ...]()
    try:
        text = _decode(content)
        match format:
            case FileFormat.JSON:
                document, lines, repeated = _read_json(text, file)
            case FileFormat.TOML:
                document, lines, remarks = _read_toml(text)
    except _UnreadableError as error:
        issue = Issue(code=error.code, message=str(error), file=file, line=error.line)
        return LayerDraft(name=name, file=file), (issue,)
    find_line = functools.partial(line_of, lines)
    draft, issues = read_document(
        document, name=name, file=file, find_line=find_line, remarks=remarks
    )
    return draft, (*repeated, *issues)


def _decode(content: bytes) -> str:
    if len(content) > MAX_FILE_SIZE:
        limit = MAX_FILE_SIZE // (1024 * 1024)
        raise _UnreadableError("file_too_large", f"larger than {limit} MiB: split the file")
    try:
        # Some editors begin a file with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8"
        raise _UnreadableError("not_utf8", message, line) from None


def _read_toml(text: str) -> tuple[Any, Mapping[Path, int], Remarks]:
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise _too_deep(text) from None
    except ValueError as error:
        # ValueError, as a number of thousands of digits is refused by int() itself.
        place = _TOML_LINE.search(str(error))
        line = int(place[1]) if place else None
        if place is None and "end of document" in str(error):
            line = max(1, text.rstrip().count("\n") + 1)
        remedy = "texts need quotes, and quotes and brackets need closing"
        raise _UnreadableError("broken_toml", f"not TOML: {error}; {remedy}", line) from None
    places = locate_toml(text.replace("\r\n", "\n"))
    remarks = Remarks(
        head=places.head, comments=tuple(places.comments), headers=frozenset(places.headers)
    )
    return document, places.lines, remarks


def _read_json(text: str, path: str) -> tuple[Any, Mapping[Path, int], tuple[Issue, ...]]:
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep(text) from None
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} (at column {error.colno})"
        raise _UnreadableError("broken_json", message, error.lineno) from None
    except ValueError as error:
        raise _UnreadableError("broken_json", f"not JSON: {error}") from None
    if (lone := _find_lone_surrogate(text, document)) is not None:
        message = "not JSON: half a surrogate pair, which is no character"
        raise _UnreadableError("broken_json", message, lone)
    places = locate_json(text)
    repeated = tuple(_describe_repeated(key, line, path) for key, line in places.repeated)
    return document, places.lines, repeated


def _find_lone_surrogate(text: str, document: Any) -> int | None:
    """Return the line of the first escaped surrogate if one of them has no partner."""
    escaped = _SURROGATE.search(text)
    if escaped is None:
        return None
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return text.count("\n", 0, escaped.start()) + 1
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _describe_repeated(key: Path, line: int, file: str) -> Issue:
    block = ".".join(str(part) for part in key[:-1])
    return Issue(
        code="repeated_key",
        message=f'"{key[-1]}" stands twice in the same object: remove one',
        file=file,
        line=line,
        block=block,
        option=str(key[-1]),
    )


def _too_deep(text: str) -> _UnreadableError:
    depth = 0
    for number, line in enumerate(text.split("\n"), start=1):
        depth += line.count("[") + line.count("{") - line.count("]") - line.count("}")
        if depth > 100:
            return _UnreadableError("too_deep", "nested too deeply: no rule needs that", number)
    return _UnreadableError("too_deep", "nested too deeply: no rule needs that")
