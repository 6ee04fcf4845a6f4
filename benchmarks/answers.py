"""
Answers per second in process, with few rules and with very many; and what holding them takes.

Each number of blocks is measured in a process of its own, so that its memory is its own. The
questions are asked of a policy as a server has it, without a network in between: once when no
answer is known (uncached), and again (cached). What they are compared with is a look-up of
constant bytes in a dict: the least that any answer costs in Python.
"""

import asyncio
import gc
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks.blocks import insert_rows, make_layer, make_sites
from benchmarks.report import Report
from policy_server.dns import MxResolver
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost
from policy_server.store.actions import ActionStore
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from policy_server.store.sites import StoredSite, save_sites
from policy_server.store.tables import policy_revisions, rule_options

SIZES = (100, 10_000, 100_000, 1_000_000)
_QUESTIONS = 5000
_CACHED_ROUNDS = 20
_TICK = 0.005
_MEMORY_BYTES = 4_000


def measure(sizes: Sequence[int] = SIZES) -> Report:
    """Measure each number of blocks that fits into the memory that is free."""
    report = Report(
        name="answers",
        title="Answers per second in process, by number of blocks",
        columns=(
            "blocks",
            "start s",
            "RSS MB",
            "uncached/s",
            "uncached ratio",
            "cached/s",
            "cached ratio",
            "dict ratio",
            "one change ms",
            "longest loop pause ms",
        ),
        notes=[
            "ratio: time of one answer to that with the fewest blocks (1 is best);"
            " dict ratio: cached answers to look-ups in a dict of constant bytes",
            "start: reading SQLite, parsing, compiling; one change: from reading one changed row"
            " to its changed answer",
        ],
    )
    for size in sizes:
        if size * _MEMORY_BYTES > _free_memory():
            report.notes.append(f"{size:,} blocks left out: too little memory is free")
            continue
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            report.rows.append(process.submit(_measure_size, size).result())
    first = report.rows[0]
    for row in report.rows:
        row["uncached ratio"] = first["uncached/s"] / row["uncached/s"]
        row["cached ratio"] = first["cached/s"] / row["cached/s"]
    return report


def _measure_size(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        url = f"sqlite:///{Path(directory) / 'penstock.db'}"
        # What makes the rows needs memory too: it is done elsewhere.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            process.submit(_fill, url, size).result()
        return asyncio.run(_measure_policy(url, size))


def _fill(url: str, size: int) -> None:
    database = Database(url)
    upgrade(database)
    now = datetime.now(UTC)
    later = now + timedelta(days=1)

    def write(connection: Any) -> None:
        triggers = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%_log_insert'"
        ).scalars()
        # How fast rows are written is measured elsewhere.
        for name in triggers.all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.execute(insert(policy_revisions).values(committed_at=now))
        insert_rows(connection, make_layer(size).blocks)
        sites = (StoredSite(site=site, expires_at=later) for site in make_sites(size))
        while some := list(islice(sites, 10_000)):
            save_sites(connection, some)

    database.write_now(write)
    database.close()


async def _measure_policy(url: str, size: int) -> dict[str, Any]:
    database = Database(url)
    policy = Policy(
        database,
        actions=ActionStore(database),
        resolver=MxResolver(nameservers=("127.0.0.1:9",), timeout=timedelta(seconds=1)),
        metrics=ServerMetrics(),
    )
    pauses: list[float] = []
    watcher = asyncio.create_task(_watch_pauses(pauses))
    began = time.perf_counter()
    await policy.reload()
    start = time.perf_counter() - began
    watcher.cancel()
    questions = list(_make_questions(size))
    uncached = _rate(policy.answer, questions)
    cached = _rate(policy.answer, questions * _CACHED_ROUNDS)
    constant = {question: policy.answer(question).payload for question in questions}
    looked_up = _rate(constant.__getitem__, questions * _CACHED_ROUNDS)
    change = await _measure_change(database, policy, questions[0])
    await policy.close()
    await database.aclose()
    return {
        "blocks": size,
        "start s": start,
        "RSS MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "uncached/s": uncached,
        "cached/s": cached,
        "dict ratio": looked_up / cached,
        "one change ms": change * 1000,
        "longest loop pause ms": max(pauses, default=0.0) * 1000,
    }


def _make_questions(size: int) -> Iterable[Question]:
    step = max(1, size // _QUESTIONS)
    for index in range(_QUESTIONS):
        number = index * step + 2
        host = f"mx.d{number}.example"
        yield Question(
            routing_domain=f"d{number}.example",
            egress_source=f"ip-{index % 8}",
            site_name=host,
            mx_hosts=(MxHost(host, preference=10),),
        )


def _rate(answer: Callable[[Question], object], questions: Sequence[Question]) -> float:
    gc.collect()
    began = time.perf_counter()
    for question in questions:
        answer(question)
    return len(questions) / (time.perf_counter() - began)


async def _measure_change(database: Database, policy: Policy, question: Question) -> float:
    """Change the one block that a question falls into, a few times; return the median."""
    times = []
    for value in range(1001, 1008):

        def write(connection: Any, value: int = value) -> None:
            statement = rule_options.update().where(
                rule_options.c.block_id == 3, rule_options.c.name == "connection_limit"
            )
            connection.execute(statement.values(value=value))

        await database.write(write)
        began = time.perf_counter()
        await policy.reload()
        answer = policy.answer(question)
        times.append(time.perf_counter() - began)
        assert answer.response.config.connection_limit.value == value
    return sorted(times)[len(times) // 2]


async def _watch_pauses(pauses: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(_TICK)
        pauses.append(time.perf_counter() - began - _TICK)


def _free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return sys.maxsize
