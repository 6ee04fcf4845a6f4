"""
What the suite of limit stores needs: a way to start and kill each kind, and agents that use it.

Another kind of store joins by a class like `EmbeddedStores` and one more entry in `KINDS`.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from agent.limits.holder import LeaseHolder
from agent.limits.messages import Answer
from agent.limits.times import HolderTimes
from benchmarks.lease_world.handing import count_returned, to_held, to_report
from policy_server.lending.clock import boottime_ns
from policy_server.lending.embedded import EmbeddedLimitStore
from policy_server.lending.keeper import BookKeeper
from policy_server.lending.port import LimitStore
from policy_server.limits.messages import Grant
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.store import SharedLimitStore
from policy_server.shared_book.valkey import Valkey
from policy_server.store.database import Database
from policy_server.store.shared_leases import SharedLeases
from tests.valkey import start_valkey

PATIENCE = 20.0
#: Long enough for a busy machine, where nothing is to end by itself.
CALM = LeaseTiming()
#: So short that a test can wait for the end.
QUICK = LeaseTiming(
    session=400_000_000,
    grace=100_000_000,
    drain=300_000_000,
    floor=1_000_000_000,
    hold_connection=50_000_000,
    hold_rate=50_000_000,
    repeat=100_000_000,
)


class LimitStores(Protocol):
    """Stores of one kind that share what is durable, one after the other."""

    async def start(self, timing: LeaseTiming = CALM) -> LimitStore:
        """Start a store, and wait until it keeps the book."""
        ...

    async def kill(self, store: LimitStore) -> None:
        """End a store as a crash does: what is durable is all that stays."""
        ...


class EmbeddedStores:
    """The book in memory, its promises in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: dict[int, tuple[EmbeddedLimitStore, BookKeeper]] = {}

    async def start(self, timing: LeaseTiming = CALM) -> LimitStore:
        """Start a store of the same server as before."""
        keeper = BookKeeper(self._database, owner="server 1", address="127.0.0.1:1")
        store = EmbeddedLimitStore(self._database, keeper, server="server 1", timing=timing)
        await store.start()
        await until_kept(store)
        self._running[id(store)] = store, keeper
        return store

    async def kill(self, store: LimitStore) -> None:
        """Cut it off, as the system does with a process."""
        embedded, keeper = self._running.pop(id(store))
        assert embedded._task is not None
        embedded._task.cancel()
        await asyncio.gather(embedded._task, return_exceptions=True)
        if keeper._file is not None:
            keeper._file.close()

    async def close(self) -> None:
        """Stop what still runs."""
        for store, _ in list(self._running.values()):
            await store.close()


class SharedStores:
    """The book in Valkey, its promises in SQL. A crash takes Valkey along, with all that it has."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._valkey = start_valkey()
        self._running: list[SharedLimitStore] = []

    async def start(self, timing: LeaseTiming = CALM) -> LimitStore:
        """Start a store of another server."""
        store = SharedLimitStore(
            Valkey(self._valkey.url, metrics=ServerMetrics(), book="test"),
            SharedLeases(self._database),
            server=f"server {len(self._running)}",
            address="127.0.0.1:1",
            timing=timing,
            # Longer than a busy machine takes for a transaction.
            valid=2_000_000_000,
        )
        await store.start()
        await until_kept(store)
        self._running.append(store)
        return store

    async def kill(self, store: LimitStore) -> None:
        """Cut it off, and have a Valkey without data."""
        self._valkey.kill()
        await store.close()
        self._valkey.start()

    async def close(self) -> None:
        """Stop what still runs."""
        for store in self._running:
            await store.close()
        self._valkey.stop()


#: How to make the stores of each kind, from a database at the newest schema.
KINDS: dict[str, Callable[[Database], Any]] = {
    "embedded": EmbeddedStores,
    "shared": SharedStores,
}


async def until_kept(store: LimitStore) -> None:
    """Wait until a store keeps the book."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(ConnectionError):
                await store.settled()
                return
            await asyncio.sleep(0.01)


class Agent:
    """One agent, as it really is, without a network."""

    def __init__(self, name: str, spec: LimitSpec, *, key: str, incarnation: int = 1) -> None:
        self.name, self.key, self.spec, self.incarnation = name, key, spec, incarnation
        self.holder: LeaseHolder | None = None
        self.woken = asyncio.Event()

    def attach(self, store: LimitStore) -> Callable[[], None]:
        """Begin to listen."""
        if self.holder is None:
            timing = store.timing
            times = HolderTimes.of(
                session=timing.session,
                floor=timing.floor,
                drain=timing.drain,
                drift=timing.drift,
            )
            self.holder = LeaseHolder(times, agent=self.name, incarnation=self.incarnation)
        return store.attach(self.name, self.woken.set)

    async def say(self, store: LimitStore, *, wants: int | None = None) -> None:
        """Report, without waiting for what follows."""
        assert self.holder is not None
        if wants is not None:
            self.holder.want(self.key, wants)
        made = to_report(self.holder.report(boottime_ns()), self.holder.event_parts)
        report = count_returned(made, self.spec.event_parts)
        await store.receive(report, {self.key: self.spec} if report.demands else {})

    async def hear(self, store: LimitStore, most: int = 100) -> tuple[Grant, ...]:
        """Take what there is, and apply it."""
        assert self.holder is not None
        taken = await store.take(self.name, self.incarnation, most)
        answer = Answer(
            epoch=taken.epoch,
            incarnation=self.incarnation,
            sequence=taken.sequence,
            grants=tuple(map(to_held, taken.grants)),
        )
        self.holder.hear(answer, boottime_ns())
        return taken.grants

    async def sync(self, store: LimitStore, *, wants: int | None = None) -> None:
        """Report, apply what follows, and confirm it."""
        await self.say(store, wants=wants)
        await store.settled()
        if await self.hear(store):
            await self.say(store)
            await store.settled()
            await self.hear(store)

    @property
    def cap(self) -> int:
        """Units that it may use now."""
        assert self.holder is not None
        return self.holder.cap(self.key, boottime_ns())
