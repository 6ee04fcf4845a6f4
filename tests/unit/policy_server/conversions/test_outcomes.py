"""Outcomes as agents report them."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from penstock.v1.outcome_pb2 import DeliveryOutcome
from policy_server.automation.outcomes import Outcome, OutcomeType, Reply
from policy_server.conversions.outcomes import from_outcome, read_outcomes, to_outcome
from policy_server.errors import InvalidRequest

_START = datetime(2026, 8, 1, 12, tzinfo=UTC)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_number = st.integers(0, 2**32 - 1)
_replies = st.builds(
    Reply,
    code=_number,
    enhanced_code=st.none() | st.tuples(_number, _number, _number),
    content=_text,
    command=_text,
)
_outcomes = st.builds(
    Outcome,
    event_id=st.text("abc123", min_size=1, max_size=20),
    event_time=st.timedeltas(timedelta(0), timedelta(days=36_500)).map(_START.__add__),
    type=st.sampled_from(OutcomeType),
    recipient_domain=st.just("example.com"),
    routing_domain=st.sampled_from(["example.com", "relay.example"]),
    site_name=_text,
    path_name=_text,
    egress_source=_text,
    egress_pool=_text,
    tenant=_text,
    campaign=_text,
    reply=_replies,
    internal=st.booleans(),
    num_attempts=_number,
    provider_name=_text,
)


@given(_outcomes)
def test_an_outcome_comes_back_as_it_was_written(outcome):
    assert from_outcome(DeliveryOutcome.FromString(to_outcome(outcome).SerializeToString())) == (
        outcome
    )


def test_the_routing_domain_defaults_to_the_recipients():
    message = DeliveryOutcome(recipient_domain="Example.COM.", type=1)

    assert from_outcome(message).routing_domain == "example.com"


def test_every_mistake_of_a_batch_is_told_at_once():
    good = to_outcome(
        Outcome(
            event_id="e",
            event_time=_START,
            type=OutcomeType.BOUNCE,
            recipient_domain="example.com",
            routing_domain="example.com",
        )
    )
    distant = DeliveryOutcome()
    distant.CopyFrom(good)
    distant.event_time.CopyFrom(Timestamp(seconds=10**15))

    with pytest.raises(InvalidRequest) as caught:
        read_outcomes([DeliveryOutcome(site_name="x" * 9000), good, distant])

    assert [field for field, _ in caught.value.violations] == [
        "outcomes[0].event_id",
        "outcomes[0].event_time",
        "outcomes[0].type",
        "outcomes[0].recipient_domain",
        "outcomes[0].site_name",
        "outcomes[2].event_time",
    ]


@pytest.mark.parametrize("domain", ["exa mple..com", "\u2603" * 300, "[192.0.2.1]", "-"])
def test_an_odd_domain_is_no_reason_to_refuse_a_batch(domain):
    message = DeliveryOutcome(recipient_domain=domain, type=1)

    assert from_outcome(message).recipient_domain
