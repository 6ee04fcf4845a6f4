from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.record import Peer, Record, RecordType, Response
from agent.spool.messages import LastReply
from agent.spool.records import decode_record, decode_reply, encode_record, encode_reply

texts = st.text(st.characters(), max_size=20)
responses = st.builds(
    Response,
    code=st.integers(0, 999),
    enhanced_code=st.none() | st.tuples(st.integers(2, 5), st.integers(0, 99), st.integers(0, 99)),
    content=texts,
    command=texts,
    internal=st.booleans(),
)
records = st.builds(
    Record,
    type=st.sampled_from(RecordType),
    event_id=texts,
    timestamp=st.floats(0, 4e9),
    id=texts,
    sender=texts,
    recipients=st.lists(texts, max_size=3).map(tuple),
    response=responses,
    created=st.floats(0, 4e9),
    queue=texts,
    site=texts,
    size=st.integers(0, 10**9),
    num_attempts=st.integers(0, 100),
    tenant=texts,
    peer_address=st.none() | st.builds(Peer, name=texts, addr=texts),
    tls_cipher=texts,
)


@given(records)
def test_every_record_survives_being_written_and_read(record):
    assert decode_record(encode_record(record)) == record


def test_what_is_at_its_default_takes_no_room():
    record = Record(
        type=RecordType.DELIVERY,
        event_id="e",
        timestamp=1.0,
        id="m",
        sender="",
        recipients=("u@example.com",),
        response=Response(code=250),
        created=1.0,
    )

    assert b"tls_cipher" not in encode_record(record)


@given(st.builds(LastReply, response=responses, time=st.floats(0, 4e9), peer=texts))
def test_every_last_reply_survives_being_written_and_read(reply):
    assert decode_reply(encode_reply(reply)) == reply
