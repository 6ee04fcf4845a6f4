"""A trial says what a server would have done."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.automation.actions import ActionKind, ActionState
from policy_server.automation.outcomes import OutcomeType, Reply
from policy_server.automation.trial import describe_warnings
from policy_server.rules.layers import (
    AdjustConfig,
    Block,
    Immediate,
    Layer,
    Scope,
    SetConfig,
    Suspend,
    SuspendTenant,
    Threshold,
)
from policy_server.rules.snapshot import compile_snapshot
from policy_server.rules.values import Limit, parse_rate
from policy_server.services.rule_trial import MOMENT, RuleTrial
from policy_server.store.evidence import read_evidence
from policy_server.store.scratch import keep_waiting, open_scratch, read_waiting
from policy_server.trials.sites import TrialSites, TriedRules
from tests.unit.policy_server.automation.examples import START, make_outcome, make_rule

_SECONDS = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_ADJUST = AdjustConfig(
    name="connection_limit",
    factor=0.5,
    floor=Limit(2),
    recover_step=2,
    recover_every=timedelta(seconds=40),
)
_ACTIONS = (
    Suspend(),
    SuspendTenant(),
    SetConfig(name="max_message_rate", value=parse_rate("1/minute")),
    _ADJUST,
)


def _rules(*rules):
    block = Block(
        id=1,
        layer="base",
        scope=Scope.DEFAULT,
        name="",
        source="",
        mx_rollup=True,
        replace_base=False,
        options={"connection_limit": Limit(32)},
        automation=tuple(replace(rule, scope=Scope.DEFAULT, name="") for rule in rules),
    )
    layer = Layer(id=1, name="base", blocks=(block,))
    return TriedRules(compile_snapshot([layer], sites={}, revision=0), TrialSites())


def _try(rules, outcomes, *, moment=MOMENT, page=7):
    """Try rules; return the result and the replies kept for each action."""

    async def run():
        with open_scratch() as connection:
            trial = RuleTrial(rules, connection, moment=moment)
            for start in range(0, len(outcomes), page):
                await trial.take(outcomes[start : start + page])
            result = trial.finish()
            return result, [
                read_evidence(connection, action_id=action.id) for action in result.actions
            ]

    return asyncio.run(run())


def _without_ids(result, evidence):
    """
    Actions that begin in one moment are numbered in no order, and those of a tenant name one of
    several paths. Give the result without actions, these, and of each the newest reply.
    """
    actions = zip(
        (
            replace(action, id=0, path_name=action.path_name if action.site_name else "")
            for action in result.actions
        ),
        (replies[:1] for replies in evidence),
        strict=True,
    )
    ordered = sorted(actions, key=lambda pair: repr(pair[0]))
    return (
        replace(result, actions=()),
        [action for action, _ in ordered],
        [replies for _, replies in ordered],
    )


_triggers = st.one_of(
    st.just(Immediate()),
    st.builds(
        Threshold,
        count=st.integers(1, 4),
        period=st.integers(1, 300).map(lambda seconds: seconds * _SECONDS),
    ),
)
_rule_sets = st.lists(
    st.tuples(
        _triggers,
        st.integers(1, 400).map(lambda seconds: seconds * _SECONDS),
        st.lists(st.sampled_from(_ACTIONS), min_size=1, max_size=2, unique=True),
        st.sampled_from(["TS0", "TS04"]),
    ),
    min_size=1,
    max_size=3,
)
_outcome_lists = st.lists(
    st.tuples(
        st.integers(0, 150),
        st.sampled_from(["", "acme", "zeta"]),
        st.sampled_from(["[TS04] a", "[TS03] b", "ok"]),
        st.sampled_from(["ip-1", "ip-2"]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(rule_sets=_rule_sets, drawn=_outcome_lists)
def test_counting_together_what_comes_within_a_moment_changes_nothing(rule_sets, drawn):
    rules = _rules(
        *(
            make_rule(
                key=f"r{number}",
                position=number,
                trigger=trigger,
                duration=duration,
                actions=tuple(actions),
                regexes=(pattern,),
            )
            for number, (trigger, duration, actions, pattern) in enumerate(rule_sets)
        )
    )
    times = 0
    outcomes = []
    for number, (gap, tenant, content, source) in enumerate(drawn):
        times += gap / 10 if gap < 100 else gap
        outcomes.append(
            make_outcome(
                f"e{number:03}",
                times / 60,
                tenant=tenant,
                egress_source=source,
                path_name=f"{source}->site",
                reply=Reply(code=421, content=content),
            )
        )

    one_by_one = _try(rules, outcomes, moment=timedelta())
    together = _try(rules, outcomes)

    *told, replies = _without_ids(*together)
    *told_one_by_one, replies_one_by_one = _without_ids(*one_by_one)
    assert told == told_one_by_one
    # What first brought a rule to its threshold is kept as evidence only as far as it was reported
    # together: with one of another tenant that comes after it at the same time, it is not.
    for newest, newest_alone in zip(replies, replies_one_by_one, strict=True):
        assert newest_alone in (newest, ())


def test_a_match_that_another_of_the_same_time_makes_fire_leads_to_the_same_action_either_way():
    trigger = Threshold(count=2, period=_SECONDS)
    rules = _rules(make_rule(trigger=trigger, duration=_SECONDS, actions=(SuspendTenant(),)))
    outcomes = [make_outcome("e1", 0, tenant="acme"), make_outcome("e2", 0, tenant="")]

    (together, _), (one_by_one, _) = (
        _try(rules, outcomes, moment=moment) for moment in (MOMENT, timedelta())
    )

    assert together == one_by_one
    assert [action.tenant for action in together.actions] == ["acme"]


def test_an_action_begins_is_extended_ends_and_begins_anew():
    rules = _rules(make_rule(trigger=Threshold(count=2, period=_HOUR), duration=_HOUR))
    outcomes = [make_outcome(f"e{minute:04}", minute) for minute in (0, 10, 30, 200, 210)]

    result, _ = _try(rules, outcomes)

    assert [
        (action.state, action.first_match_time, action.expire_time, action.match_count)
        for action in result.actions
    ] == [
        (ActionState.EXPIRED, START, START + timedelta(minutes=90), 3),
        (ActionState.IN_FORCE, START + timedelta(minutes=200), START + timedelta(minutes=270), 2),
    ]
    assert (result.start_time, result.end_time) == (START, START + timedelta(minutes=210))


def test_an_adjustment_lowers_and_recovers_as_time_goes_by():
    rules = _rules(make_rule(actions=(_ADJUST,)))
    lowered, recovering = make_outcome("a", 0), make_outcome("z", 1.5, reply=Reply(content="ok"))

    result, _ = _try(rules, [lowered, recovering])

    (action,) = result.actions
    assert action.kind is ActionKind.ADJUST_CONFIG
    assert action.old_value == 32
    # Halved, then doubled after 40 and again would be after 80 s: it is over.
    assert (action.state, action.expire_time) == (ActionState.EXPIRED, START + 40 * _SECONDS)


def test_a_rule_that_only_observes_is_said_to():
    result, _ = _try(_rules(make_rule(observe=True)), [make_outcome()])

    assert [action.state for action in result.actions] == [ActionState.OBSERVED]


def test_rules_that_matched_nothing_and_replies_that_no_rule_matched_are_told():
    rules = _rules(make_rule(key="a"), make_rule(key="b", position=1, regexes=("never",)))
    outcomes = [
        make_outcome("e1"),
        make_outcome("e2", 1, reply=Reply(code=452, content="full 12345678")),
        make_outcome("e3", 2, reply=Reply(code=452, content="full 87654321")),
        make_outcome("e4", 3, type=OutcomeType.DELIVERY, reply=Reply(code=250, content="ok")),
    ]

    result, _ = _try(rules, outcomes)

    assert [(tried.match_count, tried.action_count) for tried in result.rules] == [(1, 1), (0, 0)]
    assert (result.outcome_count, result.unmatched_count) == (4, 3)
    assert result.unmatched_delivery_count == 1
    (replies,) = result.unmatched
    assert (replies.count, replies.code, replies.text) == (2, 452, "full …")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trigger": Threshold(count=5, period=_HOUR)}, "no path had 5 of them within 3600 s"),
        ({"actions": (SuspendTenant(),)}, "the mail was no tenant's"),
        ({"actions": (replace(_ADJUST, name="max_message_rate"),)}, "no ruled value"),
    ],
)
def test_a_rule_that_matched_and_led_to_nothing_is_warned_of(changes, why):
    result, _ = _try(_rules(make_rule(**changes)), [make_outcome()])

    (warning,) = describe_warnings(result)
    assert warning.startswith("base: default automation 0: matched 1 outcomes")
    assert why in warning


def test_an_outcome_without_a_path_concerns_no_rule():
    result, _ = _try(_rules(make_rule()), [make_outcome(site_name=""), make_outcome("b")])

    assert result.unmatched_count == 1


def test_a_repeated_report_counts_once():
    rules = _rules(make_rule(trigger=Threshold(count=2, period=_HOUR)))

    result, _ = _try(rules, [make_outcome("same"), make_outcome("same", 1)])

    assert result.actions == ()


def test_no_outcomes_lead_to_nothing():
    result, _ = _try(_rules(make_rule()), [])

    assert (result.outcome_count, result.actions, result.start_time) == (0, (), None)


@given(st.lists(st.integers(0, 100), max_size=60))
def test_what_waits_is_read_by_time_then_in_the_order_it_came(minutes):
    with open_scratch() as connection:
        for number, minute in enumerate(minutes):
            time = START + timedelta(minutes=minute)
            keep_waiting(connection, [(time, f"{minute:03}-{number:03}".encode())])

        read = [kept for page in read_waiting(connection) for kept in page]

    assert read == sorted(f"{m:03}-{n:03}".encode() for n, m in enumerate(minutes))
