"""
Disk: the last-known answers and suspensions, in `policy.db` under the agent's data directory.

One thread owns the database. Changes are kept by key until it takes them, a batch a transaction,
so that a burst of changes of one path costs one row. What has been committed survives `kill -9`;
what has not is at most `GATHER_SECONDS` and one transaction old, and will be heard again. All but
the database itself belongs to the event loop.
Nothing here decides: the policy book (`book.py`) says what is stored and forgotten.
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError

from agent.policy.answer import Bounce, MxHost, Suspension
from agent.policy.effective import PathKey, StoredAnswer
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse

logger = logging.getLogger(__name__)

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

#: How long changes are gathered before they are written together.
GATHER_SECONDS = 0.05
#: How long the disk is left alone after it took nothing.
RETRY_SECONDS = 1.0
#: How many answers are kept on disk; the ones heard longest ago go first.
MAX_ANSWERS = 200_000
#: Most answers that wait for a disk that takes nothing.
_MAX_WAITING = 50_000

_VERSION = 2
#: What the versions before lack.
_UPGRADES = {
    1: (
        "ALTER TABLE suspensions ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE suspensions ADD COLUMN campaign TEXT NOT NULL DEFAULT ''",
    ),
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    routing_domain TEXT NOT NULL, egress_source TEXT NOT NULL, heard REAL NOT NULL,
    mx_hosts TEXT NOT NULL, response BLOB NOT NULL,
    PRIMARY KEY (routing_domain, egress_source)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_heard ON answers (heard);
CREATE TABLE IF NOT EXISTS suspensions (
    action_id INTEGER PRIMARY KEY, egress_source TEXT NOT NULL, site_name TEXT NOT NULL,
    routing_domain TEXT NOT NULL, reason TEXT NOT NULL, expire_time REAL NOT NULL,
    tenant TEXT NOT NULL DEFAULT '', campaign TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS bounces (
    action_id INTEGER PRIMARY KEY, routing_domain TEXT NOT NULL, tenant TEXT NOT NULL,
    campaign TEXT NOT NULL, reason TEXT NOT NULL, expire_time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS watch (id INTEGER PRIMARY KEY CHECK (id = 1), confirmed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS resumption (
    id INTEGER PRIMARY KEY CHECK (id = 1), token BLOB NOT NULL);
"""
_PUT_ANSWER = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)"
_TOUCH_ANSWER = "UPDATE answers SET heard = ? WHERE routing_domain = ? AND egress_source = ?"
_PUT_SUSPENSION = "INSERT OR REPLACE INTO suspensions VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_BOUNCE = "INSERT OR REPLACE INTO bounces VALUES (?, ?, ?, ?, ?, ?)"
_DROP_BOUNCE = "DELETE FROM bounces WHERE action_id = ?"
_DROP_SUSPENSION = "DELETE FROM suspensions WHERE action_id = ?"
_PUT_CONFIRMED = "INSERT OR REPLACE INTO watch VALUES (1, ?)"
_PUT_TOKEN = "INSERT OR REPLACE INTO resumption VALUES (1, ?)"
#: The table that was added last.
_IS_COMPLETE = "SELECT 1 FROM sqlite_master WHERE name = 'resumption'"
_NEWEST_ANSWERS = "SELECT * FROM answers ORDER BY heard DESC LIMIT ?"
_ONE_ANSWER = "SELECT * FROM answers WHERE routing_domain = ? AND egress_source = ?"
_TRIM = (
    "DELETE FROM answers WHERE (routing_domain, egress_source) IN (SELECT routing_domain,"
    " egress_source FROM answers ORDER BY heard DESC LIMIT -1 OFFSET ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastKnown:
    """What was on disk."""

    #: The newest, as many as were asked for.
    answers: list[StoredAnswer]
    suspensions: list[Suspension]
    bounces: list[Bounce]
    #: When the watch last confirmed what was in memory then, as far as it was written; 0: never.
    confirmed: float
    #: From where the watch goes on: suspensions and bounces are as of it, or later; empty: anew.
    token: bytes = b""


@dataclass(slots=True)
class _Changes:
    """What is to be written, by key: the newest change of each wins."""

    answers: dict[PathKey, StoredAnswer] = field(default_factory=dict)
    heard: dict[PathKey, float] = field(default_factory=dict)
    actions: dict[int, Suspension | Bounce | None] = field(default_factory=dict)
    #: 0: as it was.
    confirmed: float = 0.0
    #: None: as it was.
    token: bytes | None = None

    def __bool__(self) -> bool:
        return bool(
            self.answers or self.heard or self.actions or self.confirmed or self.token is not None
        )

    def add_older(self, older: "_Changes") -> None:
        """Take in changes that came before these, and could not be written."""
        waiting = list({**older.answers, **self.answers}.items())
        self.answers = dict(waiting[-_MAX_WAITING:])
        heard = {**older.heard, **self.heard}
        self.heard = {key: at for key, at in heard.items() if key not in self.answers}
        self.actions = {**older.actions, **self.actions}
        self.confirmed = self.confirmed or older.confirmed
        self.token = older.token if self.token is None else self.token


class PolicyDisk:
    """Last-known answers and suspensions; changes are taken at once and written soon."""

    def __init__(self, path: Path) -> None:
        """Keep the database at *path*; nothing is opened yet."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy-disk")
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._changes = _Changes()
        #: What the thread has taken, until it is written.
        self._writing = _Changes()
        self._writer: asyncio.Task[None] | None = None
        #: Batches that could not be written; the agent goes on from memory.
        self.failures = 0

    async def open(self, max_answers: int) -> LastKnown:
        """Open, creating if need be; return the newest answers and all suspensions."""
        known = await self._in_thread(self._load, max_answers)
        self._writer = asyncio.create_task(self._write_until_stopped(), name="policy-disk")
        return known

    async def close(self) -> None:
        """Write what is left and close."""
        if self._writer is None:
            return
        self._stop.set()
        self._wake.set()
        await self._writer
        self._writer = None
        self._thread.shutdown()

    def save_answer(self, answer: StoredAnswer) -> None:
        """Have *answer* written."""
        self._changes.answers[answer.key] = answer
        self._changes.heard.pop(answer.key, None)
        self._wake.set()

    def save_heard(self, answer: StoredAnswer) -> None:
        """Have it written that the server confirmed this answer, which is stored already."""
        if answer.key in self._changes.answers:
            self._changes.answers[answer.key] = answer
        else:
            self._changes.heard[answer.key] = answer.heard
        self._wake.set()

    def save_confirmed(self, at: float) -> None:
        """Have it written when the watch confirmed what is in memory."""
        self._changes.confirmed = at
        self._wake.set()

    def save_token(self, token: bytes) -> None:
        """Have it written from where the watch goes on, with or after what came before."""
        self._changes.token = token
        self._wake.set()

    def save_action(self, action: Suspension | Bounce) -> None:
        """Have a suspension or a bounce written."""
        self._changes.actions[action.action_id] = action
        self._wake.set()

    def forget_action(self, action_id: int) -> None:
        """Have the suspension or the bounce removed."""
        self._changes.actions[action_id] = None
        self._wake.set()

    async def find_answer(self, key: PathKey) -> StoredAnswer | None:
        """Read one answer, for a path that has left memory."""
        newest = (self._changes, self._writing)
        answers = [one.answers[key] for one in newest if key in one.answers]
        heard = [one.heard[key] for one in newest if key in one.heard]
        answer = answers[0] if answers else await self._in_thread(self._read_answer, key)
        if answer is None or not heard:
            return answer
        return replace(answer, heard=max(answer.heard, heard[0]))

    def _load(self, max_answers: int) -> LastKnown:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._read_all(max_answers)
        except sqlite3.OperationalError as error:
            # The disk is full, or the file is locked: what is in it is good, and is left alone.
            logger.error("last-known policy not readable", extra={"error": str(error)})
            return LastKnown(answers=[], suspensions=[], bounces=[], confirmed=0.0)
        except sqlite3.DatabaseError as error:
            # A cache that can't be read is worth less than an agent that runs: the server has
            # the truth. It is kept aside for whoever wants to know what broke it.
            logger.warning("last-known policy set aside", extra={"error": str(error)})
            self._path.replace(self._path.with_suffix(".db.broken"))
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return self._read_all(max_answers)

    def _read_all(self, max_answers: int) -> LastKnown:
        with _connection(self._path) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= _VERSION:
                raise sqlite3.DatabaseError(f"schema version {version}, expected {_VERSION}")
            if version != _VERSION or connection.execute(_IS_COMPLETE).fetchone() is None:
                # Not otherwise: a full disk must not keep from what can be read.
                _upgrade(connection, version)
            rows = connection.execute(_NEWEST_ANSWERS, (max_answers,)).fetchall()
            held = connection.execute("SELECT * FROM suspensions").fetchall()
            bounced = connection.execute("SELECT * FROM bounces").fetchall()
            confirmed = connection.execute("SELECT confirmed FROM watch").fetchone()
            token = connection.execute("SELECT token FROM resumption").fetchone()
        return LastKnown(
            answers=[answer for row in rows if (answer := _answer(row)) is not None],
            suspensions=[_suspension(row) for row in held],
            bounces=[_bounce(row) for row in bounced],
            confirmed=confirmed[0] if confirmed else 0.0,
            token=token[0] if token else b"",
        )

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

    async def _in_thread(
        self, work: Callable[[_Argument], _Result], argument: _Argument
    ) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, argument)

    async def _write_until_stopped(self) -> None:
        while True:
            await self._wake.wait()
            await self._pause(GATHER_SECONDS)
            self._wake.clear()
            # Read after the flag is cleared: a stop that came in between must not be slept over.
            is_last = self._stop.is_set()
            self._writing, self._changes = self._changes, _Changes()
            is_written = not self._writing or await self._in_thread(self._write, self._writing)
            if not is_written:
                # Memory still has it all. An unchanged answer is only confirmed, never sent again,
                # so what was not written now would be missing for good.
                self.failures += 1
                self._changes.add_older(self._writing)
            self._writing = _Changes()
            if is_last:
                return
            if not is_written:
                await self._pause(RETRY_SECONDS)
                self._wake.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not once it is time to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _write(self, changes: _Changes) -> bool:
        try:
            with _connection(self._path) as connection, connection:
                _apply(connection, changes)
        # Supervisor: whatever one batch does, later ones must be written.
        except Exception as error:
            logger.warning("last-known policy not written", extra={"error": str(error)})
            return False
        return True


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    for older in range(version or _VERSION, _VERSION):
        for statement in _UPGRADES.get(older, ()):
            connection.execute(statement)
    connection.executescript(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _apply(connection: sqlite3.Connection, changes: _Changes) -> None:
    connection.executemany(_PUT_ANSWER, [_row(answer) for answer in changes.answers.values()])
    connection.executemany(
        _TOUCH_ANSWER,
        [(heard, key.routing_domain, key.egress_source) for key, heard in changes.heard.items()],
    )
    for action_id, action in changes.actions.items():
        connection.execute(_DROP_SUSPENSION, (action_id,))
        connection.execute(_DROP_BOUNCE, (action_id,))
        if isinstance(action, Suspension):
            connection.execute(_PUT_SUSPENSION, _suspension_row(action))
        elif action is not None:
            connection.execute(_PUT_BOUNCE, _bounce_row(action))
    if changes.token is not None:
        # In the transaction of what it stands for: else a crash could leave the one without the
        # other, and what was missed would never be sent again.
        connection.execute(_PUT_TOKEN, (changes.token,))
    if changes.confirmed:
        connection.execute(_PUT_CONFIRMED, (changes.confirmed,))
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


def _suspension_row(held: Suspension) -> tuple[int, str, str, str, str, float, str, str]:
    return (
        held.action_id,
        held.egress_source,
        held.site_name,
        held.routing_domain,
        held.reason,
        held.expire_time,
        held.tenant,
        held.campaign,
    )


def _suspension(row: tuple[int, str, str, str, str, float, str, str]) -> Suspension:
    action_id, egress_source, site_name, routing_domain, reason, expire_time, *owner = row
    tenant, campaign = owner
    return Suspension(
        action_id=action_id,
        egress_source=egress_source,
        site_name=site_name,
        routing_domain=routing_domain,
        tenant=tenant,
        campaign=campaign,
        reason=reason,
        expire_time=expire_time,
    )


def _bounce_row(held: Bounce) -> tuple[int, str, str, str, str, float]:
    return (
        held.action_id,
        held.routing_domain,
        held.tenant,
        held.campaign,
        held.reason,
        held.expire_time,
    )


def _bounce(row: tuple[int, str, str, str, str, float]) -> Bounce:
    action_id, routing_domain, tenant, campaign, reason, expire_time = row
    return Bounce(
        action_id=action_id,
        routing_domain=routing_domain,
        tenant=tenant,
        campaign=campaign,
        reason=reason,
        expire_time=expire_time,
    )
