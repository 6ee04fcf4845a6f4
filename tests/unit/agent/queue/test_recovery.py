import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.queue.recovery import LONGEST_WINDOW, spread_overdue

TIMES = st.floats(1e9, 2e9)


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        pytest.param(900.0, 900.0, id="due before the stop"),
        pytest.param(1000.0, 1000.0, id="due at the stop"),
        pytest.param(1030.0, 1090.0, id="due while stopped"),
        pytest.param(1060.0, 1060.0, id="due now"),
        pytest.param(5000.0, 5000.0, id="due later"),
    ],
)
def test_only_what_came_due_meanwhile_is_spread(due, expected):
    assert spread_overdue(due, stopped=1000.0, now=1060.0) == expected


def test_where_the_stop_is_not_known_nothing_is_moved():
    assert spread_overdue(1030.0, stopped=0.0, now=1060.0) == 1030.0


@given(st.lists(TIMES, min_size=2), TIMES, TIMES)
def test_order_is_kept_and_nothing_waits_longer_than_the_window(dues, stopped, now):
    moved = [spread_overdue(due, stopped=stopped, now=now) for due in sorted(dues)]

    both = list(zip(sorted(dues), moved, strict=True))
    overdue = [spread for due, spread in both if stopped < due < now]
    assert overdue == sorted(overdue)
    for due, spread in both:
        assert spread >= due
        assert spread - max(due, now) <= min(LONGEST_WINDOW, max(0.0, now - stopped)) + 1e-3


@given(st.floats(400.0, 1e6))
def test_no_part_of_the_window_gets_more_than_its_share(downtime):
    """Mail that was due evenly over the downtime is due evenly over the window."""
    stopped, now = 1e9, 1e9 + downtime
    dues = [stopped + downtime * (number + 0.5) / 1000 for number in range(1000)]

    spread = [spread_overdue(due, stopped=stopped, now=now) - now for due in dues]

    for part in range(10):
        low, high = LONGEST_WINDOW * part / 10, LONGEST_WINDOW * (part + 1) / 10
        assert 98 <= sum(low <= one < high for one in spread) <= 102
