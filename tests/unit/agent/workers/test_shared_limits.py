"""Limits over the processes of one agent: the bounds hold for any interleaving of them."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.throttle.rate import Rate
from agent.throttle.share import HOLD_SECONDS
from agent.workers.limit_table import HostTime, LimitTable
from agent.workers.shared_limits import SharedSlots, SharedThrottles

SECOND = 10**9
START = HostTime(boot_id="boot-1", wall=1000.0, monotonic_ns=500 * SECOND)


def most_in_any_window(times: list[int], rate: Rate) -> bool:
    """Whether no window of *times* (ns, sorted) holds more than burst + rate * length."""
    lowest = 0
    for number, time in enumerate(times):
        # Events beyond the rate since the window that is worst so far began.
        lowest = max(lowest - (time - times[number - 1]) * rate.count if number else 0, 0)
        lowest += rate.period_ns
        if lowest > rate.burst * rate.period_ns:
            return False
    return True


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.builds(
        Rate,
        count=st.integers(1, 20),
        period_ns=st.integers(1, 20 * SECOND),
        max_burst=st.none() | st.integers(1, 30),
    ),
)
def test_a_rate_holds_over_all_processes_whichever_are_killed(tmp_path_factory, seed, rate):
    path = tmp_path_factory.mktemp("table") / "limits.table"
    random, now = Random(seed), START.monotonic_ns
    first = LimitTable(path, rows=256)
    first.begin(START)
    tables = [LimitTable(path, rows=256) for _ in range(3)]
    taken: list[int] = []
    for _ in range(150):
        now += random.choice([0, 0, 1, rate.period_ns // rate.count, random.randrange(5 * SECOND)])
        worker = random.randrange(3)
        if random.random() < 0.05:
            # Killed, and another takes its place; now and then all of them.
            tables[worker].close()
            if random.random() < 0.3:
                first.begin(HostTime(boot_id="boot-1", wall=0.0, monotonic_ns=now))
            tables[worker] = LimitTable(path, rows=256)
        # Clocks are read before the lock is had: now and then a process comes late, and what it
        # does is of the time that it has read.
        seen = now - random.choice([0, 0, 0, 1, 1000])
        throttles = SharedThrottles(tables[worker])
        wait = throttles.try_take({"path": rate}, seen)
        if wait == 0:
            taken.append(seen)
        else:
            assert throttles.wait_ns({"path": rate}, seen) == wait
    for table in (first, *tables):
        table.close()
    assert taken
    assert most_in_any_window(sorted(taken), rate)


def test_what_one_takes_no_other_can(tmp_path):
    one, other = LimitTable(tmp_path / "t", rows=256), LimitTable(tmp_path / "t", rows=256)
    one.begin(START)
    rates = {"a": Rate(count=1, period_ns=SECOND), "b": Rate(count=5, period_ns=SECOND)}
    now = START.monotonic_ns

    assert SharedThrottles(one).try_take(rates, now) == 0
    assert SharedThrottles(other).try_take(rates, now) == SECOND
    # Nothing was taken of "b" by what "a" refused.
    for _ in range(4):
        assert SharedThrottles(other).try_take({"b": rates["b"]}, now) == 0
    assert SharedThrottles(other).try_take({"b": rates["b"]}, now) > 0
    one.close()
    other.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def world(tmp_path):
    tables = [LimitTable(tmp_path / "t", rows=256) for _ in range(3)]
    tables[0].begin(START)
    clock = Clock()
    yield [SharedSlots(table, number, clock=clock) for number, table in enumerate(tables)], clock
    for table in tables:
        table.close()


def test_a_limit_counts_the_connections_of_all_processes(world):
    (one, other, _), _ = world
    limits = {"path": 2, "provider": 10}

    assert one.try_take(limits) is None
    assert other.try_take(limits) is None
    assert other.try_take(limits) == "path"
    assert one.try_take({"provider": 10}) is None
    assert one.in_use("provider") == 3

    one.release(["path", "provider"])
    assert other.try_take(limits) is None
    assert one.in_use("provider") == 3


def test_the_connections_of_a_killed_process_are_free(world):
    (one, other, _), _ = world
    assert one.try_take({"path": 1}) is None
    assert other.try_take({"path": 1}) == "path"

    one._table.clear_worker(0)

    assert other.try_take({"path": 1}) is None


def test_one_that_has_all_gives_others_their_share(world):
    (one, other, _), clock = world
    for _ in range(10):
        assert one.try_take({"path": 10}) is None
    assert list(one.contended()) == []
    assert other.try_take({"path": 10}) == "path"

    assert one.contended() == ["path"]
    assert one.surplus("path", 10) == 1
    one.release(["path"])
    assert one.try_take({"path": 10}) == "path", "it waits behind the one that has none"
    assert other.try_take({"path": 10}) is None
    clock.now += 60
    assert one.contended() == []
    assert one.surplus("path", 10) == 0


def test_a_lowered_limit_is_given_up_together_and_not_by_each(world):
    (one, other, _), _ = world
    for slots in (one, other):
        for _ in range(10):
            assert slots.try_take({"path": 20}) is None

    assert (one.surplus("path", 8), other.surplus("path", 8)) == (6, 6)


def test_the_last_connection_goes_round(world):
    (one, other, _), clock = world
    assert one.try_take({"path": 1}) is None
    begin = clock.now
    while one.surplus("path", 1) == 0:
        assert other.try_take({"path": 1}) == "path"
        clock.now += 0.25
        assert clock.now < begin + 2 * HOLD_SECONDS
    one.release(["path"])
    assert other.try_take({"path": 1}) is None


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_connection_limits_hold_over_all_processes_whichever_are_killed(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("table") / "limits.table"
    random, clock = Random(seed), Clock()
    tables = [LimitTable(path, rows=256) for _ in range(3)]
    tables[0].begin(START)
    workers = [SharedSlots(table, number, clock=clock) for number, table in enumerate(tables)]
    held: list[list[tuple[str, ...]]] = [[] for _ in workers]
    limits = {"a": 3, "b": 5, "both": 6}
    for _ in range(200):
        clock.now += random.choice([0.0, 0.1, 1.0])
        number = random.randrange(3)
        slots, mine = workers[number], held[number]
        wanted = {name: limits[name] for name in random.choice([("a", "both"), ("b", "both")])}
        match random.randrange(10):
            case 0:
                tables[number].close()
                mine.clear()
                tables[(number + 1) % 3].clear_worker(number)
                tables[number] = LimitTable(path, rows=256)
                workers[number] = SharedSlots(tables[number], number, clock=clock)
            case 1 | 2 | 3 if mine:
                slots.release(mine.pop(random.randrange(len(mine))))
            case _:
                if slots.try_take(wanted) is None:
                    mine.append(tuple(wanted))
        used = [name for names in held for one in names for name in one]
        assert all(used.count(name) <= most for name, most in limits.items())
        for name in limits:
            if any(name in one for one in held[number]):
                assert workers[number].in_use(name) == used.count(name)
    for table in tables:
        table.close()
