"""
Matching: which of the rules consulted for an outcome have a pattern that its reply contains.

1. RE2 tries all patterns it can express in one pass and in linear time, whatever a peer wrote.
2. Patterns it can't express (look-around, back-references) go to the `regex` package, each try
   under a time limit; one that ran into the limit too often is left out of the rest of the batch.
   Once a batch has spent its time on them, all of these patterns are: the others still count.
   Most are tried only where RE2 found their relaxed form (see `relax`) in the same pass.
3. Text and patterns are bounded in length, compiled sets in number.

Nothing here counts or acts (see `threshold` and `decide`).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import re2
import regex

from policy_server.automation.outcomes import Outcome, reply_text
from policy_server.automation.relax import is_relaxable, relax_pattern
from policy_server.rules.layers import AutomationRule
from policy_server.rules.patterns import MAX_PATTERN

#: Longest time that one try of a backtracking pattern may take, in seconds.
TRY_SECONDS = 0.02
#: A pattern that ran into its time limit so often is left out of the rest of a batch.
TIMEOUTS_ALLOWED = 3
#: Longest time that a batch spends on backtracking patterns, in seconds.
BATCH_SECONDS = 2.0
#: Most sets of compiled patterns kept.
SETS_KEPT = 1024
#: What RE2 may spend on one pattern and on a set, in bytes; it bounds the time of compiling too.
_PATTERN_MEMORY = 1 << 20
_SET_MEMORY = 16 << 20

_SetKey = tuple[tuple[str, tuple[str, ...]], ...]


class PatternError(ValueError):
    """The pattern is not a regular expression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtracking:
    """A pattern that RE2 can't express."""

    rule_index: int
    pattern: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Patterns that RE2 tries in one pass."""

    patterns: Any
    #: Rule of each pattern of the set; for relaxed forms -1 - their place among `backtracking`.
    owners: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRules:
    """The patterns of the rules consulted for one path, ready to be tried."""

    rules: tuple[AutomationRule, ...]
    #: Whether any of them matches what the agent made itself.
    has_internal: bool
    #: One set, or more where the patterns are too large for one.
    linear: tuple[Linear, ...]
    backtracking: tuple[Backtracking, ...]
    #: Places of those among `backtracking` that have no relaxed form: they are always tried.
    unrelaxed: tuple[int, ...]
    #: Patterns that are no regular expressions, which match nothing.
    broken: tuple[str, ...]


def _stopped() -> float:
    return 0.0


@dataclass(slots=True)
class Effort:
    """What one batch may spend on backtracking, and what it had to leave out."""

    #: Seconds that only grow. Without a clock, a try that was cut short counts as its time limit
    #: and any other as nothing.
    clock: Callable[[], float] = _stopped
    #: How often each pattern ran into its time limit.
    timeouts: dict[str, int] = field(default_factory=dict)
    #: Seconds spent on backtracking patterns.
    spent: float = 0.0
    #: Tries that were left out because the time was spent.
    left_out: int = 0

    def search(self, pattern: Any, text: str) -> bool:
        """Try a pattern of the `regex` package; no match where it may not be tried any more."""
        if self.timeouts and self.timeouts.get(pattern.pattern, 0) >= TIMEOUTS_ALLOWED:
            return False
        if self.spent >= BATCH_SECONDS:
            self.left_out += 1
            return False
        began = self.clock()
        try:
            # concurrent: other threads run on while this one backtracks.
            found = pattern.search(text, timeout=TRY_SECONDS, concurrent=True) is not None
        except TimeoutError:
            found = False
            self.timeouts[pattern.pattern] = self.timeouts.get(pattern.pattern, 0) + 1
            if self.clock is _stopped:
                self.spent += TRY_SECONDS
        self.spent += self.clock() - began
        return found


class CompiledSets:
    """Keeps the compiled patterns that were used last, so that each is compiled once."""

    def __init__(self, *, sets_kept: int = SETS_KEPT) -> None:
        self._sets_kept = sets_kept
        self._sets: OrderedDict[_SetKey, CompiledRules] = OrderedDict()

    def find(self, rules: Sequence[AutomationRule]) -> CompiledRules | None:
        """Find the patterns of *rules* compiled."""
        key = _set_key(rules)
        found = self._sets.get(key)
        # Under the same patterns a rule may have got another effect.
        if found is None or found.rules != tuple(rules):
            return None
        self._sets.move_to_end(key)
        return found

    def keep(self, compiled: CompiledRules) -> CompiledRules:
        """Keep a compiled set, in the place of the one that was not used for longest."""
        self._sets[_set_key(compiled.rules)] = compiled
        self._sets.move_to_end(_set_key(compiled.rules))
        while len(self._sets) > self._sets_kept:
            self._sets.popitem(last=False)
        return compiled

    def __len__(self) -> int:
        return len(self._sets)


def compile_pattern(pattern: str) -> Any:
    """Compile one pattern; the result has `search`. Errors: `PatternError`, with the remedy."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(
            f"pattern of {len(pattern)} characters: at most {MAX_PATTERN} are allowed"
        )
    try:
        return re2.compile(pattern, _re2_options())
    except (re2.error, UnicodeEncodeError):
        pass
    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise PatternError(f'pattern "{pattern}" is no regular expression: {error}') from error


def compile_rules(rules: Sequence[AutomationRule]) -> CompiledRules:
    """Compile the patterns of *rules* into one set, and those beyond RE2 each for itself."""
    patterns: list[tuple[int, str]] = []
    backtracking: list[Backtracking] = []
    unrelaxed: list[int] = []
    broken: list[str] = []
    for index, rule in enumerate(rules):
        for text in rule.regexes:
            try:
                compiled = compile_pattern(text)
            except PatternError:
                broken.append(text)
                continue
            if isinstance(compiled, regex.Pattern):
                relaxed, place = _relax(text), len(backtracking)
                if relaxed is None:
                    unrelaxed.append(place)
                else:
                    patterns.append((-1 - place, relaxed))
                backtracking.append(Backtracking(rule_index=index, pattern=compiled))
            else:
                patterns.append((index, text))
    return CompiledRules(
        rules=tuple(rules),
        has_internal=any(rule.match_internal for rule in rules),
        linear=_compile_sets(patterns),
        backtracking=tuple(backtracking),
        unrelaxed=tuple(unrelaxed),
        broken=tuple(broken),
    )


def match_outcome(
    compiled: CompiledRules, outcome: Outcome, effort: Effort
) -> tuple[AutomationRule, ...]:
    """List the rules that *outcome* matches, in the order in which they are consulted."""
    if outcome.internal and not compiled.has_internal:
        return ()
    text = _readable(reply_text(outcome.reply))
    if not text:
        return ()
    hits = {
        part.owners[number]
        for part in compiled.linear
        for number in part.patterns.Match(text) or ()
    }
    if compiled.backtracking:
        hits |= _try_backtracking(compiled, text, hits, effort)
    if not hits:
        return ()
    # Not a look at each rule: there may be thousands, and few of them match.
    matched = [compiled.rules[index] for index in sorted(hits) if index >= 0]
    return tuple(rule for rule in matched if rule.match_internal or not outcome.internal)


def _try_backtracking(
    compiled: CompiledRules, text: str, hits: set[int], effort: Effort
) -> set[int]:
    """Find the rules that match by a pattern beyond RE2, given what RE2 found."""
    candidates: Iterable[int] = range(len(compiled.backtracking))
    if is_relaxable(text):
        candidates = sorted((*compiled.unrelaxed, *(-1 - hit for hit in hits if hit < 0)))
    found: set[int] = set()
    for number in candidates:
        candidate = compiled.backtracking[number]
        index = candidate.rule_index
        if index not in hits and index not in found and effort.search(candidate.pattern, text):
            found.add(index)
    return found


def _relax(pattern: str) -> str | None:
    """Return the relaxed form of a pattern, if it has one that RE2 takes."""
    relaxed = relax_pattern(pattern)
    try:
        if relaxed is not None:
            re2.compile(relaxed, _re2_options())
    except re2.error:
        return None
    return relaxed


def _readable(text: str) -> str:
    """Replace halves of surrogate pairs, which are no characters and which RE2 can't take."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def _set_key(rules: Sequence[AutomationRule]) -> _SetKey:
    return tuple((rule.key, rule.regexes) for rule in rules)


def _re2_options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _PATTERN_MEMORY
    return options


def _compile_sets(patterns: Sequence[tuple[int, str]]) -> tuple[Linear, ...]:
    if not patterns:
        return ()
    options = _re2_options()
    # A set needs room for all of its patterns at once.
    options.max_mem = _SET_MEMORY
    made = re2.Set.SearchSet(options)
    for _, pattern in patterns:
        made.Add(pattern)
    try:
        made.Compile()
    except re2.error:
        if len(patterns) == 1:
            raise
        middle = len(patterns) // 2
        return _compile_sets(patterns[:middle]) + _compile_sets(patterns[middle:])
    return (Linear(patterns=made, owners=tuple(index for index, _ in patterns)),)
