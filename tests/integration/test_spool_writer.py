"""The one thread that writes to the spool answers every caller, whatever happens."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from agent.errors import SpoolUnavailable
from agent.spool import writer as writer_module
from agent.spool.schema import open_connection
from agent.spool.writer import Writer


@pytest.fixture
async def writer(tmp_path: Path):
    connection = open_connection(tmp_path / "spool.db")
    connection.execute("CREATE TABLE IF NOT EXISTS seen (number INTEGER)")
    one = Writer(tmp_path / "spool.db", connection)
    yield one
    await one.close()


def _insert(number: int):
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO seen VALUES (?)", (number,))
        return number

    return work


async def test_a_follow_up_that_fails_keeps_no_other_caller_waiting(writer: Writer) -> None:
    def fail(_: int) -> int:
        raise LookupError("not foreseen")

    async with asyncio.timeout(10):
        bad = writer.run(_insert(1), fail)
        good: asyncio.Future[int] = writer.run(_insert(2))
        with pytest.raises(LookupError):
            await bad
        assert await good == 2


async def test_the_thread_outlives_what_nobody_foresaw(writer: Writer, monkeypatch, caplog) -> None:
    def fail(*_: object) -> bool:
        raise LookupError("not foreseen")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "_run_together", fail)
        async with asyncio.timeout(10):
            with pytest.raises(SpoolUnavailable, match="not foreseen"):
                await writer.run(_insert(1))
    assert not writer.is_healthy
    assert "LookupError" in caplog.text

    async with asyncio.timeout(10):
        assert await writer.run(_insert(2)) == 2
    assert writer.is_healthy
