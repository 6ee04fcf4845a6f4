"""Peers that say anything: no octets of theirs are more than a failed attempt."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme

from agent.delivery.classify import Result, classify
from agent.delivery.envelope import mail_command, wire_form
from agent.delivery.plan import Candidate
from agent.delivery.record import RecordType
from agent.dispatch.dialogue import Broken
from agent.dispatch.options import PathOptions, options_of
from agent.dispatch.peer import CandidateFailed, Peer, connect
from agent.dispatch.transaction import ResetFailed
from agent.policy.answer import PathPolicy
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import StarttlsPeer, starttls_peer
from tests.integration.dispatch_world import make_config, world

_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-4").split("-"))
_SESSIONS = 15
_RECIPIENTS = ("a@big.example", "b@big.example", "c@big.example")

#: Good, odd and impossible.
_SAID = [
    b"220 hello\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"250-mx\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 8BITMIME\r\n",
    b"354 go on\r\n",
    b"354 go on\r\n",
    b"421 4.3.2 bye\r\n",
    b"450 4.2.1 later\r\n",
    b"550 5.1.1 no\r\n",
    b"250-one\r\n550 two\r\n",
    b"250 ok\r\n250 ok\r\n250 ok\r\n",
    b"250-never\r\n",
    b"250",
    b"250\n",
    b"\r\n",
    b"999 what\r\n",
    b"000 what\r\n",
    b"-20 what\r\n",
    b"\xff\xfe\x00\r\n",
    b"250 \xc3\x28\x00\x1b[2J\r\n",
    b"2" * 9000 + b"\r\n",
    b"250-" + b"x" * 900 + b"\r\n",
    b"250-x\r\n" * 3000,
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"",
]


class _Anything:
    """Answers by chance, in pieces by chance, and hangs up by chance."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        self.tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            # Begin well in most cases, to get to the later commands.
            begin = [b"220 hello\r\n", _SAID[3]]
            await self._say(writer, begin.pop(0) if self._dice.random() < 0.9 else self._word())
            while await reader.read(65536):
                if self._dice.random() < 0.05:
                    break
                well = begin and self._dice.random() < 0.9
                for _ in range(1 if well else self._dice.randint(1, 5)):
                    await self._say(writer, begin.pop(0) if begin and well else self._word())
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def _word(self) -> bytes:
        if self._dice.random() < 0.1:
            return self._dice.randbytes(self._dice.randint(0, 200))
        return self._dice.choice(_SAID)

    async def _say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        cut = self._dice.randint(0, len(data))
        for piece in (data[:cut], data[cut:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


@asynccontextmanager
async def _listening(peer: _Anything) -> AsyncIterator[int]:
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        # They end with their clients, which are gone.
        await asyncio.gather(*peer.tasks)


def _options(port: int, **more: Any) -> PathOptions:
    quick = {
        f"{name}_timeout": 0.1
        for name in (
            "banner",
            "ehlo",
            "starttls",
            "auth",
            "mail_from",
            "rcpt_to",
            "data",
            "data_dot",
        )
    }
    return options_of(
        PathPolicy(
            routing_domain="big.example",
            egress_source="ip-1",
            site_name="mx",
            path_name="ip-1->mx",
            provider_name="",
            config=make_config(port, rset_timeout=0.1, **quick, **more),
            etag="",
            revision=1,
        )
    )


@pytest.mark.parametrize("use_lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("seed", range(_FIRST, _LAST))
async def test_whatever_a_peer_says_every_recipient_has_one_result(seed: int, use_lmtp: bool):
    dice = Random(f"{seed} {use_lmtp}")
    found: set[Any] = set()
    async with _listening(_Anything(dice)) as port:
        options = _options(port, use_lmtp=use_lmtp)
        for _ in range(_SESSIONS):
            try:
                await _session(options, dice, found, use_lmtp=use_lmtp)
            except (CandidateFailed, Broken, ResetFailed) as error:
                found.add(type(error))

    assert found & set(Result), "some sessions got as far as a transaction"


async def _session(options: PathOptions, dice: Random, found: set[Any], *, use_lmtp: bool) -> None:
    candidate = Candidate(host="mx.big.example", address="127.0.0.1")
    peer = await connect(candidate, source_address="", ehlo_domain="me.example", options=options)
    try:
        await peer.greet("me.example", use_lmtp=use_lmtp)
        if dice.random() < 0.2:
            await peer.start_tls(ssl.create_default_context())
            await peer.greet("me.example", use_lmtp=use_lmtp)
        for number in range(3):
            if not peer.is_open:
                break
            found |= await _transact(peer, needs_reset=number > 0)
    finally:
        await peer.quit()


async def _transact(peer: Peer, *, needs_reset: bool) -> set[Result]:
    async def no_wait() -> None:
        """There is nothing to be made safe before."""

    command = mail_command("s@x.example", _RECIPIENTS, is_8bit=False, offered=(), force=False)
    content = wire_form(b"A: 1\r\n\r\nx\r\n")
    replies = await peer.send(command, _RECIPIENTS, content, no_wait, needs_reset=needs_reset)
    results = classify(replies)
    assert tuple(one.recipient for one in results) == _RECIPIENTS
    for one in results:
        assert len(one.response.content) <= 1024
        assert len(one.response.content.splitlines()) <= 1
        assert not {chr(number) for number in range(32)} & set(one.response.content)
        # Nothing counts as delivered that was not said to be after the message was sent.
        assert one.result is not Result.DELIVERED or one.response in replies.ends
    return {one.result for one in results}


@pytest.mark.parametrize(
    "injected",
    [
        b"\r\n250 forged",
        b"\r\n250-forged\r\n250-PIPELINING\r\n250 AUTH PLAIN",
        b"\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok",
    ],
)
async def test_what_is_said_in_clear_behind_the_answer_to_starttls_counts_for_nothing(
    tmp_path: Path, injected: bytes
) -> None:
    """Else whoever stands between us and the peer could answer in its place."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("mx.big.example").configure_cert(context)
    peer = StarttlsPeer(context=context, answer=b"220 2.0.0 go on" + injected)

    def trusted() -> ssl.SSLContext:
        made = ssl.create_default_context()
        authority.configure_trust(made)
        return made

    async with starttls_peer(peer) as port, world(tmp_path) as here:
        await here.stop()
        await here.start(trusted=trusted)
        here.policies.change(
            make_config(port, connection_limit=1, enable_tls=pb.ENABLE_TLS_REQUIRED)
        )
        await here.send(2)
        await here.until(lambda: len(here.log.records) == 2)

        for record in here.log.records:
            if record.type is RecordType.DELIVERY:
                assert record.tls_protocol_version
                assert "forged" not in record.response.content
            else:
                # The octets may as well have broken the handshake.
                assert record.type is RecordType.TRANSIENT_FAILURE
        assert len(peer.taken) == len(here.log.of(RecordType.DELIVERY))
        assert all(peer.taken)
