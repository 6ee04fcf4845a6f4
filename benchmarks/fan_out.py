"""
From one agent's report to every other agent, over gRPC, with one server process.

Watching clients run in processes of their own. The clock starts before a report is sent, and stops
at each client when it has the suspension that follows: counting, commit and fan-out are in it.
Compared with a bare grpc.aio server that sends constant bytes of the same size to as many streams,
with nothing decided: one whose clients only listen, and one whose clients acknowledge, too.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection, update

from benchmarks import plain_fan_out
from benchmarks.report import Report
from benchmarks.server_process import ServerProcess, listening, serving
from benchmarks.watchers import PATH, Fleet, watching
from penstock.v1 import feedback_service_pb2, outcome_pb2
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade
from policy_server.store.tables import rule_options

WATCHERS = (1000, 2000)
SMALL = (200,)
_ROUNDS = 30
_WARM_UP = 3
_CHANGES = 10
#: Of a response with one suspension, about.
_BYTES = 240
_BARE = {"listen": "bare", "acknowledge": "bare, acknowledged"}
_IDLE_SECONDS = 15.0
_PAUSE_SECONDS = 0.05
_TARGETS = "p50 < 50 ms, p99 < 250 ms with 1,000; resumed < 5 s; idle < 1 % of a core per 1,000"


def measure(sizes: Sequence[int] = WATCHERS) -> Report:
    """Measure each number of watching clients."""
    report = Report(
        name="fan_out",
        title=f"From a report to every watching client, {_ROUNDS} suspensions",
        columns=("watchers", "what", "p50 ms", "p95 ms", "p99 ms", "longest ms",
                 "server CPU us each", "p50 ratio"),
        notes=[
            f"targets: {_TARGETS}",
            "ratio: to the bare fan-out with acknowledgements of the same run (less is better)",
            "each: for each client and message; resumed: from the restart's first connection until"
            " every client has its first response",
        ],
    )  # fmt: skip
    for size in sizes:
        bare = _measure_bare(size, "acknowledge")
        rows = [_measure_bare(size, "listen"), bare, *_measure_server(size, report)]
        for row in rows:
            if row.get("p50 ms") and row["what"] != "resumed":
                row["p50 ratio"] = row["p50 ms"] / bare["p50 ms"]
        report.rows.extend(rows)
    return report


def _measure_bare(size: int, kind: str) -> dict[str, Any]:
    command = (sys.executable, "-m", "benchmarks.plain_fan_out", str(_BYTES))
    with (
        listening(command, dict(os.environ)) as server,
        watching(server.port, size, kind=kind) as fleet,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        send: Any = channel.unary_unary(plain_fan_out.SEND)
        waits = []
        for number in range(1, _WARM_UP + _ROUNDS + 1):
            if number == _WARM_UP + 1:
                cpu = server.cpu_seconds()
            time.sleep(_PAUSE_SECONDS)
            began = time.perf_counter()
            send(b"")
            times = fleet.times_of(f"round {number}")
            if number > _WARM_UP:
                waits += [at - began for at in times]
        return _row(size, _BARE[kind], waits, server.cpu_seconds() - cpu)


def _measure_server(size: int, report: Report) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory, ExitStack() as stack:
        url = f"sqlite:///{Path(directory) / 'penstock.db'}"
        database = Database(url)
        stack.callback(database.close)
        _write_rules(database)
        server = stack.enter_context(serving(url))
        fleet = stack.enter_context(watching(server.port, size, kind="watch"))
        rows = [
            _measure_suspensions(size, server, fleet),
            _measure_changes(size, server, fleet, database),
            _measure_idle(size, server),
        ]
        report.notes.append(f"server with {size:,}: RSS {server.resident_bytes() / 1e6:,.0f} MB")
        server.kill()
        again = stack.enter_context(serving(url, port=server.port))
        rows.append(_measure_resumption(size, again, fleet))
        return rows


def _measure_suspensions(size: int, server: ServerProcess, fleet: Fleet) -> dict[str, Any]:
    waits, answered = [], []
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        report = FeedbackServiceStub(channel).ReportOutcomes
        for number in range(_WARM_UP + _ROUNDS):
            if number == _WARM_UP:
                cpu = server.cpu_seconds()
            request = feedback_service_pb2.ReportOutcomesRequest(outcomes=[_outcome(number)])
            time.sleep(_PAUSE_SECONDS)
            began = time.perf_counter()
            (action_id,) = report(request, timeout=30).action_ids
            ended = time.perf_counter()
            times = fleet.times_of(f"action {action_id}")
            if number >= _WARM_UP:
                waits += [at - began for at in times]
                answered.append(ended - began)
        return _row(size, "suspension", waits, server.cpu_seconds() - cpu)


def _measure_changes(
    size: int, server: ServerProcess, fleet: Fleet, database: Database
) -> dict[str, Any]:
    waits = []
    cpu = server.cpu_seconds()
    for limit in range(101, 101 + _CHANGES):

        def write(connection: Connection, limit: int = limit) -> None:
            statement = update(rule_options).where(rule_options.c.name == "connection_limit")
            connection.execute(statement.values(value=limit))

        database.write_now(write)
        began = time.perf_counter()
        waits += [at - began for at in fleet.times_of(f"limit {limit}")]
    return _row(size, "rule change", waits, server.cpu_seconds() - cpu, rounds=_CHANGES)


def _measure_idle(size: int, server: ServerProcess) -> dict[str, Any]:
    cpu, began = server.cpu_seconds(), time.perf_counter()
    time.sleep(_IDLE_SECONDS)
    share = (server.cpu_seconds() - cpu) / (time.perf_counter() - began)
    return {"watchers": size, "what": f"idle: {share:.1%} of a core"}


def _measure_resumption(size: int, server: ServerProcess, fleet: Fleet) -> dict[str, Any]:
    cpu = server.cpu_seconds()
    began = time.perf_counter()
    answers = fleet.ask("reopen")
    waits = [at - began for first, _ in answers for at in first]
    kinds = {kind for _, kinds in answers for kind in kinds}
    if kinds != {pb.WatchPolicyResponse.KIND_DELTA}:
        raise RuntimeError(f"not every client was resumed: {kinds}")
    return _row(size, "resumed", waits, server.cpu_seconds() - cpu, rounds=1)


def _row(
    size: int, what: str, waits: Sequence[float], cpu: float, *, rounds: int = _ROUNDS
) -> dict[str, Any]:
    ordered = sorted(waits)
    assert len(ordered) == size * rounds

    def cut(share: float) -> float:
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000

    return {
        "watchers": size,
        "what": what,
        "p50 ms": cut(0.5),
        "p95 ms": cut(0.95),
        "p99 ms": cut(0.99),
        "longest ms": ordered[-1] * 1000,
        "server CPU us each": cpu / len(ordered) * 1e6,
    }


def _write_rules(database: Database) -> None:
    upgrade(database)
    rule = AutomationDraft(regexes=(r"\[TS04\]",), actions=("Suspend",), duration="1 hour")
    block = BlockDraft(scope=Scope.DEFAULT, options={"connection_limit": 7}, automation=(rule,))
    layer = LayerDraft(name="base", blocks=(block,))
    database.write_now(lambda connection: import_layers(connection, (layer,), author="benchmark"))


def _outcome(number: int) -> outcome_pb2.DeliveryOutcome:
    """Make an outcome that matches; each is of another source, so each begins an action."""
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    site, source = PATH.mx_hosts[0].host, f"source-{number}"
    return outcome_pb2.DeliveryOutcome(
        event_id=f"event-{number}",
        event_time=now,
        type=outcome_pb2.OUTCOME_TYPE_TRANSIENT_FAILURE,
        recipient_domain=PATH.routing_domain,
        routing_domain=PATH.routing_domain,
        site_name=site,
        path_name=f"{source}->{site}",
        egress_source=source,
        response=outcome_pb2.SmtpResponse(
            code=421,
            enhanced_code=outcome_pb2.EnhancedStatusCode(**{"class": 4, "subject": 7, "detail": 0}),
            content="[TS04] Messages temporarily deferred due to user complaints",
        ),
    )
