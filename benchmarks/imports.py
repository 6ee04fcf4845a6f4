"""
How long an import of 100,000 blocks takes, and how much of that is the database's own work.

An import parses every value, writes what differs and records every row in the history. It is
compared with plain inserts of the same rows, by `executemany` in one transaction: into the same
tables with their triggers, and into tables without.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from benchmarks.blocks import insert_rows, make_layer
from benchmarks.report import Report
from policy_server.rules.parse import parse_layer
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade

BLOCKS = 100_000


def measure(blocks: int = BLOCKS) -> Report:
    """Measure an import, the same import again, and plain inserts."""
    draft = make_layer(blocks)
    began = time.perf_counter()
    _, issues = parse_layer(draft)
    parsing = time.perf_counter() - began
    assert not issues
    first, again = _time_writes(lambda c: _import(c, draft), rounds=2)
    (logged,) = _time_writes(lambda c: insert_rows(c, draft.blocks))
    (plain,) = _time_writes(_without_triggers(draft))
    rows = [
        ("executemany, no triggers", plain),
        ("executemany, with triggers", logged),
        ("import: parse and check", parsing),
        ("import: write", first),
        ("import: both", parsing + first),
        ("import again, nothing changed", again),
    ]
    return Report(
        name="imports",
        title=f"Import of {blocks:,} blocks into SQLite",
        columns=("what", "seconds", "blocks/s", "ratio to plain", "ratio to with triggers"),
        rows=[
            {
                "what": what,
                "seconds": seconds,
                "blocks/s": blocks / seconds,
                "ratio to plain": seconds / plain,
                "ratio to with triggers": seconds / logged,
            }
            for what, seconds in rows
        ],
        notes=["synchronous = FULL, one transaction each; ratio: time to that of plain inserts"],
    )


def _import(connection: Connection, draft: Any) -> None:
    import_layers(connection, (draft,), author="benchmark")


def _without_triggers(draft: Any) -> Callable[[Connection], None]:
    def write(connection: Connection) -> None:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for name in names.scalars().all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        insert_rows(connection, draft.blocks)

    return write


def _time_writes(write: Callable[[Connection], None], *, rounds: int = 1) -> list[float]:
    times = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        database = Database(f"sqlite:///{Path(directory) / 'penstock.db'}")
        upgrade(database)
        for _ in range(rounds):
            began = time.perf_counter()
            database.write_now(write)
            times.append(time.perf_counter() - began)
        database.close()
    return times
