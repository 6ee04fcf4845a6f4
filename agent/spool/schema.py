"""The spool's tables, and how a connection to them is opened."""

import sqlite3
from pathlib import Path

from agent.errors import SpoolRefused

#: Changes whenever the tables do.
VERSION = 1

_TABLES = """
CREATE TABLE messages (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  sender TEXT NOT NULL,
  created REAL NOT NULL,
  tenant TEXT NOT NULL,
  campaign TEXT NOT NULL,
  reception_protocol TEXT NOT NULL,
  size INTEGER NOT NULL,
  body BLOB -- NULL: in a file named by the id; the last column, so that others are read without it
) STRICT;
CREATE TABLE entries (
  id INTEGER PRIMARY KEY,
  message INTEGER NOT NULL REFERENCES messages (number),
  queue_name TEXT NOT NULL,
  recipients TEXT NOT NULL, -- JSON list of those still to do
  due REAL NOT NULL,
  attempts INTEGER NOT NULL
) STRICT;
CREATE INDEX entries_message ON entries (message); -- to see whether a message is finished
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY,
  record BLOB NOT NULL
) STRICT;
"""


def open_connection(path: Path) -> sqlite3.Connection:
    """Open the database so that a commit is on disk when it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA journal_size_limit=67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there. Errors: `SpoolRefused` if they are of another version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise SpoolRefused(
            f"{path}: spool of version {version}, this agent reads version {VERSION}; "
            "drain it with the agent that wrote it, or move it away"
        )
    return bool(version)


def touch(connection: sqlite3.Connection) -> None:
    """Write a page that changes nothing, in a transaction: it succeeds if mail could be stored."""
    connection.execute(f"PRAGMA user_version={VERSION}")


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new database; refuse one of another version."""
    if not has_tables(connection, path):
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={VERSION}; COMMIT;"
        )
