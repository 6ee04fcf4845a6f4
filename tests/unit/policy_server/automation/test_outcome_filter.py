from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.automation import outcome_filter
from policy_server.automation.outcome_filter import MAX_PATTERNS, build_filter
from policy_server.rules.layers import (
    AutomationRule,
    Block,
    Layer,
    MatchKind,
    ProviderMatch,
    Scope,
)
from policy_server.rules.site import MxHost, Site
from policy_server.rules.snapshot import Snapshot, compile_snapshot
from tests.unit.policy_server.automation.examples import make_rule


def _block(scope: Scope = Scope.DEFAULT, *rules: AutomationRule, **changes) -> Block:
    block = Block(
        id=1,
        layer="base",
        scope=scope,
        name="",
        source="",
        mx_rollup=True,
        replace_base=False,
        options={},
        automation=rules,
    )
    return replace(block, **changes)


def _snapshot(*blocks: Block) -> Snapshot:
    site = Site(
        domain="known.example",
        site_name="mx.known.example",
        mx_hosts=(MxHost("mx.known.example", 1),),
    )
    layer = Layer(id=1, name="base", blocks=blocks)
    return compile_snapshot([layer], sites={"known.example": site}, revision=1)


def _rule(*regexes: str, **changes) -> AutomationRule:
    return make_rule(regexes=regexes, **changes)


def test_every_scope_has_its_say():
    suffix = (ProviderMatch(kind=MatchKind.MX_SUFFIX, value=".yahoodns.net"),)
    domain = Scope.DOMAIN
    snapshot = _snapshot(
        _block(Scope.DEFAULT, _rule("default")),
        _block(Scope.DEFAULT, _rule("default source"), source="ip-1"),
        _block(Scope.PROVIDER, _rule("provider"), name="yahoo", matches=suffix),
        _block(domain, _rule("site"), name="known.example"),
        _block(domain, _rule("site source"), name="known.example", source="ip-1"),
        _block(domain, _rule("unplaced"), name="unknown.example"),
        _block(domain, _rule("alone"), name="alone.example", mx_rollup=False),
    )

    patterns = {pattern.regex for pattern in build_filter(snapshot).patterns}

    assert patterns == {
        "default", "default source", "provider", "site", "site source", "unplaced", "alone",
    }  # fmt: skip


def test_a_pattern_stands_once_and_concerns_what_any_rule_of_it_does():
    rules = [_rule("a", "b"), _rule("a", match_internal=True), _rule("c", observe=True)]

    built = build_filter(_snapshot(_block(Scope.DEFAULT, *rules)))

    internal = {pattern.regex: pattern.match_internal for pattern in built.patterns}
    assert internal == {"a": True, "b": False, "c": False}
    assert len(built.patterns) == 3


def test_patterns_beyond_re2_are_marked_and_broken_ones_left_out():
    built = build_filter(_snapshot(_block(Scope.DEFAULT, _rule("plain", "(?=a)b", "("))))

    kinds = {pattern.regex: pattern.is_backtracking for pattern in built.patterns}
    assert kinds == {"plain": False, "(?=a)b": True}


@pytest.mark.parametrize(
    "regexes",
    [
        pytest.param([str(number) for number in range(MAX_PATTERNS + 1)], id="too many"),
        pytest.param([f"{number}{'x' * 9000}" for number in range(60)], id="too large"),
        pytest.param(["[\ud800]|slow"], id="not to be sent"),
    ],
)
def test_what_can_not_be_sent_lets_everything_through(regexes):
    built = build_filter(_snapshot(_block(Scope.DEFAULT, _rule(*regexes))))

    assert (built.send_all, built.patterns) == (True, ())


def test_as_many_patterns_as_allowed_are_sent():
    regexes = [str(number) for number in range(MAX_PATTERNS)]

    built = build_filter(_snapshot(_block(Scope.DEFAULT, _rule(*regexes))))

    assert len(built.patterns) == MAX_PATTERNS


_rules = st.lists(
    st.builds(
        lambda regexes, internal: _rule(*regexes, match_internal=internal),
        st.lists(st.sampled_from(["a", "b", "ab", "1a", "(?=a)b"]), min_size=1, max_size=3),
        st.booleans(),
    ),
    max_size=5,
)


@given(_rules, _rules)
def test_etags_are_equal_just_when_the_patterns_are(first, second):
    one = build_filter(_snapshot(_block(Scope.DEFAULT, *first)))
    other = build_filter(_snapshot(_block(Scope.DEFAULT, *second)))

    assert (one.etag == other.etag) == (one.patterns == other.patterns)


def test_the_bounds_are_those_that_the_agent_is_promised():
    assert (outcome_filter.MAX_PATTERNS, outcome_filter.MAX_BYTES) == (5000, 512 * 1024)
