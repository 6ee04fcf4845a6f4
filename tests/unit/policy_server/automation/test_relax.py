"""A relaxed pattern is found wherever the pattern itself is."""

import pytest
import re2
import regex
from hypothesis import given
from hypothesis import strategies as st

from policy_server.automation.matching import Effort, compile_rules, match_outcome
from policy_server.automation.outcomes import Reply
from policy_server.automation.relax import is_relaxable, relax_pattern
from tests.unit.policy_server.automation.examples import make_outcome, make_rule

_SIGNS = "ab0 .-(){}"
_texts = st.text(st.sampled_from(_SIGNS), max_size=20)
#: Parts that pattern writers put together, some of them hostile to a parser.
_parts = st.sampled_from(
    [
        *(
            "a",
            "b",
            "0",
            r"\d",
            r"\w+",
            r"\s",
            ".*",
            "[ab]",
            "[^a(]",
            "[]a]",
            r"[\])]",
            r"\(",
            r"\)",
        ),
        *(
            "(?!a)",
            "(?=b)",
            "(?<!0)",
            "(?<=a)",
            "(?!(a|b)0)",
            "(?=[)a])",
            r"(?!\))",
            "(?!a)*",
            "(?=a){2}",
        ),
        *(
            "(a|b)",
            "(?:ab)+",
            "^",
            "$",
            r"\b",
            "{2",
            "}",
            "a{1,2}",
            "a{,2}",
            "|",
            "{",
            ",2}",
            "(?P<x>a)",
        ),
        *(r"\1", r"\Q", "(?>a)", "a++", "(", ")"),
    ]
)
_patterns = st.lists(_parts, min_size=1, max_size=6).map("".join)


# It warns of what a later version may read differently, and only the first time.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def _compiles(pattern: str) -> bool:
    try:
        regex.compile(pattern)
    except (regex.error, ValueError):
        return False
    return True


def _relaxed(pattern):
    relaxed = relax_pattern(pattern)
    if relaxed is None:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(relaxed, options)
    except re2.error:
        return None


@given(pattern=_patterns.filter(_compiles), text=_texts)
def test_what_a_pattern_matches_its_relaxed_form_does_too(pattern, text):
    relaxed = _relaxed(pattern)

    if relaxed is not None and regex.search(pattern, text):
        assert relaxed.search(text), relaxed.pattern


@given(pattern=_patterns.filter(_compiles), text=st.text(max_size=20) | _texts)
def test_matching_finds_what_the_pattern_alone_finds(pattern, text):
    rule = make_rule(regexes=(pattern + "(?!never)",))
    outcome = make_outcome(reply=Reply(content=f"x{text}x"))

    effort = Effort()
    matched = match_outcome(compile_rules((rule,)), outcome, effort)

    shown = outcome.reply.content
    # A machine under load may take a moment off any try.
    if is_relaxable(shown) and not effort.timeouts:
        assert bool(matched) == (regex.search(pattern + "(?!never)", shown) is not None)


@pytest.mark.parametrize(
    "pattern",
    ["^(?!.*our own).*RL0000", "a(?=b)", "(?i)too many(?! more)", "x(?<!y)z", r"\d+(?!\))"],
)
def test_patterns_with_look_around_have_a_relaxed_form(pattern):
    assert _relaxed(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"(\w+) \1", id="reference"),
        pytest.param("(?>a+)b", id="atomic group"),
        pytest.param("(?x) a (?=b)", id="other flags"),
        pytest.param("a{,3}(?=b)", id="repeat from nothing, which RE2 reads as text"),
        pytest.param(r"\Qa(?=b)\E", id="quoted text"),
        pytest.param("ä(?=b)", id="beyond ASCII"),
    ],
)
def test_patterns_that_re2_may_read_otherwise_have_none(pattern):
    assert relax_pattern(pattern) is None


def test_slow_patterns_are_tried_only_where_they_can_match():
    rules = tuple(
        make_rule(key=str(n), regexes=(rf"(?=x{n}q)(x|x{n}q|xq?)+y(?!z)",)) for n in range(50)
    )
    compiled = compile_rules(rules)
    effort = Effort(clock=iter(range(10_000)).__next__)

    assert match_outcome(compiled, make_outcome(), effort) == ()

    # No try, so the clock was not even looked at.
    assert effort.spent == 0
