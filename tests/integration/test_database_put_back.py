"""A limit holds where a copy of the database is put back, which lacks what was lent since."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from policy_server.lending.embedded import EmbeddedLimitStore
from policy_server.lending.keeper import BookKeeper
from policy_server.limits.spec import Earning, LeaseTiming, LimitSpec
from policy_server.store.database import Database
from policy_server.store.leases import BookRow, read_book
from policy_server.store.schema import upgrade
from tests.conformance.limit_stores import CALM, PATIENCE, QUICK, Agent, until_kept
from tests.database_copies import copy_database, put_back

KEY = "connection_limit:ip-1->example.com"
TEN = LimitSpec(units=10)
RATE = LimitSpec(units=10, earning=Earning(count=10, period_ns=1_000_000_000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "penstock.db"
    database = Database(f"sqlite:///{made}")
    upgrade(database)
    database.close()
    return made


@contextlib.asynccontextmanager
async def _serving(path: Path, timing: LeaseTiming = CALM) -> AsyncIterator[EmbeddedLimitStore]:
    database = Database(f"sqlite:///{path}")
    keeper = BookKeeper(database, owner="server", address="127.0.0.1:1")
    store = EmbeddedLimitStore(database, keeper, server="server", timing=timing)
    await store.start()
    try:
        await until_kept(store)
        yield store
    finally:
        await store.close()
        database.close()


def _forget_progress(path: Path) -> None:
    """Leave the file of the book behind, as on another host."""
    Path(f"{path}-leases.lock").unlink()


async def _read_row(path: Path) -> BookRow:
    database = Database(f"sqlite:///{path}")
    try:
        row = await database.read(read_book)
    finally:
        database.close()
    assert row is not None
    return row


async def _lend_to(store: EmbeddedLimitStore, *agents: Agent) -> None:
    """Give each its part of ten units."""
    for agent in agents:
        agent.attach(store)
    async with asyncio.timeout(PATIENCE):
        while any(agent.cap != 10 // len(agents) for agent in agents):
            for agent in agents:
                await agent.sync(store, wants=10)


@pytest.mark.parametrize("spec", [TEN, RATE], ids=["connections", "rate"])
@pytest.mark.parametrize("restarts", [0, 1, 3])
async def test_what_was_lent_since_a_copy_was_made_is_lent_to_nobody_else(
    path: Path, restarts: int, spec: LimitSpec
) -> None:
    a, b, c = (Agent(name, spec, key=KEY) for name in "abc")
    async with _serving(path):
        copy_database(path, path.with_suffix(".copy"))
    for _ in range(restarts):
        async with _serving(path):
            pass
    async with _serving(path) as store:
        await _lend_to(store, a, b)
    put_back(path.with_suffix(".copy"), path)

    async with _serving(path) as store:
        c.attach(store)
        await c.sync(store, wants=10)
        assert c.cap == 0
        for agent in (a, b):
            agent.attach(store)
            await agent.sync(store, wants=10)
        assert a.cap + b.cap + c.cap <= 10
        async with asyncio.timeout(PATIENCE):
            while c.cap < 10:
                for agent, wants in ((a, 0), (b, 0), (c, 10)):
                    await agent.sync(store, wants=wants)
                    assert a.cap + b.cap + c.cap <= 10


async def test_a_copy_that_knows_other_agents_holds_back_all_the_same(path: Path) -> None:
    a, b, c = (Agent(name, TEN, key=KEY) for name in "abc")
    async with _serving(path) as store:
        await _lend_to(store, a)
        copy_database(path, path.with_suffix(".copy"))
        await a.sync(store, wants=0)
        await _lend_to(store, b)
    put_back(path.with_suffix(".copy"), path)

    async with _serving(path) as store:
        a.attach(store)
        c.attach(store)
        await a.sync(store, wants=0)
        await c.sync(store, wants=10)
        assert c.cap == 0
        b.attach(store)
        await b.sync(store, wants=10)
        assert b.cap == 10


async def test_all_is_lent_again_once_leases_of_before_must_be_over(path: Path) -> None:
    a, b = (Agent(name, TEN, key=KEY) for name in "ab")
    async with _serving(path, QUICK):
        copy_database(path, path.with_suffix(".copy"))
    async with _serving(path, QUICK) as store:
        await _lend_to(store, a)
    put_back(path.with_suffix(".copy"), path)

    async with _serving(path, QUICK) as store:
        assert (await _read_row(path)).is_doubted
        await _lend_to(store, b)
        async with asyncio.timeout(PATIENCE):
            while (await _read_row(path)).is_doubted:
                await b.sync(store, wants=10)


async def test_a_copy_is_doubted_by_a_server_that_starts_after_a_crash_too(path: Path) -> None:
    async with _serving(path):
        copy_database(path, path.with_suffix(".copy"))
    async with _serving(path):
        pass
    put_back(path.with_suffix(".copy"), path)
    for _ in range(2):
        async with _serving(path):
            assert (await _read_row(path)).is_doubted


async def test_a_database_that_was_left_alone_is_not_doubted(path: Path) -> None:
    for _ in range(2):
        async with _serving(path) as store:
            await _lend_to(store, Agent("a", TEN, key=KEY))
            assert not (await _read_row(path)).is_doubted


async def test_a_database_that_comes_from_another_host_is_doubted(path: Path) -> None:
    async with _serving(path):
        pass
    _forget_progress(path)

    async with _serving(path):
        assert (await _read_row(path)).is_doubted
