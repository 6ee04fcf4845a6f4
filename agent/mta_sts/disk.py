"""
Disk: the policies in force, in `mta_sts.db` under the agent's data directory.

A policy that a domain enforces must not be forgotten by a restart: until it has been fetched anew
whoever sits between could keep it away (RFC 8461 section 10.2).
"""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.delivery.mta_sts import Mode, StsPolicy

logger = logging.getLogger(__name__)

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    domain TEXT PRIMARY KEY, record_id TEXT NOT NULL, fetched REAL NOT NULL,
    mode TEXT NOT NULL, mx TEXT NOT NULL, max_age INTEGER NOT NULL) WITHOUT ROWID;
"""
_PUT = "INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?, ?)"
_DROP = "DELETE FROM policies WHERE domain = ?"
_NEWEST = "SELECT * FROM policies ORDER BY fetched DESC LIMIT ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPolicy:
    """A policy, and when it was fetched."""

    domain: str
    policy: StsPolicy
    #: Of the TXT record that announced it.
    record_id: str
    #: Seconds since the epoch.
    fetched: float

    @property
    def expires(self) -> float:
        """When it ends, in seconds since the epoch."""
        return self.fetched + self.policy.max_age


class PolicyDisk:
    """The database; every change is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        """Keep the database at *path*; nothing is opened yet."""
        self._path = path
        self._lock = asyncio.Lock()
        #: Changes that could not be written; the agent goes on from memory.
        self.failures = 0

    async def load(self, most: int) -> list[FetchedPolicy]:
        """Open, creating if need be; return the policies that were fetched last."""
        return await asyncio.to_thread(self._load, most)

    async def put(self, policy: FetchedPolicy) -> None:
        """Store *policy* in place of the domain's last."""
        row = (
            policy.domain,
            policy.record_id,
            policy.fetched,
            policy.policy.mode.value,
            " ".join(policy.policy.mx),
            policy.policy.max_age,
        )
        await self._write(_PUT, [row])

    async def drop(self, domains: Sequence[str]) -> None:
        """Forget the policies of *domains*."""
        await self._write(_DROP, [(domain,) for domain in domains])

    async def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        async with self._lock:
            try:
                await asyncio.to_thread(self._execute, statement, rows)
            except sqlite3.Error as error:
                self.failures += 1
                logger.warning("mta-sts policy not stored", extra={"error": str(error)})

    def _execute(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with _connection(self._path) as connection:
            connection.executemany(statement, rows)

    def _load(self, most: int) -> list[FetchedPolicy]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            rows = self._read(most)
        except sqlite3.OperationalError as error:
            # Locked, full, or not to be opened: it may yet be whole.
            self.failures += 1
            logger.warning("mta-sts policies can't be read", extra={"error": str(error)})
            return []
        except sqlite3.DatabaseError as error:
            logger.warning("mta-sts policies set aside", extra={"error": str(error)})
            self._path.replace(self._path.with_suffix(".db.broken"))
            rows = self._read(most)
        return [policy for row in rows if (policy := _policy(row)) is not None]

    def _read(self, most: int) -> list[tuple[str, str, float, str, str, int]]:
        with _connection(self._path) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"schema version {version}, expected {_VERSION}")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            return connection.execute(_NEWEST, (most,)).fetchall()


def _policy(row: tuple[str, str, float, str, str, int]) -> FetchedPolicy | None:
    domain, record_id, fetched, mode, mx, max_age = row
    if mode not in list(Mode):
        return None
    policy = StsPolicy(mode=Mode(mode), mx=tuple(mx.split()), max_age=max_age)
    return FetchedPolicy(domain=domain, policy=policy, record_id=record_id, fetched=fetched)


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        with connection:
            yield connection
    finally:
        connection.close()
