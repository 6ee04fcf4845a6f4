"""
A queue of up to a million messages: what a started agent holds in memory, how long it takes until
it serves and until all mail is in its queues, and what one message costs on its way through them.

The agent runs in a process of its own on a spool that was filled beforehand, without a policy
server and without DNS. "later": all mail is due within four hours; "due": all of it is due now, and
stays, since nothing can be looked up.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from agent.dispatch.lanes import Lane
from agent.queue.entry import Entry
from agent.queue.ready import ReadyQueue
from agent.queue.scheduled import ScheduledQueues
from agent.spool import rows
from agent.spool.messages import Destination, NewMessage
from agent.spool.schema import open_connection, prepare
from benchmarks.agent_process import delivering
from benchmarks.report import Report

MESSAGES = 1_000_000
_DOMAINS, _TENANTS = 10_000, 100
_BODY = b"Subject: measured\r\n\r\n" + b"x" * 60 + b"\r\n"
_MB = 1_000_000
#: How long an agent with due mail is watched, in seconds.
_WATCHED = 20.0
_SECONDS_LATER = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """How mail is spread over queues."""

    name: str
    is_due: bool = False

    def queue_names(self, count: int, random: Random) -> Iterator[str]:
        """One name a message."""
        for _ in range(count):
            tenant = random.randrange(_TENANTS)
            match self.name:
                case "one domain":
                    yield "tenant-0@example.com"
                case "even":
                    yield f"tenant-{tenant}@domain-{random.randrange(_DOMAINS)}.example"
                case _:
                    # As mail is: of ten messages four go to the ten largest of the domains.
                    domain = int(random.paretovariate(0.25)) % _DOMAINS
                    yield f"tenant-{tenant}@domain-{domain}.example"


_CASES = (
    _Spread(name="heavy-tailed"),
    _Spread(name="even"),
    _Spread(name="one domain"),
    _Spread(name="heavy-tailed", is_due=True),
    _Spread(name="even", is_due=True),
)


def measure(count: int = MESSAGES) -> Report:
    """Measure with *count* messages, and the cheapest case with fewer."""
    report = Report(
        name="queue_scale",
        title=f"An agent with {count:,} queued messages; {_DOMAINS:,} domains, {_TENANTS} tenants",
        columns=(
            "spread", "messages", "queues", "serves after s", "all read after s", "RSS MB",
            "peak RSS MB", "us/message", "promoted/s",
        ),
    )  # fmt: skip
    cases = [(_Spread(name="heavy-tailed"), size) for size in (0, count // 100, count // 10)]
    for spread, size in cases + [(spread, count) for spread in _CASES]:
        report.rows.append(_measure_one(spread, size))
    report.notes.append(
        "us/message: a message into and out of scheduled queue, lane and ready queue, in this "
        "process, while the others wait; promoted/s is its reciprocal. The spool is not in it."
    )
    return report


def _measure_one(spread: _Spread, count: int) -> dict[str, object]:
    row: dict[str, object] = {"spread": spread.name + (", due" if spread.is_due else "")}
    with tempfile.TemporaryDirectory() as directory:
        row["messages"] = count
        row["queues"] = _fill(Path(directory), spread, count)
        with delivering(Path(directory), {"AGENT_SHUTDOWN_TIMEOUT": "1s"}) as agent:
            row["serves after s"] = agent.start_seconds
            begin = time.perf_counter()
            while agent.metric("penstock_agent_recovering"):
                time.sleep(0.2)
            row["all read after s"] = agent.start_seconds + time.perf_counter() - begin
            if spread.is_due:
                time.sleep(_WATCHED)
            row["RSS MB"] = agent.memory() / _MB
            row["peak RSS MB"] = agent.memory("VmHWM") / _MB
    if count and not spread.is_due:
        seconds = _pass_through(spread, count)
        row["us/message"], row["promoted/s"] = seconds * 1e6, 1 / seconds
    return row


def _fill(data_dir: Path, spread: _Spread, count: int) -> int:
    """Make a spool; return the number of its queues."""
    (data_dir / "spool").mkdir()
    path = data_dir / "spool" / "spool.db"
    connection = open_connection(path)
    random, now = Random(1), time.time()
    try:
        prepare(connection, path)
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        for number, name in enumerate(spread.queue_names(count, random), start=1):
            _store(connection, number, name, now)
        if not spread.is_due:
            later = (now + 600.0, _SECONDS_LATER)
            connection.execute(
                "UPDATE entries SET attempts = 1, due = ? + ? * (abs(random()) % 1000000) / 1e6",
                later,
            )
        connection.execute("COMMIT")
        found = connection.execute("SELECT count(DISTINCT queue_name) FROM entries").fetchone()
        return int(found[0])
    finally:
        connection.close()


def _store(connection: sqlite3.Connection, number: int, queue_name: str, now: float) -> None:
    domain = queue_name.partition("@")[2]
    message = NewMessage(
        id=f"{number:032x}",
        sender="sender@example.org",
        destinations=(Destination(queue_name=queue_name, recipients=(f"user@{domain}",)),),
        body=_BODY,
        created=now - 3600.0 + number / 1000.0,
        tenant=queue_name.partition("@")[0],
    )
    rows.insert_messages(
        connection,
        [rows.message_row(number, message, in_file=False)],
        [rows.entry_row(number, number, message.destinations[0], message)],
    )


def _pass_through(spread: _Spread, count: int, passes: int = 20_000) -> float:
    """Seconds that one message takes of the CPU while *count* others wait."""
    random, queues = Random(2), ScheduledQueues()
    names = [sys.intern(name) for name in spread.queue_names(count, random)]
    for number, name in enumerate(names):
        due = 1e9 + random.random() * _SECONDS_LATER
        queues.add(Entry(id=number, queue_name=name, created=1e9, due=due))
    now, done = 1e9, 0
    begin = time.process_time()
    while done < passes:
        now += 1.0
        for entry in queues.pop_due(now, 500):
            _promote(entry)
            entry.due = now + _SECONDS_LATER * random.random()
            queues.add(entry)
            done += 1
    return (time.process_time() - begin) / done


def _promote(entry: Entry) -> None:
    lane, ready = Lane(entry.queue_name, [entry]), ReadyQueue(1000)
    ready.put(lane.pop(), lane.queue.tenant)
    ready.pop()
