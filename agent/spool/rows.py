"""The statements on the spool's tables: values in, rows changed, values out."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from sys import intern
from typing import Any

import msgspec

from agent.queue.entry import Entry
from agent.spool.messages import (
    Destination,
    Move,
    NewMessage,
    PendingRecord,
    Settlement,
    SpooledMessage,
    StoredEntry,
    StoredMessage,
)
from agent.spool.records import decode_record, decode_reply, encode_reply

_ADD_MESSAGES = """
INSERT INTO messages
(number, id, sender, created, tenant, campaign, reception_protocol, size, checksum, body)
"""
_ADD_ENTRIES = "INSERT INTO entries (id, message, queue_name, recipients, due, attempts, created)"
_ADD_RECORDS = "INSERT INTO outbox (seq, record)"
_ENCODER = msgspec.json.Encoder()
#: Rows of one INSERT. Each number of them is a statement of its own, which SQLite keeps prepared.
_ROWS_AT_ONCE = 20
_LOAD = """
SELECT m.id, m.sender, e.recipients, m.created, m.tenant, m.campaign, m.reception_protocol,
  m.size, m.checksum, m.body
FROM entries e JOIN messages m ON m.number = e.message WHERE e.id = ?
"""
_ENTRIES = """
SELECT id, queue_name, created, due, attempts FROM entries
WHERE id > ? AND id <= ? ORDER BY id LIMIT ?
"""
_ENTRIES_OF = """
SELECT e.id, e.queue_name, e.created, e.due, e.attempts
FROM entries e JOIN messages m ON m.number = e.message WHERE m.id = ? ORDER BY e.id
"""
_KEEP_ENTRY = """
UPDATE entries SET recipients = ?, due = ?, attempts = ?, last_reply = coalesce(?, last_reply)
WHERE id = ?
"""
_FIND = """
SELECT m.id, m.sender, m.created, m.tenant, m.campaign, m.reception_protocol, m.size,
  e.id, e.queue_name, e.recipients, e.due, e.attempts, e.last_reply
FROM entries e JOIN messages m ON m.number = e.message
"""
_FIND_MESSAGE = f"{_FIND} WHERE m.id = ? ORDER BY e.id"
_FIND_ENTRY = f"{_FIND} WHERE e.id = ?"
_MOVE_ENTRY = "UPDATE entries SET queue_name = ?, due = ? WHERE id = ?"
# A message ends with its last entry: those that have none but entries of a JSON list of ids.
_ENDING = """
number IN (SELECT message FROM entries WHERE id IN (SELECT value FROM json_each(?1)))
AND NOT EXISTS (
  SELECT 1 FROM entries WHERE message = number AND id NOT IN (SELECT value FROM json_each(?1))
)
"""
_ENDING_FILES = f"SELECT id FROM messages WHERE body IS NULL AND {_ENDING}"
_END_MESSAGES = f"DELETE FROM messages WHERE {_ENDING}"
_END_ENTRIES = "DELETE FROM entries WHERE id IN (SELECT value FROM json_each(?1))"


def highest(connection: sqlite3.Connection, table: str, column: str) -> int:
    """The largest number in a column of our own tables; 0: none."""
    (found,) = connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()
    return int(found)


def count_entries(connection: sqlite3.Connection) -> int:
    """How many entries there are."""
    return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


def count_records(connection: sqlite3.Connection) -> int:
    """How many records are in the outbox."""
    return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])


def message_row(number: int, message: NewMessage, *, in_file: bool) -> tuple[Any, ...]:
    """The row of a message; with its body, unless that is in a file."""
    return (
        number,
        message.id,
        message.sender,
        message.created,
        message.tenant,
        message.campaign,
        message.reception_protocol,
        len(message.body),
        zlib.crc32(message.body),
        None if in_file else message.body,
    )


def entry_row(
    entry_id: int, number: int, destination: Destination, message: NewMessage
) -> tuple[Any, ...]:
    """The row of an entry, due since the message came."""
    recipients, created = _ENCODER.encode(destination.recipients).decode(), message.created
    return (entry_id, number, destination.queue_name, recipients, created, 0, created)


def insert_messages(
    connection: sqlite3.Connection,
    messages: Sequence[tuple[Any, ...]],
    entries: Sequence[tuple[Any, ...]],
) -> None:
    """Add rows of messages and of their entries."""
    _insert(connection, _ADD_MESSAGES, messages)
    _insert(connection, _ADD_ENTRIES, entries)


def _insert(
    connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Add rows, many with one step of SQLite, for each gives the interpreter to other threads."""
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[begin : begin + _ROWS_AT_ONCE]
        values = _values(len(part), len(part[0]))
        connection.execute(f"{statement} {values}", list(chain.from_iterable(part)))


@cache
def _values(rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([row] * rows)}"


def read_message(connection: sqlite3.Connection, entry_id: int) -> tuple[Any, ...] | None:
    """The row of one entry with its message, as `make_message` reads it."""
    row: tuple[Any, ...] | None = connection.execute(_LOAD, (entry_id,)).fetchone()
    return row


def body_mistake(body: bytes, size: int, checksum: int | None) -> str:
    """What shows that *body* is not what was stored; empty: nothing does."""
    if len(body) != size:
        return f"{len(body)} bytes of {size}"
    if checksum is not None and zlib.crc32(body) != checksum:
        return "checksum differs"
    return ""


def make_message(entry_id: int, row: tuple[Any, ...], body: bytes) -> SpooledMessage:
    """The message of a row that `read_message` gave."""
    message_id, sender, recipients, created, tenant, campaign, protocol, *_ = row
    return SpooledMessage(
        entry_id=entry_id,
        message_id=message_id,
        sender=sender,
        recipients=tuple(json.loads(recipients)),
        body=body,
        created=created,
        tenant=tenant,
        campaign=campaign,
        reception_protocol=protocol,
    )


def read_entries(connection: sqlite3.Connection, after: int, up_to: int, limit: int) -> list[Entry]:
    """At most *limit* entries with an id above *after* and at most *up_to*, oldest first."""
    return [_entry(row) for row in connection.execute(_ENTRIES, (after, up_to, limit))]


def read_entries_of(connection: sqlite3.Connection, message_id: str) -> list[Entry]:
    """The entries of one message, in order; none: it is not here."""
    return [_entry(row) for row in connection.execute(_ENTRIES_OF, (message_id,))]


def _entry(row: tuple[int, str, float, float, int]) -> Entry:
    entry_id, queue_name, created, due, attempts = row
    return Entry(
        id=entry_id,
        # Equal values share one object, for there may be a million.
        queue_name=intern(queue_name),
        created=created,
        due=created if due == created else due,
        attempts=attempts,
    )


def keep_entry(connection: sqlite3.Connection, settlement: Settlement) -> bool:
    """Note which recipients are left, and when the next attempt is due; False: it is not here."""
    recipients = json.dumps(settlement.remaining)
    reply = encode_reply(settlement.last_reply) if settlement.last_reply is not None else None
    row = (recipients, settlement.due, settlement.attempts, reply, settlement.entry_id)
    return connection.execute(_KEEP_ENTRY, row).rowcount > 0


def ending_files(connection: sqlite3.Connection, ids: Sequence[int]) -> list[str]:
    """Of the messages that end with these entries, those whose body is a file."""
    found = connection.execute(_ENDING_FILES, (json.dumps(ids),))
    return [message_id for (message_id,) in found]


def end_entries(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """Remove entries, and the messages that end with them; how many entries there were."""
    given = (json.dumps(ids),)
    connection.execute(_END_MESSAGES, given)
    return connection.execute(_END_ENTRIES, given).rowcount


def messages_in_files(connection: sqlite3.Connection) -> set[str]:
    """Ids of messages whose body is a file."""
    rows = connection.execute("SELECT id FROM messages WHERE body IS NULL")
    return {message_id for (message_id,) in rows}


def drop_messages(connection: sqlite3.Connection, message_ids: Iterable[str]) -> None:
    """Remove messages with all their entries."""
    rows = [(message_id,) for message_id in message_ids]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "DELETE FROM entries WHERE message = (SELECT number FROM messages WHERE id = ?)", rows
    )
    connection.executemany("DELETE FROM messages WHERE id = ?", rows)
    connection.execute("COMMIT")


def set_due_times(
    connection: sqlite3.Connection, due_by_entry: Sequence[tuple[int, float]]
) -> None:
    """Note when entries are due."""
    rows = [(due, entry_id) for entry_id, due in due_by_entry]
    connection.executemany("UPDATE entries SET due = ? WHERE id = ?", rows)


def move_entries(connection: sqlite3.Connection, moves: Sequence[Move]) -> list[StoredMessage]:
    """Put entries into other queues; each that is here, as it is now."""
    moved = []
    for move in moves:
        connection.execute(_MOVE_ENTRY, (move.queue_name, move.due, move.entry_id))
        moved += connection.execute(_FIND_ENTRY, (move.entry_id,)).fetchall()
    return [_stored_message([row]) for row in moved]


def find_message(connection: sqlite3.Connection, message_id: str) -> StoredMessage | None:
    """A message with the entries that are not finished; None: there is none."""
    rows = connection.execute(_FIND_MESSAGE, (message_id,)).fetchall()
    return _stored_message(rows) if rows else None


def _stored_message(rows: Sequence[tuple[Any, ...]]) -> StoredMessage:
    """The message of rows of `_FIND` that are alike in what is the message's."""
    message_id, sender, created, tenant, campaign, protocol, size, *_ = rows[0]
    return StoredMessage(
        id=message_id,
        sender=sender,
        created=created,
        tenant=tenant,
        campaign=campaign,
        reception_protocol=protocol,
        size=size,
        entries=tuple(
            StoredEntry(
                entry_id=entry_id,
                queue_name=queue_name,
                recipients=tuple(json.loads(recipients)),
                due=due,
                attempts=attempts,
                last_reply=decode_reply(last_reply),
            )
            for *_, entry_id, queue_name, recipients, due, attempts, last_reply in rows
        ),
    )


def insert_records(connection: sqlite3.Connection, rows: Sequence[tuple[int, bytes]]) -> None:
    """Put encoded records in the outbox, each with its number."""
    _insert(connection, _ADD_RECORDS, rows)


def read_records(connection: sqlite3.Connection, after_seq: int, limit: int) -> list[PendingRecord]:
    """The next records of the outbox, oldest first."""
    rows = connection.execute(
        "SELECT seq, record FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit)
    )
    return [PendingRecord(seq=seq, record=decode_record(record)) for seq, record in rows]


def delete_records(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    """Remove records from the outbox; how many were there."""
    given = (json.dumps(seqs),)
    delete = "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?))"
    return connection.execute(delete, given).rowcount
