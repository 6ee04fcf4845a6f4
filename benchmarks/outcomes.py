"""
Outcomes a second made durable through StreamOutcomes, on both databases.

A real server runs in a process of its own; this one sends batches over a few streams, as agents
do, each with a few batches unanswered. An outcome counts once it is acknowledged, that is kept and
counted durably. Compared with `executemany` of the same rows by the database's own driver.
"""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.engine import make_url

from benchmarks.changes import postgresql
from benchmarks.report import Report
from penstock.v1 import feedback_service_pb2 as pb
from penstock.v1 import outcome_pb2
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from policy_server.automation.outcomes import Outcome
from policy_server.conversions.outcomes import from_outcome
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade

OUTCOMES = 50_000
_SHARES = (0.0, 0.1, 1.0)
_BATCH = 500
_STREAMS = 4
#: Batches of one stream that may be unanswered.
_WINDOW = 4
#: Paths that outcomes are of: site names and sources.
_SITES = 50
_SOURCES = 4
_COLUMNS = (
    "event_id", "event_time", "type", "recipient_domain", "routing_domain", "site_name",
    "path_name", "egress_source", "egress_pool", "provider_name", "tenant", "campaign", "code",
    "enhanced_code", "content", "command", "internal", "num_attempts",
)  # fmt: skip


def measure(count: int = OUTCOMES) -> Report:
    """Measure on SQLite, and on PostgreSQL where one can be started."""
    report = Report(
        name="outcomes",
        title=f"Outcomes made durable over {_STREAMS} streams, {count:,} in batches of {_BATCH}",
        columns=("database", "matching", "outcomes/s", "executemany/s", "ratio", "ack p50 ms",
                 "ack p99 ms", "server CPU us each"),
        notes=["ratio: of the time that plain inserts of the same rows take (less is better)"],
    )  # fmt: skip
    for share in _SHARES:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
            url = f"sqlite:///{Path(directory) / 'penstock.db'}"
            report.rows.append(_measure(url, share, count))
    try:
        for share in _SHARES:
            with postgresql() as url:
                report.rows.append(_measure(url, share, count))
    except (ImportError, OSError, RuntimeError) as error:
        report.notes.append(f"PostgreSQL left out: none can be started here ({error})")
    return report


def _measure(url: str, share: float, count: int) -> dict[str, Any]:
    database = Database(url)
    upgrade(database)
    rules = (
        AutomationDraft(
            regexes=(r"\[TS04\]",), actions=("Suspend",), trigger={"Threshold": "100/hr"},
            duration="1 hour",
        ),
        *(
            AutomationDraft(regexes=(f"reason {number} of",), actions=("Suspend",), duration="1h")
            for number in range(50)
        ),
    )  # fmt: skip
    layer = LayerDraft(name="base", blocks=(BlockDraft(scope=Scope.DEFAULT, automation=rules),))
    database.write_now(lambda connection: import_layers(connection, (layer,), author="benchmark"))
    database.close()
    outcomes = _make_outcomes(count, share)
    requests = [
        pb.StreamOutcomesRequest(
            batch=pb.OutcomeBatch(batch_id=number + 1, outcomes=outcomes[start : start + _BATCH])
        ).SerializeToString()
        for number, start in enumerate(range(0, count, _BATCH))
    ]
    with _serving(url) as (port, process):
        before = _cpu_seconds(process)
        seconds, waits = asyncio.run(_send(port, requests))
        cpu = _cpu_seconds(process) - before
    plain = _insert_plainly(url, [from_outcome(outcome) for outcome in outcomes])
    return {
        "database": "SQLite" if url.startswith("sqlite") else "PostgreSQL",
        "matching": f"{share:.0%}",
        "outcomes/s": count / seconds,
        "executemany/s": count / plain,
        "ratio": seconds / plain,
        "ack p50 ms": sorted(waits)[len(waits) // 2] * 1000,
        "ack p99 ms": sorted(waits)[len(waits) * 99 // 100] * 1000,
        "server CPU us each": cpu / count * 1e6,
    }


def _make_outcomes(count: int, share: float) -> list[outcome_pb2.DeliveryOutcome]:
    chance = random.Random(1)
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    made = []
    for number in range(count):
        site, source = chance.randrange(_SITES), chance.randrange(_SOURCES)
        text = "[TS04] deferred due to complaints" if chance.random() < share else "try again later"
        made.append(
            outcome_pb2.DeliveryOutcome(
                event_id=f"{number:032x}",
                event_time=now,
                type=outcome_pb2.OUTCOME_TYPE_TRANSIENT_FAILURE,
                recipient_domain=f"d{site}.example",
                routing_domain=f"d{site}.example",
                site_name=f"mx.d{site}.example",
                path_name=f"ip-{source}->mx.d{site}.example",
                egress_source=f"ip-{source}",
                egress_pool="default",
                tenant="shop",
                response=outcome_pb2.SmtpResponse(
                    code=421,
                    enhanced_code=outcome_pb2.EnhancedStatusCode(
                        **{"class": 4, "subject": 7, "detail": 0}
                    ),
                    content=f"{text} <joe@d{site}.example>; see https://postmaster.example/",
                    command="RCPT TO:<joe@example.com>",
                ),
                num_attempts=2,
            )
        )
    return made


@contextmanager
def _serving(url: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    environment = os.environ | {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        # Nobody answers there: no name is asked for.
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
        "PENSTOCK_DNS_TIMEOUT": "0.2s",
    }
    code = (
        "import asyncio, os\n"
        "from policy_server.server import run_server\n"
        "from policy_server.settings import load_settings\n"
        "announce = lambda grpc, http: print(grpc, flush=True)\n"
        "asyncio.run(run_server(load_settings(None, os.environ), announce=announce))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("the server did not start")
        yield int(address.rpartition(":")[2]), process
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


async def _send(port: int, requests: Sequence[bytes]) -> tuple[float, list[float]]:
    """Send all batches; return how long that took, and how long each waited for its answer."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        # Messages are made beforehand, so that making them costs the server no CPU.
        method = f"/{pb.DESCRIPTOR.services_by_name['FeedbackService'].full_name}/StreamOutcomes"
        call: Any = channel.stream_stream(
            method, response_deserializer=pb.StreamOutcomesResponse.FromString
        )
        await _warm_up(FeedbackServiceStub(channel))
        begin = time.perf_counter()
        parts = [requests[number::_STREAMS] for number in range(_STREAMS)]
        waits = await asyncio.gather(*(_send_stream(call(), part) for part in parts))
        return time.perf_counter() - begin, [wait for part in waits for wait in part]


async def _warm_up(stub: Any) -> None:
    """Have each path found once: its site is not known to any DNS here."""
    first = _make_outcomes(_SITES * _SOURCES * 5, 0.0)
    for number, outcome in enumerate(first):
        outcome.event_id = f"warm-{number}"
    for start in range(0, len(first), 1000):
        await stub.ReportOutcomes(pb.ReportOutcomesRequest(outcomes=first[start : start + 1000]))


async def _send_stream(call: Any, requests: Sequence[bytes]) -> list[float]:
    await call.write(pb.StreamOutcomesRequest(start=pb.OutcomeStreamStart()).SerializeToString())
    room = asyncio.Semaphore(_WINDOW)
    sent: list[float] = []
    waits: list[float] = []

    async def read() -> None:
        while len(waits) < len(requests):
            response = await call.read()
            if response is grpc.aio.EOF or not response.HasField("ack"):
                raise RuntimeError(f"a batch was not acknowledged: {response}")
            # About the oldest: batches of one stream are answered nearly in order.
            waits.append(time.perf_counter() - sent[len(waits)])
            room.release()

    reader = asyncio.create_task(read())
    for request in requests:
        await room.acquire()
        sent.append(time.perf_counter())
        await call.write(request)
    await reader
    await call.done_writing()
    return waits


def _cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Read what a process has used of the CPU; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _insert_plainly(url: str, outcomes: Sequence[Outcome]) -> float:
    """Insert the same rows into a copy of the table, a transaction a batch."""
    rows = [
        (
            one.event_id, one.event_time.isoformat(" "), one.type.value, one.recipient_domain,
            one.routing_domain, one.site_name, one.path_name, one.egress_source, one.egress_pool,
            one.provider_name, one.tenant, one.campaign, one.reply.code,
            ".".join(map(str, one.reply.enhanced_code or ())), one.reply.content,
            one.reply.command, one.internal, one.num_attempts,
        )
        for one in outcomes
    ]  # fmt: skip
    connection: Any
    if url.startswith("sqlite"):
        connection, mark = sqlite3.connect(str(make_url(url).database)), "?"
        connection.execute("PRAGMA synchronous = FULL")
    else:
        connection, mark = psycopg.connect(url), "%s"
    marks = ", ".join([mark] * len(_COLUMNS))
    statement = f"INSERT INTO outcomes ({', '.join(_COLUMNS)}) VALUES ({marks})"
    try:
        connection.execute("DELETE FROM outcomes")
        connection.commit()
        begin = time.perf_counter()
        for start in range(0, len(rows), _BATCH):
            connection.cursor().executemany(statement, rows[start : start + _BATCH])
            connection.commit()
        return time.perf_counter() - begin
    finally:
        connection.close()
