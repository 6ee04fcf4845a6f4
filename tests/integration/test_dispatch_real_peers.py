"""Delivery to mail servers that are not ours, by all that they offer and refuse."""

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent.delivery.record import RecordType
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_world import World, make_config, world
from tests.integration.real_receivers import (
    LARGEST,
    Dovecot,
    Exim,
    OpenSmtpd,
    Postfix,
    Receiver,
    Running,
    SmtpSink,
    running,
)

_BODY = b"Subject: hello\r\n\r\n.dot\r\n..two\r\n.\r\n\r\n from\r\nend\r\n"
_AS_READ = b".dot\n..two\n.\n\n from\nend\n"

_SMTP = [
    pytest.param(Postfix, id="postfix"),
    pytest.param(Exim, id="exim"),
    pytest.param(OpenSmtpd, id="opensmtpd"),
]
_LMTP = [
    pytest.param(Dovecot, id="dovecot-lmtp"),
    pytest.param(lambda: SmtpSink(use_lmtp=True), id="smtp-sink-lmtp"),
]
_SINK = pytest.param(SmtpSink, id="smtp-sink")


@asynccontextmanager
async def _delivering(
    tmp_path: Path, receiver: Receiver, queue: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[World, Running]]:
    """An agent that delivers to a receiver of this kind."""
    authority = trustme.CA()

    def trusted() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    async with running(receiver, authority) as peer, world(tmp_path, **(queue or {})) as here:
        await here.stop()
        await here.start(trusted=trusted)
        here.policies.change(make_config(peer.port, use_lmtp=receiver.use_lmtp, **options))
        yield here, peer


@pytest.mark.parametrize("enable_pipelining", [True, False])
@pytest.mark.parametrize("make", [*_SMTP, _SINK, *_LMTP])
async def test_mail_arrives_as_it_was(
    tmp_path: Path, make: Callable[[], Receiver], enable_pipelining: bool
) -> None:
    async with _delivering(tmp_path, make(), enable_pipelining=enable_pipelining) as (here, peer):
        await here.send(20, body=_BODY)
        await here.until_records(RecordType.DELIVERY, 20)
        await here.until(lambda: len(peer.bodies()) == 20)

        assert {body.rstrip(b"\n") for body in peer.bodies()} == {_AS_READ.rstrip(b"\n")}
        assert Counter(record.type for record in here.log.records) == {RecordType.DELIVERY: 20}


# OpenSMTPD 6.8 with OpenSSL 3 ends every handshake, that of `openssl s_client` too.
@pytest.mark.parametrize("make", _SMTP[:2])
async def test_required_tls(tmp_path: Path, make: Callable[[], Receiver]) -> None:
    async with _delivering(tmp_path, make(), enable_tls=pb.ENABLE_TLS_REQUIRED) as (here, peer):
        await here.send(5, body=_BODY)
        await here.until_records(RecordType.DELIVERY, 5)
        await here.until(lambda: len(peer.bodies()) == 5)

        versions = {one.tls_protocol_version for one in here.log.of(RecordType.DELIVERY)}
        assert versions == {"TLSv1.3"}


@pytest.mark.parametrize(("password", "is_taken"), [("secret", True), ("wrong", False)])
async def test_auth_over_tls(tmp_path: Path, password: str, is_taken: bool) -> None:
    options = {"enable_tls": pb.ENABLE_TLS_REQUIRED, "smtp_auth_plain_username": "relay"}
    async with _delivering(tmp_path, Exim(), **options) as (here, peer):
        config = here.policies.config
        config.smtp_auth_plain_password.key_data = password
        here.policies.change(config)
        await here.send(1, body=_BODY)
        wanted = RecordType.DELIVERY if is_taken else RecordType.TRANSIENT_FAILURE
        await here.until_records(wanted, 1)

        assert len(peer.bodies()) == int(is_taken)


@pytest.mark.parametrize("enable_pipelining", [True, False])
@pytest.mark.parametrize("make", [*_SMTP, _LMTP[0]])
async def test_recipients_that_are_refused_bounce_and_the_others_are_delivered(
    tmp_path: Path, make: Callable[[], Receiver], enable_pipelining: bool
) -> None:
    async with _delivering(tmp_path, make(), enable_pipelining=enable_pipelining) as (here, _):
        await here.send(5, recipients=("ok", "gone1", "also", "gone2"), body=_BODY)
        await here.send(5, recipients=("gone3", "gone4"), body=_BODY)
        # The same connection goes on after each.
        await here.send(5, recipients=("ok",), body=_BODY)
        await here.until(lambda: not here.dispatcher.queue_counts()["scheduled"])
        await here.until(lambda: _recipients(here, RecordType.DELIVERY)["ok"] == 10)
        await here.until(lambda: _recipients(here, RecordType.BOUNCE)["gone4"] == 5)

        assert _recipients(here, RecordType.DELIVERY) == {"ok": 10, "also": 5}
        bounced = _recipients(here, RecordType.BOUNCE)
        assert bounced == {"gone1": 5, "gone2": 5, "gone3": 5, "gone4": 5}
        responses = {record.response for record in here.log.of(RecordType.BOUNCE)}
        assert {one.code for one in responses} == {550}
        # OpenSMTPD gives none.
        assert {one.enhanced_code for one in responses} in ({(5, 1, 1)}, {None})
        assert {one.command for one in responses} == {"RCPT TO"}


def _recipients(here: World, type_: RecordType) -> Counter[str]:
    return Counter(
        recipient.partition("@")[0]
        for record in here.log.of(type_)
        for recipient in record.recipients
    )


# OpenSMTPD has no SMTPUTF8.
@pytest.mark.parametrize("make", _SMTP[:2])
async def test_8bit_content_and_addresses_in_utf8(
    tmp_path: Path, make: Callable[[], Receiver]
) -> None:
    body = "Subject: hi\r\n\r\ngrüße\r\n".encode()
    async with _delivering(tmp_path, make()) as (here, peer):
        await here.send(1, body=body)
        await here.send(1, recipients=("jürgen",), body=body)
        await here.send(1, sender="jürgen@sender.example", body=_BODY)
        await here.until_records(RecordType.DELIVERY, 3)
        await here.until(lambda: len(peer.bodies()) == 3)

        assert sum("grüße".encode() in one for one in peer.bodies()) == 2


@pytest.mark.parametrize("make", [*_SMTP, _SINK, *_LMTP])
async def test_a_large_message_arrives_whole(tmp_path: Path, make: Callable[[], Receiver]) -> None:
    line = b".......x" * 9 + b"\r\n"
    body = b"Subject: large\r\n\r\n" + line * (4_000_000 // len(line))
    async with _delivering(tmp_path, make()) as (here, peer):
        await here.send(1, body=body)
        await here.until_records(RecordType.DELIVERY, 1)
        await here.until(lambda: len(peer.bodies()) == 1)

        wanted = body.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
        assert peer.bodies()[0].rstrip(b"\n") == wanted.rstrip(b"\n")


@pytest.mark.parametrize("make", _SMTP)
async def test_a_message_that_is_too_large_there_bounces_and_the_sender_is_told(
    tmp_path: Path, make: Callable[[], Receiver]
) -> None:
    body = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * (LARGEST // 79)
    async with _delivering(tmp_path, make(), {"dsn": True}) as (here, peer):
        await here.send(1, body=body)
        await here.until_records(RecordType.BOUNCE, 1)
        await here.until_records(RecordType.DELIVERY, 1)
        await here.until(lambda: len(peer.bodies()) == 1)

        (bounce,) = here.log.of(RecordType.BOUNCE)
        assert bounce.response.code in (552, 554)
        (notice,) = peer.bodies()
        assert b"Action: failed" in notice
        assert b"Status: 5.3.4" in notice or b"Status: 5.0.0" in notice
        (told,) = here.log.of(RecordType.DELIVERY)
        assert (told.sender, told.recipients) == ("", ("from@sender.example",))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [*_SMTP, _SINK, *_LMTP])
async def test_a_thousand_messages_go_over_few_connections(
    tmp_path: Path, make: Callable[[], Receiver]
) -> None:
    options = {"connection_limit": 4, "max_deliveries_per_connection": 100}
    async with _delivering(tmp_path, make(), **options) as (here, peer):
        for number in range(10):
            await here.send(100, recipients=(f"n{number}",), body=_BODY)
        await here.until_records(RecordType.DELIVERY, 1000, seconds=240)
        await here.until(lambda: len(peer.bodies()) == 1000, seconds=60)

        assert Counter(record.type for record in here.log.records) == {RecordType.DELIVERY: 1000}
        sessions = Counter(record.session_id for record in here.log.records)
        assert len(sessions) <= 16
        assert max(sessions.values()) <= 100
