"""The spool on a real disk: durability, group commit, files, failures and recovery."""

import asyncio
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.delivery.record import Record, RecordType, Response
from agent.errors import SpoolConflict, SpoolRefused, SpoolUnavailable
from agent.queue.entry import Entry
from agent.spool import sqlite
from agent.spool.messages import Destination, NewMessage, Settlement
from agent.spool.schema import open_connection, touch
from agent.spool.sqlite import SqliteSpool

SMALL, LARGE = b"small\r\n", b"x" * 5000
THRESHOLD = 4096


def message(
    id_: str, *, domains: tuple[str, ...] = ("a.example",), body: bytes = SMALL
) -> NewMessage:
    return NewMessage(
        id=id_,
        sender="s@x.example",
        destinations=tuple(
            Destination(queue_name=domain, recipients=(f"u@{domain}", f"v@{domain}"))
            for domain in domains
        ),
        body=body,
        created=100.0,
        tenant="acme",
        campaign="news",
        reception_protocol="ESMTP",
    )


def record(event_id: str, type_: RecordType = RecordType.DELIVERY) -> Record:
    return Record(
        type=type_,
        event_id=event_id,
        timestamp=101.0,
        id="m",
        sender="s@x.example",
        recipients=("u@a.example",),
        response=Response(code=250, enhanced_code=(2, 0, 0), content="ok"),
        created=100.0,
    )


@pytest.fixture
async def spool(tmp_path: Path):
    spool = await SqliteSpool.open(tmp_path, large_body=THRESHOLD)
    yield spool
    await spool.close()


async def reopen(spool: SqliteSpool, tmp_path: Path) -> SqliteSpool:
    await spool.close()
    return await SqliteSpool.open(tmp_path, large_body=THRESHOLD)


async def by_message(spool: SqliteSpool) -> dict[str, Entry]:
    """The entries by the id of their message; the last of each."""
    loaded = {entry.id: await spool.load(entry.id) for entry in await spool.entries()}
    return {loaded[entry.id].message_id: entry for entry in await spool.entries()}


def body_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "spool" / "bodies").iterdir())


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["in the database", "in a file"])
async def test_a_message_comes_back_as_it_was_stored(spool, tmp_path, body):
    entries = await spool.add([message("m1", domains=("a.example", "b.example"), body=body)])

    spool = await reopen(spool, tmp_path)
    try:
        assert [entry.queue_name for entry in entries] == ["a.example", "b.example"]
        assert await spool.entries() == entries
        loaded = await spool.load(entries[1].id)
        assert loaded is not None
        assert loaded.body == body
        assert loaded.recipients == ("u@b.example", "v@b.example")
        assert (loaded.sender, loaded.tenant, loaded.campaign) == ("s@x.example", "acme", "news")
        assert spool.entry_count == 2
    finally:
        await spool.close()


async def test_due_time_attempts_and_remaining_recipients_survive_a_restart(spool, tmp_path):
    (entry,) = await spool.add([message("m1")])
    await spool.settle(
        [Settlement(entry_id=entry.id, remaining=("v@a.example",), due=500.0, attempts=1)]
    )
    await spool.postpone([(entry.id, 700.0)])

    spool = await reopen(spool, tmp_path)
    try:
        (found,) = await spool.entries()
        assert (found.due, found.attempts, found.created) == (700.0, 1, 100.0)
        loaded = await spool.load(entry.id)
        assert loaded is not None
        assert loaded.recipients == ("v@a.example",)
    finally:
        await spool.close()


async def test_a_body_goes_with_its_last_entry(spool, tmp_path):
    one, other = await spool.add([message("m1", domains=("a.example", "b.example"), body=LARGE)])

    await spool.settle([Settlement(entry_id=one.id, remaining=())])
    assert body_files(tmp_path) == ["m1"]
    assert await spool.load(one.id) is None
    assert await spool.load(other.id) is not None

    await spool.settle([Settlement(entry_id=other.id, remaining=())])
    assert spool.entry_count == 0
    spool = await reopen(spool, tmp_path)
    try:
        assert body_files(tmp_path) == []
        assert await spool.entries() == []
    finally:
        await spool.close()


async def test_reported_records_wait_in_the_outbox_until_forgotten(spool, tmp_path):
    (entry,) = await spool.add([message("m1")])
    records = (record("e1"), record("e2", RecordType.DELAYED), record("e3", RecordType.BOUNCE))
    await spool.settle([Settlement(entry_id=entry.id, remaining=(), records=records)])

    spool = await reopen(spool, tmp_path)
    try:
        first, second = await spool.pending_records(0, 10)
        assert [first.record, second.record] == [records[0], records[2]]
        assert await spool.pending_records(first.seq, 10) == [second]
        assert await spool.pending_records(0, 1) == [first]
        await spool.forget_records([first.seq])
        assert await spool.pending_records(0, 10) == [second]
    finally:
        await spool.close()


async def test_a_message_that_a_settlement_brings_about_is_stored_with_it_once(spool, tmp_path):
    (entry,) = await spool.add([message("m1", body=LARGE)])
    settlement = Settlement(
        entry_id=entry.id, remaining=(), new_messages=(message("dsn", body=LARGE),)
    )

    (added,) = await spool.settle([settlement])
    # A commit that seemed to fail is tried again.
    assert await spool.settle([settlement]) == [added]

    # Another thread removes it.
    async with asyncio.timeout(10):
        while body_files(tmp_path):  # noqa: ASYNC110 # a directory tells nobody
            await asyncio.sleep(0.01)
    spool = await reopen(spool, tmp_path)
    try:
        assert await spool.entries() == [added]
        loaded = await spool.load(added.id)
        assert loaded is not None
        assert (loaded.message_id, loaded.body) == ("dsn", LARGE)
        assert await spool.settle([Settlement(entry_id=added.id, remaining=())]) == []
        assert spool.entry_count == 0
    finally:
        await spool.close()


@pytest.mark.parametrize("remaining", [(), ("v@a.example",)], ids=["ends", "stays"])
async def test_an_entry_that_had_ended_before_brings_nothing_about(spool, remaining):
    (entry,) = await spool.add([message("m1")])
    await spool.settle([Settlement(entry_id=entry.id, remaining=())])

    late = Settlement(entry_id=entry.id, remaining=remaining, new_messages=(message("dsn"),))

    assert await spool.settle([late]) == []
    assert spool.entry_count == 0
    assert await spool.entries() == []


async def test_the_outbox_is_counted_over_restarts(spool, tmp_path):
    (entry,) = await spool.add([message("m1")])
    records = tuple(record(f"e{number}") for number in range(3))
    await spool.settle([Settlement(entry_id=entry.id, remaining=(), records=records)])
    assert spool.record_count == 3

    spool = await reopen(spool, tmp_path)
    assert spool.record_count == 3
    pending = await spool.pending_records(0, 2)
    await spool.forget_records([one.seq for one in pending])
    await spool.forget_records([one.seq for one in pending])
    await spool.forget_records([])

    assert spool.record_count == 1
    await spool.close()


async def test_entries_are_read_a_few_at_a_time(spool):
    added = await spool.add([message(f"m{number}") for number in range(5)])
    newest = added[3].id

    assert await spool.entries(0, newest, 3) == added[:3]
    assert await spool.entries(added[2].id, newest, 3) == added[3:4]
    assert await spool.entries(newest, newest, 3) == []


async def test_a_spool_knows_what_it_held_and_when_it_was_last_written(spool, tmp_path):
    assert (spool.last_entry, spool.last_change) == (0, 0.0)
    added = await spool.add([message(f"m{number}") for number in range(5)])

    spool = await reopen(spool, tmp_path)
    try:
        await spool.add([message("new")])
        assert spool.last_entry == added[-1].id
        assert abs(time.time() - spool.last_change) < 600
    finally:
        await spool.close()


async def test_a_failing_call_fails_alone_among_those_of_its_transaction(spool):
    await spool.add([message("taken")])

    results = await asyncio.gather(
        *(spool.add([message(f"m{number}")]) for number in range(20)),
        spool.add([message("fresh"), message("taken")]),
        *(spool.add([message(f"n{number}")]) for number in range(20)),
        return_exceptions=True,
    )

    failed = [result for result in results if isinstance(result, BaseException)]
    assert [type(error) for error in failed] == [SpoolConflict]
    stored = await by_message(spool)
    assert len(stored) == spool.entry_count == 41
    assert "fresh" not in stored


async def test_concurrent_calls_share_transactions(spool, monkeypatch):
    statements: list[str] = []
    connection = spool._writer._connection
    connection.set_trace_callback(statements.append)

    await asyncio.gather(*(spool.add([message(f"m{number}")]) for number in range(300)))

    assert 1 <= statements.count("COMMIT") < 30


async def test_entries_are_numbered_in_the_order_of_arrival(spool):
    groups = [await spool.add([message(f"m{n}", domains=("a.example", "b.example"))]) for n in "ab"]

    ids = [entry.id for group in groups for entry in group]
    assert ids == sorted(ids)
    assert [entry.id for entry in await spool.entries()] == ids


async def test_a_second_agent_is_kept_out(spool, tmp_path):
    with pytest.raises(SpoolRefused, match="another agent uses this spool"):
        await SqliteSpool.open(tmp_path)


async def test_a_spool_of_another_version_is_refused(tmp_path):
    (tmp_path / "spool").mkdir()
    connection = sqlite3.connect(tmp_path / "spool" / "spool.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()

    with pytest.raises(SpoolRefused, match="version 99"):
        await SqliteSpool.open(tmp_path)


async def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no directory")

    with pytest.raises(SpoolUnavailable):
        await SqliteSpool.open(tmp_path / "file")


async def test_a_full_disk_refuses_mail_and_recovers_by_itself(spool):
    (before,) = await spool.add([message("m1")])
    (pages,) = spool._writer._connection.execute("PRAGMA page_count").fetchone()
    spool._writer._connection.execute(f"PRAGMA max_page_count={pages}")

    with pytest.raises(SpoolUnavailable, match="full"):
        await spool.add([message(f"m2-{n}", body=b"x" * 4000) for n in range(50)])
    assert not spool.is_healthy
    assert spool.entry_count == 1

    # The connection was opened anew, without the bound: as if room had been made.
    await spool.add([message("m3")])
    assert spool.is_healthy
    assert list(await by_message(spool)) == ["m1", "m3"]
    assert before.id == 1


async def test_a_spool_that_can_be_written_again_is_noticed_without_mail(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_PROBE_SECONDS", 0.02)
    monkeypatch.setattr("agent.spool.writer.open_connection", _open_impatiently)
    spool = await SqliteSpool.open(tmp_path)
    spool._writer._connection.execute("PRAGMA busy_timeout=0")
    path = tmp_path / "spool" / "spool.db"
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(SpoolUnavailable, match="locked"):
                await spool.add([message("m1")])
            with pytest.raises(SpoolUnavailable, match="locked"):
                await spool._writer.run(touch)
            assert not spool.is_healthy
            other.execute("ROLLBACK")

            async with asyncio.timeout(10):
                while not spool.is_healthy:  # noqa: ASYNC110  # the spool has no event for it
                    await asyncio.sleep(0.01)
        assert await spool.entries() == []
    finally:
        await spool.close()


def _open_impatiently(path: Path) -> sqlite3.Connection:
    connection = open_connection(path)
    connection.execute("PRAGMA busy_timeout=0")
    return connection


async def test_a_large_body_that_cannot_be_stored_leaves_nothing(spool, tmp_path):
    await spool.add([message("m1", body=LARGE)])

    with pytest.raises(SpoolConflict):
        await spool.add([message("m2", body=LARGE), message("m1")])

    assert body_files(tmp_path) == ["m1"]


async def test_a_large_message_is_stored_whole_even_if_the_caller_gives_up(spool, tmp_path):
    call = asyncio.ensure_future(spool.add([message("m1", body=LARGE)]))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    spool = await reopen(spool, tmp_path)
    try:
        (entry,) = await spool.entries()
        loaded = await spool.load(entry.id)
        assert loaded is not None
        assert loaded.body == LARGE
        assert spool.entry_count == 1
    finally:
        await spool.close()


async def test_leftovers_of_a_crash_are_swept_at_the_start(spool, tmp_path):
    await spool.add([message("kept", body=LARGE), message("lost", body=LARGE)])
    await spool.close()
    bodies = tmp_path / "spool" / "bodies"
    (bodies / "orphan").write_bytes(b"x")
    (bodies / "lost").unlink()

    spool = await SqliteSpool.open(tmp_path, large_body=THRESHOLD)
    try:
        assert body_files(tmp_path) == ["kept"]
        assert list(await by_message(spool)) == ["kept"]
    finally:
        await spool.close()


async def test_a_closed_spool_refuses_instead_of_hanging(tmp_path):
    spool = await SqliteSpool.open(tmp_path)
    await spool.close()
    await spool.close()

    with pytest.raises(SpoolUnavailable):
        await spool.add([message("m1")])
    with pytest.raises(SpoolUnavailable):
        await spool.entries()


WORKER = """
import asyncio, random, sys
from agent.spool.messages import Destination, NewMessage, Settlement
from agent.spool.sqlite import SqliteSpool
from tests.integration.test_intake_spool import message, record

async def work(spool, name, dice):
    for number in range(100000):
        id_ = f"{name}-{number}"
        body = b"x" * dice.choice([10, 3000, 5000])
        (entry,) = await spool.add([message(id_, body=body)])
        print("added", id_, len(body), flush=True)
        if dice.random() < 0.5:
            settled = Settlement(
                entry_id=entry.id, remaining=(), records=(record(id_),),
                new_messages=(message(f"dsn-{id_}"),),
            )
            print("settling", id_, flush=True)
            await spool.settle([settled])
            print("settled", id_, flush=True)

async def main(directory, seed):
    spool = await SqliteSpool.open(directory, large_body=4096)
    await asyncio.gather(*(work(spool, f"{seed}{n}", random.Random(f"{seed}{n}")) for n in "abcd"))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def _run_and_kill(directory: Path, seed: int) -> list[list[str]]:
    """Let a process work on the spool, kill it, return the lines that it finished."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory), str(seed)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(random.Random(seed).randrange(1, 400))]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    return [line.decode().split() for line in lines if line.endswith(b"\n")]


async def test_nothing_acknowledged_is_lost_whenever_the_process_is_killed(tmp_path):
    added: dict[str, int] = {}
    settling: set[str] = set()
    settled: set[str] = set()
    for seed in range(6):
        for verb, id_, *size in await asyncio.to_thread(_run_and_kill, tmp_path, seed):
            if verb == "added":
                added[id_] = int(size[0])
            else:
                (settling if verb == "settling" else settled).add(id_)

        spool = await SqliteSpool.open(tmp_path, large_body=4096)
        try:
            queued = await by_message(spool)
            brought_about = {id_ for id_ in queued if id_.startswith("dsn-")}
            for id_ in brought_about:
                del queued[id_]
            reported = {item.record.event_id for item in await spool.pending_records(0, 10**6)}
            assert settled <= reported <= settling
            assert not settled & queued.keys()
            # Settled and reported is one step: a message is in one place or the other.
            assert not queued.keys() & reported
            assert brought_about == {f"dsn-{id_}" for id_ in reported}
            assert added.keys() <= queued.keys() | reported
            for id_ in random.Random(seed).sample(sorted(queued), min(20, len(queued))):
                loaded = await spool.load(queued[id_].id)
                assert loaded is not None
                assert len(loaded.body) == added.get(id_, len(loaded.body))
        finally:
            await spool.close()
    assert len(added) > 100
