from hypothesis import given
from hypothesis import strategies as st

from agent.throttle.permit import try_take
from agent.throttle.rate import Rate, RateThrottle

SECOND = 1_000_000_000


def test_without_throttles_everything_passes():
    assert try_take([], 0) == 0


def test_a_refusal_by_one_costs_the_others_nothing():
    wide = RateThrottle(Rate(count=2, period_ns=SECOND))
    narrow = RateThrottle(Rate(count=1, period_ns=SECOND))
    assert try_take([wide, narrow], 0) == 0

    assert try_take([wide, narrow], 0) == SECOND

    assert try_take([wide], 0) == 0


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 99)), min_size=1, max_size=4),
    st.lists(st.integers(0, 60), max_size=40),
)
def test_it_takes_all_or_none_and_the_wait_it_names_suffices(shapes, steps):
    throttles = [RateThrottle(Rate(count=count, period_ns=period)) for count, period in shapes]
    now = 0

    for step in steps:
        now += step
        before = [throttle.wait_ns(now) for throttle in throttles]
        wait = try_take(throttles, now)
        assert wait == max(before)
        if wait:
            assert [throttle.wait_ns(now) for throttle in throttles] == before
            assert max(throttle.wait_ns(now + wait) for throttle in throttles) == 0
