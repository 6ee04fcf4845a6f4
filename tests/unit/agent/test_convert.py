import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.convert import LONGEST_CONTENT, outcome_of, response_of
from agent.delivery.record import REPORTED, Record, RecordType, Response
from penstock.v1 import outcome_pb2 as pb

RECORD = Record(
    type=RecordType.TRANSIENT_FAILURE,
    event_id="e-1",
    timestamp=1_800_000_000.25,
    id="m-1",
    sender="a@b.example",
    recipients=("someone@Foo.Example",),
    response=Response(
        code=421, enhanced_code=(4, 7, 0), content="[TS01] deferred", command="MAIL FROM:<>"
    ),
    created=1_799_999_000.0,
    site="ip-1->mx.foo.example",
    site_name="mx.foo.example",
    routing_domain="foo.example",
    recipient_domain="foo.example",
    egress_pool="pool",
    egress_source="ip-1",
    provider_name="foo",
    tenant="t",
    campaign="c",
    num_attempts=3,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
responses = st.builds(
    Response,
    code=st.integers(0, 999),
    enhanced_code=st.none()
    | st.tuples(st.integers(2, 5), st.integers(0, 999), st.integers(0, 999)),
    content=texts,
    command=texts,
    internal=st.booleans(),
)


def test_every_field_finds_its_place():
    outcome = outcome_of(RECORD)

    assert outcome.event_id == "e-1"
    assert (outcome.event_time.seconds, outcome.event_time.nanos) == (1_800_000_000, 250_000_000)
    assert outcome.type == pb.OUTCOME_TYPE_TRANSIENT_FAILURE
    assert outcome.recipient_domain == outcome.routing_domain == "foo.example"
    assert (outcome.site_name, outcome.path_name) == ("mx.foo.example", "ip-1->mx.foo.example")
    assert (outcome.egress_source, outcome.egress_pool) == ("ip-1", "pool")
    assert (outcome.tenant, outcome.campaign, outcome.provider_name) == ("t", "c", "foo")
    assert outcome.num_attempts == 3


@given(response=responses)
def test_a_reply_comes_back_as_it_was(response):
    assert response_of(outcome_of(replace(RECORD, response=response))) == response


@pytest.mark.parametrize("record_type", list(RecordType))
def test_reported_types_and_no_others_can_be_converted(record_type):
    record = replace(RECORD, type=record_type)

    if record_type in REPORTED:
        assert outcome_of(record).type != pb.OUTCOME_TYPE_UNSPECIFIED
    else:
        with pytest.raises(ValueError, match="not reported"):
            outcome_of(record)


@given(data=st.binary(max_size=60))
def test_any_bytes_of_a_peer_can_be_reported(data):
    content = data.decode("utf-8", "surrogateescape")

    outcome = outcome_of(replace(RECORD, response=Response(code=450, content=content)))

    assert outcome.SerializeToString()


def test_long_replies_are_cut():
    response = Response(code=450, content="x" * 100_000)

    assert len(outcome_of(replace(RECORD, response=response)).response.content) == LONGEST_CONTENT


def test_the_recipient_domain_is_taken_from_the_recipient_if_need_be():
    assert outcome_of(replace(RECORD, recipient_domain="")).recipient_domain == "foo.example"


def test_recipients_are_not_told():
    assert b"someone" not in outcome_of(RECORD).SerializeToString()


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(replace(RECORD, event_id=""), id="no event id"),
        pytest.param(replace(RECORD, recipient_domain="", recipients=()), id="no domain"),
    ],
)
def test_what_no_server_could_take_is_an_error(record):
    with pytest.raises(ValueError, match="needs"):
        outcome_of(record)
