from datetime import timedelta

import pytest

from agent.dispatch.options import options_of
from agent.policy.answer import PathPolicy
from penstock.v1 import egress_path_pb2 as pb


def _rate(count: int, seconds: float) -> pb.Rate:
    rate = pb.Rate(count=count)
    rate.period.FromTimedelta(timedelta(seconds=seconds))
    return rate


def _policy(config: pb.EgressPathConfig) -> PathPolicy:
    return PathPolicy(
        routing_domain="foo.example",
        egress_source="ip-1",
        site_name="site",
        path_name="ip-1->site",
        provider_name="",
        config=config,
        etag="e",
        revision=1,
    )


@pytest.mark.parametrize(
    ("own", "additional", "expected"),
    [
        pytest.param(None, {}, None, id="none"),
        pytest.param((50, 1), {}, "50/s", id="own alone"),
        pytest.param((50, 1), {"fleet": (600, 60)}, "600/m", id="shared one is tighter"),
        pytest.param((5, 1), {"fleet": (600, 60), "b": (7, 1)}, "5/s", id="own is tighter"),
        pytest.param(None, {"a": (9, 1), "b": (8, 1)}, "8/s", id="shared ones alone"),
    ],
)
def test_the_tightest_message_rate_is_told(own, additional, expected):
    config = pb.EgressPathConfig()
    if own is not None:
        config.max_message_rate.CopyFrom(_rate(*own))
    for name, rate in additional.items():
        config.additional_message_rate_throttles[name].CopyFrom(_rate(*rate))

    found = options_of(_policy(config)).message_rate

    assert (str(found) if found else None) == expected
