"""Hints wake the waiter long before its time, on both databases."""

import asyncio
import contextlib
import time

import pytest
from sqlalchemy import text

from policy_server.store.listener import RevisionListener


@pytest.fixture
async def listener(database):
    listener = RevisionListener(database)
    running = asyncio.create_task(listener.run())
    await _until_listening(listener)
    await listener.wait(1)
    yield listener
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _until_listening(listener, *, is_listening=True):
    async with asyncio.timeout(10):
        while True:
            if listener.is_listening is is_listening:
                return
            await asyncio.sleep(0.01)


async def _change(database):
    statement = text("INSERT INTO rule_layers (name, position) VALUES (:name, 0)")
    name = f"l{time.monotonic_ns()}"
    await database.write(lambda connection: connection.execute(statement, {"name": name}) and None)


async def test_a_commit_wakes_the_waiter(database, listener):
    for _ in range(3):
        waiting = asyncio.create_task(listener.wait(30))
        await asyncio.sleep(0)
        began = time.monotonic()
        await _change(database)
        await waiting

        assert time.monotonic() - began < 5


async def test_without_a_hint_the_time_passes(listener):
    began = time.monotonic()
    await listener.wait(0.05)

    assert time.monotonic() - began >= 0.04


async def test_a_wait_can_be_cancelled(listener):
    waiting = asyncio.create_task(listener.wait(30))
    await asyncio.sleep(0)
    waiting.cancel()

    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()


async def test_it_listens_again_after_its_connection_is_ended(request, database, listener):
    if database.is_sqlite:
        pytest.skip("there is no connection")
    url = database.url.render_as_string(hide_password=False)
    await asyncio.to_thread(request.getfixturevalue("postgresql").end_connections, url)
    await _until_listening(listener, is_listening=False)

    await _until_listening(listener)
    await listener.wait(1)
    waiting = asyncio.create_task(listener.wait(30))
    await _change(database)
    async with asyncio.timeout(5):
        await waiting
