"""Background work goes on after errors, and ends when it is told to."""

import asyncio

import pytest

from policy_server import supervisor


async def test_work_that_fails_begins_again(monkeypatch, caplog) -> None:
    monkeypatch.setattr(supervisor, "_PAUSE_SECONDS", 0.0)
    began = asyncio.Semaphore(0)

    async def work() -> None:
        began.release()
        raise ValueError("not foreseen")

    task = asyncio.create_task(supervisor.keep_running(work))
    async with asyncio.timeout(5):
        for _ in range(3):
            await began.acquire()
        await supervisor.end([task])

    assert "background work failed" in caplog.text


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_work_ends_where_a_library_loses_a_cancel(monkeypatch, lost: int) -> None:
    monkeypatch.setattr(supervisor, "_CANCEL_AGAIN_SECONDS", 0.001)
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

    tasks = [asyncio.create_task(work()), asyncio.create_task(asyncio.sleep(0))]
    async with asyncio.timeout(5):
        await waits.wait()
        await supervisor.end(tasks)

    assert tasks[0].cancelled()
    assert left == 0
