"""The state: what is in force at a time, and what is made again or not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from policy_server.answering.answers import build_answer
from policy_server.automation.actions import ActionInForce, ActionKind, ActionState
from policy_server.in_force.known_sites import KnownSites
from policy_server.in_force.rule_keeper import KeptRules
from policy_server.in_force.site_keeper import SiteSchedule
from policy_server.in_force.state import build_state, to_override
from policy_server.rules.layers import Block, Layer, Scope
from policy_server.rules.resolve import Question
from policy_server.rules.scopes import find_scopes
from policy_server.rules.site import MxHost, Site
from policy_server.rules.snapshot import compile_snapshot
from policy_server.rules.validity import layers_in_force
from policy_server.rules.values import Limit, parse_rate
from policy_server.store.sites import StoredSite

_NOW = datetime(2026, 8, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_QUESTION = Question(
    routing_domain="a.example",
    egress_source="ip-1",
    site_name="mx.example",
    mx_hosts=(MxHost("mx.example"),),
)


def _layer(name, limit, **more):
    block = Block(
        id=1,
        layer=name,
        scope=Scope.DEFAULT,
        name="",
        source="",
        mx_rollup=True,
        replace_base=False,
        options={"connection_limit": Limit(limit)},
    )
    return Layer(id=1, name=name, blocks=(block,), **more)


def _rules(*layers):
    return KeptRules(layers=layers, sites={}, site_hosts={}, issues=())


def _action(number=1, **more):
    values: dict[str, Any] = {
        "kind": ActionKind.SET_CONFIG,
        "state": ActionState.IN_FORCE,
        "path_name": "ip-1->mx.example",
        "routing_domain": "",
        "site_name": "mx.example",
        "egress_source": "ip-1",
        "option": "connection_limit",
        "old_value": 10,
        "new_value": 1,
        "rule_key": "k",
        "rule_layer": "base",
        "rule_block": "default",
        "rule_position": 0,
        "rule_regexes": ("x",),
        "match_count": 1,
        "first_match_time": _NOW,
        "last_match_time": _NOW,
        "expire_time": _NOW + _HOUR,
    }
    return ActionInForce(id=number, **(values | more))


def _state(rules, *actions, now=_NOW):
    snapshot = compile_snapshot(layers_in_force(rules.layers, now), sites={}, revision=5)
    return build_state(rules, actions, snapshot=snapshot, revision=7, now=now)


def _build(state, question=_QUESTION, revision=7):
    scopes = find_scopes(state.snapshot, question)
    return build_answer(scopes, question, state.overrides_of(question), revision=revision)


def _limit(state, question=_QUESTION):
    return _build(state, question).response.config.connection_limit.value


def test_layers_are_in_force_within_their_dates():
    rules = _rules(_layer("base", 10), _layer("sale", 3, valid_from=_NOW, valid_until=_NOW + _HOUR))

    assert _limit(_state(rules, now=_NOW - _HOUR)) == 10
    assert _limit(_state(rules)) == 3
    assert _limit(_state(rules, now=_NOW + _HOUR)) == 10


def test_the_next_change_is_the_earliest_of_layers_and_actions():
    rules = _rules(_layer("base", 10, valid_until=_NOW + 2 * _HOUR))

    assert _state(rules).next_change == _NOW + 2 * _HOUR
    assert _state(rules, _action()).next_change == _NOW + _HOUR
    assert _state(_rules(_layer("base", 1))).next_change is None


def test_an_action_overrides_its_path_alone_and_until_its_end():
    rules = _rules(_layer("base", 10))

    assert _limit(_state(rules, _action())) == 1
    assert _limit(_state(rules, _action()), structs.replace(_QUESTION, egress_source="ip-2")) == 10
    assert (
        _limit(_state(rules, _action()), structs.replace(_QUESTION, site_name="other.example"))
        == 10
    )
    assert _limit(_state(rules, _action(), now=_NOW + _HOUR)) == 10


def test_an_action_for_a_domain_leaves_its_site_alone():
    state = _state(_rules(_layer("base", 10)), _action(routing_domain="a.example"))

    assert _limit(state) == 1
    assert _limit(state, structs.replace(_QUESTION, routing_domain="b.example")) == 10


def test_an_action_that_can_not_be_read_overrides_nothing():
    assert to_override(_action(new_value="many")) is None
    assert to_override(_action(option="no_such_option")) is None
    assert to_override(_action(kind=ActionKind.SUSPEND, option="")) is None


def _answer(state, question=_QUESTION):
    return _build(state, question).response


def test_an_override_of_a_domain_alone_gives_it_a_path_of_its_own():
    action = _action(kind=ActionKind.SET_DOMAIN_CONFIG, routing_domain="a.example")
    state = _state(_rules(_layer("base", 10)), action)
    other = structs.replace(_QUESTION, routing_domain="b.example")

    assert _answer(state).path_name == "ip-1->mx.example#a.example"
    assert _answer(state).ruled_config.connection_limit.value == 10
    assert _answer(state, other).path_name == "ip-1->mx.example"
    ended = _state(_rules(_layer("base", 10)), action, now=_NOW + _HOUR)
    assert _answer(ended).path_name == "ip-1->mx.example"


def test_a_pinned_override_has_no_end_and_is_the_strongest_of_its_site():
    longest = _action(1, new_value=2, expire_time=_NOW + 9 * _HOUR)
    pinned = _action(2, new_value=3, state=ActionState.PINNED, expire_time=_NOW - _HOUR)
    state = _state(_rules(_layer("base", 10)), longest, pinned)

    assert _limit(state) == 3
    ends = [override.HasField("expire_time") for override in _answer(state).overrides]
    assert ends == [True, False]
    assert _state(_rules(_layer("base", 10)), pinned).next_change is None


@pytest.mark.parametrize("order", [1, -1])
def test_of_overlapping_overrides_the_longest_lived_wins_to_the_microsecond(order):
    step = timedelta(microseconds=1)
    actions = [
        _action(1, new_value=1, expire_time=_NOW + _HOUR + step),
        _action(2, new_value=2, expire_time=_NOW + _HOUR),
        _action(3, new_value=3, expire_time=_NOW + _HOUR),
    ]

    assert _limit(_state(_rules(_layer("base", 10)), *actions[::order])) == 1
    assert _limit(_state(_rules(_layer("base", 10)), *actions[:0:-1][::order])) == 3


@pytest.mark.parametrize(("ruled", "limit"), [(10, 4), (4, 4), (3, 3)])
def test_an_adjustment_never_raises_what_the_rules_say_now(ruled, limit):
    action = _action(kind=ActionKind.ADJUST_CONFIG, new_value=4)

    assert _limit(_state(_rules(_layer("base", ruled)), action)) == limit


def test_an_adjusted_rate_is_compared_over_its_period():
    rates = {"max_message_rate": parse_rate("100/m")}
    layer = _layer("base", 10)
    layer = replace(layer, blocks=(replace(layer.blocks[0], options=rates),))

    def rate(spelt):
        action = _action(kind=ActionKind.ADJUST_CONFIG, option="max_message_rate", new_value=spelt)
        return _answer(_state(_rules(layer), action)).config.max_message_rate

    assert rate("1/s").count == 1
    assert rate("2/s").count == 100


def test_the_next_change_is_a_step_of_an_adjustment():
    step = _NOW + timedelta(minutes=10)
    action = _action(kind=ActionKind.ADJUST_CONFIG, next_step_time=step)

    assert _state(_rules(_layer("base", 10)), action).next_change == step
    pinned = replace(action, state=ActionState.PINNED)
    assert _state(_rules(_layer("base", 10)), pinned).next_change is None


def test_an_operators_action_is_told_from_automations():
    by_hand = _action(rule_layer="operator", rule_block="", given_reason="too many complaints")
    override = to_override(by_hand)

    assert override is not None
    assert (override.layer, by_hand.reason) == ("operator", "too many complaints")
    assert replace(by_hand, given_reason="").reason == "put in force by an operator"
    # A layer may have this name, too.
    assert not _action(rule_layer="operator", rule_block="default").is_by_hand


def test_an_answer_with_overrides_shows_the_ruled_config_and_the_end():
    state = _state(_rules(_layer("base", 10)), _action(8))
    answer = _build(state)

    (override,) = answer.response.overrides
    assert (override.action_id, override.option) == (8, "connection_limit")
    assert override.expire_time.ToDatetime(UTC) == _NOW + _HOUR
    assert answer.response.ruled_config.connection_limit.value == 10


def test_who_holds_an_answer_already_is_told_all_but_the_configuration():
    state = _state(_rules(_layer("base", 10)), _action(8))
    answer = _build(state)
    short = type(answer.response).FromString(answer.not_modified)
    expected = answer.response
    for name in ("config", "ruled_config", "limit_refs"):
        expected.ClearField(name)
    expected.not_modified = True

    assert short == expected


def test_the_etag_is_of_the_answer_and_not_of_its_revision():
    state = _state(_rules(_layer("base", 10)))
    one = _build(state, revision=7)
    two = _build(state, revision=8)
    other = _build(_state(_rules(_layer("base", 9))), revision=8)

    assert one.etag == two.etag != other.etag
    assert one.payload != two.payload


def _stored(domain, host, *, name="same.example", expires_at=_NOW):
    site = Site(domain=domain, site_name=name, mx_hosts=(MxHost(host),))
    return StoredSite(site=site, expires_at=expires_at)


def test_a_site_name_of_two_host_sets_has_no_known_hosts():
    sites = KnownSites()
    sites.update({"a.example": _stored("a.example", "x")})
    assert sites.hosts == {"same.example": (MxHost("x"),)}

    sites.update({"b.example": _stored("b.example", "y")})
    assert sites.hosts == {}

    sites.update({"a.example": None})
    assert sites.hosts == {"same.example": (MxHost("y"),)}


def test_sites_are_looked_up_when_unknown_expired_or_due_again():
    schedule = SiteSchedule()
    known = {
        "old.example": _stored("old.example", "x"),
        "new.example": _stored("new.example", "x", expires_at=_NOW + _HOUR),
    }
    domains = ["old.example", "new.example", "unknown.example"]

    assert schedule.due(domains, known, _NOW) == ["old.example", "unknown.example"]
    schedule.note_failure("unknown.example", _NOW)
    assert schedule.due(domains, known, _NOW) == ["old.example"]
    assert schedule.next_time(["unknown.example"], known) == _NOW + timedelta(seconds=30)
    assert schedule.next_time([], known) is None
