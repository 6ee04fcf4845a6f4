from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.throttle.rate import Rate, RateThrottle

SECOND = 1_000_000_000

rates = st.builds(
    Rate,
    count=st.integers(1, 50),
    period_ns=st.integers(1, 10_000),
    max_burst=st.none() | st.integers(1, 60),
)
pauses = st.lists(st.integers(0, 3_000), min_size=1, max_size=80)


class TokenBucket:
    """The bound itself, in exact fractions."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.tokens = Fraction(rate.burst)
        self.now = 0

    def try_take(self, now: int) -> bool:
        gained = Fraction((now - self.now) * self.rate.count, self.rate.period_ns)
        self.tokens = min(Fraction(self.rate.burst), self.tokens + gained)
        self.now = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@pytest.mark.parametrize(
    ("count", "seconds", "max_burst", "expected"),
    [
        (50, 1, None, "50/s"),
        (3, 60, None, "3/m"),
        (10_000, 3600, None, "10000/h"),
        (500, 86_400, 1, "500/d,max_burst=1"),
        (5, 300, None, "5/300s"),
        (1, 0.5, None, "1/0.5s"),
    ],
)
def test_a_rate_is_spelt_as_operators_do(count, seconds, max_burst, expected):
    rate = Rate(count=count, period_ns=round(seconds * SECOND), max_burst=max_burst)

    assert str(rate) == expected


def free_to_go(throttle: RateThrottle, now_ns: int) -> int:
    """How many events could pass now."""
    return next(ahead for ahead in range(10_000) if throttle.wait_ns(now_ns, ahead) > 0)


@given(rates, pauses)
def test_decisions_are_those_of_an_exact_token_bucket(rate, steps):
    throttle, bucket, now = RateThrottle(rate), TokenBucket(rate), 0

    for step in steps:
        now += step
        assert (throttle.try_take(now) == 0) == bucket.try_take(now)


@given(rates, pauses)
def test_no_window_sees_more_than_burst_plus_rate_times_its_length(rate, steps):
    throttle, now, passed = RateThrottle(rate), 0, []

    for step in steps:
        now += step
        if throttle.try_take(now) == 0:
            passed.append(now)

    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            most = rate.burst + Fraction((passed[last] - start) * rate.count, rate.period_ns)
            assert last - first + 1 <= most


@given(rates, pauses)
def test_the_wait_it_names_is_the_shortest_that_helps(rate, steps):
    throttle, now = RateThrottle(rate), 0

    for step in steps:
        now += step
        wait = throttle.try_take(now)
        if wait:
            assert throttle.wait_ns(now + wait) == 0
            assert throttle.wait_ns(now + wait - 1) > 0


@given(rates, rates, pauses, st.integers(0, 20_000))
def test_a_changed_rate_frees_nothing_and_takes_no_more_than_it_must(old, new, steps, pause):
    throttle, now = RateThrottle(old), 0
    for step in steps:
        now += step
        throttle.try_take(now)
    now += pause
    before = free_to_go(throttle, now)

    throttle.set_rate(new, now)

    after = free_to_go(throttle, now)
    assert after <= before
    assert after >= min(before, new.burst) - (1 if after < before else 0)
    assert throttle.rate == new


@given(rates, rates, st.integers(2, 20))
def test_flapping_between_rates_gives_no_fresh_bursts(one, other, times):
    throttle, now, passed = RateThrottle(one), 0, 0

    for turn in range(times):
        while throttle.try_take(now) == 0:
            passed += 1
        throttle.set_rate(other if turn % 2 == 0 else one, now)

    assert passed <= one.burst


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param(Rate(count=100, period_ns=SECOND), 100, id="the whole count by default"),
        pytest.param(Rate(count=100, period_ns=SECOND, max_burst=1), 1, id="evenly paced"),
    ],
)
def test_the_burst_passes_at_once_and_then_the_rate_holds(rate, expected):
    throttle = RateThrottle(rate)

    assert free_to_go(throttle, 5 * SECOND) == expected
    for _ in range(expected):
        throttle.take(5 * SECOND)

    assert throttle.wait_ns(5 * SECOND) == 10_000_000
    assert throttle.wait_ns(5 * SECOND, ahead=9) == 100_000_000


def test_a_rate_that_divides_badly_does_not_drift():
    throttle = RateThrottle(Rate(count=3, period_ns=10, max_burst=1))

    passed = [now for now in range(1001) if throttle.try_take(now) == 0]

    # One may be as late as its nanosecond's end; the next is measured from there.
    assert len(passed) == 251


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"count": 0, "period_ns": 1}, id="nothing"),
        pytest.param({"count": 1, "period_ns": 0}, id="no period"),
        pytest.param({"count": 1, "period_ns": 1, "max_burst": 0}, id="no burst"),
    ],
)
def test_a_rate_that_lets_nothing_pass_cannot_be_made(parts):
    with pytest.raises(ValueError, match="at least 1"):
        Rate(**parts)
