"""The newest records of the outbox in memory, compared with all of them."""

from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.record import Record, RecordType, Response
from agent.spool.fresh_records import FreshRecords
from agent.spool.messages import PendingRecord

_BEFORE, _MOST = 7, 6


def _pending(seq: int) -> PendingRecord:
    record = Record(
        type=RecordType.DELIVERY,
        event_id=f"e{seq}",
        timestamp=1.0,
        id="m",
        sender="",
        recipients=("u@example.com",),
        response=Response(code=250),
        created=1.0,
    )
    return PendingRecord(seq=seq, record=record)


@given(
    st.lists(
        st.integers(1, 4)
        | st.lists(st.integers(0, 30), max_size=4)
        | st.tuples(st.integers(0, 30), st.integers(1, 5)),
        max_size=30,
    )
)
def test_what_it_answers_is_what_the_disk_would(steps):
    """A number adds so many records, a list forgets these, a pair asks for some after a number."""
    fresh, last = FreshRecords(_BEFORE, most=_MOST), _BEFORE
    # Some were on disk before.
    outbox = {seq: _pending(seq) for seq in range(1, _BEFORE + 1)}
    for step in steps:
        match step:
            case int(count):
                added = [_pending(seq) for seq in range(last + 1, last + count + 1)]
                last += count
                fresh.add(added)
                outbox |= {one.seq: one for one in added}
            case list(seqs):
                gone = [seq for seq in seqs if seq <= last]
                fresh.forget(gone)
                for seq in gone:
                    outbox.pop(seq, None)
            case (after, limit):
                found = fresh.after(after, limit)
                on_disk = [one for seq, one in sorted(outbox.items()) if seq > after][:limit]
                assert found is None or found == on_disk


def test_the_newest_are_kept_and_older_ones_left_to_the_disk():
    fresh = FreshRecords(0, most=_MOST)

    for seq in range(1, 100):
        fresh.add([_pending(seq)])

    assert fresh.after(0, 10) is None
    assert fresh.after(98 - _MOST, 10) is None
    assert [one.seq for one in fresh.after(97, 10)] == [98, 99]
