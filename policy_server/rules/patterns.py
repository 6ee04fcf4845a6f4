"""Whether a text is a pattern that automation can match with."""

import re2
import regex

from policy_server.rules.values import InvalidValueError

#: Longest pattern taken.
MAX_PATTERN = 10_000


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
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise InvalidValueError(f"the pattern does not compile: {error}") from None
