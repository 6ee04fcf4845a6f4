"""Which actions follow from matches."""

from dataclasses import replace
from datetime import timedelta

import pytest

from policy_server.automation.actions import (
    EVIDENCE_KEPT,
    ActionKind,
    ActionScope,
    block_title,
)
from policy_server.automation.decide import Mail, Match, decide, group_matches, is_settled
from policy_server.automation.outcomes import Reply
from policy_server.rules.layers import (
    AdjustConfig,
    Bounce,
    BounceCampaign,
    BounceTenant,
    Scope,
    SetConfig,
    SetDomainConfig,
    Suspend,
    SuspendCampaign,
    SuspendTenant,
    Threshold,
)
from policy_server.rules.values import Limit, parse_rate
from tests.unit.policy_server.automation.examples import START, make_outcome, make_rule

_HOUR = timedelta(hours=1)
_SITE = "(mta5|mta6).am0.yahoodns.net"
_SLOW = SetConfig(name="max_message_rate", value=parse_rate("1/minute"))


def _decide(rule, *outcomes, known=(), now=START + timedelta(minutes=1)):
    new = [Match(rule=rule, outcome=outcome) for outcome in outcomes]
    return decide(new, known, now)


@pytest.mark.parametrize(
    ("changes", "domain"),
    [
        pytest.param({}, "", id="provider: the site"),
        pytest.param({"scope": Scope.DEFAULT, "name": ""}, "", id="default: the site"),
        pytest.param({"scope": Scope.DOMAIN, "name": "yahoo.com"}, "", id="rolled up: the site"),
        pytest.param(
            {"scope": Scope.DOMAIN, "name": "yahoo.com", "mx_rollup": False},
            "yahoo.com",
            id="not rolled up: the domain alone",
        ),
    ],
)
@pytest.mark.parametrize("action", [Suspend(), _SLOW], ids=lambda action: type(action).__name__)
def test_an_action_holds_for_what_its_rule_was_scoped_to(changes, domain, action):
    rule = make_rule(actions=(action,), **changes)

    (plan,) = _decide(rule, make_outcome())

    assert plan.scope == ActionScope(egress_source="ip-1", site_name=_SITE, routing_domain=domain)


def test_set_config_carries_the_option_with_its_old_and_new_value():
    match = Match(
        rule=make_rule(actions=(_SLOW,)),
        outcome=make_outcome(),
        ruled_values={"max_message_rate": "100/s"},
    )

    (plan,) = decide([match], (), START)

    assert (plan.kind, plan.option) == (ActionKind.SET_CONFIG, "max_message_rate")
    assert (plan.old_value, plan.new_value) == ("100/s", "1/m")


def test_each_action_of_a_rule_is_planned():
    rule = make_rule(actions=(_SLOW, Suspend()))

    plans = _decide(rule, make_outcome())

    assert [plan.kind for plan in plans] == [ActionKind.SET_CONFIG, ActionKind.SUSPEND]


def test_an_action_ends_its_duration_after_the_newest_match():
    (plan,) = _decide(make_rule(), make_outcome("a", 0), make_outcome("b", 0.5))

    assert plan.expire_time == START + timedelta(seconds=30) + _HOUR
    assert (plan.count, plan.added) == (2, 2)


def test_an_outcome_whose_action_would_have_ended_does_nothing():
    assert _decide(make_rule(), make_outcome(), now=START + _HOUR) == ()
    assert is_settled(Match(rule=make_rule(), outcome=make_outcome()), START + _HOUR)


def test_an_old_match_still_counts_towards_a_threshold():
    rule = make_rule(trigger=Threshold(count=2, period=_HOUR), duration=timedelta(minutes=10))
    now = START + timedelta(minutes=50)

    (plan,) = _decide(rule, make_outcome("late", 0), known=[START + timedelta(minutes=45)], now=now)

    assert not is_settled(Match(rule=rule, outcome=make_outcome()), now)
    assert plan.expire_time == START + timedelta(minutes=55)


_DOMAIN = ActionScope(routing_domain="yahoo.com")


@pytest.mark.parametrize(
    ("action", "mail", "expected"),
    [
        (Bounce(), {}, (ActionKind.BOUNCE, _DOMAIN)),
        (SuspendTenant(), {}, None),
        (BounceTenant(), {}, None),
        (SuspendCampaign(), {"campaign": "c"}, None),
        (
            SuspendTenant(),
            {"tenant": "t", "campaign": "c"},
            (ActionKind.SUSPEND_TENANT, replace(_DOMAIN, tenant="t")),
        ),
        (
            BounceTenant(),
            {"tenant": "t"},
            (ActionKind.BOUNCE_TENANT, replace(_DOMAIN, tenant="t")),
        ),
        (
            SuspendCampaign(),
            {"tenant": "t", "campaign": "c"},
            (ActionKind.SUSPEND_CAMPAIGN, replace(_DOMAIN, tenant="t", campaign="c")),
        ),
        (
            SuspendCampaign(),
            {"tenant": "t"},
            (ActionKind.SUSPEND_TENANT, replace(_DOMAIN, tenant="t")),
        ),
        (
            BounceCampaign(),
            {"tenant": "t", "campaign": "c"},
            (ActionKind.BOUNCE_CAMPAIGN, replace(_DOMAIN, tenant="t", campaign="c")),
        ),
        (
            BounceCampaign(),
            {"tenant": "t"},
            (ActionKind.BOUNCE_TENANT, replace(_DOMAIN, tenant="t")),
        ),
        (
            SetDomainConfig(name="max_ready", value=5),
            {"tenant": "t"},
            (
                ActionKind.SET_DOMAIN_CONFIG,
                ActionScope(egress_source="ip-1", site_name=_SITE, routing_domain="yahoo.com"),
            ),
        ),
    ],
)
def test_what_holds_for_mail_falls_back_where_it_has_no_tenant_or_campaign(action, mail, expected):
    plans = _decide(make_rule(actions=(action,)), make_outcome(**mail))

    assert [(plan.kind, plan.scope) for plan in plans] == ([expected] if expected else [])


def test_two_actions_that_fall_back_to_the_same_are_one():
    rule = make_rule(actions=(SuspendTenant(), SuspendCampaign()))

    plans = _decide(
        rule,
        make_outcome("a", 0, tenant="t"),
        make_outcome("b", 0.5, tenant="t", campaign="c"),
    )

    assert [(plan.kind, plan.count) for plan in plans] == [
        (ActionKind.SUSPEND_TENANT, 2),
        (ActionKind.SUSPEND_CAMPAIGN, 1),
    ]


def test_tenants_are_counted_together_and_those_at_the_threshold_are_held():
    rule = make_rule(
        actions=(SuspendTenant(),), trigger=Threshold(count=3, period=timedelta(minutes=10))
    )

    plans = _decide(
        rule,
        *(make_outcome(f"e{n}", n / 10, tenant=tenant) for n, tenant in enumerate("aabba")),
    )

    assert {plan.scope.tenant: (plan.count, plan.fired_time) for plan in plans} == {
        "a": (3, START + timedelta(minutes=0.4)),
        "b": (2, START + timedelta(minutes=0.3)),
    }


def test_a_late_match_lets_a_known_one_fire_for_its_own_tenant():
    rule = make_rule(
        actions=(SuspendTenant(),), trigger=Threshold(count=2, period=timedelta(minutes=10))
    )
    late = Match(rule=rule, outcome=make_outcome("late", 0, tenant="a"))

    (plan,) = decide(
        [late],
        [START + timedelta(seconds=30)],
        START + timedelta(minutes=1),
        known_mail=[Mail(routing_domain="yahoo.com", tenant="b")],
    )

    assert (plan.scope.tenant, plan.count, plan.evidence) == ("b", 1, ())


_ADJUST = AdjustConfig(
    name="connection_limit",
    factor=0.5,
    floor=Limit(2),
    recover_step=2,
    recover_every=timedelta(minutes=10),
)


def _adjust(*outcomes, ruled=20, now=START + timedelta(minutes=3)):
    rule = make_rule(actions=(_ADJUST,))
    values = {} if ruled is None else {"connection_limit": ruled}
    return decide(
        [Match(rule=rule, outcome=outcome, ruled_values=values) for outcome in outcomes], (), now
    )


def test_an_adjustment_lowers_and_ends_when_it_will_have_recovered():
    (plan,) = _adjust(make_outcome("a", 0), make_outcome("b", 0.1), make_outcome("c", 2))

    assert (plan.kind, plan.old_value, plan.new_value) == (ActionKind.ADJUST_CONFIG, 20, 5)
    assert plan.count == 3
    # 5, 10, 20: two steps after the last match.
    assert plan.expire_time == START + timedelta(minutes=22)


@pytest.mark.parametrize("ruled", [None, 2, 1, "many"], ids=str)
def test_there_is_no_adjustment_without_a_ruled_value_above_the_floor(ruled):
    assert _adjust(make_outcome(), ruled=ruled) == ()


def test_an_adjustment_that_would_have_recovered_does_nothing():
    assert _adjust(make_outcome(), now=START + timedelta(minutes=10)) == ()


def test_nothing_follows_below_the_threshold():
    rule = make_rule(trigger=Threshold(count=3, period=_HOUR))

    assert _decide(rule, make_outcome("a"), make_outcome("b")) == ()


@pytest.mark.parametrize(
    "outcome", [make_outcome(egress_source=""), make_outcome(site_name="")], ids=["source", "site"]
)
def test_without_a_path_there_is_nothing_to_act_on(outcome):
    assert _decide(make_rule(), outcome) == ()


def test_evidence_is_the_newest_replies_without_local_parts():
    outcomes = [
        make_outcome(f"e{n:02}", n / 100, reply=Reply(code=550, content=f"<u{n}@yahoo.com> no"))
        for n in range(EVIDENCE_KEPT + 5)
    ]

    (plan,) = _decide(make_rule(), *outcomes)

    assert len(plan.evidence) == EVIDENCE_KEPT
    assert plan.evidence[-1].event_id == "e24"
    assert {item.reply for item in plan.evidence} == {"550 <@yahoo.com> no"}


def test_matches_are_grouped_by_rule_and_path():
    other = make_outcome("b", path_name="ip-1->elsewhere")
    matches = [Match(rule=make_rule(), outcome=o) for o in (make_outcome("a"), other)]

    assert [len(group) for group in group_matches(matches)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"scope": Scope.DEFAULT, "name": ""}, "default"),
        ({"name": "google"}, 'provider."google"'),
        ({"scope": Scope.DOMAIN, "name": "foo.com", "source": "ip-1"}, 'foo.com.sources."ip-1"'),
    ],
)
def test_a_block_is_named_as_rule_files_write_it(changes, title):
    assert block_title(make_rule(**changes)) == title
