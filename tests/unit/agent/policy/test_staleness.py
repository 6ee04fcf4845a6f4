from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.staleness import Staleness, retry_delay, staleness


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (0, Staleness.FRESH),
        (15, Staleness.FRESH),
        (16, Staleness.LAGGING),
        (60, Staleness.LAGGING),
        (60.1, Staleness.STALE),
        (3600, Staleness.STALE),
        (3601, Staleness.EXPIRED),
        pytest.param(float("inf"), Staleness.EXPIRED, id="never heard"),
    ],
)
def test_the_state_follows_the_age_of_the_last_word(age, state):
    assert staleness(age, 3600) is state


@given(failures=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_delays_are_bounded_and_never_shrink_with_failures(failures, chance):
    assert 0 <= retry_delay(failures, chance) <= retry_delay(failures + 1, chance) <= 30


def test_delays_are_spread_over_their_whole_length():
    """Full jitter: a fleet that lost its server does not come back as one."""
    random = Random(1)
    for failures, longest in ((1, 1.0), (3, 4.0), (10, 30.0), (100, 30.0)):
        delays = [retry_delay(failures, random.random()) for _ in range(1000)]

        assert min(delays) < 0.02 * longest
        assert 0.98 * longest < max(delays) <= longest
        assert 0.45 * longest < sum(delays) / len(delays) < 0.55 * longest
