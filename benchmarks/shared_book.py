"""
What the book that servers share costs: calls of its script in a real Valkey, by its own CPU time,
and how soon a server has a grant from it.
"""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import redis

from benchmarks.report import Report
from policy_server.limits.messages import Demand
from policy_server.limits.messages import Report as LimitReport
from policy_server.limits.spec import Earning, LeaseTiming, LimitSpec
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.calls import (
    Argument,
    report_arguments,
    spec_arguments,
    sync_arguments,
    terms_text,
)
from policy_server.shared_book.source import read_source
from policy_server.shared_book.store import SharedLimitStore
from policy_server.shared_book.valkey import Valkey
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from policy_server.store.shared_leases import SharedLeases

_SHARD = "penstock:benchmark:{s00}"
_SECOND = 1_000_000_000
_CONNECTIONS = LimitSpec(units=100)
_RATE = LimitSpec(units=100, earning=Earning(count=100, period_ns=_SECOND))
_AT_ONCE = 100
_CALLS = 300
_FIRST_GRANTS = 200


@contextlib.contextmanager
def running_valkey() -> Iterator[str]:
    """Run a server on a socket of its own; give the socket."""
    beside = Path(sys.executable).parent / "redis-server"
    program = shutil.which("valkey-server") or shutil.which("redis-server") or str(beside)
    with tempfile.TemporaryDirectory(prefix="penstock-valkey-") as directory:
        socket = f"{directory}/socket"
        process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            with redis.Redis(unix_socket_path=socket) as client:
                for _ in range(200):
                    with contextlib.suppress(redis.ConnectionError):
                        client.ping()
                        break
                    time.sleep(0.05)
            yield socket
        finally:
            process.terminate()
            process.wait()


class _Shard:
    """One shard, called as servers call it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        client.flushall()
        self._script = client.register_script(read_source())
        self.call("begin", terms_text(LeaseTiming()))

    def call(self, operation: str, *arguments: Argument) -> list[Any]:
        reply: list[Any] = self._script(keys=[_SHARD], args=[operation, 1, *arguments])
        assert reply[0] == b"ok", reply
        return reply

    def sync(self, reports: Sequence[LimitReport]) -> None:
        stated = [report_arguments(report, part=0, sign=lambda *_: b"") for report in reports]
        self.call("sync", *sync_arguments(server="server", reports=stated))

    def add(self, keys: Sequence[str], spec: LimitSpec) -> None:
        for key in keys:
            self.call("add", "server", key, *spec_arguments(spec))

    def cpu_seconds(self) -> float:
        used = self._client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _report(agent: str, sequence: int, keys: Sequence[str], wants: int) -> LimitReport:
    demands = tuple(Demand(key=key, wants=wants, enforced=0) for key in keys)
    return LimitReport(agent=agent, incarnation=1, sequence=sequence, demands=demands)


def _measure(
    shard: _Shard, calls: Sequence[Sequence[LimitReport]], items: int
) -> dict[str, object]:
    before, begun = shard.cpu_seconds(), time.perf_counter()
    for reports in calls:
        shard.sync(reports)
    seconds, cpu = time.perf_counter() - begun, shard.cpu_seconds() - before
    return {
        "items a call": items,
        "items/s": round(items * len(calls) / seconds),
        "Valkey, µs an item": round(cpu / len(calls) / items * 1e6, 1),
        "Valkey, ms a call": round(cpu / len(calls) * 1e3, 2),
    }


def _demands(client: redis.Redis, spec: LimitSpec) -> dict[str, object]:
    """Demands that change, of limits that two agents share."""
    shard, keys = _Shard(client), [f"limit {number}" for number in range(_AT_ONCE)]
    shard.add(keys, spec)
    shard.sync([_report("other", 1, keys, 30)])
    calls = [[_report("agent", 1 + turn, keys, 10 + 50 * (turn % 2))] for turn in range(_CALLS)]
    return _measure(shard, calls, _AT_ONCE)


def _renewals(client: redis.Redis) -> dict[str, object]:
    """Signs of life of agents, in which nothing has changed."""
    shard, agents = _Shard(client), [f"agent {number}" for number in range(_AT_ONCE)]
    calls = [[_report(agent, 1 + turn, (), 0) for agent in agents] for turn in range(_CALLS)]
    return _measure(shard, calls, _AT_ONCE)


def _crowd(client: redis.Redis) -> dict[str, object]:
    """One demand that changes, of a limit that 1,000 agents share."""
    shard = _Shard(client)
    shard.add(["limit"], LimitSpec(units=5000))
    for first in range(0, 1000, _AT_ONCE):
        agents = range(first, first + _AT_ONCE)
        shard.sync([_report(f"agent {agent}", 1, ["limit"], 3) for agent in agents])
    calls = [[_report("agent 7", 2 + turn, ["limit"], 3 + turn % 2)] for turn in range(100)]
    return _measure(shard, calls, 1)


async def _first_grants(socket: str) -> list[float]:
    """Seconds from a report about a new limit until its grant can be taken, one at a time."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/penstock.db")
        upgrade(database)
        valkey = Valkey(f"unix://{socket}", metrics=ServerMetrics())
        store = SharedLimitStore(
            valkey, SharedLeases(database), server="server", address="127.0.0.1:1"
        )
        await store.start()
        while True:
            with contextlib.suppress(ConnectionError):
                await store.settled()
                break
            await asyncio.sleep(0.1)
        for number in range(_FIRST_GRANTS):
            woken = asyncio.Event()
            store.attach(f"agent {number}", woken.set)
            await asyncio.sleep(0.02)
            begun, key = time.perf_counter(), f"limit {number}"
            await store.receive(_report(f"agent {number}", 1, [key], 5), {key: _CONNECTIONS})
            await woken.wait()
            found.append(time.perf_counter() - begun)
        await store.close()
        database.close()
    return found


def measure() -> Report:
    """Measure calls of one shard, then a store."""
    report = Report(
        name="shared_book",
        title="The book of limits that servers share",
        columns=("case", "items a call", "items/s", "Valkey, µs an item", "Valkey, ms a call"),
        notes=[
            "Items: demands, or signs of life without any. One client, one call at a time; each",
            "call also settles. A book has 16 shards, which one Valkey serves in turn.",
        ],
    )
    with running_valkey() as socket:
        with redis.Redis(unix_socket_path=socket) as client:
            for name, row in (
                ("connections, 2 agents each", _demands(client, _CONNECTIONS)),
                ("rates, 2 agents each", _demands(client, _RATE)),
                ("signs of life", _renewals(client)),
                ("one limit of 1,000 agents", _crowd(client)),
            ):
                report.rows.append({"case": name, **row})
            client.flushall()
        cuts = quantiles(asyncio.run(_first_grants(socket)), n=100)
    report.notes.append(
        f"First grant of a new limit, from a server with SQLite: p50 {cuts[49] * 1e3:.0f} ms, "
        f"p99 {cuts[98] * 1e3:.0f} ms."
    )
    return report
