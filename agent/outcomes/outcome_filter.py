"""
The outcome filter: what the policy server can't match with any rule need not be sent to it.

An outcome is left out only if every pattern was tried on the text that the server would try it on,
and none was found. A pattern that can't be compiled or takes too long has the outcome sent.
Which outcomes are sent although nothing matches is decided in `sampling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import re2
import regex

from agent.delivery.record import Response

#: Longest text that a pattern is tried on, in characters.
LONGEST_TEXT = 2048
#: Longest time that one try of a backtracking pattern may take, in seconds.
TRY_SECONDS = 0.02
#: A pattern that ran into its time limit so often is not tried on the rest of a batch.
TIMEOUTS_ALLOWED = 3
#: What RE2 may spend on a set of patterns, in bytes.
_SET_MEMORY = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPattern:
    """A pattern that some rule has."""

    regex: str
    #: It is tried on what the agent made itself, too.
    match_internal: bool = False
    #: RE2 can't express it.
    is_backtracking: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeFilter:
    """What the server said could match."""

    etag: str
    patterns: tuple[FilterPattern, ...] = ()
    #: Nothing may be left out.
    send_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledFilter:
    """A filter, ready to be tried."""

    etag: str
    #: Sets for replies of peers, and for what the agent made itself.
    peers: tuple[Any, ...] = ()
    internal: tuple[Any, ...] = ()
    backtracking: tuple[tuple[Any, bool], ...] = ()
    send_all: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether trying it may take long: then it is to be done beside the event loop."""
        return bool(self.backtracking)


@dataclass(slots=True)
class Effort:
    """What one batch has spent on backtracking."""

    timeouts: dict[str, int] = field(default_factory=dict)

    def is_spent(self, pattern: str) -> bool:
        """Whether *pattern* is not tried any more."""
        return self.timeouts.get(pattern, 0) >= TIMEOUTS_ALLOWED


def compile_filter(rules: OutcomeFilter) -> CompiledFilter:
    """Compile *rules*; a filter that can't be compiled here lets everything through."""
    if rules.send_all:
        return CompiledFilter(etag=rules.etag, send_all=True)
    linear = [one for one in rules.patterns if not one.is_backtracking]
    try:
        return CompiledFilter(
            etag=rules.etag,
            peers=_compile_sets([one.regex for one in linear]),
            internal=_compile_sets([one.regex for one in linear if one.match_internal]),
            backtracking=tuple(
                (regex.compile(one.regex), one.match_internal)
                for one in rules.patterns
                if one.is_backtracking
            ),
        )
    except (re2.error, regex.error, OverflowError, RecursionError, ValueError):
        # Another version of a library than the server's.
        return CompiledFilter(etag=rules.etag, send_all=True)


def could_match(compiled: CompiledFilter, response: Response, effort: Effort) -> bool:
    """Say whether some rule could match *response*; if in doubt, that it could."""
    if compiled.send_all:
        return True
    text = reply_text(response)
    if not text:
        return False
    sets = compiled.internal if response.internal else compiled.peers
    if any(patterns.Match(text) for patterns in sets):
        return True
    return any(
        _could_be_found(pattern, text, effort)
        for pattern, match_internal in compiled.backtracking
        if match_internal or not response.internal
    )


def reply_text(response: Response) -> str:
    """
    Write a reply as patterns see it: code, enhanced code and content on one line.

    >>> reply_text(Response(code=421, enhanced_code=(4, 7, 0), content="[TS01]\\r\\n deferred"))
    '421 4.7.0 [TS01] deferred'
    """
    parts = [str(response.code)] if response.code else []
    if response.enhanced_code is not None:
        parts.append(".".join(map(str, response.enhanced_code)))
    content = response.content[:LONGEST_TEXT]
    if not content.isascii():
        # As it is written on the wire: a peer may reply with any bytes.
        content = content.encode("utf-8", "replace").decode("utf-8")
    content = " ".join(line.strip() for line in content.splitlines())
    if content:
        parts.append(content)
    return " ".join(parts)[:LONGEST_TEXT]


def _compile_sets(patterns: Sequence[str]) -> tuple[Any, ...]:
    if not patterns:
        return ()
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _SET_MEMORY
    made = re2.Set.SearchSet(options)
    for pattern in patterns:
        made.Add(pattern)
    try:
        made.Compile()
    except re2.error:
        if len(patterns) == 1:
            raise
        # Too large for one set.
        middle = len(patterns) // 2
        return _compile_sets(patterns[:middle]) + _compile_sets(patterns[middle:])
    return (made,)


def _could_be_found(pattern: Any, text: str, effort: Effort) -> bool:
    if effort.is_spent(pattern.pattern):
        return True
    try:
        return pattern.search(text, timeout=TRY_SECONDS, concurrent=True) is not None
    except TimeoutError:
        effort.timeouts[pattern.pattern] = effort.timeouts.get(pattern.pattern, 0) + 1
        return True
