from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.delivery.record import Record, RecordType, Response
from agent.outcomes.sampling import FailureSample

_FAILURE = Record(
    type=RecordType.TRANSIENT_FAILURE,
    event_id="e1",
    timestamp=0.0,
    id="m1",
    sender="",
    recipients=("a@b.example",),
    response=Response(code=450),
    created=0.0,
    site="ip-1->mx",
)


def test_a_kind_of_failure_is_told_once_a_minute():
    sample = FailureSample()

    told = [sample.is_chosen(_FAILURE, now) for now in (0.0, 59.0, 60.0, 61.0)]

    assert told == [True, False, True, False]


def test_kinds_differ_by_path_code_and_enhanced_code():
    sample = FailureSample()
    others = [
        _FAILURE,
        replace(_FAILURE, site="ip-2->mx"),
        replace(_FAILURE, response=Response(code=451)),
        replace(_FAILURE, response=Response(code=450, enhanced_code=(4, 7, 0))),
        replace(_FAILURE, response=Response(code=450, content="another text")),
    ]

    assert [sample.is_chosen(one, 0.0) for one in others] == [True, True, True, True, False]


def test_deliveries_are_never_told():
    assert not FailureSample().is_chosen(replace(_FAILURE, type=RecordType.DELIVERY), 0.0)


def test_a_clock_set_back_does_not_end_the_telling():
    sample = FailureSample()
    sample.is_chosen(_FAILURE, 1_000_000.0)

    assert sample.is_chosen(_FAILURE, 10.0)


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 5)), max_size=300))
def test_no_more_are_told_in_any_period_than_allowed(failures):
    sample, now, told = FailureSample(most=5), 0.0, []
    for kind, later in failures:
        now += later
        if sample.is_chosen(replace(_FAILURE, site=f"ip-{kind}"), now):
            told.append(now)

    # Periods do not slide, so that a minute across two of them may have twice as many.
    assert all(sum(begin <= one < begin + 60 for one in told) <= 10 for begin in told)
