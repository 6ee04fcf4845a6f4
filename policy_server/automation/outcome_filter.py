"""
The outcome filter: which outcomes could match any rule, so that agents may leave out the others.

It has every pattern of every rule in force, whatever the rule's scope, so what it lets through is
more than what matches and never less. Where scopes are left out it also stays the same while
sites move. Too many or too large patterns make a filter that lets everything through.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import regex

from policy_server.automation.matching import PatternError, compile_pattern
from policy_server.rules.layers import AutomationRule
from policy_server.rules.snapshot import ScopeBlocks, Snapshot

#: Most patterns of a filter, and their bytes: an agent compiles all of them into one.
MAX_PATTERNS = 5000
MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPattern:
    """A pattern that some rule has."""

    regex: str
    #: Some rule that has it matches what the agent made itself, too.
    match_internal: bool
    #: RE2 can't express it.
    is_backtracking: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeFilter:
    """An outcome that matches none of the patterns can't match a rule."""

    #: Equal filters have equal etags.
    etag: str
    patterns: tuple[FilterPattern, ...] = ()
    #: Nothing may be left out.
    send_all: bool = False


def build_filter(snapshot: Snapshot) -> OutcomeFilter:
    """Build the filter of all rules in *snapshot*."""
    internal: dict[str, bool] = {}
    size = 0
    for rule in list_rules(snapshot):
        for text in rule.regexes:
            if text not in internal:
                size += _wire_size(text)
                if len(internal) >= MAX_PATTERNS or size > MAX_BYTES:
                    return OutcomeFilter(etag="all", send_all=True)
            internal[text] = internal.get(text, False) or rule.match_internal
    return _make_filter(sorted(internal.items()))


def list_rules(snapshot: Snapshot) -> Iterator[AutomationRule]:
    """List every automation rule in force, in no order; those of several sites more than once."""
    scopes: Iterable[ScopeBlocks] = chain(
        (snapshot.default,),
        (provider.blocks for provider in snapshot.providers),
        (rules.blocks for same_name in snapshot.sites.values() for rules in same_name),
        snapshot.domains.values(),
        snapshot.unplaced.values(),
    )
    for scope in scopes:
        for block in scope.base:
            # Most of very many blocks have none.
            if block.automation:
                yield from block.automation
        if scope.by_source:
            for blocks in scope.by_source.values():
                for block in blocks:
                    yield from block.automation


def _make_filter(found: Iterable[tuple[str, bool]]) -> OutcomeFilter:
    patterns = tuple(
        FilterPattern(regex=text, match_internal=match_internal, is_backtracking=is_backtracking)
        for text, match_internal in found
        if (is_backtracking := _is_backtracking(text)) is not None
    )
    digest = hashlib.sha256()
    for pattern in patterns:
        text = pattern.regex.encode()
        flags = f"{pattern.match_internal:d}{pattern.is_backtracking:d}"
        digest.update(f"{flags} {len(text)} ".encode())
        digest.update(text)
    return OutcomeFilter(etag=digest.hexdigest()[:32], patterns=patterns)


def _wire_size(pattern: str) -> int:
    try:
        return len(pattern.encode())
    except UnicodeEncodeError:
        # Half a surrogate pair can't be sent, though the rest of the pattern may match.
        return MAX_BYTES + 1


@functools.lru_cache(maxsize=2 * MAX_PATTERNS)
def _is_backtracking(pattern: str) -> bool | None:
    """Say how a pattern is matched; None if it is no regular expression and matches nothing."""
    try:
        return isinstance(compile_pattern(pattern), regex.Pattern)
    except PatternError:
        return None
