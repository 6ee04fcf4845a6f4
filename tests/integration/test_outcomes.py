import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

import pytest
from msgspec.structs import replace

from agent.delivery.record import Record, RecordType, Response
from agent.outcomes import log_file
from agent.outcomes.delivery_log import DeliveryLog
from agent.outcomes.log_file import CURRENT, open_log, rotated_files, written_lately
from agent.outcomes.uploader import OutcomeUploader
from agent.policy.channel import open_channel
from agent.spool.messages import Destination, NewMessage, Settlement
from agent.spool.sqlite import SqliteSpool
from penstock.v1.feedback_service_pb2 import OutcomeFilter as OutcomeFilterPb
from penstock.v1.feedback_service_pb2 import OutcomeRefusal
from penstock.v1.outcome_pb2 import OUTCOME_TYPE_DELIVERY
from tests.integration.policy_peer import PolicyPeer, until


def record(event_id: str, **fields) -> Record:
    known = Record(
        type=RecordType.TRANSIENT_FAILURE,
        event_id=event_id,
        timestamp=time.time(),
        id="m-1",
        sender="a@b.example",
        recipients=("someone@foo.example",),
        response=Response(code=421, content="slow down"),
        created=time.time(),
        recipient_domain="foo.example",
    )
    return replace(known, **fields)


async def put_in_outbox(spool: SqliteSpool, records: list[Record]) -> None:
    message = NewMessage(
        id=f"m-{records[0].event_id}",
        sender="a@b.example",
        destinations=(Destination(queue_name="foo.example", recipients=("x@foo.example",)),),
        body=b"Subject: x\r\n\r\n",
        created=time.time(),
    )
    [entry] = await spool.add([message])
    await spool.settle(
        [Settlement(entry_id=entry.id, remaining=("x@foo.example",), records=tuple(records))]
    )


async def pending_ids(spool: SqliteSpool) -> list[str]:
    return [one.record.event_id for one in await spool.pending_records(0, 10_000)]


@pytest.fixture(params=["stream", "calls"])
async def peer(request) -> AsyncIterator[PolicyPeer]:
    """A server that takes streams, and one of an earlier version that takes calls alone."""
    peer = PolicyPeer()
    peer.takes_streams = request.param == "stream"
    await peer.start()
    yield peer
    await peer.stop()


@pytest.fixture
async def spool(tmp_path) -> AsyncIterator[SqliteSpool]:
    spool = await SqliteSpool.open(tmp_path / "spool")
    yield spool
    await spool.close()


@asynccontextmanager
async def uploading(
    peer: PolicyPeer, spool: SqliteSpool, **options
) -> AsyncIterator[OutcomeUploader]:
    async with open_channel(f"127.0.0.1:{peer.port}") as channel:
        uploader = OutcomeUploader(
            spool, channel, agent_name="mta-1", clock=time.time, random=Random(1), **options
        )
        try:
            yield uploader
        finally:
            await uploader.close()


async def test_outcomes_are_sent_in_batches_and_forgotten_after_the_answer(peer, spool):
    ids = [f"e{number}" for number in range(1200)]
    await put_in_outbox(spool, [record(event_id) for event_id in ids])
    peer.gate.clear()
    async with uploading(peer, spool) as uploader:
        uploader.start()
        await until(lambda: peer.reports)
        assert await pending_ids(spool) == ids, "nothing is forgotten before the answer"
        peer.gate.set()

        await until(lambda: uploader.sent == 1200)
        await _until_empty(spool)

        assert [len(report) for report in peer.reports] == [500, 500, 200]
        assert [event_id for report in peer.reports for event_id in report] == ids


async def _until_empty(spool: SqliteSpool) -> None:
    async with asyncio.timeout(10):
        while await pending_ids(spool):  # noqa: ASYNC110 # rows of a database
            await asyncio.sleep(0.005)


async def test_a_lost_answer_has_the_same_outcomes_sent_again(peer, spool):
    await put_in_outbox(spool, [record("e1"), record("e2")])
    peer.lose_answers = 1
    async with uploading(peer, spool) as uploader:
        uploader.start()

        await _until_empty(spool)

        assert peer.reports == [["e1", "e2"], ["e1", "e2"]]


async def test_outcomes_wait_for_a_server_that_is_away(peer, spool):
    await peer.stop()
    await put_in_outbox(spool, [record("e1")])
    async with uploading(peer, spool) as uploader:
        uploader.start()
        await until(lambda: uploader.failures)
        assert await pending_ids(spool) == ["e1"]

        await peer.start()
        await _until_empty(spool)

        assert peer.reports == [["e1"]]


async def test_new_records_wake_the_uploader(peer, spool):
    async with uploading(peer, spool) as uploader:
        uploader.start()
        new = record("e1")
        await put_in_outbox(spool, [new])

        uploader.on_records([new])
        await until(lambda: peer.reports == [["e1"]], 3)


async def test_an_agent_killed_between_answer_and_forgetting_sends_the_same_again(peer, tmp_path):
    spool = await SqliteSpool.open(tmp_path / "spool")
    await put_in_outbox(spool, [record("e1"), record("e2")])
    await spool.close()
    code = (
        "import asyncio, sys, tests.integration.test_outcomes as t\n"
        "asyncio.run(t.send_and_hang(int(sys.argv[1]), sys.argv[2]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(peer.port), str(tmp_path / "spool"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"answered\n"
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()

    spool = await SqliteSpool.open(tmp_path / "spool")
    async with uploading(peer, spool) as uploader:
        await uploader.send_all()
        assert await pending_ids(spool) == []
    await spool.close()
    assert peer.reports == [["e1", "e2"], ["e1", "e2"]]


async def send_and_hang(port: int, directory: str) -> None:
    """Send the outbox, and stop just before forgetting; the test above kills this process."""
    peer = PolicyPeer()
    peer.port = port

    async def hang() -> None:
        os.write(1, b"answered\n")
        await asyncio.Event().wait()

    spool = await SqliteSpool.open(directory)
    async with uploading(peer, spool, before_forget=hang) as uploader:
        await uploader.send_all()


async def test_outcomes_too_old_to_matter_are_dropped_and_counted(peer, spool):
    await put_in_outbox(spool, [record("old", timestamp=time.time() - 90_000), record("new")])
    async with uploading(peer, spool) as uploader:
        await uploader.send_all()

        assert (uploader.too_old, uploader.sent) == (1, 1)
        assert peer.reports == [["new"]]
        assert await pending_ids(spool) == []


@pytest.mark.parametrize("names_refused", [True, False])
async def test_one_outcome_that_the_server_refuses_does_not_block_the_others(
    peer, spool, names_refused
):
    peer.names_refused = names_refused
    ids = [f"e{number}" for number in range(9)]
    await put_in_outbox(spool, [record(event_id) for event_id in ids])
    peer.refused = {"e4"}
    async with uploading(peer, spool) as uploader:
        await uploader.send_all()

        taken = [event_id for report in peer.reports for event_id in report]
        # What was under way already went before what is sent again.
        assert sorted(taken) == [event_id for event_id in ids if event_id != "e4"]
        assert uploader.unfit == 1
        assert await pending_ids(spool) == []


def _filter(*patterns: str, etag: str = "f1", send_all: bool = False) -> OutcomeFilterPb:
    made = OutcomeFilterPb(etag=etag, send_all=send_all)
    for text in patterns:
        made.patterns.add(regex=text)
    return made


@pytest.fixture
async def streaming_peer() -> AsyncIterator[PolicyPeer]:
    peer = PolicyPeer()
    await peer.start()
    yield peer
    await peer.stop()


async def _send_first(uploader: OutcomeUploader, spool: SqliteSpool) -> None:
    """Have the filter come, at the latest with the answer to a first batch."""
    await put_in_outbox(spool, [record("first", response=Response(code=499))])
    uploader.start()
    await _until_empty(spool)
    await until(lambda: uploader.has_filter)


async def test_what_no_rule_could_match_is_left_out_and_counted(streaming_peer, spool):
    peer = streaming_peer
    peer.outcome_filter = _filter("slow")
    async with uploading(peer, spool) as uploader:
        await _send_first(uploader, spool)
        peer.reports.clear()
        delivered = Response(code=250, content="ok")
        kinds = [
            record("e1", type=RecordType.DELIVERY, response=delivered),
            record("e2"),
            record("e3", type=RecordType.DELIVERY, response=delivered),
        ]
        await put_in_outbox(spool, kinds)
        uploader.on_records(kinds)
        await _until_empty(spool)

        # Counted right after they are gone.
        await until(lambda: uploader.skipped == {RecordType.DELIVERY: 2})
        assert peer.reports == [["e2"]]
        assert peer.outcome_batches[-1].filter_etag == "f1"
        [skipped] = peer.outcome_batches[-1].skipped
        assert (skipped.type, skipped.count) == (OUTCOME_TYPE_DELIVERY, 2)


async def test_new_kinds_of_failures_are_told_although_no_rule_matches_them(streaming_peer, spool):
    peer = streaming_peer
    peer.outcome_filter = _filter("never")
    async with uploading(peer, spool) as uploader:
        await _send_first(uploader, spool)
        peer.reports.clear()
        same = [record(f"e{number}") for number in range(5)]
        other = record("e5", response=Response(code=450, content="greylisted"))
        await put_in_outbox(spool, [*same, other])
        uploader.on_records(same)
        await _until_empty(spool)

        assert peer.reports == [["e0", "e5"]]


async def test_what_was_left_out_by_a_stale_filter_is_looked_at_again(streaming_peer, spool):
    peer = streaming_peer
    peer.outcome_filter = _filter("never")
    async with uploading(peer, spool) as uploader:
        await _send_first(uploader, spool)
        peer.reports.clear()
        delivered = [
            record(f"e{number}", type=RecordType.DELIVERY, response=Response(code=250))
            for number in range(3)
        ]
        # The rules changed, and the server says so when it gets the batch.
        peer.outcome_filter = _filter("250", etag="f2")
        peer.refusals = [OutcomeRefusal(reason=OutcomeRefusal.REASON_STALE_FILTER)]
        await put_in_outbox(spool, delivered)
        uploader.on_records(delivered)
        await _until_empty(spool)

        assert [event for report in peer.reports for event in report] == ["e0", "e1", "e2"]
        assert not uploader.skipped


async def test_a_filter_that_lets_everything_through_is_obeyed(streaming_peer, spool):
    peer = streaming_peer
    peer.outcome_filter = _filter(etag="all", send_all=True)
    async with uploading(peer, spool) as uploader:
        await _send_first(uploader, spool)
        new = [record("e1", type=RecordType.DELIVERY, response=Response(code=250))]
        await put_in_outbox(spool, new)
        uploader.on_records(new)
        await _until_empty(spool)

        assert peer.reports[-1] == ["e1"]
        assert peer.outcome_batches[-1].filter_etag == ""


async def test_a_batch_that_the_server_can_not_take_now_is_sent_again(streaming_peer, spool):
    peer = streaming_peer
    refusal = OutcomeRefusal(reason=OutcomeRefusal.REASON_UNAVAILABLE, message="busy")
    refusal.retry_delay.FromMilliseconds(50)
    peer.refusals = [refusal]
    ids = [f"e{number}" for number in range(1200)]
    await put_in_outbox(spool, [record(event_id) for event_id in ids])
    async with uploading(peer, spool) as uploader:
        uploader.start()
        await _until_empty(spool)

        assert uploader.failures == 1
        assert len(peer.outcome_starts) == 1, "the stream stays"
        assert {event for report in peer.reports for event in report} == set(ids)


async def test_the_filter_and_the_rest_outlive_a_stream_that_the_server_ends(streaming_peer, spool):
    peer = streaming_peer
    peer.outcome_filter = _filter("slow")
    async with uploading(peer, spool) as uploader:
        await _send_first(uploader, spool)
        peer.reconnect_after = 0.05
        for event_id in ("e1", "e2"):
            new = [record(event_id)]
            await put_in_outbox(spool, new)
            uploader.on_records(new)
            await _until_empty(spool)

        assert len(peer.outcome_starts) == 2
        assert peer.outcome_starts[1].filter_etag == "f1"
        assert peer.reports[-2:] == [["e1"], ["e2"]]
        assert uploader.failures == 0


async def test_an_agent_that_is_told_not_to_filter_wants_none(streaming_peer, spool):
    await put_in_outbox(spool, [record("e1")])
    async with uploading(streaming_peer, spool, filters=False) as uploader:
        await uploader.send_all()

        assert not streaming_peer.outcome_starts[0].wants_filter


def lines_of(directory: Path) -> list[dict[str, Any]]:
    paths = [*rotated_files(directory), directory / CURRENT]
    lines = []
    for path in filter(Path.exists, paths):
        with open_log(path) as file:
            lines += [json.loads(line) for line in file]
    return lines


@asynccontextmanager
async def logging_to(directory: Path, spool=None, **options) -> AsyncIterator[DeliveryLog]:
    log = DeliveryLog(directory, node_id="node", clock=time.time, **options)
    await log.open(spool)
    try:
        yield log
    finally:
        await log.close()


async def test_a_record_is_in_the_log_soon_after_it_was_written(tmp_path):
    async with logging_to(tmp_path) as log:
        log.write([record("e1"), record("e2")])
        await log.flush()

        assert [line["event_id"] for line in lines_of(tmp_path)] == ["e1", "e2"]


async def test_full_files_are_rotated_and_the_oldest_removed(tmp_path):
    async with logging_to(tmp_path, rotate_bytes=1000, kept_files=2) as log:
        for number in range(20):
            log.write([record(f"e{number}")])
            await log.flush()

    assert [path.suffixes for path in rotated_files(tmp_path)] == [[".jsonl", ".zst"]] * 2
    kept = [line["event_id"] for line in lines_of(tmp_path)]
    assert kept == [f"e{number}" for number in range(20 - len(kept), 20)]


async def test_a_full_file_that_a_crash_left_uncompressed_is_read_and_compressed(tmp_path):
    line = {"event_id": "left", "timestamp": 1.0}
    left = tmp_path / "delivery-20200101T000000Z-000000.jsonl"
    left.write_text(json.dumps(line) + "\n")
    left.with_name(left.name + ".zst.part").write_bytes(b"torn")

    assert written_lately(tmp_path) == ({"left"}, 0.0)
    async with logging_to(tmp_path, rotate_bytes=100) as log:
        log.write([record("e1")])
        await log.flush()

    assert [path.name[-4:] for path in rotated_files(tmp_path)] == [".zst", ".zst"]
    assert [one["event_id"] for one in lines_of(tmp_path)] == ["left", "e1"]
    assert written_lately(tmp_path)[0] == {"left", "e1"}
    assert not list(tmp_path.glob("*.part"))

    rotated_files(tmp_path)[0].write_bytes(b"damaged")
    assert written_lately(tmp_path)[0] == {"e1"}


async def test_records_that_a_crash_kept_out_of_the_log_are_written_at_the_next_start(
    tmp_path, spool
):
    records = [record(f"e{number}") for number in range(5)]
    await put_in_outbox(spool, records)
    async with logging_to(tmp_path / "log", spool) as log:
        assert log.written == 5
    (tmp_path / "log" / CURRENT).write_text(
        "".join(line for line in (tmp_path / "log" / CURRENT).read_text().splitlines(True)[:3])
        + '{"type":"Deliv'
    )

    async with logging_to(tmp_path / "log", spool):
        pass

    text = (tmp_path / "log" / CURRENT).read_text().splitlines()
    assert text[3] == '{"type":"Deliv', "the torn line stands alone"
    ids = [json.loads(line)["event_id"] for number, line in enumerate(text) if number != 3]
    assert ids == ["e0", "e1", "e2", "e3", "e4"]


async def test_a_full_buffer_leaves_records_out_and_counts_them(tmp_path):
    log = DeliveryLog(tmp_path, node_id="node", clock=time.time, max_buffered=3)

    log.write([record(f"e{number}") for number in range(5)])

    assert (log.buffered, log.dropped) == (3, 2)


async def test_waiting_for_a_disk_that_takes_nothing_needs_no_memory(tmp_path):
    (tmp_path / "log").write_text("in the way")
    log = DeliveryLog(tmp_path / "log", node_id="n", clock=time.time, max_buffered=3)
    await log.open()
    log.write([record("e1"), record("e2")])

    for _ in range(10):
        await log.flush(timeout=0.01)

    assert log.buffered == 3
    (tmp_path / "log").unlink()
    await log.close()
    assert log.written == 2


async def test_a_disk_that_comes_back_gets_the_lines_that_waited(tmp_path):
    directory = tmp_path / "log"
    directory.write_text("in the way")
    async with logging_to(directory) as log:
        log.write([record("e1")])
        await until(lambda: not log.is_healthy)
        directory.unlink()
        await until(lambda: log.is_healthy)

        assert [line["event_id"] for line in lines_of(directory)] == ["e1"]


async def test_the_time_of_the_oldest_line_is_told_when_only_the_tail_is_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("agent.outcomes.log_file._TAIL_BYTES", 1500)
    async with logging_to(tmp_path) as log:
        log.write([record(f"e{number}", timestamp=1000.0 + number) for number in range(10)])

    event_ids, oldest = written_lately(tmp_path)

    assert "e9" in event_ids
    assert "e0" not in event_ids
    assert oldest == min(1000.0 + int(event_id[1:]) for event_id in event_ids)


async def test_a_log_that_cannot_be_rotated_has_every_line_once(tmp_path, monkeypatch):
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    async with logging_to(tmp_path, rotate_bytes=100) as log:
        for number in range(5):
            log.write([record(f"e{number}")])
            await log.flush()

    assert [line["event_id"] for line in lines_of(tmp_path)] == [f"e{n}" for n in range(5)]


async def test_a_write_that_breaks_off_leaves_no_line_twice(tmp_path, monkeypatch):
    async with logging_to(tmp_path) as log:
        log.write([record("e1")])
        await log.flush()
        write_all = log_file._write_all

        def break_off(file: BinaryIO, data: bytes) -> None:
            file.write(data[:-20])
            raise OSError(28, "no space left on device")

        monkeypatch.setattr(log_file, "_write_all", break_off)
        log.write([record("e2"), record("e3")])
        await until(lambda: not log.is_healthy)
        monkeypatch.setattr(log_file, "_write_all", write_all)
        await until(lambda: log.is_healthy)

    assert [line["event_id"] for line in lines_of(tmp_path)] == ["e1", "e2", "e3"]


async def test_the_outbox_stays_bounded_while_the_server_is_away(peer, spool):
    await peer.stop()
    old = [record(f"old{number}", timestamp=time.time() - 90_000) for number in range(700)]
    await put_in_outbox(spool, old + [record(f"e{number}") for number in range(2000)])
    async with uploading(peer, spool, max_pending=1000) as uploader:
        uploader.start()

        await until(lambda: uploader.too_many)
        await until(lambda: uploader.failures >= 2)

        waiting = await pending_ids(spool)
        assert 500 <= len(waiting) <= 1001
        assert waiting[-1] == "e1999", "the newest are kept"
        assert uploader.too_old == 700, "each is counted once, however often sending fails"
        assert uploader.too_old + uploader.too_many + len(waiting) == 2700


async def test_a_batch_too_large_for_one_message_is_sent_in_parts(peer, spool):
    long = Response(code=421, content="\N{ENVELOPE}\N{GRINNING FACE}" * 2000)
    ids = [f"e{number}" for number in range(500)]
    records = [record(event_id, response=replace(long, command="\U0001f600" * 2048))
               for event_id in ids]  # fmt: skip
    await put_in_outbox(spool, records)
    async with uploading(peer, spool) as uploader:
        await uploader.send_all()

        assert len(peer.reports) > 1
        assert [event_id for report in peer.reports for event_id in report] == ids
        assert uploader.unfit == 0
