"""Actions as messages tell them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.v1 import automation_service_pb2 as actions_pb
from policy_server.automation.actions import ActionInForce, ActionKind, ActionState
from policy_server.conversions.actions import (
    read_states,
    read_until,
    spell_value,
    to_action,
    to_bounce,
    to_suspension,
)
from policy_server.errors import InvalidRequest

_START = datetime(2026, 8, 1, 12, tzinfo=UTC)


def _action(**changes):
    values = {
        "id": 7,
        "kind": ActionKind.SET_CONFIG,
        "state": ActionState.IN_FORCE,
        "path_name": "ip-1->mx.example.com",
        "routing_domain": "",
        "site_name": "mx.example.com",
        "egress_source": "ip-1",
        "option": "connection_limit",
        "old_value": 10,
        "new_value": "local:1",
        "rule_key": "k",
        "rule_layer": "base",
        "rule_block": 'provider."x"',
        "rule_position": 2,
        "rule_regexes": ("a", "b"),
        "match_count": 3,
        "first_match_time": _START,
        "last_match_time": _START + timedelta(minutes=1),
        "expire_time": _START + timedelta(hours=1),
    }
    return ActionInForce(**(values | changes))


def test_an_action_shows_every_field_of_the_ledger():
    written = to_action(_action())

    assert written.kind == actions_pb.ACTION_KIND_SET_CONFIG
    assert written.state == actions_pb.ACTION_STATE_IN_FORCE
    assert (written.old_value, written.new_value) == ("10", "local:1")
    assert (written.rule.block, written.rule.position) == ('provider."x"', 2)
    assert list(written.rule.regexes) == ["a", "b"]
    assert written.count == 3
    assert written.expire_time.ToDatetime(UTC) == _START + timedelta(hours=1)


def test_a_suspension_names_its_action_and_reason():
    written = to_suspension(_action(kind=ActionKind.SUSPEND, option="", tenant="t"))

    assert (written.action_id, written.site_name, written.tenant) == (7, "mx.example.com", "t")
    assert written.reason == 'base: provider."x" automation 2: a | b'


@pytest.mark.parametrize("kind", ActionKind)
@pytest.mark.parametrize("state", ActionState)
def test_every_kind_and_state_has_a_name_on_the_wire(kind, state):
    written = to_action(_action(kind=kind, state=state))

    assert actions_pb.ActionKind.Name(written.kind).replace("_", "").lower() == (
        f"actionkind{kind}".lower()
    )
    assert actions_pb.ActionState.Name(written.state) == f"ACTION_STATE_{state.name}"


def test_what_is_pinned_has_no_end_on_the_wire():
    pinned = _action(state=ActionState.PINNED, next_step_time=_START)

    for written in (to_action(pinned), to_suspension(pinned), to_bounce(pinned)):
        assert not written.HasField("expire_time")
    assert not to_action(pinned).HasField("next_step_time")
    assert to_action(replace(pinned, state=ActionState.IN_FORCE)).HasField("next_step_time")


def test_what_rests_on_no_match_has_no_time_of_one():
    written = to_action(_action(match_count=0, given_reason="r", changed_by="joe"))

    assert not written.HasField("first_match_time")
    assert (written.reason, written.changed_by) == ("r", "joe")


def test_a_bounce_names_its_mail_and_reason():
    written = to_bounce(
        _action(kind=ActionKind.BOUNCE_CAMPAIGN, routing_domain="a.com", tenant="t", campaign="c")
    )

    assert (written.action_id, written.routing_domain) == (7, "a.com")
    assert (written.tenant, written.campaign) == ("t", "c")
    assert written.reason == 'base: provider."x" automation 2: a | b'
    assert written.HasField("expire_time")


def test_an_end_is_a_time_or_a_span_from_now_on():
    time = Timestamp(seconds=int(_START.timestamp()))

    assert read_until(actions_pb.ExtendActionRequest(expire_time=time), _START) == _START
    span = actions_pb.ExtendActionRequest(duration=Duration(seconds=60))
    assert read_until(span, _START) == _START + timedelta(minutes=1)
    distant = actions_pb.ExtendActionRequest(duration=Duration(seconds=10**11))
    assert read_until(distant, _START).year == _START.year + 100
    for wrong in (
        actions_pb.ExtendActionRequest(),
        actions_pb.ExtendActionRequest(expire_time=Timestamp(seconds=10**15)),
        actions_pb.ExtendActionRequest(duration=Duration(seconds=10**15)),
    ):
        with pytest.raises(InvalidRequest):
            read_until(wrong, _START)


@pytest.mark.parametrize(
    ("value", "text"),
    [(10, "10"), ("100/s", "100/s"), (False, "false"), (2.5, "2.5"), ({"a": 1}, '{"a": 1}')],
)
def test_values_are_spelt_as_in_rule_files(value, text):
    assert spell_value(value) == text


def test_states_default_to_those_in_force_and_unknown_ones_are_refused():
    assert read_states([]) == {ActionState.IN_FORCE, ActionState.PINNED}
    assert read_states([actions_pb.ACTION_STATE_EXPIRED]) == {ActionState.EXPIRED}
    assert read_states([actions_pb.ACTION_STATE_IN_FORCE]) == {ActionState.IN_FORCE}
    with pytest.raises(InvalidRequest):
        read_states([0])
