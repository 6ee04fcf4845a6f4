from msgspec.structs import replace

from agent.delivery.record import Record, RecordType, Response
from agent.outcomes.batches import TOO_OLD_SECONDS, make_batch
from agent.outcomes.outcome_filter import FilterPattern, OutcomeFilter, compile_filter
from agent.outcomes.sampling import FailureSample
from agent.spool.messages import PendingRecord

_NOW = 1_000_000.0
_SLOW = compile_filter(OutcomeFilter(etag="f1", patterns=(FilterPattern(regex="slow"),)))


def _pending(seq: int, text: str = "slow", **changes) -> PendingRecord:
    record = Record(
        type=RecordType.DELIVERY,
        event_id=f"e{seq}",
        timestamp=_NOW,
        id="m1",
        sender="",
        recipients=("a@b.example",),
        response=Response(code=250, content=text),
        created=_NOW,
    )
    return PendingRecord(seq=seq, record=replace(record, **changes))


def _make(*pending: PendingRecord, rules=None, **options):
    return make_batch(pending, now=_NOW, rules=rules, sample=FailureSample(), **options)


def _ids(batch) -> list[str]:
    return [outcome.event_id for outcome in batch.outcomes]


def test_a_batch_settles_what_it_sends_and_what_it_leaves_out():
    batch = _make(_pending(1), _pending(2, "ok"), _pending(3), rules=_SLOW)

    assert batch.seqs == (1, 2, 3)
    assert _ids(batch) == ["e1", "e3"]
    assert batch.outcome_seqs == (1, 3)
    assert batch.skipped == {RecordType.DELIVERY: 1}
    assert batch.filter_etag == "f1"


def test_without_a_filter_everything_is_sent_and_none_is_named():
    batch = _make(_pending(1), _pending(2, "ok"))

    assert (_ids(batch), batch.filter_etag) == (["e1", "e2"], "")


def test_the_server_hears_of_a_batch_of_which_everything_was_left_out():
    assert not _make(_pending(1, "ok"), rules=_SLOW).is_silent


def test_the_server_need_not_hear_of_what_is_dropped():
    old = _pending(1, timestamp=_NOW - TOO_OLD_SECONDS - 1)
    batch = _make(old, _pending(2, recipients=()))

    assert batch.is_silent
    assert (batch.seqs, batch.too_old, len(batch.unfit)) == ((1, 2), 1, 1)


def test_a_batch_is_bounded_in_bytes_and_has_one_outcome_at_least():
    long = [_pending(seq, "x" * 1000) for seq in range(1, 6)]

    assert _make(*long, max_bytes=2500).seqs == (1, 2)
    assert _make(*long, max_bytes=10).seqs == (1,)
