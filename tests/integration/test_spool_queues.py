"""What the spool keeps of mail that waits, and how it is put into other queues."""

import sqlite3
from pathlib import Path

import pytest

from agent.delivery.record import Response
from agent.errors import SpoolUnavailable
from agent.spool.look import look_at_spool
from agent.spool.messages import LastReply, Move, Settlement
from agent.spool.sqlite import SqliteSpool
from tests.integration.test_intake_spool import message

FULL = LastReply(
    response=Response(code=452, enhanced_code=(4, 2, 2), content="mailbox full", command="RCPT TO"),
    time=102.5,
    peer="mx.a.example",
)
#: The tables as version 1 made them.
_VERSION_1 = """
CREATE TABLE messages (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sender TEXT NOT NULL,
  created REAL NOT NULL, tenant TEXT NOT NULL, campaign TEXT NOT NULL,
  reception_protocol TEXT NOT NULL, size INTEGER NOT NULL, body BLOB) STRICT;
CREATE TABLE entries (id INTEGER PRIMARY KEY, message INTEGER NOT NULL REFERENCES messages (number),
  queue_name TEXT NOT NULL, recipients TEXT NOT NULL, due REAL NOT NULL,
  attempts INTEGER NOT NULL) STRICT;
CREATE INDEX entries_message ON entries (message);
CREATE TABLE outbox (seq INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
INSERT INTO messages VALUES (1, 'm1', 's@x.example', 100.0, 'acme', '', 'ESMTP', 4, X'61620d0a');
INSERT INTO entries VALUES (7, 1, 'acme@a.example', '["u@a.example"]', 200.0, 3);
PRAGMA user_version = 1;
"""


@pytest.fixture
async def spool(tmp_path: Path):
    spool = await SqliteSpool.open(tmp_path)
    yield spool
    await spool.close()


async def test_a_message_is_found_with_what_put_it_off(spool):
    first, second = await spool.add([message("m1", domains=("a.example", "b.example"))])
    await spool.settle(
        [
            Settlement(
                entry_id=first.id,
                remaining=("u@a.example",),
                due=300.0,
                attempts=1,
                last_reply=FULL,
            )
        ]
    )

    found = await spool.find("m1")

    assert (found.id, found.sender, found.created) == ("m1", "s@x.example", 100.0)
    assert (found.tenant, found.campaign, found.size) == ("acme", "news", len(b"small\r\n"))
    assert [entry.entry_id for entry in found.entries] == [first.id, second.id]
    put_off, untried = found.entries
    assert (put_off.recipients, put_off.due, put_off.attempts) == (("u@a.example",), 300.0, 1)
    assert put_off.last_reply == FULL
    assert (untried.queue_name, untried.attempts, untried.last_reply) == ("b.example", 0, None)
    assert await spool.find("m2") is None


async def test_a_settlement_without_a_reply_keeps_the_one_before(spool):
    (entry,) = await spool.add([message("m1")])
    kept = Settlement(entry_id=entry.id, remaining=("u@a.example",), due=1.0, last_reply=FULL)
    await spool.settle([kept])
    await spool.settle([Settlement(entry_id=entry.id, remaining=("u@a.example",), due=2.0)])

    found = await spool.find("m1")

    assert found.entries[0].last_reply == FULL


async def test_entries_are_put_into_other_queues_and_stay_there(spool, tmp_path):
    first, second = await spool.add([message("m1"), message("m2")])
    await spool.settle([Settlement(entry_id=second.id, remaining=())])

    moved = await spool.rebind(
        [
            Move(entry_id=entry.id, queue_name="acme@a.example!relay.example", due=50.0)
            for entry in (first, second)
        ]
    )
    await spool.close()
    again = await SqliteSpool.open(tmp_path)
    try:
        entries = await again.entries()
    finally:
        await again.close()

    # The second had ended before: nothing of it comes back.
    assert [(one.id, one.size, one.entries[0].entry_id) for one in moved] == [("m1", 7, first.id)]
    assert [(entry.queue_name, entry.due) for entry in entries] == [
        ("acme@a.example!relay.example", 50.0)
    ]


async def test_a_move_that_the_disk_does_not_take_moves_nothing(spool):
    entries = await spool.add([message("m1"), message("m2")])
    spool._writer._connection.execute("PRAGMA query_only = 1")

    moves = [Move(entry_id=entry.id, queue_name="other.example", due=5.0) for entry in entries]
    with pytest.raises(SpoolUnavailable):
        await spool.rebind(moves)

    assert {entry.queue_name for entry in await spool.entries()} == {"a.example"}


async def test_a_spool_of_version_1_is_brought_up_to_date(tmp_path):
    (tmp_path / "spool").mkdir()
    connection = sqlite3.connect(tmp_path / "spool" / "spool.db")
    connection.executescript(_VERSION_1)
    connection.close()
    assert look_at_spool(tmp_path).entries == 1

    spool = await SqliteSpool.open(tmp_path)
    try:
        (entry,) = await spool.entries()
        put_off = Settlement(
            entry_id=7, remaining=("u@a.example",), due=300.0, attempts=4, last_reply=FULL
        )
        await spool.settle([put_off])
        found = await spool.find("m1")
        await spool.add([message("m2")])
    finally:
        await spool.close()

    assert (entry.id, entry.queue_name, entry.due, entry.attempts) == (
        7,
        "acme@a.example",
        200.0,
        3,
    )
    assert found.entries[0].last_reply == FULL
