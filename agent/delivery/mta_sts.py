"""
MTA-STS: what a domain says of the TLS of its mail (RFC 8461), read and applied.

Fetching the record and the policy, and remembering them, is done in `agent.mta_sts`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: RFC 8461 section 3.2: about a year, in seconds.
LONGEST_MAX_AGE = 31_557_600
#: Bytes of a policy that are read; RFC 8461 section 3.3 suggests this bound.
LARGEST_POLICY = 64 * 1024
#: MX patterns that are kept of one policy.
_MOST_PATTERNS = 1000

_RECORD_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_AGE = re.compile(r"[0-9]{1,10}")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class Mode(StrEnum):
    """What is asked of those who send, spelt as in policies."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class NoPolicy(ValueError):
    """What a domain published is no policy; the text says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StsPolicy:
    """One domain's policy."""

    mode: Mode
    #: Host names in lower case, or `*.` and the rest of one.
    mx: tuple[str, ...]
    #: In seconds from when it was fetched.
    max_age: int

    def permits(self, host: str) -> bool:
        """
        Whether *host* is named by the policy; `*` stands for exactly one label.

        >>> policy = StsPolicy(mode=Mode.ENFORCE, mx=("*.example.com",), max_age=86400)
        >>> policy.permits("mx1.example.com"), policy.permits("a.b.example.com")
        (True, False)
        """
        name = host.rstrip(".").lower()
        _, dot, parent = name.partition(".")
        return name in self.mx or bool(dot and f"*.{parent}" in self.mx)


def read_record(texts: Iterable[str]) -> str | None:
    """
    The id in a domain's `_mta-sts` TXT records, each joined to one text; None where they are not
    exactly one record of this version (RFC 8461 section 3.1).

    >>> read_record(["v=STSv1; id=20260831T01;", "unrelated"])
    '20260831T01'
    """
    # Records that do not begin with the version are none of ours; more than one say nothing.
    records = [parts for text in texts if (parts := _fields(text))[0] == ("v", "STSv1")]
    if len(records) != 1:
        return None
    ids = [value for name, value in records[0][1:] if name == "id"]
    return ids[0] if ids and _RECORD_ID.fullmatch(ids[0]) else None


def _fields(text: str) -> list[tuple[str, str]]:
    fields = []
    for part in text.split(";"):
        name, _, value = part.strip(" \t").partition("=")
        fields.append((name, value))
    return fields


def parse_policy(body: bytes) -> StsPolicy:
    """
    Read a policy (RFC 8461 section 3.2). Keys that are not known are left out, of one that must
    not be repeated the first counts, and a max_age beyond the longest is taken for that. Errors:
    `NoPolicy`.
    """
    fields = _policy_fields(body)
    if (version := _first(fields, "version")) != "STSv1":
        raise NoPolicy(f'version {version!r}: expected "STSv1"')
    mode_text = _first(fields, "mode")
    if mode_text not in list(Mode):
        raise NoPolicy(f"mode {mode_text!r}: expected one of {', '.join(Mode)}")
    age = _first(fields, "max_age")
    if not _AGE.fullmatch(age):
        raise NoPolicy(f"max_age {age!r}: expected seconds from 0 to {LONGEST_MAX_AGE}")
    patterns = tuple(dict.fromkeys(_pattern(value) for name, value in fields if name == "mx"))
    if not patterns and mode_text != Mode.NONE:
        raise NoPolicy(f"mx is missing: mode {mode_text} needs at least one host")
    if len(patterns) > _MOST_PATTERNS:
        raise NoPolicy(f"{len(patterns)} mx lines: expected {_MOST_PATTERNS} at most")
    return StsPolicy(mode=Mode(mode_text), mx=patterns, max_age=min(int(age), LONGEST_MAX_AGE))


def _policy_fields(body: bytes) -> list[tuple[str, str]]:
    if len(body) > LARGEST_POLICY:
        raise NoPolicy(f"more than {LARGEST_POLICY} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoPolicy(f"byte {error.start}: no UTF-8") from None
    fields = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r").strip(" \t")
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise NoPolicy(f'line {number} {line[:80]!r}: expected "key: value"')
        fields.append((name, value.strip(" \t")))
    return fields


def _first(fields: Sequence[tuple[str, str]], wanted: str) -> str:
    return next((value for name, value in fields if name == wanted), "")


def _pattern(text: str) -> str:
    name = text.rstrip(".").lower()
    labels = name.removeprefix("*.").split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise NoPolicy(f'mx {text[:80]!r}: expected a host name, or one below "*."')
    return name
