"""The statements on the spool's tables: values in, rows changed, values out."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from sys import intern
from typing import Any

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

_ADD_MESSAGE = """
INSERT INTO messages
(number, id, sender, created, tenant, campaign, reception_protocol, size, checksum, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_ENTRY = """
INSERT INTO entries (id, message, queue_name, recipients, due, attempts, created)
VALUES (?, ?, ?, ?, ?, 0, ?)
"""
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
_END_ENTRY = "DELETE FROM entries WHERE id = ? RETURNING message"
# One statement decides and removes: the message ends with its last entry.
_END_MESSAGE = """
DELETE FROM messages WHERE number = ?1
AND NOT EXISTS (SELECT 1 FROM entries WHERE message = ?1) RETURNING id, body IS NULL
"""


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


def insert_message(
    connection: sqlite3.Connection, number: int, message: NewMessage, *, in_file: bool
) -> None:
    """Add the row of a message; its body too, unless that is in a file."""
    row = (
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
    connection.execute(_ADD_MESSAGE, row)


def insert_entry(
    connection: sqlite3.Connection,
    entry_id: int,
    number: int,
    destination: Destination,
    message: NewMessage,
) -> Entry:
    """Add the row of an entry, due since the message came."""
    recipients = json.dumps(destination.recipients)
    created = message.created
    row = (entry_id, number, destination.queue_name, recipients, created, created)
    connection.execute(_ADD_ENTRY, row)
    return Entry(
        id=entry_id,
        queue_name=intern(destination.queue_name),
        created=created,
        due=created,
    )


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


def end_entry(connection: sqlite3.Connection, entry_id: int) -> tuple[int, list[str]]:
    """Remove an entry: how many were removed, and finished messages whose body is a file."""
    ended = connection.execute(_END_ENTRY, (entry_id,)).fetchall()
    in_files: list[str] = []
    for (number,) in ended:
        rows = connection.execute(_END_MESSAGE, (number,)).fetchall()
        in_files += [message_id for message_id, in_file in rows if in_file]
    return len(ended), in_files


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


def insert_record(connection: sqlite3.Connection, seq: int, record: bytes) -> None:
    """Put an encoded record in the outbox."""
    connection.execute("INSERT INTO outbox VALUES (?, ?)", (seq, record))


def read_records(connection: sqlite3.Connection, after_seq: int, limit: int) -> list[PendingRecord]:
    """The next records of the outbox, oldest first."""
    rows = connection.execute(
        "SELECT seq, record FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit)
    )
    return [PendingRecord(seq=seq, record=decode_record(record)) for seq, record in rows]


def delete_records(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    """Remove records from the outbox; how many were there."""
    rows = [(seq,) for seq in seqs]
    return max(0, connection.executemany("DELETE FROM outbox WHERE seq = ?", rows).rowcount)
