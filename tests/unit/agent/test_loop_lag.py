import asyncio
import time
from contextlib import closing
from random import Random

from agent.loop_lag import LoopLag
from tests.simulation.virtual_loop import VirtualLoop


def test_a_loop_that_is_held_up_is_late_and_one_that_is_not_is_on_time():
    seen: list[float] = []

    async def run() -> None:
        lag = LoopLag(seen.append)
        lag.start()
        await asyncio.sleep(1.1)
        await lag.stop()

    with closing(VirtualLoop(Random(1))) as loop:
        loop.run_until_complete(run())

    # Time does not pass on this loop while code runs.
    assert len(seen) == 4
    assert max(seen) < 0.001


async def test_what_holds_up_the_loop_is_measured():
    seen: list[float] = []
    lag = LoopLag(seen.append)
    lag.start()
    await asyncio.sleep(0)
    time.sleep(0.6)  # noqa: ASYNC251  # this is what it is to see
    async with asyncio.timeout(10):
        while not seen:  # noqa: ASYNC110  # what it measures has no event
            await asyncio.sleep(0.01)
    await lag.stop()

    assert seen[0] >= 0.3
