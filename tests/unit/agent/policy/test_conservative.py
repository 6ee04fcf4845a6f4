from fractions import Fraction

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.conservative import CONSERVATIVE, conservative_policy
from agent.policy.effective import effective_policy
from penstock.v1.egress_path_pb2 import ENABLE_TLS_REQUIRED, EgressPathConfig, Limit, Rate
from tests.unit.agent.policy.answers import NOW, response, stored

COUNTS = ("max_deliveries_per_connection", "max_recipients_per_batch")

limits = st.none() | st.builds(Limit, value=st.integers(1, 1000), local=st.booleans())
rates = st.none() | st.builds(
    Rate,
    count=st.integers(1, 10_000),
    period=st.builds(Duration, seconds=st.integers(1, 100_000)),
    max_burst=st.none() | st.integers(1, 500),
)
configs = st.builds(
    EgressPathConfig,
    connection_limit=limits,
    max_message_rate=rates,
    max_connection_rate=rates,
    max_deliveries_per_connection=st.none() | st.integers(1, 2000),
    max_recipients_per_batch=st.none() | st.integers(1, 2000),
)


def _tightened(config: EgressPathConfig) -> EgressPathConfig:
    return conservative_policy(effective_policy(stored(response(config)), NOW)).config


def _per_second(rate: Rate) -> Fraction:
    return Fraction(rate.count, rate.period.seconds)


@given(known=configs)
def test_no_limit_is_wider_than_the_known_or_the_built_in_one(known):
    config = _tightened(known)

    for source in (known, CONSERVATIVE):
        if source.HasField("connection_limit"):
            assert config.connection_limit.value <= source.connection_limit.value
        for name in ("max_message_rate", "max_connection_rate"):
            if source.HasField(name):
                assert _per_second(getattr(config, name)) <= _per_second(getattr(source, name))
        for name in COUNTS:
            if source.HasField(name):
                assert getattr(config, name) <= getattr(source, name)
    assert config.max_message_rate.max_burst == 1


def test_what_is_no_limit_stays_as_it_was():
    known = EgressPathConfig(enable_tls=ENABLE_TLS_REQUIRED, smtp_port=2525)

    config = _tightened(known)

    assert (config.enable_tls, config.smtp_port) == (ENABLE_TLS_REQUIRED, 2525)


def test_the_path_keeps_its_name():
    policy = effective_policy(stored(response()), NOW)

    tightened = conservative_policy(policy)

    assert tightened.path_name == policy.path_name
    assert tightened.etag != policy.etag


@pytest.mark.parametrize("local", [True, False])
def test_a_shared_limit_stays_shared(local):
    known = EgressPathConfig(connection_limit=Limit(value=9, local=local))

    assert _tightened(known).connection_limit == Limit(value=1, local=local)
