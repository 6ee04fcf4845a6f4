from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sink.meter import RateMeter, SinkRate, SlidingSecond

_SECOND = 10**9
_ARRIVALS = st.lists(st.integers(0, 3 * _SECOND), min_size=1, max_size=40).map(sorted)
_RATES = st.builds(
    SinkRate,
    count=st.integers(1, 50),
    period=st.integers(1, 5 * _SECOND),
    burst=st.integers(1, 10),
)


def _worst_excess(arrivals: list[int], rate: SinkRate) -> Fraction:
    """Try every window, as the definition says."""
    return max(
        (j - i + 1) - rate.burst - Fraction((arrivals[j] - arrivals[i]) * rate.count, rate.period)
        for i in range(len(arrivals))
        for j in range(i, len(arrivals))
    )


@given(_ARRIVALS, _RATES)
def test_excess_is_the_worst_over_all_windows(arrivals, rate):
    meter = RateMeter(rate)

    for arrival in arrivals:
        meter.arrive(arrival)

    worst = _worst_excess(arrivals, rate)
    assert meter.excess == pytest.approx(float(worst))
    assert meter.exceeds == (worst > 0)


@given(_ARRIVALS, _RATES)
def test_what_is_admitted_never_exceeds_the_rate(arrivals, rate):
    meter = RateMeter(rate)

    admitted = [arrival for arrival in arrivals if meter.arrive(arrival)]

    assert admitted
    assert _worst_excess(admitted, rate) <= 0


@pytest.mark.parametrize(
    ("arrivals", "verdicts"),
    [
        pytest.param([0, 0, 0], [True, True, False], id="a burst of two"),
        pytest.param([0, 0, _SECOND // 10], [True, True, True], id="one drained in its time"),
        pytest.param([0, 0, _SECOND // 10 - 1], [True, True, False], id="a nanosecond early"),
        pytest.param(
            [0, 0, 0, _SECOND // 10], [True, True, False, True], id="refusals cost nothing"
        ),
        pytest.param([_SECOND, 0, 0], [True, True, False], id="a clock that steps back"),
    ],
)
def test_meter_refuses_what_is_over_the_rate(arrivals, verdicts):
    meter = RateMeter(SinkRate(count=10, period=_SECOND, burst=2))

    assert [meter.arrive(arrival) for arrival in arrivals] == verdicts


def test_refused_arrivals_count_as_excess():
    meter = RateMeter(SinkRate(count=1, period=_SECOND, burst=1))

    for _ in range(4):
        meter.arrive(0)

    assert meter.excess == 3


def test_busiest_second_does_not_count_an_arrival_a_whole_second_old():
    second = SlidingSecond()

    for arrival in (0, _SECOND // 2, _SECOND - 1, _SECOND):
        second.arrive(arrival)

    assert second.peak == 3


@pytest.mark.parametrize("wrong", [{"count": 0}, {"period": 0}, {"burst": 0}])
def test_rate_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        SinkRate(**({"count": 1, "period": 1, "burst": 1} | wrong))
