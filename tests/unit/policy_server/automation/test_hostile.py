"""Patterns and replies that are made to stall a server cost it a bounded time."""

import time

import pytest

from policy_server.automation.matching import (
    BATCH_SECONDS,
    TRY_SECONDS,
    Effort,
    compile_rules,
    match_outcome,
)
from policy_server.automation.outcomes import Reply
from tests.unit.policy_server.automation.examples import make_outcome, make_rule

#: Each takes exponential time in a matcher that only backtracks.
_CATASTROPHIC = (
    r"(a+)+$",
    r"((a*)*)*$",
    r"(a|aa)+$",
    r"(?=a)(a|a?)+$",
    r"(a+)+\1$",
    r"((a+)+)\2b$",
    r"(?!x)(a|a|aa)+c",
)
_HOSTILE = {
    "two thousand a's": "a" * 2000 + "!",
    "zero bytes": "\x00" * 2000 + "a" * 100,
    "halves of surrogate pairs": "\ud800\udfff" * 500 + "a" * 100,
    "five megabytes": "a" * 5_000_000,
    "lines": "a\r\n" * 2000,
    "beyond ASCII": "ä" * 2000,
}


@pytest.mark.parametrize("content", _HOSTILE.values(), ids=_HOSTILE)
def test_no_reply_stalls_any_pattern(content):
    rules = tuple(make_rule(key=str(n), regexes=(text,)) for n, text in enumerate(_CATASTROPHIC))
    compiled, effort = compile_rules(rules), Effort(clock=time.monotonic)
    started = time.monotonic()

    for _ in range(50):
        match_outcome(compiled, make_outcome(reply=Reply(code=421, content=content)), effort)

    # The time of the machine is shared with others: a few times what is spent on purpose.
    assert time.monotonic() - started < 5 * BATCH_SECONDS


def test_a_batch_spends_a_bounded_time_on_however_many_slow_patterns():
    rules = tuple(make_rule(key=str(n), regexes=(rf"(?=a)(a|a?)+{n}$|(x)\2",)) for n in range(1000))
    compiled, effort = compile_rules((*rules, make_rule(key="fast"))), Effort()
    hostile = make_outcome(reply=Reply(code=421, content="a" * 2000 + "b"))
    started = time.monotonic()

    assert match_outcome(compiled, hostile, effort) == ()
    matched = match_outcome(compiled, make_outcome(), effort)

    assert effort.spent >= BATCH_SECONDS
    assert effort.left_out > 0
    assert sum(effort.timeouts.values()) <= BATCH_SECONDS / TRY_SECONDS + 1
    assert time.monotonic() - started < 10 * BATCH_SECONDS
    # The other outcomes of the batch still count.
    assert [rule.key for rule in matched] == ["fast"]


def test_tries_that_are_slow_but_in_time_are_counted_too():
    """Each try takes half its limit by this clock, so none is ever cut short."""
    ticks = iter(range(1_000_000))
    effort = Effort(clock=lambda: next(ticks) * TRY_SECONDS / 2)
    compiled = compile_rules((make_rule(regexes=(r"(TS)04 .*\1",)),))

    for _ in range(1000):
        match_outcome(compiled, make_outcome(), effort)

    assert effort.timeouts == {}
    assert BATCH_SECONDS <= effort.spent <= BATCH_SECONDS + TRY_SECONDS
    # As many tries as fit in, give or take the last one.
    assert effort.left_out == pytest.approx(1000 - BATCH_SECONDS / (TRY_SECONDS / 2), abs=1)
