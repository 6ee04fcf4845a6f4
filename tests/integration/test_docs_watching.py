"""The client of docs/watching.md does what the page says, on both databases."""

import asyncio
import contextlib
import re
from pathlib import Path

import grpc
import pytest

from penstock.v1.automation_service_pb2 import CancelActionRequest
from tests.integration.watching import (
    automation,
    outcome,
    run_sql,
    serving,
    subscription,
    write_rules,
    yahoo,
)

_PAGE = Path(__file__).parents[2] / "docs/watching.md"


@pytest.fixture
def page():
    """What the code of the page defines."""
    (code,) = re.findall(r"```python\n(.+?)```", _PAGE.read_text(), re.S)
    names: dict[str, object] = {}
    exec(compile(code, str(_PAGE), "exec"), names)
    return names


@pytest.fixture
def url(database_url):
    write_rules(database_url, yahoo(automation(r"\[TS04\]", "Suspend"), connection_limit=7))
    return database_url


@contextlib.asynccontextmanager
async def _watching(page, client, held):
    """Let the page's client watch; give a function that waits for something to be so."""
    changed = asyncio.Event()
    address = f"127.0.0.1:{client.server.grpc_port}"
    async with grpc.aio.insecure_channel(address) as channel:
        task = asyncio.create_task(
            page["watch"](channel, held, [subscription("yahoo.com")], changed.set)
        )

        async def until(condition):
            async with asyncio.timeout(20):
                while not condition():
                    await changed.wait()
                    changed.clear()

        try:
            yield task, until
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _limit(held):
    answer = held.answers.get("yahoo.com")
    return answer.config.connection_limit.value if answer else None


async def test_the_client_of_the_page_follows_and_goes_on_after_a_restart(url, page):
    held = page["Held"]()
    async with serving(url) as client, _watching(page, client, held) as (task, until):
        await until(lambda: _limit(held) == 7 and held.token)
        (kept,) = (await client.report(outcome("e1"))).action_ids
        await until(lambda: held.actions)
        await asyncio.to_thread(run_sql, url, "UPDATE rule_options SET value = '9'")
        await until(lambda: _limit(held) == 9)

        await client.server.stop()
        assert await task > 0, "it is told when to come back"

    async with serving(url) as client, _watching(page, client, held) as (_, until):
        await until(lambda: client.metric("penstock_server_watch_openings_total", how="resumed"))
        assert [name for _, name in held.actions] == [str(kept)]
        assert _limit(held) == 9
        await client.automation.CancelAction(CancelActionRequest(id=kept))
        await until(lambda: not held.actions)


async def test_a_snapshot_ends_what_it_does_not_name(url, page):
    held = page["Held"]()
    async with serving(url) as client:
        async with _watching(page, client, held) as (_, until):
            await until(lambda: held.token)
            (ended,) = (await client.report(outcome("e1"))).action_ids
            await until(lambda: held.actions)
        await client.automation.CancelAction(CancelActionRequest(id=ended))
        held.token = b"of another database"

        async with _watching(page, client, held) as (_, until):
            await until(lambda: not held.actions)
            assert client.metric("penstock_server_watch_openings_total", how="reset") == 1
