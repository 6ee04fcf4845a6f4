"""When the watchdog goes off, on a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from random import Random

import pytest

from agent.dispatch.watchdog import Watchdog
from tests.simulation.virtual_loop import VirtualLoop

Steps = Callable[[Watchdog], Awaitable[None]]


async def _still(dog: Watchdog) -> None:
    await asyncio.sleep(20)


async def _steady(dog: Watchdog) -> None:
    for _ in range(20):
        await asyncio.sleep(9)
        dog.progress("RCPT TO")


async def _paused(dog: Watchdog) -> None:
    await asyncio.sleep(9)
    with dog.pause():
        await asyncio.sleep(100)
    await asyncio.sleep(9)


async def _slow_after_progress(dog: Watchdog) -> None:
    for pause in (9, 9, 11):
        await asyncio.sleep(pause)
        dog.progress("DATA")


def watch(steps: Steps) -> tuple[list[float], Watchdog]:
    """When it went off, in seconds since the start."""
    tripped: list[float] = []
    dog = Watchdog()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with dog.watch(10, lambda: tripped.append(loop.time() - begun)):
            await steps(dog)
        has_tripped = dog.has_tripped
        # Outside of the block nothing is watched, a pause or not.
        with dog.pause():
            pass
        await asyncio.sleep(100)
        assert dog.has_tripped is has_tripped

    with closing(VirtualLoop(Random(1))) as loop:
        loop.run_until_complete(run())
    return tripped, dog


@pytest.mark.parametrize(
    ("steps", "tripped"),
    [
        pytest.param(_still, [10], id="nothing happens"),
        pytest.param(_steady, [], id="something happens now and then"),
        pytest.param(_paused, [], id="a pause does not count"),
        pytest.param(_slow_after_progress, [28], id="once, after the last progress"),
    ],
)
def test_it_goes_off_once_after_the_time_without_progress(
    steps: Steps, tripped: list[float]
) -> None:
    found, dog = watch(steps)

    assert found == pytest.approx(tripped)
    assert dog.has_tripped is bool(tripped)
