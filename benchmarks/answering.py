"""
`GetEgressPathConfig` over gRPC, against a bare handler that returns as many constant bytes.

Server, bare handler and load are a process each. Rounds of the two alternate, so that what else the
machine does falls on both; the figures are medians over rounds.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from sqlalchemy import Connection

from benchmarks.blocks import domain_of, insert_rows, make_layer, make_sites
from benchmarks.grpc_load import Answered, Load, apply_load
from benchmarks.plain_answers import METHOD as PLAIN_METHOD
from benchmarks.report import Report
from benchmarks.server_process import ServerProcess, listening, serving
from benchmarks.shared_book import running_valkey
from penstock.v1.policy_service_pb2 import (
    BatchGetEgressPathConfigsRequest,
    GetEgressPathConfigRequest,
    MxHost,
)
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from policy_server.store.sites import StoredSite, save_sites

_SERVICE = "/penstock.v1.PolicyService"
_BLOCKS = 10_000
_ROUNDS = 5
#: More different questions than the server keeps answers to: each is made anew.
_MANY = 40_000
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    name: str
    method: str
    requests: tuple[bytes, ...]
    calls: int
    answers_per_call: int = 1
    connections: int = 4
    depth: int = 16


@dataclass(frozen=True, slots=True)
class _Round:
    answered: Answered
    cpu_seconds: float


def measure() -> Report:
    """Measure answers cached, made anew, and in batches."""
    report = Report(
        name="answering",
        title=f"Answers a second over gRPC, {_BLOCKS:,} blocks of rules, one server process",
        columns=(
            "case",
            "answers/s",
            "bare calls/s",
            "ratio",
            "server CPU us each",
            "bare CPU us each",
            "p50 ms at half",
            "p99 ms at half",
            "bare p99 ms",
            "to one process",
        ),
        notes=[
            "bare: a grpc.aio handler that returns as many constant bytes for each call, under the"
            " same load in alternating rounds; ratio: answers to bare calls, 1 is as fast",
            "processes: they share a port and, with the load, the cores of the machine",
            "at half: calls at half the rate that was reached, each timed from when it was due",
        ],
    )
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        url = f"sqlite:///{Path(directory) / 'penstock.db'}"
        _fill(url)
        with serving(url) as server:
            for case in _make_cases():
                report.rows.append(_measure_case(server, case))
        report.rows.extend(_measure_processes(url))
    return report


def _make_cases() -> Iterator[_Case]:
    known = tuple(_question(number).SerializeToString() for number in range(2, 502))
    many = tuple(_question(number).SerializeToString() for number in range(2, _MANY + 2))
    batches = tuple(
        BatchGetEgressPathConfigsRequest(
            requests=[_question(number) for number in range(first, first + _BATCH)]
        ).SerializeToString()
        for first in range(2, 4 * _BATCH + 2, _BATCH)
    )
    single = f"{_SERVICE}/GetEgressPathConfig"
    batched = f"{_SERVICE}/BatchGetEgressPathConfigs"
    yield _Case(name="cached", method=single, requests=known, calls=8_000)
    yield _Case(name="made anew", method=single, requests=many, calls=8_000)
    yield _Case(
        name=f"batches of {_BATCH}, cached",
        method=batched,
        requests=batches,
        calls=60,
        answers_per_call=_BATCH,
        depth=1,
    )


def _question(number: int) -> GetEgressPathConfigRequest:
    domain = domain_of(number)
    return GetEgressPathConfigRequest(
        routing_domain=domain,
        egress_source=f"ip-{number % 8}",
        mx_hosts=[MxHost(host=f"mx.{domain}", preference=10)],
    )


def _fill(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.write_now(_write)
    database.close()


def _write(connection: Connection) -> None:
    insert_rows(connection, make_layer(_BLOCKS).blocks)
    # Where the sites of rules are not known, the server asks the DNS for them all the time.
    later = datetime.now(UTC) + timedelta(days=1)
    sites = [StoredSite(site=site, expires_at=later) for site in make_sites(_BLOCKS)]
    save_sites(connection, sites)


def _measure_case(server: ServerProcess, case: _Case) -> dict[str, object]:
    with _plain_answers(_answer_bytes(server, case)) as plain:
        rounds, plain_rounds = [], []
        for number in range(_ROUNDS + 1):
            ours = _measure_round([server], _load(server, case, case.method, number))
            bare = _measure_round([plain], _load(plain, case, PLAIN_METHOD, number))
            # The first round fills caches and is left out.
            if number:
                rounds.append(ours)
                plain_rounds.append(bare)
        half = _at_half(server, case, case.method, _rate(rounds))
        plain_half = _at_half(plain, case, PLAIN_METHOD, _rate(plain_rounds))
    each = case.answers_per_call
    rate, bare_rate = _rate(rounds) * each, _rate(plain_rounds)
    return {
        "case": case.name,
        "answers/s": rate,
        "bare calls/s": bare_rate,
        "ratio": rate / bare_rate,
        "server CPU us each": _cpu(rounds) / each * 1e6,
        "bare CPU us each": _cpu(plain_rounds) * 1e6,
        "p50 ms at half": half.percentile(0.5) * 1000,
        "p99 ms at half": half.percentile(0.99) * 1000,
        "bare p99 ms": plain_half.percentile(0.99) * 1000,
    }


def _measure_processes(url: str) -> Iterator[dict[str, object]]:
    """Answer by one process and by two that share a port, in alternating rounds."""
    cached = next(_make_cases())
    # The system divides connections, of which there must be some to be divided evenly.
    case = replace(cached, connections=32, depth=2)
    with running_valkey() as socket:
        shared = {
            "PENSTOCK_SERVER_SHARE_PORT": "true",
            "PENSTOCK_LIMITS_STATE": f"unix://{socket}",
        }
        with (
            serving(url) as alone,
            serving(url, settings=shared) as first,
            serving(url, port=first.port, settings=shared) as second,
        ):
            measured: list[tuple[Sequence[ServerProcess], list[_Round]]]
            measured = [((alone,), []), ((first, second), [])]
            for number in range(_ROUNDS + 1):
                for servers, rounds in measured:
                    load = _load(servers[0], case, case.method, number)
                    found = _measure_round(servers, load)
                    if number:
                        rounds.append(found)
    one = _rate(measured[0][1])
    for servers, rounds in measured:
        yield {
            "case": f"cached, processes: {len(servers)}",
            "answers/s": _rate(rounds),
            "server CPU us each": _cpu(rounds) * 1e6,
            "to one process": _rate(rounds) / one,
        }


def _load(server: ServerProcess, case: _Case, method: str, number: int) -> Load:
    return Load(
        port=server.port,
        method=method,
        requests=_turn(case, number),
        calls=case.calls,
        connections=case.connections,
        depth=case.depth,
    )


def _turn(case: _Case, number: int) -> tuple[bytes, ...]:
    """Begin each round where the one before ended: what was just asked is not asked again."""
    first = number * case.calls % len(case.requests)
    return case.requests[first:] + case.requests[:first]


def _at_half(server: ServerProcess, case: _Case, method: str, rate: float) -> Answered:
    load = Load(
        port=server.port,
        method=method,
        requests=_turn(case, _ROUNDS + 1),
        calls=min(case.calls, max(100, int(rate * 2))),
        pace=rate / 2,
    )
    return apply_load(load)


def _measure_round(servers: Sequence[ServerProcess], load: Load) -> _Round:
    before = sum(server.cpu_seconds() for server in servers)
    answered = apply_load(load)
    return _Round(answered, sum(server.cpu_seconds() for server in servers) - before)


def _rate(rounds: list[_Round]) -> float:
    return statistics.median(one.answered.calls_per_second for one in rounds)


def _cpu(rounds: list[_Round]) -> float:
    return statistics.median(one.cpu_seconds / len(one.answered.waits) for one in rounds)


def _answer_bytes(server: ServerProcess, case: _Case) -> int:
    """Ask once as any client does: how long is an answer?"""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = PolicyServiceStub(channel)
        if case.answers_per_call > 1:
            request = BatchGetEgressPathConfigsRequest.FromString(case.requests[0])
            answers = stub.BatchGetEgressPathConfigs(request, timeout=30)
            return int(answers.ByteSize()) // _BATCH
        single = GetEgressPathConfigRequest.FromString(case.requests[0])
        return int(stub.GetEgressPathConfig(single, timeout=30).ByteSize())


@contextmanager
def _plain_answers(size: int) -> Iterator[ServerProcess]:
    command = (sys.executable, "-m", "benchmarks.plain_answers", str(size))
    with listening(command, dict(os.environ)) as server:
        yield server
