"""Whether a text is a pattern that automation can match with."""

import re

import re2
import regex

from policy_server.rules.values import InvalidValueError

#: Longest pattern taken.
MAX_PATTERN = 10_000
# `regex` writes repeats out, repeats of repeats too: without a bound a line of text takes all
# the memory there is. RE2 has a bound of its own.
_MAX_SIZE = 100_000
_PIECE = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?P<least>[0-9]*)(?:,(?P<most>[0-9]*))?\}|\((?:\?[:=!>])?|.",
    re.DOTALL,
)


def check_pattern(pattern: str) -> None:
    """
    Raise `InvalidValueError` unless *pattern* compiles.

    RE2 is asked first; what it can't express (look-around, back-references) is tried with the
    `regex` package, as matching does.
    """
    if not pattern:
        raise InvalidValueError("an empty pattern would match every reply")
    if len(pattern) > MAX_PATTERN:
        raise InvalidValueError(f"a pattern has at most {MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error:
        _check_with_regex(pattern)


def _check_with_regex(pattern: str) -> None:
    if _measure(pattern) > _MAX_SIZE:
        raise InvalidValueError("the pattern repeats too much within repeats")
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, ValueError, OverflowError) as error:
        raise InvalidValueError(f"the pattern does not compile: {error}") from None


def _measure(pattern: str) -> int:
    """
    Count the pieces of *pattern* once its repeats are written out.

    >>> _measure("(ab{3}){100,200}|c")
    802
    """
    # Of each open group: the pieces so far, and those of the last piece, which may be repeated.
    groups = [(0, 0)]
    for piece in _PIECE.finditer(pattern):
        total, last = groups[-1]
        text = piece[0]
        if text[0] == "(":
            groups.append((0, 0))
        elif text == ")" and len(groups) > 1:
            groups.pop()
            outer, _ = groups[-1]
            groups[-1] = (outer + total, total)
        elif piece["least"] or piece["most"]:
            times = max(map(_read_count, filter(None, piece.group("least", "most"))))
            groups[-1] = (total + last * max(times - 1, 0), last * max(times, 1))
        else:
            # Blanks may stand between a piece and its repeat, where a flag says so.
            groups[-1] = (total + 1, last if text.isspace() else 1)
    return sum(total for total, _ in groups)


def _read_count(digits: str) -> int:
    # More digits than this are too many in any case, and int() has a limit of its own.
    return int(digits) if len(digits) < 7 else _MAX_SIZE + 1
