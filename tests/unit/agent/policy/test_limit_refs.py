"""Which limits of an answer the fleet keeps together."""

import pytest

from agent.dispatch.options import options_of
from agent.limits.limit import Kind, OnUnreachable
from agent.policy.effective import effective_policy, why_unusable
from penstock.v1 import limit_pb2 as pb
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit, Rate
from tests.unit.agent.policy.answers import NOW, override, response, stored


def _ref(key: str = "k", **fields) -> pb.LimitRef:
    known = {
        "kind": pb.LIMIT_KIND_CONNECTIONS,
        "option": "connection_limit",
        "limit": 5,
        "sharing": pb.LIMIT_SHARING_FLEET,
    }
    return pb.LimitRef(key=key, **(known | fields))


def _rate_ref(key: str = "r", *, seconds: int = 60, **fields) -> pb.LimitRef:
    known = {"kind": pb.LIMIT_KIND_MESSAGE_RATE, "option": "max_message_rate", "burst": 5}
    ref = _ref(key, **(known | fields))
    ref.period.FromSeconds(seconds)
    return ref


def _config() -> EgressPathConfig:
    config = EgressPathConfig(connection_limit=Limit(value=5), max_message_rate=Rate(count=5))
    config.max_message_rate.period.FromSeconds(60)
    config.additional_connection_limits["shared"].value = 7
    config.additional_connection_limits["own"].value = 7
    return config


def _named(key: str, name: str, **fields) -> pb.LimitRef:
    return _ref(key, option="additional_connection_limits", name=name, **fields)


def test_limits_of_the_fleet_are_found_by_the_names_that_the_agent_gives_them():
    refs = [
        _ref("a"),
        _named("b", "shared"),
        _named("c", "own", sharing=pb.LIMIT_SHARING_LOCAL),
        _rate_ref("d", on_unreachable=pb.ON_UNREACHABLE_STATIC, static_units=2),
    ]
    options = options_of(
        effective_policy(stored(response(_config(), limit_refs=refs)), NOW),
    )

    found = {
        kind: {name: limit.key for name, limit in limits.items()}
        for kind, limits in options.fleet.items()
    }
    assert found == {
        Kind.CONNECTIONS: {"connections ip-1->mx.foo.example": "a", "limit shared": "b"},
        Kind.CONNECTION_RATE: {},
        Kind.MESSAGE_RATE: {"messages ip-1->mx.foo.example": "d"},
        Kind.SELECTION_RATE: {},
    }
    assert set(options.connection_limits) > {"limit own", "limit shared"}
    assert options.fleet_keys == {"a", "b", "d"}
    [rate] = options.fleet[Kind.MESSAGE_RATE].values()
    assert (rate.on_unreachable, rate.static_units) == (OnUnreachable.STATIC, 2)
    assert (rate.limit, rate.period_ns, rate.burst, rate.units) == (5, 60 * 10**9, 5, 5)


def test_a_rate_that_ended_with_its_override_is_drawn_on_no_more():
    ruled = _config()
    ruled.ClearField("max_message_rate")
    answer = stored(
        response(
            _config(),
            ruled_config=ruled,
            limit_refs=[_ref(), _rate_ref()],
            overrides=[override("max_message_rate", NOW + 10)],
        )
    )

    before = options_of(effective_policy(answer, NOW))
    after = options_of(effective_policy(answer, NOW + 11))

    assert before.fleet_keys == {"k", "r"}
    assert after.fleet_keys == {"k"}


def test_an_answer_of_an_older_server_leaves_all_limits_with_the_agent():
    options = options_of(effective_policy(stored(response(_config())), NOW))

    assert not options.fleet_keys
    assert not any(options.fleet.values())


def test_what_an_older_agent_does_not_know_of_is_left_alone():
    refs = [_ref(kind=99), _ref(sharing=99)]
    answer = response(_config(), limit_refs=refs)

    assert why_unusable(answer) == ""
    assert effective_policy(stored(answer), NOW).fleet_limits == ()


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        pytest.param(_ref(key=""), "limit_refs: connection_limit  has no key", id="no key"),
        pytest.param(_ref(limit=0), "limit_refs: k is no limit", id="no connections"),
        pytest.param(_rate_ref(burst=0), "limit_refs: r is no limit", id="no burst"),
        pytest.param(_rate_ref(seconds=0), "limit_refs: r is no limit", id="no period"),
    ],
)
def test_an_answer_with_a_limit_that_is_none_is_refused(ref, reason):
    assert why_unusable(response(_config(), limit_refs=[ref])).startswith(reason)
