"""
Changes: what the writer's thread does to the spool's tables when mail comes and when it ends. It
gives messages, entries and records their numbers.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from agent.delivery.record import REPORTED
from agent.queue.entry import Entry
from agent.spool import rows
from agent.spool.messages import NewMessage, PendingRecord, Settlement
from agent.spool.records import encode_record


@dataclass(slots=True)
class Settled:
    """What settlements have changed."""

    #: Entries that ended, and messages with bodies in files that ended with them.
    ended: int = 0
    in_files: list[str] = field(default_factory=list)
    #: Records put into the outbox, in order.
    recorded: list[PendingRecord] = field(default_factory=list)
    #: For each call, the entries of the messages that were stored with it.
    added: list[list[Entry]] = field(default_factory=list)


class Changes:
    """Used by the writer's thread alone; may be repeated after a transaction was undone."""

    def __init__(self, connection: sqlite3.Connection, *, large_body: int) -> None:
        """Go on from the numbers in the database; bodies larger than *large_body* are files."""
        self._large_body = large_body
        self._last_message = rows.highest(connection, "messages", "number")
        self.last_entry = rows.highest(connection, "entries", "id")
        self.last_seq = rows.highest(connection, "outbox", "seq")
        #: Whether the body of any message may be a file.
        self._has_files = bool(rows.messages_in_files(connection))

    def is_large(self, message: NewMessage) -> bool:
        """Whether the body of *message* is a file."""
        return len(message.body) > self._large_body

    def add(
        self, connection: sqlite3.Connection, calls: Sequence[Sequence[NewMessage]]
    ) -> list[list[Entry]]:
        """Store messages; the entries of each call, in order."""
        message_rows: list[tuple[Any, ...]] = []
        entry_rows: list[tuple[Any, ...]] = []
        added: list[list[Entry]] = []
        for messages in calls:
            entries: list[Entry] = []
            for message in messages:
                in_file = self.is_large(message)
                self._has_files = self._has_files or in_file
                entries += self._enter(message, message_rows, entry_rows, in_file=in_file)
            added.append(entries)
        rows.insert_messages(connection, message_rows, entry_rows)
        return added

    def settle(
        self, connection: sqlite3.Connection, calls: Sequence[Sequence[Settlement]]
    ) -> Settled:
        """Strike what ended, keep what remains, put records in the outbox, store new messages."""
        settled, ending = Settled(), list[int]()
        for settlements in calls:
            entries: list[Entry] = []
            for settlement in settlements:
                is_here = True
                if settlement.remaining:
                    is_here = rows.keep_entry(connection, settlement)
                elif settlement.new_messages:
                    is_here = self._end(connection, [settlement.entry_id], settled)
                else:
                    ending.append(settlement.entry_id)
                for message in settlement.new_messages:
                    entries += self._add_once(connection, message, is_caused=is_here)
                for record in settlement.records:
                    if record.type in REPORTED:
                        self.last_seq += 1
                        settled.recorded.append(PendingRecord(seq=self.last_seq, record=record))
            settled.added.append(entries)
        if ending:
            self._end(connection, ending, settled)
        encoded = [(one.seq, encode_record(one.record)) for one in settled.recorded]
        rows.insert_records(connection, encoded)
        return settled

    def _end(self, connection: sqlite3.Connection, ids: Sequence[int], settled: Settled) -> bool:
        """End entries; whether any of them was here."""
        if self._has_files:
            settled.in_files += rows.ending_files(connection, ids)
        count = rows.end_entries(connection, ids)
        settled.ended += count
        return count > 0

    def _add_once(
        self, connection: sqlite3.Connection, message: NewMessage, *, is_caused: bool
    ) -> list[Entry]:
        """
        Store a message of a settlement unless it is there: a commit that seemed to fail may have
        reached the disk, and is tried again. One whose entry had ended before causes none.
        """
        entries = rows.read_entries_of(connection, message.id)
        if entries or not is_caused:
            return entries
        message_rows: list[tuple[Any, ...]] = []
        entry_rows: list[tuple[Any, ...]] = []
        entries = self._enter(message, message_rows, entry_rows, in_file=False)
        rows.insert_messages(connection, message_rows, entry_rows)
        return entries

    def _enter(
        self,
        message: NewMessage,
        message_rows: list[tuple[Any, ...]],
        entry_rows: list[tuple[Any, ...]],
        *,
        in_file: bool,
    ) -> list[Entry]:
        """Add to the rows those of a message; its entries, due since it came."""
        self._last_message += 1
        message_rows.append(rows.message_row(self._last_message, message, in_file=in_file))
        entries: list[Entry] = []
        for destination in message.destinations:
            self.last_entry += 1
            row = rows.entry_row(self.last_entry, self._last_message, destination, message)
            entry_rows.append(row)
            entries.append(
                Entry(
                    id=self.last_entry,
                    queue_name=intern(destination.queue_name),
                    created=message.created,
                    due=message.created,
                )
            )
        return entries
