from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.queue.backoff import is_too_old, retry_delay

MIDDLE = 0.5


@pytest.mark.parametrize(
    ("attempts", "minutes"), [(0, 20), (1, 40), (2, 80), (3, 160), (4, 240), (5, 240), (10**9, 240)]
)
def test_the_pause_doubles_up_to_its_cap(attempts, minutes):
    delay = retry_delay(
        attempts,
        retry_interval=timedelta(minutes=20),
        max_retry_interval=timedelta(hours=4),
        jitter=MIDDLE,
    )

    assert delay == timedelta(minutes=minutes)


@given(
    st.integers(0, 100),
    st.timedeltas(timedelta(seconds=1), timedelta(days=1)),
    st.none() | st.timedeltas(timedelta(seconds=1), timedelta(days=2)),
    st.floats(0, 1, exclude_max=True),
)
def test_jitter_stays_within_two_and_a_half_percent(attempts, interval, most, jitter):
    shape = {"retry_interval": interval, "max_retry_interval": most}

    plain = retry_delay(attempts, jitter=MIDDLE, **shape)
    delay = retry_delay(attempts, jitter=jitter, **shape)

    rounding = timedelta(milliseconds=1)
    assert 0.975 * plain - rounding <= delay <= 1.025 * plain + rounding
    assert retry_delay(attempts + 1, jitter=MIDDLE, **shape) >= plain


@pytest.mark.parametrize(
    ("next_attempt", "expected"), [(100.0 + 3600, False), (100.0 + 3600.5, True)]
)
def test_mail_ends_when_its_next_attempt_would_come_too_late(next_attempt, expected):
    found = is_too_old(created=100.0, next_attempt=next_attempt, max_age=timedelta(hours=1))

    assert found is expected
