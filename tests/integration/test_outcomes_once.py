"""Each outcome counts once, whatever befalls the agent, the server and its database."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import text

from agent.delivery.record import Response
from agent.outcomes.uploader import OutcomeUploader
from agent.policy.channel import open_channel
from agent.spool.sqlite import SqliteSpool
from policy_server.server import Server
from tests.integration.policy_peer import PolicyPeer, until
from tests.integration.test_agent_and_server_policy import AUTOMATION, RULES, change, serving
from tests.integration.test_outcomes import pending_ids, put_in_outbox, record


def _uploader(spool: SqliteSpool, channel: Any) -> OutcomeUploader:
    return OutcomeUploader(spool, channel, agent_name="mta-1", clock=time.time, random=Random(1))


def _matching(event_id: str) -> Any:
    return record(
        event_id,
        response=Response(code=421, content="TS01"),
        routing_domain="foo.example",
        recipient_domain="foo.example",
        site_name="mx.foo.example",
        site="ip-1->mx.foo.example",
        egress_source="ip-1",
    )


async def _counted(server: Server) -> list[str]:
    def read(sql: Any) -> list[str]:
        return [
            row.event_id for row in sql.execute(text("SELECT event_id FROM automation_matches"))
        ]

    return sorted(await server.database.read(read))


async def _put_in_force(server: Server) -> None:
    """Have the rules; an outcome that came before the server has noticed them matches none."""
    await change(server, *RULES, AUTOMATION)
    await server.policy.reload()


async def _until_empty(spool: SqliteSpool) -> None:
    async with asyncio.timeout(20):
        while await pending_ids(spool):  # noqa: ASYNC110 # rows of a database
            await asyncio.sleep(0.01)


async def test_a_batch_whose_acknowledgement_is_lost_on_a_stream_is_sent_again(tmp_path: Path):
    peer = PolicyPeer()
    answer_batch, lost = peer._answer_batch, 0

    async def lose_one(batch: Any, context: Any) -> Any:
        nonlocal lost
        answer = await answer_batch(batch, context)
        if not lost:
            lost += 1
            await context.abort(14, "it broke after it had counted")
        return answer

    peer._answer_batch = lose_one  # type: ignore[method-assign]
    await peer.start()
    spool = await SqliteSpool.open(tmp_path)
    await put_in_outbox(spool, [record("e1"), record("e2")])
    async with open_channel(f"127.0.0.1:{peer.port}") as channel:
        uploader = _uploader(spool, channel)
        uploader.start()
        await _until_empty(spool)
        await until(lambda: uploader.sent == 2)
        await uploader.close()
    await spool.close()
    await peer.stop()

    sent = [[one.event_id for one in batch.outcomes] for batch in peer.outcome_batches]
    assert sent == [["e1", "e2"], ["e1", "e2"]]


async def test_an_agent_killed_between_batch_and_acknowledgement_sends_it_again(tmp_path: Path):
    peer = PolicyPeer()
    peer.gate.clear()
    answer_batch = peer._answer_batch

    async def answer_late(batch: Any, context: Any) -> Any:
        answer = await answer_batch(batch, context)
        await peer.gate.wait()
        return answer

    peer._answer_batch = answer_late  # type: ignore[method-assign]
    await peer.start()
    spool = await SqliteSpool.open(tmp_path)
    await put_in_outbox(spool, [record("e1"), record("e2")])
    await spool.close()
    code = (
        "import asyncio, sys, tests.integration.test_outcomes_once as t\n"
        "asyncio.run(t.send_for_ever(int(sys.argv[1]), sys.argv[2]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(peer.port), str(tmp_path)
    )
    await until(lambda: peer.outcome_batches, 30)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    peer.gate.set()

    spool = await SqliteSpool.open(tmp_path)
    assert await pending_ids(spool) == ["e1", "e2"]
    async with open_channel(f"127.0.0.1:{peer.port}") as channel:
        uploader = _uploader(spool, channel)
        uploader.start()
        await _until_empty(spool)
        await uploader.close()
    await spool.close()
    await peer.stop()

    sent = [[one.event_id for one in batch.outcomes] for batch in peer.outcome_batches]
    assert sent == [["e1", "e2"], ["e1", "e2"]]


async def send_for_ever(port: int, directory: str) -> None:
    """Be an agent's uploader until killed; the test above runs this in a process of its own."""
    spool = await SqliteSpool.open(Path(directory))
    async with open_channel(f"127.0.0.1:{port}") as channel:
        _uploader(spool, channel).start()
        await asyncio.Event().wait()


@pytest.mark.parametrize("is_counted", [False, True], ids=["not yet counted", "counted"])
async def test_a_new_database_gets_what_was_not_acknowledged_and_nothing_else(
    tmp_path: Path, is_counted: bool
):
    spool = await SqliteSpool.open(tmp_path / "agent")
    await put_in_outbox(spool, [_matching("old")])
    async with serving(tmp_path) as server:
        await _put_in_force(server)
        port = server.grpc_port
        async with open_channel(f"127.0.0.1:{port}") as channel:
            uploader = _uploader(spool, channel)
            uploader.start()
            await _until_empty(spool)
            await uploader.close()
            assert await _counted(server) == ["old"]
            await put_in_outbox(spool, [_matching("new")])
            if is_counted:
                # It is counted, and the answer does not come.
                lost = _uploader(spool, channel)
                forget = spool.forget_records
                stuck = asyncio.Event()

                async def never(_: Any) -> None:
                    stuck.set()
                    await asyncio.Event().wait()

                spool.forget_records = never  # type: ignore[method-assign, assignment]
                lost.start()
                await stuck.wait()
                await lost.close()
                spool.forget_records = forget  # type: ignore[method-assign]
                assert await _counted(server) == ["new", "old"]
    for file in tmp_path.glob("server.db*"):  # noqa: ASYNC240 # nothing else runs meanwhile
        file.unlink()

    async with serving(tmp_path, port) as server:
        await _put_in_force(server)
        async with open_channel(f"127.0.0.1:{port}") as channel:
            uploader = _uploader(spool, channel)
            uploader.start()
            await _until_empty(spool)
            await uploader.close()

        assert await _counted(server) == ["new"]
    await spool.close()
