import math

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.effective import effective_policy, next_override_end, why_unusable
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit, Rate
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse
from tests.unit.agent.policy.answers import NOW, override, response, stored

RULED = EgressPathConfig(
    connection_limit=Limit(value=10),
    max_deliveries_per_connection=100,
    additional_connection_limits={"shared": Limit(value=5)},
)
IN_FORCE = EgressPathConfig(
    connection_limit=Limit(value=1),
    max_message_rate=Rate(count=1, period=Duration(seconds=60)),
    max_deliveries_per_connection=100,
    additional_connection_limits={"shared": Limit(value=1), "more": Limit(value=2)},
)
#: Options that IN_FORCE has otherwise than RULED.
OVERRIDDEN = ("connection_limit", "max_message_rate", "additional_connection_limits")


def _answer(**ends: float):
    overrides = [override(option, end) for option, end in ends.items()]
    return stored(response(IN_FORCE, ruled_config=RULED, overrides=overrides))


def test_an_answer_without_overrides_is_used_as_it_is():
    policy = effective_policy(stored(response(RULED, provider_names=["a", "b"])), NOW)

    assert policy.config == RULED
    assert policy.path_name == "ip-1->mx.foo.example"
    assert policy.provider_name == "b"
    assert policy.etag == "e1"


def test_an_override_ends_at_its_time_for_its_option_alone():
    answer = _answer(connection_limit=NOW + 10, max_message_rate=NOW + 20)

    before = effective_policy(answer, NOW + 9.9)
    between = effective_policy(answer, NOW + 10)
    after = effective_policy(answer, NOW + 20)

    assert before.config == IN_FORCE
    assert between.config.connection_limit.value == 10
    assert between.config.max_message_rate.count == 1
    assert not after.config.HasField("max_message_rate"), "unset by the rules, so unset again"
    assert len({before.etag, between.etag, after.etag}) == 3


def test_a_map_falls_back_as_a_whole():
    policy = effective_policy(_answer(additional_connection_limits=NOW), NOW)

    assert dict(policy.config.additional_connection_limits) == {"shared": Limit(value=5)}


def test_of_two_overrides_of_one_option_the_last_one_holds():
    overrides = [
        override("connection_limit", NOW + 10, 1),
        override("connection_limit", NOW + 9, 2),
    ]
    answer = stored(response(IN_FORCE, ruled_config=RULED, overrides=overrides))

    assert effective_policy(answer, NOW + 9.5).config.connection_limit.value == 1
    assert effective_policy(answer, NOW + 10).config.connection_limit.value == 10


def test_an_override_of_an_unknown_option_is_left_alone():
    assert effective_policy(_answer(option_of_tomorrow=NOW - 1), NOW).config == IN_FORCE


def test_working_out_never_changes_the_stored_answer():
    answer = _answer(connection_limit=NOW - 1)

    effective_policy(answer, NOW)

    assert answer.response.config == IN_FORCE
    assert answer.response.ruled_config == RULED


@given(
    ends=st.dictionaries(st.sampled_from(OVERRIDDEN), st.integers(-50, 50), max_size=3),
    at=st.integers(-60, 60),
)
def test_each_option_is_in_force_exactly_until_its_end(ends, at):
    answer = _answer(**{option: NOW + end for option, end in ends.items()})

    config = effective_policy(answer, NOW + at).config

    for option in OVERRIDDEN:
        source = RULED if option in ends and ends[option] <= at else IN_FORCE
        assert (
            config.HasField(option) == source.HasField(option) if option != OVERRIDDEN[2] else True
        )
        assert getattr(config, option) == getattr(source, option)
    assert config.max_deliveries_per_connection == 100


@given(ends=st.lists(st.integers(-50, 50), max_size=5), at=st.integers(-60, 60))
def test_the_policy_stays_the_same_until_the_next_end(ends, at):
    names = [*OVERRIDDEN, "max_deliveries_per_connection", "smtp_port"]
    answer = _answer(**{name: NOW + end for name, end in zip(names, ends, strict=False)})
    until = next_override_end(answer, NOW + at)

    later = NOW + at + 1000 if math.isinf(until) else until - 0.001

    assert until > NOW + at
    assert effective_policy(answer, NOW + at) == effective_policy(answer, later)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(GetEgressPathConfigResponse(path_name="p"), "no config", id="no config"),
        pytest.param(response(path_name=""), "no path_name", id="no path name"),
        pytest.param(
            response(EgressPathConfig(connection_limit=Limit(value=0))), "is 0", id="no connections"
        ),
        pytest.param(
            response(overrides=[override("smtp_port", NOW)]), "no ruled_config", id="no fall-back"
        ),
        pytest.param(response(), "", id="usable"),
    ],
)
def test_what_can_not_be_applied_is_told(answer, reason):
    assert reason in why_unusable(answer)
    assert bool(why_unusable(answer)) == bool(reason)
