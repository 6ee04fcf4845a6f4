"""
Disk: the last-known answers and suspensions, in `policy.db` under the agent's data directory.

One thread owns the database. Changes are kept by key until it takes them, a batch a transaction,
so that a burst of changes of one path costs one row. What has been committed survives `kill -9`;
what has not is at most `GATHER_SECONDS` and one transaction old, and will be heard again.
Nothing here decides: the policy book (`book.py`) says what is stored and forgotten.
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from agent.policy.answer import MxHost, Suspension
from agent.policy.effective import PathKey, StoredAnswer
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse

logger = logging.getLogger(__name__)

#: How long changes are gathered before they are written together.
GATHER_SECONDS = 0.05
#: How many answers are kept on disk; the ones heard longest ago go first.
MAX_ANSWERS = 200_000

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    routing_domain TEXT NOT NULL, egress_source TEXT NOT NULL, heard REAL NOT NULL,
    mx_hosts TEXT NOT NULL, response BLOB NOT NULL,
    PRIMARY KEY (routing_domain, egress_source)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_heard ON answers (heard);
CREATE TABLE IF NOT EXISTS suspensions (
    action_id INTEGER PRIMARY KEY, egress_source TEXT NOT NULL, site_name TEXT NOT NULL,
    routing_domain TEXT NOT NULL, reason TEXT NOT NULL, expire_time REAL NOT NULL);
"""
_PUT_ANSWER = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)"
_TOUCH_ANSWER = "UPDATE answers SET heard = ? WHERE routing_domain = ? AND egress_source = ?"
_PUT_SUSPENSION = "INSERT OR REPLACE INTO suspensions VALUES (?, ?, ?, ?, ?, ?)"
_DROP_SUSPENSION = "DELETE FROM suspensions WHERE action_id = ?"
_NEWEST_ANSWERS = "SELECT * FROM answers ORDER BY heard DESC LIMIT ?"
_ONE_ANSWER = "SELECT * FROM answers WHERE routing_domain = ? AND egress_source = ?"
_TRIM = (
    "DELETE FROM answers WHERE (routing_domain, egress_source) IN (SELECT routing_domain,"
    " egress_source FROM answers ORDER BY heard DESC LIMIT -1 OFFSET ?)"
)


@dataclass(slots=True)
class _Changes:
    """What is to be written, by key: the newest change of each wins."""

    answers: dict[PathKey, StoredAnswer] = field(default_factory=dict)
    heard: dict[PathKey, float] = field(default_factory=dict)
    suspensions: dict[int, Suspension | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.answers or self.heard or self.suspensions)


class PolicyDisk:
    """Last-known answers and suspensions; changes are taken at once and written soon."""

    def __init__(self, path: Path) -> None:
        """Keep the database at *path*; nothing is opened yet."""
        self._path = path
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._changes = _Changes()
        self._thread: threading.Thread | None = None
        #: Batches that could not be written; the agent goes on from memory.
        self.failures = 0

    async def open(self, max_answers: int) -> tuple[list[StoredAnswer], list[Suspension]]:
        """Open, creating if need be; return the newest answers and all suspensions."""
        known = await asyncio.to_thread(self._load, max_answers)
        self._thread = threading.Thread(target=self._write_until_stopped, name="policy-disk")
        self._thread.daemon = True
        self._thread.start()
        return known

    async def close(self) -> None:
        """Write what is left and close."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    def save_answer(self, answer: StoredAnswer) -> None:
        """Have *answer* written."""
        with self._lock:
            self._changes.answers[answer.key] = answer
            self._changes.heard.pop(answer.key, None)
        self._wake.set()

    def save_heard(self, answer: StoredAnswer) -> None:
        """Have it written that the server confirmed this answer, which is stored already."""
        with self._lock:
            if answer.key in self._changes.answers:
                self._changes.answers[answer.key] = answer
            else:
                self._changes.heard[answer.key] = answer.heard
        self._wake.set()

    def save_suspension(self, suspension: Suspension) -> None:
        """Have *suspension* written."""
        with self._lock:
            self._changes.suspensions[suspension.action_id] = suspension
        self._wake.set()

    def forget_suspension(self, action_id: int) -> None:
        """Have the suspension removed."""
        with self._lock:
            self._changes.suspensions[action_id] = None
        self._wake.set()

    async def find_answer(self, key: PathKey) -> StoredAnswer | None:
        """Read one answer, for a path that has left memory."""
        with self._lock:
            waiting = self._changes.answers.get(key)
        return waiting or await asyncio.to_thread(self._read_answer, key)

    def _load(self, max_answers: int) -> tuple[list[StoredAnswer], list[Suspension]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._read_all(max_answers)
        except sqlite3.DatabaseError as error:
            # A cache that can't be read is worth less than an agent that runs: the server has
            # the truth. It is kept aside for whoever wants to know what broke it.
            logger.warning("last-known policy set aside", extra={"error": str(error)})
            self._path.replace(self._path.with_suffix(".db.broken"))
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return self._read_all(max_answers)

    def _read_all(self, max_answers: int) -> tuple[list[StoredAnswer], list[Suspension]]:
        with _connection(self._path) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"schema version {version}, expected {_VERSION}")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            rows = connection.execute(_NEWEST_ANSWERS, (max_answers,)).fetchall()
            held = connection.execute("SELECT * FROM suspensions").fetchall()
        answers = [answer for row in rows if (answer := _answer(row)) is not None]
        return answers, [_suspension(row) for row in held]

    def _read_answer(self, key: PathKey) -> StoredAnswer | None:
        try:
            with _connection(self._path) as connection:
                row = connection.execute(
                    _ONE_ANSWER, (key.routing_domain, key.egress_source)
                ).fetchone()
        except sqlite3.Error as error:
            logger.warning("last-known policy not readable", extra={"error": str(error)})
            return None
        return _answer(row) if row else None

    def _write_until_stopped(self) -> None:
        while True:
            self._wake.wait()
            if not self._stopping:
                time.sleep(GATHER_SECONDS)
            self._wake.clear()
            # Read after the flag is cleared: a stop that came in between must not be slept over.
            stopping = self._stopping
            with self._lock:
                changes, self._changes = self._changes, _Changes()
            if changes:
                self._write(changes)
            if stopping:
                return

    def _write(self, changes: _Changes) -> None:
        try:
            with _connection(self._path) as connection, connection:
                _apply(connection, changes)
        except sqlite3.Error as error:
            # Memory still has it all. Suspensions, which come once, are tried again with the next
            # change; answers come again as they age.
            self.failures += 1
            with self._lock:
                newer = self._changes.suspensions
                self._changes.suspensions = {**changes.suspensions, **newer}
            logger.warning("last-known policy not written", extra={"error": str(error)})


def _apply(connection: sqlite3.Connection, changes: _Changes) -> None:
    connection.executemany(_PUT_ANSWER, [_row(answer) for answer in changes.answers.values()])
    connection.executemany(
        _TOUCH_ANSWER,
        [(heard, key.routing_domain, key.egress_source) for key, heard in changes.heard.items()],
    )
    for action_id, suspension in changes.suspensions.items():
        if suspension is None:
            connection.execute(_DROP_SUSPENSION, (action_id,))
        else:
            connection.execute(_PUT_SUSPENSION, _suspension_row(suspension))
    if changes.answers:
        connection.execute(_TRIM, (MAX_ANSWERS,))


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL loses nothing to a killed process; a power cut may lose the last answers.
        connection.execute("PRAGMA synchronous = NORMAL")
        yield connection
    finally:
        connection.close()


def _row(answer: StoredAnswer) -> tuple[str, str, float, str, bytes]:
    hosts = json.dumps([[host.host, host.preference] for host in answer.mx_hosts])
    key = answer.key
    return (
        key.routing_domain,
        key.egress_source,
        answer.heard,
        hosts,
        answer.response.SerializeToString(),
    )


def _answer(row: tuple[str, str, float, str, bytes]) -> StoredAnswer | None:
    routing_domain, egress_source, heard, hosts, payload = row
    try:
        response = GetEgressPathConfigResponse.FromString(payload)
        mx_hosts = tuple(MxHost(host=host, preference=number) for host, number in json.loads(hosts))
    except (DecodeError, ValueError):
        return None
    key = PathKey(routing_domain=routing_domain, egress_source=egress_source)
    return StoredAnswer(key=key, mx_hosts=mx_hosts, response=response, heard=heard)


def _suspension_row(held: Suspension) -> tuple[int, str, str, str, str, float]:
    return (
        held.action_id,
        held.egress_source,
        held.site_name,
        held.routing_domain,
        held.reason,
        held.expire_time,
    )


def _suspension(row: tuple[int, str, str, str, str, float]) -> Suspension:
    action_id, egress_source, site_name, routing_domain, reason, expire_time = row
    return Suspension(
        action_id=action_id,
        egress_source=egress_source,
        site_name=site_name,
        routing_domain=routing_domain,
        reason=reason,
        expire_time=expire_time,
    )
