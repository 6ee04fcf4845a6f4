"""The spool's tables, and how a connection to them is opened."""

import sqlite3
from pathlib import Path

from agent.errors import SpoolRefused

#: Changes whenever the tables do.
VERSION = 4

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
  checksum INTEGER, -- CRC-32 of the body; NULL: stored by a version that made none
  body BLOB -- NULL: in a file named by the id; the last column, so that others are read without it
) STRICT;
CREATE TABLE entries (
  id INTEGER PRIMARY KEY,
  message INTEGER NOT NULL REFERENCES messages (number),
  queue_name TEXT NOT NULL,
  recipients TEXT NOT NULL, -- JSON list of those still to do
  due REAL NOT NULL,
  attempts INTEGER NOT NULL,
  last_reply TEXT NOT NULL DEFAULT '', -- JSON, what put it off; empty: nothing has
  created REAL NOT NULL DEFAULT 0 -- of the message, so that a start reads no messages
) STRICT;
CREATE INDEX entries_message ON entries (message); -- to see whether a message is finished
CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY,
  record BLOB NOT NULL
) STRICT;
CREATE INDEX messages_in_files ON messages (id) WHERE body IS NULL; -- for the sweep at start
"""

#: What makes tables of a version into those of the next.
_UPGRADES = {
    1: "ALTER TABLE entries ADD COLUMN last_reply TEXT NOT NULL DEFAULT '';",
    2: """
ALTER TABLE entries ADD COLUMN created REAL NOT NULL DEFAULT 0;
UPDATE entries SET created = (SELECT created FROM messages WHERE number = message);
CREATE INDEX messages_in_files ON messages (id) WHERE body IS NULL;
""",
    3: "ALTER TABLE messages ADD COLUMN checksum INTEGER;",
}


def open_connection(path: Path) -> sqlite3.Connection:
    """Open the database so that a commit is on disk when it returns."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        # Some systems' SQLite writes zeros over what is deleted: all mail once more.
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA journal_size_limit=67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """
    The version of the tables; 0: there are none. Errors: `SpoolRefused` if it is one that this
    agent can't bring up to date.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, *_UPGRADES, VERSION):
        raise SpoolRefused(
            f"{path}: spool of version {version}, this agent reads versions up to {VERSION}; "
            "drain it with the agent that wrote it, or move it away"
        )
    return int(version)


def touch(connection: sqlite3.Connection) -> None:
    """Write a page that changes nothing, in a transaction: it succeeds if mail could be stored."""
    connection.execute(f"PRAGMA user_version={VERSION}")


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new database, bring older ones up to date; refuse other versions."""
    version = version_of(connection, path)
    if version == VERSION:
        return
    steps = [_UPGRADES[older] for older in range(version, VERSION)] if version else [_TABLES]
    connection.executescript(
        f"BEGIN IMMEDIATE; {' '.join(steps)} PRAGMA user_version={VERSION}; COMMIT;"
    )
