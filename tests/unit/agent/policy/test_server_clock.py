"""What the server's times are by a clock of ours."""

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.server_clock import LONGEST_WAY_SECONDS, ServerClock


def test_nothing_is_known_before_the_first_response():
    assert ServerClock().seconds_until(100.0, 5.0) == math.inf


@given(
    apart=st.floats(-1e6, 1e6),
    ways=st.lists(st.floats(0, 20), min_size=1, max_size=20),
    gaps=st.lists(st.floats(0, 400), min_size=20, max_size=20),
)
def test_an_end_is_never_sooner_and_later_by_the_shortest_recent_way_at_most(apart, ways, gaps):
    """*apart*: our clock minus the server's; *ways*: how long each response is on its way."""
    clock = ServerClock()
    server, now, heard = 1000.0, 0.0, []
    for way, gap in zip(ways, gaps, strict=False):
        server += gap
        now = max(now, server + apart + way)
        clock.note(server, now)
        heard.append((now, now - server - apart))

    left = clock.seconds_until(server + 500, now)

    recent = [way for at, way in heard if now - at < 300]
    assert left >= server + 500 + apart - now - 1e-6
    assert left <= server + 500 + apart + min(recent) - now + 1e-6


def test_a_clock_that_was_put_back_is_followed():
    clock = ServerClock()
    clock.note(1000.0, 50.0)

    clock.note(1000.0 - 3600, 51.0)

    assert clock.seconds_until(1000.0 - 3600 + 10, 51.0) == 10


def test_a_response_that_was_late_draws_no_end_out():
    clock = ServerClock()
    clock.note(1000.0, 50.0)

    clock.note(1001.0, 51.0 + LONGEST_WAY_SECONDS / 2)

    assert clock.seconds_until(1020.0, 66.0) == 4.0
