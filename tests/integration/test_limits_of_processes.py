"""Limits of an agent, drawn on by real processes that are killed at any moment."""

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.throttle.rate import Rate
from agent.workers.limit_file import LIMITS_FILE, agent_limits
from agent.workers.limit_table import LimitTable

RATE = Rate(count=400, period_ns=10**9, max_burst=20)
MOST = 5
#: Takes what it can: events of a rate, each written down with its time before the next is taken,
#: and connections, of which a taken one is written as +1 after and a freed one as -1 before.
_PROGRAM = """
import random, sys, time
from pathlib import Path
from agent.throttle.rate import Rate
from agent.workers.limit_table import LimitTable
from agent.workers.shared_limits import SharedSlots, SharedThrottles

table = LimitTable(Path(sys.argv[1]))
worker, chance = int(sys.argv[2]), random.Random(int(sys.argv[3]))
throttles, slots = SharedThrottles(table), SharedSlots(table, worker)
rate, held = Rate(count=400, period_ns=10**9, max_burst=20), 0
with open(sys.argv[4], "ab", buffering=0) as out:
    while True:
        now = time.monotonic_ns()
        if throttles.try_take({"path": rate}, now) == 0:
            out.write(b"rate %d\\n" % now)
        if held and chance.random() < 0.3:
            out.write(b"slot %d -1\\n" % time.monotonic_ns())
            slots.release(["path"])
            held -= 1
        elif slots.try_take({"path": 5}) is None:
            held += 1
            out.write(b"slot %d 1\\n" % time.monotonic_ns())
        time.sleep(chance.random() * 0.002)
"""


def start(table: Path, worker: int, seed: int, out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(table), str(worker), str(seed), str(out)]
    )


def lines(path: Path, kind: str) -> list[list[int]]:
    """What was written whole, as numbers."""
    text = path.read_bytes().decode() if path.exists() else ""
    whole = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
    return [[int(part) for part in line[1:]] for line in whole if line[0] == kind]


def excess(times: list[int]) -> float:
    """By how many events the worst of all windows is above what the rate allows."""
    full, last, worst = 0, times[0], 0
    for now in times:
        full = max(0, full - (now - last) * RATE.count) + RATE.period_ns
        worst, last = max(worst, full), now
    return worst / RATE.period_ns - RATE.burst


@pytest.mark.parametrize("seed", range(2))
async def test_limits_hold_over_processes_that_are_killed(tmp_path: Path, seed: int) -> None:
    chance, workers = random.Random(seed), 3
    with agent_limits(tmp_path) as limits:
        running: dict[int, subprocess.Popen[bytes]] = {}
        logs: list[Path] = []
        ends: list[tuple[int, int]] = []
        try:
            for number in range(workers):
                logs.append(tmp_path / f"{number}-{len(logs)}.log")
                running[number] = start(tmp_path / LIMITS_FILE, number, seed, logs[-1])
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline or len(logs) < 8:
                await asyncio.sleep(chance.random() * 0.8)
                number = chance.randrange(workers)
                running[number].kill()
                running[number].wait()
                held = sum(change for _, change in lines(logs_of(logs, number)[-1], "slot"))
                ends.append((time.monotonic_ns(), -held))
                clear(limits.table, number)
                logs.append(tmp_path / f"{number}-{len(logs)}.log")
                running[number] = start(tmp_path / LIMITS_FILE, number, seed, logs[-1])
        finally:
            for process in running.values():
                process.kill()
                process.wait()

    times = sorted(now for log in logs for (now,) in lines(log, "rate"))
    assert len(times) > 200, "the rate was made use of"
    assert excess(times) <= 0
    changes = sorted([(now, change) for log in logs for now, change in lines(log, "slot")] + ends)
    held, most = 0, 0
    for _, change in changes:
        held += change
        most = max(most, held)
    assert most == MOST


def logs_of(logs: list[Path], number: int) -> list[Path]:
    return [log for log in logs if log.name.startswith(f"{number}-")]


def clear(table: LimitTable, number: int) -> None:
    """As the parent does once a worker is gone."""
    with table.locked():
        table.clear_worker(number)
