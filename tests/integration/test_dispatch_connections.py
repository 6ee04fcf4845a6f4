"""Connections that break or end: where the message and the session go on."""

from collections.abc import MutableSequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agent.delivery.record import RecordType
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import (
    EachItsOwn,
    Handler,
    Impatient,
    Scripted,
    impatient_peer,
    scripted_peer,
    smtp_peer,
)
from tests.integration.dispatch_world import DOMAIN, World, make_config, world

TWO_HOSTS = ["127.0.0.1:0", "127.0.0.2:0"]


def use_two_hosts(here: World) -> None:
    here.dns.zone = type(here.dns.zone).from_mapping(
        {
            "mx": {DOMAIN: [[10, "mx.big.example"]]},
            "a": {"mx.big.example": ["127.0.0.1", "127.0.0.2"]},
        }
    )


class InOrder(Random):
    """Chance that always begins with the lowest address, so that the first host is met for sure."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        x[:] = sorted(x, key=lambda candidate: candidate.address)


@pytest.mark.parametrize(
    ("strategy", "hosts", "sessions"),
    [
        (pb.RECONNECT_STRATEGY_CONNECT_NEXT_HOST, 2, 1),
        (pb.RECONNECT_STRATEGY_RECONNECT_SAME_HOST, 1, 1),
        (pb.RECONNECT_STRATEGY_TERMINATE_SESSION, None, 2),
    ],
)
async def test_the_strategy_says_where_a_session_goes_on(
    tmp_path: Path, strategy: pb.ReconnectStrategy, hosts: int | None, sessions: int
) -> None:
    """Of two messages whose connections drop; with a new session the host is left to chance."""
    provider = {"listen": TWO_HOSTS, "misbehave": [{"at": "rcpt", "action": "drop"}]}
    async with world(tmp_path, provider=provider) as here:
        use_two_hosts(here)
        here.policies.change(
            make_config(here.port, connection_limit=1, reconnect_strategy=strategy)
        )
        await here.send(2)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 2)

        records = here.log.of(RecordType.TRANSIENT_FAILURE)
        addresses = {record.peer_address.addr for record in records if record.peer_address}
        assert hosts is None or len(addresses) == hosts
        assert len({record.session_id for record in records}) == sessions
        assert [entry.attempts for entry in await here.spool.entries()] == [1, 1]


async def test_the_next_host_takes_at_once_what_the_first_dropped(tmp_path: Path) -> None:
    handler = Handler()
    provider = {"misbehave": [{"at": "mail", "action": "drop"}]}
    async with (
        world(tmp_path, provider=provider) as here,
        smtp_peer(handler, host="127.0.0.2", port=here.port),
    ):
        await here.stop()
        await here.start(random=InOrder())
        use_two_hosts(here)
        here.policies.change(make_config(here.port, try_next_host_on_transport_error=True))
        await here.send(20)
        await here.until_records(RecordType.DELIVERY, 20)
        failed = here.log.of(RecordType.TRANSIENT_FAILURE)

        assert len(handler.taken) == 20
        assert failed
        assert {record.peer_address.addr for record in failed if record.peer_address} == {
            "127.0.0.1"
        }
        assert {record.num_attempts for record in here.log.records} == {0}
        await here.stop()
        await here.start()


@pytest.mark.parametrize(
    "strategy",
    [pb.RECONNECT_STRATEGY_CONNECT_NEXT_HOST, pb.RECONNECT_STRATEGY_RECONNECT_SAME_HOST],
)
async def test_each_host_is_tried_once_for_a_message(
    tmp_path: Path, strategy: pb.ReconnectStrategy
) -> None:
    provider = {"listen": TWO_HOSTS, "misbehave": [{"at": "mail", "action": "drop"}]}
    async with world(tmp_path, provider=provider) as here:
        use_two_hosts(here)
        here.policies.change(
            make_config(
                here.port,
                connection_limit=1,
                try_next_host_on_transport_error=True,
                reconnect_strategy=strategy,
            )
        )
        await here.send(1)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)

        records = here.log.of(RecordType.TRANSIENT_FAILURE)
        assert len({record.peer_address.addr for record in records if record.peer_address}) == 2
        assert len(records) == 2
        assert (await here.spool.entries())[0].attempts == 1


async def test_a_path_that_fails_over_and_over_puts_all_its_mail_off(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(
            make_config(1, connection_limit=1, consecutive_connection_failures_before_delay=2)
        )
        await here.send(10)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 10)

        texts = [record.response.content for record in here.log.records]
        assert sum(text.startswith("failed to connect") for text in texts) == 3
        assert sum(text.startswith("bulk delay") for text in texts) == 7
        assert [entry.attempts for entry in await here.spool.entries()] == [1] * 10


@pytest.mark.parametrize("says", [b"421 4.4.2 idle for too long\r\n", b""])
async def test_a_peer_that_leaves_an_idle_connection_costs_no_attempt(
    tmp_path: Path, says: bytes
) -> None:
    peer = Impatient(after=0.2, says=says)
    async with impatient_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, connection_limit=1))
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        await here.until(lambda: here.dispatcher.snapshot()[0].connections == 0)
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 2)

        assert (peer.connections, peer.messages) == (2, 2)
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        await here.stop()
        await here.start()


async def test_a_peer_that_leaves_while_a_rate_is_waited_for_costs_no_attempt(
    tmp_path: Path,
) -> None:
    peer = Impatient(after=0.1, says=b"")
    async with impatient_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, connection_limit=2, max_message_rate=(3, 1, 1)))
        await here.send(4)
        await here.until_records(RecordType.DELIVERY, 4)

        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        await here.stop()
        await here.start()


@pytest.mark.parametrize("reply", ["502 5.5.1 no RSET here", "451 4.3.0 not now"])
async def test_a_refused_rset_says_nothing_about_the_message(tmp_path: Path, reply: str) -> None:
    provider = {"misbehave": [{"at": "rset", "action": "reply", "reply": reply}]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(5)
        await here.until_records(RecordType.DELIVERY, 5)

        assert here.seen.messages_accepted == 5
        assert {record.type for record in here.log.records} == {RecordType.DELIVERY}


@pytest.mark.parametrize("full", ["452 4.5.3 too many recipients", "452 too many recipients"])
async def test_recipients_that_were_too_many_are_sent_again_at_once(
    tmp_path: Path, full: str
) -> None:
    handler = Handler(most_recipients=6, full=full)
    async with smtp_peer(handler) as port, world(tmp_path) as here:
        here.policies.change(make_config(port))
        names = [f"r{number}" for number in range(10)]
        await here.send(1, recipients=names)
        await here.until(lambda: sum(len(one.rcpt_tos) for one in handler.taken) == 10)
        await here.until(lambda: not any(here.dispatcher.queue_counts().values()))

        assert [len(one.rcpt_tos) for one in handler.taken] == [6, 4]
        assert {record.type for record in here.log.records} == {RecordType.DELIVERY}
        assert await here.spool.entries() == []
        await here.stop()
        await here.start()


async def test_lmtp_gives_each_recipient_a_result_of_its_own(tmp_path: Path) -> None:
    """RFC 2033 section 4.2: after the message there is a reply for each accepted recipient."""
    handler: Any = EachItsOwn({"b": "452 4.2.2 full", "c": "550 5.7.1 not this one"})
    async with smtp_peer(handler, use_lmtp=True) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, use_lmtp=True))
        await here.send(2, recipients=("a", "b", "c"))
        await here.until(lambda: len(here.log.records) == 6)

        assert [len(one.rcpt_tos) for one in handler.taken] == [3, 3]
        found = [
            (record.type, record.recipients[0][0], record.response.code, record.delivery_protocol)
            for record in here.log.records
        ]
        assert sorted(set(found)) == [
            (RecordType.BOUNCE, "c", 550, "LMTP"),
            (RecordType.DELIVERY, "a", 250, "LMTP"),
            (RecordType.TRANSIENT_FAILURE, "b", 452, "LMTP"),
        ]
        assert len(found) == 6


@pytest.mark.parametrize(
    ("keywords", "enable", "is_pipelined"),
    [
        pytest.param((b"PIPELINING",), True, True, id="offered"),
        pytest.param((b"SIZE",), True, False, id="not offered"),
        pytest.param((b"PIPELINING",), False, False, id="switched off"),
    ],
)
async def test_commands_are_sent_without_waiting_where_the_peer_offers_it(
    tmp_path: Path, keywords: tuple[bytes, ...], enable: bool, is_pipelined: bool
) -> None:
    peer = Scripted({}, keywords=keywords)
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, enable_pipelining=enable))
        await here.send(1, recipients=("a", "b"))
        await here.until(lambda: len(here.log.records) == 1)

        (commands,) = (read for read in peer.reads if read and read[0].startswith(b"MAIL"))
        names = [line.split(b":")[0] for line in commands]
        together = [b"MAIL FROM", b"RCPT TO", b"RCPT TO", b"DATA"]
        assert names == (together if is_pipelined else together[:1])
        assert here.log.records[0].type is RecordType.DELIVERY


async def test_a_message_that_nobody_is_to_get_is_not_sent_though_the_peer_waits_for_it(
    tmp_path: Path,
) -> None:
    """RFC 2920 section 3.1: DATA was sent along, and the peer accepted it all the same."""
    peer = Scripted({b"RCPT": b"550 5.1.1 who"}, keywords=(b"PIPELINING",))
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port))
        await here.send(2, recipients=("a", "b"))
        await here.until(lambda: len(here.log.records) == 2)

        assert peer.contents == [b"", b""]
        assert {record.type for record in here.log.records} == {RecordType.BOUNCE}
        assert {record.response.command for record in here.log.records} == {"RCPT TO"}


async def test_an_lmtp_peer_that_waits_for_a_message_to_nobody_is_left(tmp_path: Path) -> None:
    """RFC 2033 section 4.2: it must refuse DATA; after the message it would say nothing at all."""
    greeting = b"250-mx.big.example\r\n250 PIPELINING"
    peer = Scripted({b"LHLO": greeting, b"RCPT": b"550 5.1.1 who"})
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, use_lmtp=True, connection_limit=1))
        await here.send(2)
        await here.until(lambda: len(here.log.records) == 2)

        assert {record.type for record in here.log.records} == {RecordType.BOUNCE}
        assert peer.contents == []
        greetings = [line for read in peer.reads for line in read if line.startswith(b"LHLO")]
        assert len(greetings) == 2


async def test_421_in_the_middle_of_pipelined_replies_ends_the_connection(tmp_path: Path) -> None:
    peer = Scripted({b"RCPT TO:<b": b"421 4.3.2 closing"}, keywords=(b"PIPELINING",))
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port))
        await here.send(1, recipients=("a", "b", "c"))
        await here.until(lambda: len(here.log.records) == 1)

        (record,) = here.log.records
        assert record.type is RecordType.TRANSIENT_FAILURE
        assert (record.response.code, len(record.recipients)) == (421, 3)
        assert peer.contents == []


async def test_what_a_peer_says_unasked_is_never_taken_for_a_reply(tmp_path: Path) -> None:
    """An extra reply after the message must not answer the MAIL of the next one."""
    says = {b".": b"250 2.0.0 ok\r\n250 2.0.0 ok once more", b"MAIL": b"250 2.1.0 ok"}
    peer = Scripted(says, keywords=(b"PIPELINING",))
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, connection_limit=1))
        await here.send(3)
        await here.until(lambda: len(here.log.records) == 3)

        assert {record.type for record in here.log.records} == {RecordType.DELIVERY}
        greetings = [line for read in peer.reads for line in read if line.startswith(b"EHLO")]
        assert len(greetings) == 3
