"""Patterns: what compiles is taken, and nothing costs more than it should to find out."""

import time

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from policy_server.rules.patterns import MAX_PATTERN, check_pattern
from policy_server.rules.values import InvalidValueError

_LOOK_AHEAD = "(?=x)"


@pytest.mark.parametrize(
    "pattern",
    [
        "busy",
        r"\[TSS04\] .{1,200} deferred",
        r"^(?!.*internal).*RL000010",
        r"(a)\1",
        "(" * 900 + ")" * 900,
        _LOOK_AHEAD + r"a\{1000\}{1000}",
        _LOOK_AHEAD + "[{1000}]{1000}",
        _LOOK_AHEAD + "(a{300}){300}",
    ],
)
def test_a_pattern_that_compiles_is_taken(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("a" * (MAX_PATTERN + 1), "at most", id="long"),
        pytest.param("(", "does not compile", id="open"),
        pytest.param("(a{1000}){1000}", "repeats too much", id="too large for RE2"),
        pytest.param(
            _LOOK_AHEAD + "((((a{99}){99}){99}){99}){99}", "repeats too much", id="nested"
        ),
        pytest.param(_LOOK_AHEAD + "(?:aa){,200000}", "repeats too much", id="at most"),
        pytest.param(
            "(?x)(?=y)(((a{99}) {99}) {99}) {99}", "repeats too much", id="blanks before a repeat"
        ),
        pytest.param(_LOOK_AHEAD + f"(?:a){{{'9' * 5000}}}", "repeats too much", id="many digits"),
        pytest.param(_LOOK_AHEAD + "(" * 4000 + ")" * 4000, "does not compile", id="deep"),
    ],
)
def test_a_pattern_that_can_not_be_used_is_refused_at_once(pattern, words):
    started = time.perf_counter()

    with pytest.raises(InvalidValueError, match=words):
        check_pattern(pattern)

    assert time.perf_counter() - started < 2


@given(st.text(st.sampled_from("ab(){}[]?*+|\\^$.,0129:=!<>#P"), min_size=1, max_size=30))
def test_any_text_is_taken_or_refused(pattern):
    try:
        check_pattern(pattern)
    except InvalidValueError:
        return
    assert pattern


@given(st.integers(1, 30), st.integers(1, 4))
def test_repeats_are_bounded_by_what_they_make(times, depth):
    pattern = _LOOK_AHEAD + "(?:" * depth + "ab" + f"){{{times}}}" * depth

    if 2 * times**depth + 10 < 100_000:
        check_pattern(pattern)
        assert regex.compile(pattern)
    elif 2 * times**depth > 100_000:
        with pytest.raises(InvalidValueError):
            check_pattern(pattern)
