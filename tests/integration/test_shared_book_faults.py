"""
A limit holds whatever happens to Valkey and to servers: agents as they really are, on two servers
that keep one book, while Valkey is killed, emptied, set back to an older state, or there twice.

Connections are counted at every step. What an agent that the machine did not let run had to close
by then counts as closed (see `LeaseWorld`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Connection, delete, update

from policy_server.errors import Unavailable
from policy_server.lending.clock import boottime_ns
from policy_server.lending.embedded import EmbeddedLimitStore
from policy_server.lending.keeper import BookKeeper
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.store import SharedLimitStore
from policy_server.shared_book.valkey import Valkey, shard_of
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from policy_server.store.shared_leases import SharedLeases
from policy_server.store.tables import lease_book, lease_floors, lease_limits
from tests.conformance.limit_stores import CALM, PATIENCE, Agent, until_kept
from tests.database_copies import copy_database, put_back
from tests.valkey import ValkeyServer, start_valkey

KEY = "connection_limit:ip-1->example.com"
LIMIT = 20
MILLISECOND = 1_000_000
TIMING = LeaseTiming(
    session=800 * MILLISECOND,
    grace=200 * MILLISECOND,
    drain=400 * MILLISECOND,
    floor=2000 * MILLISECOND,
    hold_connection=100 * MILLISECOND,
    repeat=200 * MILLISECOND,
)
VALID = 1000 * MILLISECOND


@dataclass
class Fleet:
    """Agents that open and close connections on the servers of one book."""

    stores: list[SharedLimitStore]
    random: Random
    agents: list[Agent] = field(default_factory=list)
    peak: int = 0
    #: A permit for each connection that was opened.
    opened: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def __post_init__(self) -> None:
        self.agents = [Agent(name, LimitSpec(units=LIMIT), key=KEY) for name in "abcdef"]

    def check(self) -> None:
        """No more connections are open than the limit says."""
        now = boottime_ns()
        in_use = sum(
            lease.in_use - agent.holder.must_close(KEY, now)
            for agent in self.agents
            if agent.holder is not None
            for lease in agent.holder.leases()
        )
        self.peak = max(self.peak, in_use)
        assert in_use <= LIMIT, f"{in_use} connections are open, the limit is {LIMIT}"

    async def live(self, place: int) -> None:
        """Send mail as one agent does, for ever."""
        random, detach = self.random, lambda: None
        store = self.stores[place % len(self.stores)]
        is_moved = True
        while True:
            agent = self.agents[place]
            if is_moved or random.random() < 0.02:
                detach()
                # The list may have another server by now.
                store, is_moved = random.choice(self.stores), False
                detach = agent.attach(store)
            with contextlib.suppress(Unavailable):
                if random.random() < 0.95:
                    await agent.say(store, wants=random.randint(0, LIMIT))
                if random.random() < 0.9:
                    await agent.hear(store)
            self.use(agent)
            if random.random() < 0.01:
                # It crashes, and its connections with it.
                self.agents[place] = Agent(
                    agent.name, agent.spec, key=KEY, incarnation=agent.incarnation + 1
                )
                is_moved = True
            is_moved = is_moved or store not in self.stores
            await asyncio.sleep(random.uniform(0.01, 0.05))

    def use(self, agent: Agent) -> None:
        """Open what may be opened, close some, and close what has to go."""
        holder, now = agent.holder, boottime_ns()
        assert holder is not None
        for _ in range(holder.must_close(KEY, now)):
            holder.close(KEY)
        (lease,) = [one for one in holder.leases() if one.key == KEY] or [None]
        while lease is not None and lease.in_use and self.random.random() < 0.3:
            holder.close(KEY)
        while self.random.random() < 0.8 and holder.try_open(KEY, boottime_ns()):
            self.opened.release()
            self.check()
        self.check()

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Let all agents live within."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.live(place)) for place in range(len(self.agents))]
            yield
            for task in tasks:
                task.cancel()

    async def work(self, connections: int) -> None:
        """Return once so many more connections were opened."""
        self.opened = asyncio.Semaphore(0)
        async with asyncio.timeout(PATIENCE):
            for _ in range(connections):
                await self.opened.acquire()


@pytest.fixture
def valkey():
    server = start_valkey()
    yield server
    server.stop()


@pytest.fixture
def database(tmp_path):
    made = Database(f"sqlite:///{tmp_path}/penstock.db")
    upgrade(made)
    yield made
    made.close()


async def _start(
    database: Database, valkey: ValkeyServer, name: str, timing: LeaseTiming = TIMING
) -> SharedLimitStore:
    store = SharedLimitStore(
        Valkey(valkey.url, metrics=ServerMetrics(), book="test"),
        SharedLeases(database),
        server=name,
        address="127.0.0.1:1",
        timing=timing,
        valid=VALID,
    )
    await store.start()
    return store


async def _flush(valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        client.flushall()


async def _kill(valkey: ValkeyServer) -> None:
    valkey.kill()
    valkey.start()


async def _set_back(valkey: ValkeyServer) -> None:
    """Lose what was written since a moment ago, as a replica or a disk that lags behind does."""
    with valkey.client() as client:
        client.save()
    await asyncio.sleep(0.3)
    valkey.kill()
    valkey.start("--dbfilename", "dump.rdb")


async def _be_away(valkey: ValkeyServer) -> None:
    valkey.kill()
    await asyncio.sleep(1.5)
    valkey.start()


async def _delete_some(valkey: ValkeyServer) -> None:
    """What may not happen, as eviction is refused."""
    with valkey.client() as client:
        for key in client.scan_iter("penstock:*:limit:*"):
            client.delete(key)


async def _until_refused(store: SharedLimitStore, why: str) -> None:
    while True:
        try:
            await store.settled()
        except Unavailable as error:
            if why in str(error):
                return
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", [_flush, _kill, _set_back, _be_away, _delete_some])
async def test_a_limit_holds_while_valkey_fails(
    valkey: ValkeyServer, database: Database, fault: Callable[[ValkeyServer], Awaitable[None]]
) -> None:
    stores = [await _start(database, valkey, f"server {number}") for number in range(2)]
    fleet = Fleet(stores, Random(fault.__name__))
    try:
        async with fleet.living():
            for _ in range(3):
                await fleet.work(60)
                await fault(valkey)
            # All of it is lent again in the end.
            await fleet.work(100)
    finally:
        for store in stores:
            await store.close()

    assert fleet.peak > LIMIT // 2
    row = await SharedLeases(database).read_book()
    assert row is not None
    # Valkey is what failed, and nobody takes the database for an older copy.
    assert not row.is_doubted


async def test_a_limit_holds_while_servers_come_and_go(
    valkey: ValkeyServer, database: Database
) -> None:
    stores = [await _start(database, valkey, f"server {number}") for number in range(2)]
    fleet = Fleet(stores, Random(1))
    try:
        async with fleet.living():
            for number in range(2, 6):
                await fleet.work(40)
                await stores.pop(0).close()
                stores.append(await _start(database, valkey, f"server {number}"))
            await fleet.work(60)
    finally:
        for store in stores:
            await store.close()

    assert fleet.peak > LIMIT // 2


async def test_a_limit_holds_while_two_servers_have_different_books(
    valkey: ValkeyServer, database: Database
) -> None:
    """As when one is cut off with the old primary: only one book counts at a time."""
    other = start_valkey()
    stores = [await _start(database, valkey, "server 0")]
    fleet = Fleet(stores, Random(2))
    try:
        async with fleet.living():
            await fleet.work(60)
            stores.append(await _start(database, other, "server 1"))
            await asyncio.sleep(4)
            await stores.pop(0).close()
            await fleet.work(60)
    finally:
        for store in stores:
            await store.close()
        other.stop()


async def test_a_server_that_would_lend_for_other_times_lends_nothing(
    valkey: ValkeyServer, database: Database
) -> None:
    """Its agents would go on for longer than the others wait, or the other way round."""
    stores = [await _start(database, valkey, "server 0")]
    await until_kept(stores[0])
    other = await _start(database, valkey, "server 1", replace(TIMING, floor=3 * TIMING.floor))
    stores.append(other)
    try:
        async with asyncio.timeout(PATIENCE):
            await _until_refused(other, "another server lends limits for other times")
        await stores[0].settled()
    finally:
        for store in stores:
            await store.close()


async def test_a_limit_holds_when_an_older_copy_of_the_database_is_put_back(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Valkey has a newer epoch than that copy, which knows nothing of what was lent since."""
    path = tmp_path / "penstock.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    stores = [await _start(database, valkey, "server 0")]
    await until_kept(stores[0])
    copy_database(path, tmp_path / "copy")
    await _flush(valkey)
    fleet = Fleet(stores, Random(3))
    try:
        async with fleet.living():
            for number in range(1, 3):
                await fleet.work(60)
                await stores[0].close()
                database.close()
                put_back(tmp_path / "copy", path)
                database = Database(f"sqlite:///{path}")
                stores[0] = await _start(database, valkey, f"server {number}")
            await fleet.work(100)
    finally:
        await stores[0].close()
        database.close()

    assert fleet.peak > LIMIT // 2


@pytest.mark.parametrize("runs_on", [True, False], ids=["server runs on", "server is started anew"])
async def test_a_copy_of_the_database_that_is_of_the_same_epoch_is_doubted(
    valkey: ValkeyServer, tmp_path: Path, runs_on: bool
) -> None:
    """The book in Valkey is whole, but what was promised since is not durable any more."""
    path = tmp_path / "penstock.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    store = await _start(database, valkey, "server 0", CALM)
    has, wants = (Agent(name, LimitSpec(units=LIMIT), key=KEY) for name in "ab")
    try:
        await until_kept(store)
        copy_database(path, tmp_path / "copy")
        has.attach(store)
        await has.sync(store, wants=LIMIT)
        await store._epoch.check()
        if runs_on:
            # As a database server does that is set back, with its clients connected.
            await database.write(_set_back_rows)
        else:
            await store.close()
            database.close()
            put_back(tmp_path / "copy", path)
            database = Database(f"sqlite:///{path}")
            store = await _start(database, valkey, "server 1", CALM)
        async with asyncio.timeout(PATIENCE):
            await _until_doubted(database)
        await _flush(valkey)

        for agent, units in ((wants, 0), (has, LIMIT), (wants, 0)):
            agent.attach(store)
            async with asyncio.timeout(PATIENCE):
                await _until_heard(store, agent)
            assert agent.cap == units
    finally:
        await store.close()
        database.close()


def _set_back_rows(connection: Connection) -> None:
    connection.execute(update(lease_book).values(renewals=1))
    for table in (lease_limits, lease_floors):
        connection.execute(delete(table))


async def _until_doubted(database: Database) -> None:
    while True:
        row = await SharedLeases(database).read_book()
        if row is not None and row.is_doubted:
            return
        await asyncio.sleep(0.05)


async def _until_heard(store: SharedLimitStore, agent: Agent) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await agent.sync(store, wants=LIMIT)
            return
        await asyncio.sleep(0.05)


async def test_a_server_that_answers_renews_what_another_one_lent_meanwhile(
    valkey: ValkeyServer, database: Database
) -> None:
    """As where an agent polls through a balancer, that takes it to another server and back."""
    other_key = next(key for key in map(str, range(99)) if shard_of(key) != shard_of(KEY))
    stores = [await _start(database, valkey, f"server {number}", CALM) for number in range(2)]
    agent = Agent("a", LimitSpec(units=LIMIT), key=KEY)
    try:
        for store, agent.key in zip([*stores, stores[0]], [KEY, other_key, KEY], strict=True):
            await until_kept(store)
            begun = boottime_ns()
            detach = agent.attach(store)
            await agent.sync(store, wants=LIMIT)
            detach()

        (limit,) = (await stores[0].find_limit(other_key)).limits
    finally:
        for store in stores:
            await store.close()

    (holder,) = limit.holders
    assert holder.booked == LIMIT
    assert holder.silent_for is not None
    assert holder.silent_for < boottime_ns() - begun


async def test_servers_together_wait_for_one_alone_and_for_what_it_lent(
    valkey: ValkeyServer, database: Database
) -> None:
    keeper = BookKeeper(database, owner="alone", address="127.0.0.1:1")
    alone = EmbeddedLimitStore(database, keeper, server="alone", timing=TIMING)
    await alone.start()
    await until_kept(alone)
    has, wants = (Agent(name, LimitSpec(units=LIMIT), key=KEY) for name in "ab")
    has.attach(alone)
    await has.sync(alone, wants=LIMIT)
    assert has.cap == LIMIT

    together = await _start(database, valkey, "server 0")
    try:
        async with asyncio.timeout(PATIENCE):
            await _until_refused(together, "keeps the book of limits alone")
            await alone.close()
            await until_kept(together)
        wants.attach(together)
        begun = boottime_ns()
        async with asyncio.timeout(PATIENCE):
            while wants.cap < LIMIT:
                assert wants.cap == 0 or boottime_ns() - begun > TIMING.session
                with contextlib.suppress(Unavailable):
                    await wants.sync(together, wants=LIMIT)
                assert has.cap + wants.cap <= LIMIT
                await asyncio.sleep(0.02)
    finally:
        await together.close()


async def test_a_valkey_that_may_drop_leases_keeps_no_book(
    valkey: ValkeyServer, database: Database
) -> None:
    with valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    store = await _start(database, valkey, "server 0")
    try:
        async with asyncio.timeout(PATIENCE):
            await _until_refused(store, 'its maxmemory-policy is "allkeys-lru"')

        with valkey.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
        await until_kept(store)
    finally:
        await store.close()
