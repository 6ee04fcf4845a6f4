from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dispatch.throttles import Throttles
from agent.throttle.rate import Rate, RateThrottle
from agent.workers import limit_table
from agent.workers.limit_table import Busy, HostTime, LimitTable, read_host_time
from agent.workers.shared_limits import SharedThrottles

SECOND = 10**9
RATE = Rate(count=10, period_ns=10 * SECOND)
START = HostTime(boot_id="boot-1", wall=1000.0, monotonic_ns=500 * SECOND)


def open_table(path) -> LimitTable:
    return LimitTable(path, rows=256)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "limits.table"


@pytest.fixture
def table(path):
    table = open_table(path)
    assert not table.begin(START)
    yield table
    table.close()


def take_all(table: LimitTable, now_ns: int) -> int:
    throttles, taken = SharedThrottles(table), 0
    while throttles.try_take({"path": RATE}, now_ns) == 0:
        taken += 1
    return taken


def next_run(table: LimitTable, path, now: HostTime, *, is_clean: bool, stop: HostTime = START):
    if is_clean:
        table.end(stop)
    other = open_table(path)
    return other, other.begin(now)


def after(seconds: float) -> HostTime:
    return HostTime(
        boot_id="boot-1", wall=1000.0 + seconds, monotonic_ns=round((500 + seconds) * SECOND)
    )


@pytest.mark.parametrize("is_clean", [True, False], ids=["a clean stop", "a crash"])
def test_within_a_boot_nothing_is_forgotten_and_no_burst_is_lost(table, path, is_clean):
    assert take_all(table, START.monotonic_ns) == 10

    other, is_unknown = next_run(table, path, after(3), is_clean=is_clean)

    assert not is_unknown
    assert take_all(other, after(3).monotonic_ns) == 3
    other.close()


def test_after_a_reboot_and_a_clean_stop_buckets_have_leaked_meanwhile(table, path):
    take_all(table, START.monotonic_ns)

    booted = HostTime(boot_id="boot-2", wall=1004.0, monotonic_ns=SECOND)
    other, is_unknown = next_run(table, path, booted, is_clean=True)

    assert not is_unknown
    assert take_all(other, booted.monotonic_ns) == 4
    other.close()


@pytest.mark.parametrize(
    "wall", [1004.0, 900.0], ids=["the host crashed", "and its clock was set back"]
)
def test_after_a_crash_of_the_host_every_bucket_is_full(table, path, wall):
    booted = HostTime(boot_id="boot-2", wall=wall, monotonic_ns=20 * SECOND)
    other, is_unknown = next_run(table, path, booted, is_clean=False)

    assert is_unknown
    assert take_all(other, booted.monotonic_ns) == 0
    assert take_all(other, booted.monotonic_ns + 2 * SECOND) == 2
    other.close()


def test_a_host_that_can_not_tell_its_boots_apart_relies_on_clean_stops(table, path):
    nameless = replace(START, boot_id="")
    other, is_unknown = next_run(table, path, nameless, is_clean=True)
    assert not is_unknown
    third, is_unknown = next_run(other, path, nameless, is_clean=False)
    assert is_unknown
    other.close()
    third.close()


def test_a_kill_while_buckets_are_carried_over_frees_no_burst(table, path, monkeypatch):
    take_all(table, START.monotonic_ns)
    table.end(START)
    booted = HostTime(boot_id="boot-2", wall=1001.0, monotonic_ns=SECOND)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LimitTable, "store", die)
        other = open_table(path)
        with pytest.raises(KeyboardInterrupt):
            other.begin(booted)
    third = open_table(path)

    assert third.begin(booted)
    assert take_all(third, booted.monotonic_ns) == 0
    other.close()
    third.close()


def test_a_file_that_is_something_else_counts_as_a_crash(path):
    path.write_bytes(b"not a table" * 1000)
    table = open_table(path)

    assert table.begin(START)
    assert take_all(table, START.monotonic_ns) == 0
    table.close()


def test_a_kill_while_a_bucket_is_written_leaves_the_one_before(table):
    """Nothing was charged, for nothing was sent: whoever charges acts afterwards."""
    assert take_all(table, START.monotonic_ns) == 10
    (row,) = table.rate_rows(["path"], START.monotonic_ns)
    start = row + limit_table._BUCKETS_AT
    (sequence,) = limit_table._SEQUENCE.unpack_from(table._map, row + 16)
    other = start + (1 - (sequence & 1)) * limit_table._BUCKET_BYTES
    table._map[other : other + 20] = b"\xff" * 20

    assert take_all(table, START.monotonic_ns) == 0
    assert take_all(table, START.monotonic_ns + SECOND) == 1


def test_a_changed_rate_frees_nothing_by_itself(table):
    throttles = SharedThrottles(table)
    take_all(table, START.monotonic_ns)
    now = START.monotonic_ns
    wider = Rate(count=100, period_ns=10 * SECOND)
    for _ in range(20):
        assert throttles.try_take({"path": RATE}, now) > 0
        assert throttles.try_take({"path": wider}, now) > 0


def test_one_limit_never_gets_the_row_of_another_that_is_in_use(path):
    """All names meet in one window of rows, and of none is anything forgotten or shared."""
    table = LimitTable(path, rows=limit_table._PROBED)
    table.begin(START)
    now, throttles = START.monotonic_ns, SharedThrottles(table)
    rates = {f"path {number}": Rate(count=1, period_ns=SECOND) for number in range(40)}
    assert throttles.try_take(rates, now) == 0

    for name, rate in rates.items():
        assert throttles.try_take({name: rate}, now) == SECOND
    more = {f"more {number}": Rate(count=1, period_ns=SECOND) for number in range(40)}
    assert throttles.try_take(more, now) > 0, "no room: nothing is allowed"
    assert throttles.try_take(more, now + SECOND) == 0, "rows that ran empty are given away"
    for name, rate in more.items():
        assert throttles.try_take({name: rate}, now + SECOND) == SECOND


def test_a_lock_that_is_held_for_long_holds_nobody_up(path, table, monkeypatch):
    monkeypatch.setattr(limit_table, "_TRIES", 3)
    other = open_table(path)
    with other.locked():
        with pytest.raises(Busy), table.locked():
            pass
        assert SharedThrottles(table).try_take({"path": RATE}, START.monotonic_ns) > 0
        assert SharedThrottles(table).wait_ns({"path": RATE}, START.monotonic_ns) > 0
    assert SharedThrottles(table).try_take({"path": RATE}, START.monotonic_ns) == 0
    other.close()


def test_a_bucket_survives_being_written(table):
    for rate in (Rate(count=10**6, period_ns=86_400 * SECOND, max_burst=10**6), RATE):
        bucket = RateThrottle.spent(rate, 2**62)
        (row,) = table.rate_rows([str(rate)], 0)
        table.store(row, bucket)
        found = table.bucket(row, rate, 0)
        assert (found.rate, found.full_until) == (rate, bucket.full_until)


def test_this_host_can_tell_its_time():
    assert read_host_time().monotonic_ns > 0


@settings(deadline=None)
@given(
    count=st.integers(1, 1000),
    period=st.integers(1, 10**12),
    burst=st.none() | st.integers(1, 2000),
    taken=st.integers(0, 50),
    away=st.integers(0, 1000),
    restart_at=st.integers(1, 10**15),
)
def test_a_reboot_changes_no_wait(tmp_path_factory, count, period, burst, taken, away, restart_at):
    """After a clean stop, the next event waits as long as if the agent had run on."""
    path = tmp_path_factory.mktemp("table") / "limits.table"
    rates = {"r": Rate(count=count, period_ns=period, max_burst=burst)}
    table, kept, now = open_table(path), Throttles(), START.monotonic_ns
    table.begin(START)
    for _ in range(taken):
        assert SharedThrottles(table).try_take(rates, now) == kept.try_take(rates, now)

    booted = HostTime(boot_id="boot-2", wall=1000.0 + away, monotonic_ns=restart_at)
    other, _ = next_run(table, path, booted, is_clean=True)

    found = SharedThrottles(other).wait_ns(rates, restart_at)
    assert found == kept.wait_ns(rates, now + away * SECOND)
    table.close()
    other.close()
