"""When an alarm goes off, on a virtual clock."""

import asyncio
from contextlib import closing
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from agent.dispatch.alarm import Alarm
from tests.simulation.virtual_loop import VirtualLoop

#: What is done with the alarm, after a pause: set for so many seconds from then, or cleared.
_STEPS = st.lists(
    st.tuples(st.integers(0, 20), st.one_of(st.integers(1, 20), st.none())), max_size=12
)


def _run(steps: list[tuple[int, int | None]]) -> list[float]:
    """When it went off, in seconds since the start."""
    rung: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        alarm = Alarm(lambda: rung.append(loop.time() - begun))
        for pause, seconds in steps:
            # Half a second beside all deadlines, so that none falls together with a step.
            await asyncio.sleep(pause + 0.5 if seconds is None else pause)
            if seconds is None:
                alarm.clear()
            else:
                alarm.set(loop.time() + seconds + 0.25)
        await asyncio.sleep(100)

    with closing(VirtualLoop(Random(1))) as loop:
        loop.run_until_complete(run())
    return rung


@given(_STEPS)
def test_it_goes_off_for_the_deadline_set_last_and_for_no_other(
    steps: list[tuple[int, int | None]],
) -> None:
    expected: list[float] = []
    now, due = 0.0, None
    for pause, seconds in [*steps, (1000, None)]:
        now += pause + 0.5 if seconds is None else pause
        if due is not None and due < now:
            expected.append(due)
        due = None if seconds is None else now + seconds + 0.25

    found = _run(steps)

    assert [round(one, 2) for one in found] == expected


def test_it_is_silent_once_closed() -> None:
    async def run() -> list[str]:
        rung: list[str] = []
        alarm = Alarm(lambda: rung.append("rung"))
        alarm.set(asyncio.get_running_loop().time() + 1)
        alarm.close()
        await asyncio.sleep(10)
        return rung

    with closing(VirtualLoop(Random(1))) as loop:
        assert loop.run_until_complete(run()) == []
