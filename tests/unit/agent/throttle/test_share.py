from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.throttle.share import HOLD_SECONDS, Claim, fair_shares, may_open, surplus_of

CLAIMS = st.lists(
    st.builds(Claim, st.integers(0, 20), st.none() | st.floats(0, 3 * HOLD_SECONDS)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize(
    ("claims", "most", "shares"),
    [
        pytest.param([Claim(3), Claim(2)], 10, [3, 2], id="enough for all"),
        pytest.param([Claim(9, 0.0), Claim(0, 0.0)], 9, [8, 1], id="a newcomer gets its first"),
        pytest.param([Claim(1, 0.0), Claim(0, 1.0)], 1, [1, 0], id="the last one is held a while"),
        pytest.param([Claim(1, 0.0), Claim(0, 6.0)], 1, [0, 1], id="and then it goes round"),
        pytest.param([Claim(8), Claim(8)], 10, [5, 5], id="a lowered limit is split"),
        pytest.param([Claim(5), Claim(5)], 0, [0, 0], id="nothing is to be had"),
    ],
)
def test_shares(claims, most, shares):
    assert fair_shares(claims, most) == shares


@given(CLAIMS, st.integers(0, 60))
def test_all_is_given_away_fairly_and_no_more(claims, most):
    shares = fair_shares(claims, most)

    asked = [claim.asked for claim in claims]
    assert sum(shares) == min(most, sum(asked))
    assert all(share <= wish for share, wish in zip(shares, asked, strict=True))
    unmet = [share for share, wish in zip(shares, asked, strict=True) if share < wish]
    assert not unmet or max(shares) <= min(unmet) + 1


@given(CLAIMS, st.integers(0, 60))
def test_nobody_closes_what_nobody_needs(claims, most):
    surplus = [surplus_of(claims, number, most) for number in range(len(claims))]

    if sum(claim.asked for claim in claims) <= most:
        assert not any(surplus)
    held = [claim.held - less for claim, less in zip(claims, surplus, strict=True)]
    assert sum(held) <= most or sum(claim.held for claim in claims) <= most


@given(
    st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 12), st.sampled_from([0.25, 1.0, 2.0])
)
def test_the_limit_holds_and_everybody_gets_a_turn(seed, workers, most, step):
    """Greedy processes that act in any order, see the same table, and want all they can get."""
    random = Random(seed)
    held, since = [0] * workers, [None] * workers
    last_held = [0.0] * workers
    now = 0.0
    while now < 40 * HOLD_SECONDS:
        now += step
        for me in random.sample(range(workers), workers):
            claims = [
                Claim(count, None if began is None else now - began)
                for count, began in zip(held, since, strict=True)
            ]
            surplus = surplus_of(claims, me, most)
            held[me] -= surplus
            began = since[me] if since[me] is not None else now
            claims = [Claim(held[me], now - began) if n == me else c for n, c in enumerate(claims)]
            if may_open(claims, me, most):
                held[me] += 1
                since[me] = None
            else:
                since[me] = began
            assert sum(held) <= most
            if held[me]:
                last_held[me] = now
            # One turn after the other, each as long as it may be, with the time to notice it.
            assert now - last_held[me] <= (workers + 1) * (HOLD_SECONDS + 3 * step)
    assert sum(held) == most or sum(held) >= most - workers
