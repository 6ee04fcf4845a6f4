"""
`kill -9` of the processes of one agent, of a worker or of their parent, again and again.

PENSTOCK_SEEDS="from-to" runs other seeds, or more of them.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from agent.spool.sqlite import SqliteSpool
from agent.workers.place import find_shards, shard_dir
from tests.acceptance.crash_world import CrashWorld, Run, crash_world, problems
from tests.acceptance.fleet import fetch, until

_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-1").split("-"))
_WORKERS = 2
#: How often the agent is started, and how many of its workers are killed each time.
_STARTS, _KILLS = 2, 2
#: Messages that are given in before each crash.
_MESSAGES = 40


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(_FIRST, _LAST))
async def test_nothing_is_lost_and_little_repeated_whichever_process_is_killed(tmp_path, seed):
    async with crash_world(tmp_path, seed, workers=_WORKERS) as world:
        for _ in range(_STARTS):
            async with world.agent() as run:
                ports = await run.ready()
                assert ports is not None, run.output()
                for _ in range(_KILLS):
                    await _kill_a_worker(world, run, ports)
                await _feed_until(world, run, lambda: run.signal(signal.SIGKILL))
        # What the killed parent has left waits for its workers, which finish what they send.
        async with world.agent() as run:
            ports = await run.ready()
            assert ports is not None, run.output()
            await world.order_bounce(ports["grpc"])
            await until(lambda: world.is_done(ports), seconds=60, what="all delivered")
            run.signal(signal.SIGTERM)
            assert await run.status(20.0) == 0, run.output()

        assert world.missing() == set()
        assert problems(world) == []
        assert world.crashes == _STARTS * (_KILLS + 1)
        assert len(world.acknowledged) >= 3 * world.crashes
    shards = find_shards(tmp_path / "agent")
    assert shards == list(range(_WORKERS))
    for number in shards:
        spool = await SqliteSpool.open(shard_dir(tmp_path / "agent", number))
        try:
            assert await spool.entries() == []
            assert spool.record_count == 0
        finally:
            await spool.close()


async def _kill_a_worker(world: CrashWorld, run: Run, ports: dict[str, int]) -> None:
    """Kill one, under mail; return when another has taken its place."""
    number = world.dice.randrange(_WORKERS)
    before = _worker(ports, number)

    def kill() -> None:
        os.kill(before["pid"], signal.SIGKILL)
        world.crashes += 1

    await _feed_until(world, run, kill)

    def is_back() -> bool:
        now = _worker(ports, number)
        return bool(now["state"] == "ready" and now["restarts"] > before["restarts"])

    await until(is_back, seconds=30, what=f"worker {number} is back")


async def _feed_until(world: CrashWorld, run: Run, kill: Callable[[], None]) -> None:
    feeding = asyncio.create_task(world.feed(run, _MESSAGES))
    await asyncio.sleep(world.dice.random() * 0.5)
    kill()
    await feeding


def _worker(ports: dict[str, int], number: int) -> dict[str, Any]:
    status = fetch(f"http://127.0.0.1:{ports['http']}/status")
    assert status is not None
    return dict(json.loads(status)["workers"][number])
