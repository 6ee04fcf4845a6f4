"""
What lending limits costs a server: how soon a worker may use what it asks for, and the CPU of one
server process with very many workers.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from benchmarks.report import Report
from benchmarks.server_process import ServerProcess, serving
from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from penstock.v1.policy_service_pb2 import MxHost
from policy_server.rules.layers import BlockDraft, LayerDraft, Scope
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade

#: Workers, and limits of each.
WORKERS, KEYS = 1000, 500
_LIMIT = 20
_FIRST_GRANTS, _TRANSFERS = 400, 100
#: So many of a worker's limits another one shares.
_SHARED = 25
#: In the steady state each worker reports that often, and this part of its limits has changed.
_ROUND_SECONDS, _CHANGED = 5.0, 0.03
_ROUNDS = 4
_DEMANDS = 500
#: A server that uses less of a core than that has nothing left over.
_CALM, _LOOK_SECONDS = 0.5, 2.0
_STREAMS_A_CHANNEL = 100
_PATIENCE = 900.0


@dataclass(slots=True)
class _Lease:
    key: str
    path: pb.LimitPath
    wants: int = 1
    units: int = 0
    version: int = 0
    is_told: bool = False


@dataclass(slots=True)
class _Worker:
    """A worker with a stream, which confirms what it is granted."""

    name: str
    leases: list[_Lease] = field(default_factory=list)
    sequence: int = 0
    answered: int = 0
    dirty: dict[int, None] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    #: There is something to be said, or time to say anything.
    to_say: asyncio.Event = field(default_factory=asyncio.Event)
    call: Any = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def open(self, channel: grpc.aio.Channel) -> None:
        self.call = LimitServiceStub(channel).SyncLimits(metadata=(("penstock-agent", self.name),))
        self.tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    async def close(self) -> None:
        self.call.cancel()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def report(self) -> int:
        """Have what changed sent, in one report or more; return the number of the first."""
        self.to_say.set()
        return self.sequence + 1

    async def _write(self) -> None:
        """Send what changed, so many demands a report; and now and then none, to keep leases."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_SECONDS):
                    await self.to_say.wait()
            self.to_say.clear()
            chosen = list(self.dirty)[:_DEMANDS]
            for handle in chosen:
                del self.dirty[handle]
            self.sequence += 1
            report = pb.LimitReport(
                incarnation=1, sequence=self.sequence, demands=map(self._demand, chosen)
            )
            await self.call.write(pb.SyncLimitsRequest(report=report))
            if self.dirty:
                self.to_say.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds, looking at each answer."""
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def has_all(self) -> bool:
        """Whether it has units of each limit."""
        return all(lease.units for lease in self.leases)

    def is_answered(self, sequence: int) -> bool:
        """Whether a report has been answered."""
        return self.answered >= sequence

    def _demand(self, handle: int) -> pb.LimitDemand:
        lease = self.leases[handle - 1]
        is_first, lease.is_told = not lease.is_told, True
        return pb.LimitDemand(
            handle=handle,
            key=lease.key if is_first else "",
            paths=[lease.path] if is_first else [],
            wants=lease.wants,
            enforced=lease.units,
            version=lease.version,
        )

    async def _name_again(self, keys: Collection[str]) -> None:
        """The server had no time to look at the paths: say them again a while later."""
        await asyncio.sleep(_ROUND_SECONDS)
        again = set(keys)
        for number, lease in enumerate(self.leases):
            if lease.key in again:
                lease.is_told = False
                self.dirty[number + 1] = None
        self.report()

    async def _read(self) -> None:
        async for response in self.call:
            answer = response.answer
            self.answered = answer.sequence
            for grant in answer.grants:
                lease = self.leases[grant.handle - 1]
                # What it has already needs no confirmation.
                if grant.version > lease.version:
                    lease.units, lease.version = grant.units, grant.version
                    self.dirty[grant.handle] = None
            if answer.unknown:
                self.tasks.append(asyncio.create_task(self._name_again(answer.unknown)))
            if self.dirty:
                self.report()
            self.news.set()


def measure(workers: int = WORKERS) -> Report:
    """Measure latencies, then the load of *workers* workers."""
    report = Report(
        name="limits",
        title="Limits lent by one server process, over real streams",
        columns=("case", "p50", "p99", "CPU of the server", "memory"),
        notes=[
            "First grant: from a worker's demand for a limit that nobody has to its grant, made",
            "durable in SQLite before. Transfer: a worker wants units of a limit that another one",
            "has whole; until it has its half, which the other gives up at once.",
            f"Steady: every worker reports each {_ROUND_SECONDS:.0f} s, {_CHANGED:.0%} of its "
            f"limits changed; {_SHARED} of them it shares with another one.",
        ],
    )
    with tempfile.TemporaryDirectory() as directory:
        for name, work in (
            ("latency", _measure_latency),
            ("load", lambda server: _measure_load(server, workers)),
        ):
            url = f"sqlite:///{Path(directory) / name}.db"
            _write_rules(url)
            with serving(url) as server:
                report.rows.extend(asyncio.run(_run(work, server)))
    return report


async def _run(
    work: Callable[[ServerProcess], Awaitable[list[dict[str, Any]]]], server: ServerProcess
) -> list[dict[str, Any]]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = LimitServiceStub(channel)
        async with asyncio.timeout(30):
            while True:
                try:
                    await stub.ListLimits(pb.ListLimitsRequest())
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
    return await work(server)


async def _measure_latency(server: ServerProcess) -> list[dict[str, Any]]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        one, other = _Worker("one"), _Worker("other")
        for worker in (one, other):
            worker.leases = [_lease(number, "ip") for number in range(_FIRST_GRANTS)]
            worker.open(channel)
        first = [await _time_grant(one, handle) for handle in range(1, _FIRST_GRANTS + 1)]
        for lease in other.leases:
            lease.wants = _LIMIT
        moved = [await _time_grant(other, handle) for handle in range(1, _TRANSFERS + 1)]
        for worker in (one, other):
            await worker.close()
    return [
        {"case": "first grant", **_percentiles(first)},
        {"case": "transfer", **_percentiles(moved)},
    ]


async def _time_grant(worker: _Worker, handle: int) -> float:
    lease = worker.leases[handle - 1]
    begun = time.perf_counter()
    worker.dirty[handle] = None
    worker.report()
    await worker.until(lambda: lease.units > 0)
    return time.perf_counter() - begun


async def _measure_load(server: ServerProcess, count: int) -> list[dict[str, Any]]:
    channels = [
        grpc.aio.insecure_channel(
            f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(-(-count // _STREAMS_A_CHANNEL))
    ]
    workers = [_make_worker(number) for number in range(count)]
    try:
        begun, used = time.perf_counter(), server.cpu_seconds()
        for number, worker in enumerate(workers):
            worker.open(channels[number // _STREAMS_A_CHANNEL])
            worker.dirty = dict.fromkeys(range(1, KEYS + 1))
            worker.report()
        for worker in workers:
            await worker.until(worker.has_all)
        registered = {
            "case": f"{count:,} workers come, {KEYS} limits each",
            "p99": f"{time.perf_counter() - begun:.0f} s for all",
            "CPU of the server": f"{server.cpu_seconds() - used:.0f} s",
            "memory": f"{server.resident_bytes() / 1e6:,.0f} MB",
        }
        # What they confirmed last is still being read.
        await _until_calm(server)
        steady = await _measure_steady(server, workers)
    finally:
        await asyncio.gather(*(worker.close() for worker in workers))
        for channel in channels:
            await channel.close()
    return [registered, steady]


async def _until_calm(server: ServerProcess) -> None:
    """Wait until the server has caught up: it works for less than half of the time."""
    async with asyncio.timeout(_PATIENCE):
        used, share = server.cpu_seconds(), 1.0
        while share > _CALM:
            await asyncio.sleep(_LOOK_SECONDS)
            now = server.cpu_seconds()
            used, share = now, (now - used) / _LOOK_SECONDS


async def _measure_steady(server: ServerProcess, workers: list[_Worker]) -> dict[str, Any]:
    taken: list[float] = []

    async def keep_reporting(number: int, worker: _Worker) -> None:
        await asyncio.sleep(_ROUND_SECONDS * number / len(workers))
        changed = round(KEYS * _CHANGED)
        for turn in range(_ROUNDS):
            due = time.perf_counter() + _ROUND_SECONDS
            for place in range(changed):
                handle = 1 + (turn * changed + place * 7 + number) % KEYS
                lease = worker.leases[handle - 1]
                lease.wants = 1 + (lease.wants + 3) % _LIMIT
                worker.dirty[handle] = None
            begun, awaited = time.perf_counter(), worker.report()
            await worker.until(partial(worker.is_answered, awaited))
            taken.append(time.perf_counter() - begun)
            await asyncio.sleep(max(0, due - time.perf_counter()))

    begun, used = time.perf_counter(), server.cpu_seconds()
    await asyncio.gather(*(keep_reporting(*one) for one in enumerate(workers)))
    span = time.perf_counter() - begun
    return {
        "case": f"steady, {len(workers):,} workers: until a report is answered",
        **_percentiles(taken),
        "CPU of the server": f"{(server.cpu_seconds() - used) / span:.0%} of a core",
        "memory": f"{server.resident_bytes() / 1e6:,.0f} MB",
    }


def _make_worker(number: int) -> _Worker:
    worker = _Worker(f"mta-{number}")
    for key in range(KEYS):
        owner = number // 2 * 2 if key < _SHARED else number
        worker.leases.append(_lease(key, f"ip-{owner}"))
    return worker


def _lease(number: int, source: str) -> _Lease:
    domain = f"d{number}.example"
    path = pb.LimitPath(
        routing_domain=domain,
        egress_source=source,
        mx_hosts=[MxHost(host=f"mx.{domain}", preference=10)],
    )
    return _Lease(key=f"connection_limit:{source}->mx.{domain}", path=path)


def _write_rules(url: str) -> None:
    database = Database(url)
    block = BlockDraft(scope=Scope.DEFAULT, options={"connection_limit": _LIMIT})
    draft = LayerDraft(name="base", blocks=(block,))
    try:
        upgrade(database)
        database.write_now(
            lambda connection: import_layers(connection, [draft], author="benchmark")
        )
    finally:
        database.close()


def _percentiles(seconds: list[float]) -> dict[str, str]:
    ordered = sorted(seconds)
    return {
        "p50": f"{ordered[len(ordered) // 2] * 1000:.1f} ms",
        "p99": f"{ordered[int(len(ordered) * 0.99)] * 1000:.1f} ms",
    }
