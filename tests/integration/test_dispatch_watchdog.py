"""Sessions in which nothing happens any more: they end, and their mail goes back."""

import asyncio
import time
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import Handler, Scripted, scripted_peer, smtp_peer
from tests.integration.dispatch_world import DOMAIN, make_config, world
from tests.integration.test_dispatch_connections import InOrder, use_two_hosts


def _config(port: int, **options: object) -> pb.EgressPathConfig:
    return make_config(port, dispatcher_progress_watchdog_timeout=0.5, **options)


@pytest.mark.parametrize("at", ["banner", "ehlo", "mail", "rcpt", "data"])
async def test_mail_that_the_peer_can_not_have_goes_back_without_an_attempt(
    tmp_path: Path, at: str
) -> None:
    provider = {"misbehave": [{"at": at, "action": "silence"}]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(_config(here.port, connection_limit=1))
        await here.send(1)
        await here.until_records(RecordType.DELAYED, 1)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)

        (record,) = here.log.records
        assert record.response.code == 451
        assert record.response.enhanced_code == (4, 4, 1)
        assert "dispatcher watchdog ended a session that made no progress" in (
            record.response.content
        )
        assert here.dispatcher.counts.watchdog_aborts == 1
        assert [entry.attempts for entry in await here.spool.entries()] == [0]
        await here.until(lambda: here.seen.open_connections == 0)


async def test_mail_that_the_peer_may_have_uses_an_attempt(tmp_path: Path) -> None:
    """Else a peer that takes messages and answers nothing would get them over and over."""
    provider = {"misbehave": [{"at": "data_end", "action": "silence"}]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(_config(here.port))
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)

        (record,) = here.log.records
        assert "no progress; phase=. " in record.response.content
        (entry,) = await here.spool.entries()
        assert entry.attempts == 1
        assert entry.due > time.time() + 3000


async def test_recipients_of_a_transaction_before_are_not_forgotten(tmp_path: Path) -> None:
    peer = Scripted({}, keywords=(b"PIPELINING",))
    peer.silent_after = 1
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(_config(port, max_recipients_per_batch=1))
        await here.send(1, recipients=("a", "b"))
        await here.until_records(RecordType.DELIVERY, 1)
        await here.until(lambda: here.dispatcher.counts.watchdog_aborts == 1)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)

        (entry,) = await here.spool.entries()
        left = await here.spool.load(entry.id)
        assert left.recipients == (f"b@{DOMAIN}",)
        assert entry.attempts == 0
        await here.stop()
        await here.start()


async def test_the_next_host_takes_what_a_host_held_up(tmp_path: Path) -> None:
    handler = Handler()
    provider = {"misbehave": [{"at": "mail", "action": "silence"}]}
    async with (
        world(tmp_path, provider=provider) as here,
        smtp_peer(handler, host="127.0.0.2", port=here.port),
    ):
        await here.stop()
        await here.start(random=InOrder())
        use_two_hosts(here)
        here.policies.change(
            _config(here.port, connection_limit=1, try_next_host_on_transport_error=True)
        )
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert here.dispatcher.counts.watchdog_aborts == 1
        assert len(handler.taken) == 1
        await here.stop()
        await here.start()


async def test_a_slow_peer_that_goes_on_is_let_be(tmp_path: Path) -> None:
    """Each reply comes in time, all of them together take longer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.big.example\r\n")
        in_data = False
        while (line := await reader.readline()) and line != b"QUIT\r\n":
            if in_data and line != b".\r\n":
                continue
            await asyncio.sleep(0.3)
            in_data = line == b"DATA\r\n"
            writer.write(b"354 go on\r\n" if in_data else b"250 ok\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, world(tmp_path) as here:
        port = server.sockets[0].getsockname()[1]
        here.policies.change(make_config(port, dispatcher_progress_watchdog_timeout=1))
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert here.dispatcher.counts.watchdog_aborts == 0
        await here.stop()
        await here.start()
