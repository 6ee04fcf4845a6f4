"""Calls that wait for the spool's writer are done together, each once, whenever they come."""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from agent.errors import SpoolConflict, SpoolUnavailable
from agent.spool import gathering as gathering_module
from agent.spool.gathering import Gathering
from agent.spool.schema import open_connection
from agent.spool.writer import Writer


class Shelf:
    """A table of numbers, and how they came into it."""

    def __init__(self, directory: Path) -> None:
        connection = open_connection(directory / "spool.db")
        connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE CHECK (number >= 0))")
        self.writer = Writer(directory / "spool.db", connection)
        self.gathering = Gathering(self.writer, self._insert, self._told)
        #: The numbers of each round of the writer.
        self.rounds: list[list[int]] = []
        self.may_work = threading.Event()
        self.may_work.set()
        self.is_at_work = threading.Event()

    def _insert(self, connection: sqlite3.Connection, numbers: Sequence[int]) -> int:
        self.is_at_work.set()
        self.may_work.wait(10)
        self.rounds.append(list(numbers))
        connection.executemany("INSERT INTO numbers VALUES (?)", [(one,) for one in numbers])
        return len(numbers)

    @staticmethod
    def _told(numbers: Sequence[int], count: int) -> list[int]:
        assert count == len(numbers)
        return list(numbers)

    async def stored(self) -> list[int]:
        rows: list[tuple[int]] = await self.writer.run(
            lambda connection: connection.execute("SELECT number FROM numbers").fetchall()
        )
        return sorted(number for (number,) in rows)


@pytest.fixture
async def shelf(tmp_path: Path):
    one = Shelf(tmp_path)
    yield one
    one.may_work.set()
    await one.writer.close()


async def test_calls_that_come_during_a_transaction_go_together_in_the_next(shelf: Shelf) -> None:
    shelf.may_work.clear()
    first = shelf.gathering.put(0)
    await asyncio.to_thread(shelf.is_at_work.wait, 10)
    others = []
    for number in range(1, 40):
        others.append(shelf.gathering.put(number))
        await asyncio.sleep(0)
    shelf.may_work.set()

    async with asyncio.timeout(10):
        assert await asyncio.gather(first, *others) == list(range(40))

    assert shelf.rounds == [[0], list(range(1, 40))]


async def test_every_call_is_done_once_whenever_it_comes(shelf: Shelf, monkeypatch) -> None:
    monkeypatch.setattr(gathering_module, "_MOST_TOGETHER", 7)
    dice = Random(5)

    async def put(number: int) -> int:
        for _ in range(dice.randrange(30)):
            await asyncio.sleep(0)
        await asyncio.sleep(dice.random() * 0.02)
        return await shelf.gathering.put(number)

    async with asyncio.timeout(60):
        found = await asyncio.gather(*map(put, range(2000)))

    assert found == list(range(2000))
    assert await shelf.stored() == list(range(2000))
    assert max(map(len, shelf.rounds)) <= 7


async def test_a_wrong_call_fails_alone(shelf: Shelf) -> None:
    calls = [shelf.gathering.put(number) for number in (1, 2, -1, 3, 2)]

    async with asyncio.timeout(10):
        found = await asyncio.gather(*calls, return_exceptions=True)

    assert found[0] == 1
    assert found[3] == 3
    assert {type(one) for one in (found[2], found[4])} == {SpoolConflict}
    assert await shelf.stored() == [1, 2, 3]


async def test_calls_to_a_writer_that_is_closed_are_told_so(shelf: Shelf) -> None:
    await shelf.writer.close()

    async with asyncio.timeout(10):
        for number in range(3):
            with pytest.raises(SpoolUnavailable):
                await shelf.gathering.put(number)
