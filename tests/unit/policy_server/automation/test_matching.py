"""Which rules match which replies."""

import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.automation.matching import (
    TIMEOUTS_ALLOWED,
    CompiledSets,
    Effort,
    PatternError,
    compile_pattern,
    compile_rules,
    match_outcome,
)
from policy_server.automation.outcomes import (
    MAX_REPLY_LENGTH,
    Reply,
    remove_local_parts,
    reply_text,
)
from tests.unit.policy_server.automation.examples import make_outcome, make_rule

_DATA = tomllib.loads((Path(__file__).parents[3] / "data" / "replies.toml").read_text())
_RULES = tuple(
    make_rule(
        key=name, regexes=tuple(entry["regex"]), match_internal=entry.get("match_internal", False)
    )
    for name, entry in _DATA["rule"].items()
)


def _reply(entry):
    enhanced = entry.get("enhanced_code")
    return Reply(
        code=entry.get("code", 0),
        enhanced_code=tuple(enhanced) if enhanced else None,
        content=entry["content"],
    )


@pytest.mark.parametrize("entry", _DATA["reply"], ids=lambda entry: entry["text"][:40] or "none")
def test_a_reply_matches_the_rules_that_the_data_names(entry):
    outcome = make_outcome(reply=_reply(entry), internal=entry.get("internal", False))

    matched = match_outcome(compile_rules(_RULES), outcome, Effort())

    assert reply_text(outcome.reply) == entry["text"]
    assert [rule.key for rule in matched] == entry["rules"]


def test_a_hostile_reply_stalls_no_backtracking_pattern():
    hostile = make_rule(regexes=(r"(?=a)(a|a?)+$",))
    outcome = make_outcome(reply=Reply(code=421, content="a" * 2000 + "b"))
    compiled, effort = compile_rules((hostile,)), Effort()
    started = time.monotonic()

    for _ in range(1000):
        assert match_outcome(compiled, outcome, effort) == ()

    assert effort.timeouts == {hostile.regexes[0]: TIMEOUTS_ALLOWED}
    assert time.monotonic() - started < 5


def test_a_hostile_reply_takes_linear_time_otherwise():
    rules = tuple(make_rule(key=str(n), regexes=(rf"(a+)+{n}$",)) for n in range(50))
    outcome = make_outcome(reply=Reply(code=421, content="a" * 10_000_000))
    compiled = compile_rules(rules)
    started = time.monotonic()

    assert match_outcome(compiled, outcome, Effort()) == ()

    assert time.monotonic() - started < 2
    assert len(reply_text(outcome.reply)) <= MAX_REPLY_LENGTH


def test_one_pass_finds_what_single_patterns_find():
    patterns = [pattern for rule in _RULES for pattern in rule.regexes]
    together = compile_rules(_RULES)
    for entry in _DATA["reply"]:
        outcome = make_outcome(reply=_reply(entry))
        singly = {
            rule.key
            for rule in _RULES
            if any(compile_pattern(text).search(entry["text"]) for text in rule.regexes)
        }

        found = {rule.key for rule in match_outcome(together, outcome, Effort())}

        assert found == singly
    assert len(patterns) > len(_RULES)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("(", id="unbalanced"),
        pytest.param("a" * 10_001, id="too long"),
        pytest.param("(?<=a+)b(", id="broken look-behind"),
    ],
)
def test_a_broken_pattern_is_refused_and_matches_nothing(pattern):
    with pytest.raises(PatternError):
        compile_pattern(pattern)

    compiled = compile_rules((make_rule(regexes=(pattern, "TS04")),))

    assert compiled.broken == (pattern,)
    assert len(match_outcome(compiled, make_outcome(), Effort())) == 1


def test_patterns_too_large_for_one_set_are_split():
    rules = tuple(make_rule(key=str(n), regexes=(rf"q{n}w[^x]{{900}}z{n}",)) for n in range(400))

    compiled = compile_rules((*rules, make_rule(key="plain")))

    assert [rule.key for rule in match_outcome(compiled, make_outcome(), Effort())] == ["plain"]
    assert len(compiled.linear) > 1
    assert sum(len(part.owners) for part in compiled.linear) == 401


def test_compiled_rules_are_kept_within_bounds():
    sets = CompiledSets(sets_kept=2)
    rules = [(make_rule(key=key),) for key in ("a", "b", "c")]

    for each in rules:
        sets.keep(compile_rules(each))

    assert len(sets) == 2
    assert sets.find(rules[0]) is None
    assert sets.find(rules[2]) is not None
    assert sets.find((make_rule(key="c", observe=True),)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("550 <john@example.com>: gone", "550 <@example.com>: gone"),
        ("to a.b+c@x.example,d@y.example", "to @x.example,@y.example"),
        ('550 "john smith"@example.com', "550 @example.com"),
        ("550 mailto:john@example.com", "550 mailto:@example.com"),
        # "=" may be part of one (VERP, SRS): rather too much goes than too little.
        ("550 rcpt=john@example.com", "550 @example.com"),
        ("550 SRS0=x=y=a.example=john@b.example", "550 @b.example"),
        ("no address", "no address"),
    ],
)
def test_local_parts_are_removed_from_evidence(text, expected):
    assert remove_local_parts(text) == expected


@given(st.text(st.sampled_from("ab.@@<>(),;: =\t\n\x0b\x85\u2028é"), max_size=40))
def test_local_parts_are_found_without_quotes_as_with_them(text):
    # A quote elsewhere has the whole text looked at by RE2.
    with_quote = remove_local_parts('" ' + text)

    assert remove_local_parts(text) == with_quote.removeprefix('" ')
