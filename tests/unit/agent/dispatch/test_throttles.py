"""Rate throttles over restarts: nothing that was used of a burst is forgotten."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dispatch.throttle_file import ThrottleFile, Uptime, read_uptime
from agent.dispatch.throttles import Throttles
from agent.throttle.rate import Rate

_SECOND = 1_000_000_000
_RATE = Rate(count=10, period_ns=_SECOND)
_RATES = {"messages a": _RATE}


class Clocks:
    """A wall clock and a monotonic one, both moved by hand."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.monotonic = 50 * _SECOND
        self.uptime = Uptime(boot_id="first", seconds=50.0)

    def set_forward(self, *, after: float, by: float) -> None:
        """Let time pass on the running host, and set the wall clock forward."""
        self.wall += after + by
        self.monotonic += round(after * _SECOND)
        self.uptime = Uptime(boot_id=self.uptime.boot_id, seconds=self.uptime.seconds + after)

    def reboot(self, *, after: float) -> None:
        """Let time pass; the monotonic clock begins anew."""
        self.wall += after
        self.monotonic = 3 * _SECOND
        self.uptime = Uptime(boot_id="second", seconds=3.0)


@pytest.fixture
def clocks():
    return Clocks()


@pytest.fixture
def open_file(tmp_path, clocks):
    def build() -> ThrottleFile:
        return ThrottleFile(
            tmp_path / "throttles.json",
            clock=lambda: clocks.wall,
            monotonic_ns=lambda: clocks.monotonic,
            uptime=lambda: clocks.uptime,
        )

    return build


def _take_all(throttles: Throttles, now_ns: int) -> int:
    taken = 0
    while throttles.try_take(_RATES, now_ns) == 0:
        taken += 1
    return taken


def test_first_start_has_a_whole_burst(open_file, clocks):
    assert _take_all(open_file().open(), clocks.monotonic) == 10


def test_clean_stop_keeps_what_was_used(open_file, clocks):
    file = open_file()
    throttles = file.open()
    assert _take_all(throttles, clocks.monotonic) == 10
    file.close(throttles)
    clocks.reboot(after=0.35)

    assert _take_all(open_file().open(), clocks.monotonic) == 3


def test_start_after_a_crash_has_no_burst_but_its_rate(open_file, clocks):
    open_file().open()
    clocks.reboot(after=3600)

    throttles = open_file().open()

    assert _take_all(throttles, clocks.monotonic) == 0
    assert _take_all(throttles, clocks.monotonic + _SECOND // 2) == 5


def test_path_first_used_long_after_a_crash_has_a_whole_burst(open_file, clocks):
    open_file().open()
    throttles = open_file().open()

    assert _take_all(throttles, clocks.monotonic + 60 * _SECOND) == 10


def test_clock_set_back_frees_nothing(open_file, clocks):
    file = open_file()
    throttles = file.open()
    _take_all(throttles, clocks.monotonic)
    file.close(throttles)
    clocks.reboot(after=-3600)

    assert _take_all(open_file().open(), clocks.monotonic) == 0


def test_clock_set_forward_while_the_agent_was_down_frees_nothing(open_file, clocks):
    file = open_file()
    throttles = file.open()
    _take_all(throttles, clocks.monotonic)
    file.close(throttles)
    clocks.set_forward(after=0.35, by=3600)

    assert _take_all(open_file().open(), clocks.monotonic) == 3


def test_host_without_a_boot_id_goes_by_the_wall_clock(open_file, clocks):
    clocks.uptime = Uptime(boot_id="", seconds=0.0)
    file = open_file()
    throttles = file.open()
    _take_all(throttles, clocks.monotonic)
    file.close(throttles)
    clocks.wall += 0.35

    assert _take_all(open_file().open(), clocks.monotonic) == 3


def test_uptime_of_this_host_only_grows():
    first, second = read_uptime(), read_uptime()

    assert first.boot_id == second.boot_id
    assert 0 <= first.seconds <= second.seconds


@pytest.mark.parametrize("text", ["", "{", "[]", '{"running": false}'])
def test_unreadable_file_counts_as_a_crash(tmp_path, open_file, clocks, text):
    (tmp_path / "throttles.json").write_text(text)

    assert _take_all(open_file().open(), clocks.monotonic) == 0


@given(
    count=st.integers(1, 1000),
    period=st.integers(1, 10**12),
    burst=st.none() | st.integers(1, 2000),
    taken=st.integers(0, 50),
    away=st.integers(0, 10**12),
    restart_at=st.integers(0, 10**15),
)
def test_restart_changes_no_wait(count, period, burst, taken, away, restart_at):
    """After a clean stop, the next event waits as long as if the agent had run on."""
    rates = {"r": Rate(count=count, period_ns=period, max_burst=burst)}
    throttles, start = Throttles(), 10**12
    for _ in range(taken):
        throttles.try_take(rates, start)

    saved = json.loads(json.dumps(throttles.save(start)))
    restored = Throttles.restore(saved, elapsed_ns=away, now_ns=restart_at)

    assert restored.wait_ns(rates, restart_at) == throttles.wait_ns(rates, start + away)
