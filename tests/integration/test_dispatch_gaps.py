"""
What other programs' test suites leave open: limits, plans and odd replies, end to end.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agent.delivery.connections import wanted_connections
from agent.delivery.record import RecordType
from tests.integration.dispatch_peers import Handler, Scripted, scripted_peer, smtp_peer
from tests.integration.dispatch_world import DOMAIN, make_config, world

_OFFERS = (b"PIPELINING", b"8BITMIME", b"SMTPUTF8")


@pytest.mark.parametrize(
    ("at", "reply"),
    [
        ("banner", "421 4.3.2 not now"),
        ("banner", "554 5.7.1 not you"),
        ("ehlo", "421 4.3.2 not now"),
        ("ehlo", "554 5.7.1 not you"),
    ],
)
@pytest.mark.parametrize("close", [True, False])
async def test_a_host_that_refuses_the_session_is_left_and_nothing_bounces(
    tmp_path: Path, at: str, reply: str, close: bool
) -> None:
    """Whatever its class: it says nothing about the message, so the next host gets it."""
    first = [{"at": at, "action": "reply", "reply": reply, "close": close}]
    async with (
        world(tmp_path, provider={"misbehave": first, "listen": ["127.0.0.1:0"]}) as here,
        smtp_peer(Handler(), host="127.0.0.2", port=here.port),
    ):
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)
        (record,) = here.log.records
        assert (record.response.code, record.response.internal) == (400, True)
        assert reply[:3] in record.response.content

        here.dns.zone = type(here.dns.zone).from_mapping(
            {
                "mx": {"two.example": [[10, "mx1.two.example"], [20, "mx2.two.example"]]},
                "a": {"mx1.two.example": ["127.0.0.1"], "mx2.two.example": ["127.0.0.2"]},
            }
        )
        await here.send(1, domain="two.example")
        await here.until_records(RecordType.DELIVERY, 1)
        assert here.log.of(RecordType.DELIVERY)[0].peer_address.addr == "127.0.0.2"
        assert here.log.of(RecordType.BOUNCE) == []


@pytest.mark.parametrize("at", ["mail", "rcpt", "data", "data_end"])
@pytest.mark.parametrize("close", [True, False])
async def test_421_at_any_command_costs_an_attempt_and_the_connection(
    tmp_path: Path, at: str, close: bool
) -> None:
    refusal = {"at": at, "action": "reply", "reply": "421 4.7.0 bye", "close": close}
    async with world(tmp_path, provider={"misbehave": [refusal]}) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(2)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 2)

        responses = {record.response for record in here.log.records}
        assert {(one.code, one.internal) for one in responses} == {(421, False)}
        assert here.seen.total_connections == 2
        assert [entry.attempts for entry in await here.spool.entries()] == [1, 1]


@pytest.mark.parametrize(
    ("reply", "becomes"),
    [
        pytest.param(b"251 2.1.5 will forward", RecordType.DELIVERY, id="251"),
        pytest.param(b"252 2.1.5 can't verify", RecordType.DELIVERY, id="252"),
        pytest.param(b"552 mailbox full", RecordType.TRANSIENT_FAILURE, id="552 bare"),
        pytest.param(b"552 5.2.2 mailbox full", RecordType.BOUNCE, id="552 5.2.2"),
        pytest.param(b"452 4.5.3 too many", RecordType.TRANSIENT_FAILURE, id="452 4.5.3 alone"),
        pytest.param(b"503 5.5.1 out of order", RecordType.TRANSIENT_FAILURE, id="503"),
        pytest.param(b"199 what", RecordType.TRANSIENT_FAILURE, id="no class"),
    ],
)
@pytest.mark.parametrize("keywords", [_OFFERS, ()], ids=["pipelined", "one by one"])
async def test_what_a_reply_to_rcpt_leads_to(
    tmp_path: Path, reply: bytes, becomes: RecordType, keywords: tuple[bytes, ...]
) -> None:
    peer = Scripted({b"RCPT": reply}, keywords=keywords)
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port))
        await here.send(1)
        await here.until(lambda: len(here.log.records) == 1)

        assert here.log.records[0].type is becomes
        # To nobody goes nothing, or an empty message where the peer insists.
        sent = [content for content in peer.contents if content]
        assert len(sent) == (becomes is RecordType.DELIVERY)


async def test_a_connection_ends_after_its_share_of_messages(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        config = make_config(here.port, connection_limit=1, max_deliveries_per_connection=3)
        here.policies.change(config)
        await here.send(10)
        await here.until_records(RecordType.DELIVERY, 10)

        assert here.seen.total_connections == 4
        assert here.seen.most_messages_per_connection == 3


@pytest.mark.parametrize(
    ("queued", "limit"), [(1, 32), (2, 32), (10, 32), (40, 32), (30, 2), (31, 2)]
)
async def test_as_many_connections_are_opened_as_the_mail_is_worth(
    tmp_path: Path, queued: int, limit: int
) -> None:
    """The peer answers no message, so all connections that are wanted are open in the end."""
    provider = {"misbehave": [{"at": "data_end", "action": "silence"}]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.is_away = True
        here.policies.change(make_config(here.port, connection_limit=limit))
        await here.send(queued)
        await here.until_records(RecordType.DELAYED, queued)
        here.policies.is_away = False
        here.policies.change()
        wanted = wanted_connections(queued, limit)
        await here.until(lambda: here.seen.open_connections >= wanted)
        await here.until(lambda: here.seen.messages_offered >= wanted)

        assert here.seen.peak_connections == wanted
        await here.stop(0.0)
        await here.start()


async def test_hosts_that_are_skipped_leave_nothing(tmp_path: Path) -> None:
    config = make_config(25)
    config.skip_hosts.cidrs.append("127.0.0.0/8")
    async with world(tmp_path) as here:
        here.policies.change(config)
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        response = here.log.records[0].response
        assert (response.code, response.enhanced_code) == (451, (4, 4, 4))
        assert "skip_hosts" in response.content
        assert here.seen.total_connections == 0


async def test_mail_that_a_full_ready_queue_keeps_out_still_grows_old(tmp_path: Path) -> None:
    provider = {"misbehave": [{"at": "data_end", "action": "silence"}]}
    async with world(tmp_path, provider=provider, max_age="1s") as here:
        here.policies.change(make_config(here.port, max_ready=3, connection_limit=1))
        begin = time.monotonic()
        await here.send(20)
        await here.until_records(RecordType.EXPIRATION, 15)

        assert time.monotonic() - begin < 15
        assert {record.response.code for record in here.log.of(RecordType.EXPIRATION)} == {551}
        await here.stop(0.0)
        await here.start()


@pytest.mark.parametrize(
    ("offered", "body", "recipient", "code", "parameters"),
    [
        pytest.param((), b"plain\r\n", "a", 250, [], id="nothing is needed"),
        pytest.param((b"8BITMIME",), b"\xc3\xa4\r\n", "a", 250, [b"BODY=8BITMIME"], id="8 bit"),
        pytest.param((b"SIZE",), b"\xc3\xa4\r\n", "a", 554, None, id="8 bit, not offered"),
        pytest.param((b"8BITMIME", b"SMTPUTF8"), b"x\r\n", "ä", 250, [b"SMTPUTF8"], id="address"),
        pytest.param((b"8BITMIME",), b"x\r\n", "ä", 554, None, id="address, not offered"),
        pytest.param(
            (b"8BITMIME", b"SMTPUTF8"),
            b"\xc3\xa4\r\n",
            "ä",
            250,
            [b"BODY=8BITMIME", b"SMTPUTF8"],
            id="both",
        ),
    ],
)
async def test_8bit_content_and_addresses_need_the_peers_word(
    tmp_path: Path,
    offered: tuple[bytes, ...],
    body: bytes,
    recipient: str,
    code: int,
    parameters: list[bytes] | None,
) -> None:
    peer = Scripted({}, keywords=offered or (b"HELP",))
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, connection_limit=1))
        await here.send(1, recipients=(recipient,), body=b"A: 1\r\n\r\n" + body)
        await here.until(lambda: len(here.log.records) == 1)
        # The connection serves on for mail that the peer can take.
        await here.send(1, body=b"A: 1\r\n\r\nplain\r\n")
        await here.until(lambda: len(here.log.records) == 2)

        first, second = here.log.records
        assert first.response.code == code
        assert second.type is RecordType.DELIVERY
        mails = [line for read in peer.reads for line in read if line.startswith(b"MAIL")]
        if parameters is None:
            assert first.response.enhanced_code in ((5, 6, 3), (5, 6, 7))
            assert first.response.internal
            assert len(mails) == 1
        else:
            assert mails[0].split(b" ")[2:] == parameters
        greetings = [line for read in peer.reads for line in read if line.startswith(b"EHLO")]
        assert len(greetings) == 1


async def test_content_of_dots_goes_through_a_pipeline_unchanged(tmp_path: Path) -> None:
    bodies = [b".\r\n", b"..\r\n.\r\n", b"\r\n.\r\n\r\n.", b"x\r\n.\r\nMAIL FROM:<e@v.il>\r\n"]
    handler: Any = Handler()
    async with smtp_peer(handler) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, connection_limit=1))
        for body in bodies * 5:
            await here.send(1, body=b"A: 1\r\n\r\n" + body)
        await here.until_records(RecordType.DELIVERY, 20)

        found = Counter(one.content.partition(b"\r\n\r\n")[2] for one in handler.taken)
        whole = (body if body.endswith(b"\r\n") else body + b"\r\n" for body in bodies)
        assert found == Counter(dict.fromkeys(whole, 5))
        assert {one.rcpt_tos[0] for one in handler.taken} == {f"a@{DOMAIN}"}
