"""Which limits an answer has."""

from google.protobuf.duration_pb2 import Duration

from penstock.v1 import limit_pb2 as pb
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit, Rate
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse
from policy_server.answering.limit_refs import MOST_UNITS, AnsweredLimit, find_limits, kind_of
from policy_server.limits.spec import Earning, LimitSpec

SECOND = 1_000_000_000


PATH = "ip-1->mx"


def find(config: EgressPathConfig) -> dict[str, AnsweredLimit]:
    return {limit.key_on(PATH): limit for limit in find_limits(config)}


def find_refs(config: EgressPathConfig) -> dict[str, pb.LimitRef]:
    written = b"".join(limit.write(PATH) for limit in find_limits(config))
    refs = {ref.key: ref for ref in GetEgressPathConfigResponse.FromString(written).limit_refs}
    assert list(refs) == list(find(config))
    return refs


def test_a_paths_own_limits_bear_its_name_and_shared_ones_theirs() -> None:
    config = EgressPathConfig(
        connection_limit=Limit(value=3),
        max_message_rate=Rate(count=100, period=Duration(seconds=60), max_burst=7),
        source_selection_rate=Rate(count=5, period=Duration(seconds=1)),
    )
    config.additional_connection_limits["all"].value = 9
    config.additional_message_rate_throttles["all"].CopyFrom(
        Rate(count=1, period=Duration(seconds=2))
    )

    found = find_refs(config)

    assert {key: limit.spec for key, limit in find(config).items()} == {
        "connection_limit:ip-1->mx": LimitSpec(units=3),
        "additional_connection_limits:all": LimitSpec(units=9),
        "max_message_rate:ip-1->mx": LimitSpec(
            units=7, earning=Earning(count=100, period_ns=60 * SECOND)
        ),
        "source_selection_rate:ip-1->mx": LimitSpec(
            units=5, earning=Earning(count=5, period_ns=SECOND)
        ),
        "additional_message_rate_throttles:all": LimitSpec(
            units=1, earning=Earning(count=1, period_ns=2 * SECOND)
        ),
    }
    assert all(kind_of(key) == ref.kind for key, ref in found.items())
    assert found["additional_connection_limits:all"].name == "all"
    assert found["connection_limit:ip-1->mx"].on_unreachable == pb.ON_UNREACHABLE_STOP


def test_a_local_limit_is_nobodys_to_lend() -> None:
    config = EgressPathConfig(connection_limit=Limit(value=3, local=True))

    (ref,) = find_refs(config).values()
    (limit,) = find(config).values()

    assert limit.spec is None
    assert ref.sharing == pb.LIMIT_SHARING_LOCAL
    assert ref.on_unreachable == pb.ON_UNREACHABLE_UNSPECIFIED


def test_what_an_agent_goes_on_with_alone_stands_beside_the_limit() -> None:
    config = EgressPathConfig(
        connection_limit=Limit(value=3),
        on_unreachable=pb.ON_UNREACHABLE_STATIC,
        on_unreachable_units=2,
    )

    (ref,) = find_refs(config).values()

    assert (ref.on_unreachable, ref.static_units) == (pb.ON_UNREACHABLE_STATIC, 2)


def test_sizes_beyond_all_use_are_lent_as_the_largest() -> None:
    config = EgressPathConfig(
        connection_limit=Limit(value=2**64 - 1),
        max_message_rate=Rate(count=2**64 - 1, period=Duration(seconds=1)),
    )

    specs = [limit.spec for limit in find(config).values()]

    assert {spec.units for spec in specs if spec} == {MOST_UNITS}
    assert None not in specs


def test_a_key_that_no_option_begins_has_no_kind() -> None:
    assert kind_of("something:else") == pb.LIMIT_KIND_UNSPECIFIED
