"""Work in the background ends when it is told to."""

import asyncio

import pytest

from agent import background


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_work_ends_where_a_library_loses_a_cancel(monkeypatch, lost: int) -> None:
    monkeypatch.setattr(background, "_CANCEL_AGAIN_SECONDS", 0.001)
    left = lost
    waits = asyncio.Event()

    async def work() -> None:
        nonlocal left
        while True:
            try:
                waits.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not left:
                    raise
                left -= 1

    tasks = {asyncio.create_task(work()), asyncio.create_task(asyncio.sleep(0))}
    for task in tasks:
        task.add_done_callback(tasks.discard)
    async with asyncio.timeout(5):
        await waits.wait()
        await background.end(tasks)

    assert not tasks
    assert left == 0


async def test_what_failed_before_or_while_it_was_ended_is_no_matter(caplog) -> None:
    async def fail() -> None:
        raise ValueError("before")

    async def fail_when_ended() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("meanwhile")

    tasks = [asyncio.create_task(fail()), asyncio.create_task(fail_when_ended())]
    await asyncio.sleep(0)

    await background.end(tasks)

    assert all(task.done() for task in tasks)
    del tasks
    assert not caplog.records


async def test_nothing_to_end_is_no_wait() -> None:
    await background.end([])
