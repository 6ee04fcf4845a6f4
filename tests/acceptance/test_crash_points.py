"""
`kill -9` at every step of a message's life, and at random instants.

One spool goes through all crashes of a seed, so that a crash also meets what earlier ones left.
PENSTOCK_SEEDS="from-to" runs other seeds, or more of them.
"""

import asyncio
import os
import random
import signal

import pytest

from agent.spool.sqlite import SqliteSpool
from tests.acceptance.crash_points import POINTS
from tests.acceptance.crash_world import CrashWorld, Run, crash_world, problems
from tests.acceptance.fleet import until

_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-1").split("-"))
#: Messages that are given in before each crash.
_MESSAGES = 30
_PARTS = 4


def _points(seed: int, part: int) -> list[str]:
    """The points in an order of their own for each seed; "": at a random instant."""
    names = [*POINTS, *[""] * 5]
    random.Random(seed).shuffle(names)
    return names[part::_PARTS]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("part", range(_PARTS))
@pytest.mark.parametrize("seed", range(_FIRST, _LAST))
async def test_nothing_is_lost_and_little_repeated_wherever_the_agent_is_killed(
    tmp_path, seed, part
):
    async with crash_world(tmp_path, seed) as world:
        for point in _points(seed, part):
            if point:
                await _crash_at(world, point)
            else:
                await _crash_at_any_time(world)
        await _come_to_the_end(world)

        assert world.missing() == set()
        assert problems(world) == []
        assert len(world.acknowledged) >= 3 * world.crashes
    spool = await SqliteSpool.open(tmp_path / "agent")
    try:
        assert await spool.entries() == []
        assert spool.record_count == 0
        assert list((tmp_path / "agent" / "spool" / "bodies").iterdir()) == []
    finally:
        await spool.close()


async def _crash_at(world: CrashWorld, point: str) -> None:
    is_rare = point.startswith(("start", "stop", "bounce", "rebind", "log: a full"))
    nth = 1 if is_rare else world.dice.randint(1, 4)
    async with world.agent(point, nth) as run:
        feeding = asyncio.create_task(world.feed(run, _MESSAGES))
        ordering = asyncio.create_task(_give_orders(world, run, point))
        if point.startswith("stop"):
            await run.ready()
            await asyncio.sleep(world.dice.random() * 0.3)
            run.signal(signal.SIGTERM)
        # Some points are reached by the lines of many messages alone.
        while await run.status(1.0) is None:
            if feeding.done():
                feeding = asyncio.create_task(world.feed(run, _MESSAGES))
        await asyncio.gather(feeding, ordering)
        assert await run.status(0.0) == -signal.SIGKILL, f"{point}: {run.output()}"


async def _give_orders(world: CrashWorld, run: Run, point: str) -> None:
    """Those that the point is about; in one of three other runs, too."""
    if point.startswith(("bounce", "rebind")) or world.dice.random() < 0.33:
        await world.give_orders(run)


async def _crash_at_any_time(world: CrashWorld) -> None:
    async with world.agent() as run:
        feeding = asyncio.create_task(world.feed(run, _MESSAGES))
        ordering = asyncio.create_task(_give_orders(world, run, ""))
        await run.ready()
        await asyncio.sleep(world.dice.random() * 0.5)
        run.signal(signal.SIGKILL)
        await asyncio.gather(feeding, ordering)


async def _come_to_the_end(world: CrashWorld) -> None:
    """Let an agent that nobody kills deliver and report all that is left."""
    async with world.agent() as run:
        ports = await run.ready()
        assert ports is not None, run.output()
        await world.order_bounce(ports["grpc"])
        await until(lambda: world.is_done(ports), seconds=40, what="all delivered")
        run.signal(signal.SIGTERM)
        assert await run.status(20.0) == 0, run.output()
