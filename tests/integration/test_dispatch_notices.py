"""Senders are told of what could not be delivered: over real SMTP, once, and durably."""

import email
import email.policy
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from agent.delivery.record import Record, RecordType
from tests.integration.dispatch_world import World, world
from tests.integration.test_dispatch_safety import full_disk

BAD = {"recipient": [{"pattern": "^bad", "reply": "550 5.1.1 no such user"}]}
SLOW = {"recipient": [{"pattern": "^slow", "reply": "452 4.2.2 mailbox full"}]}


def notices(here: World) -> list[EmailMessage]:
    """The messages that senders got, parsed."""
    kept = next(iter(here.sink.providers.values())).messages
    assert all(message.sender == "" for message in kept if is_notice(message.content))
    return [
        email.message_from_bytes(message.content, policy=email.policy.default)
        for message in kept
        if is_notice(message.content)
    ]


def is_notice(content: bytes) -> bool:
    return b"Content-Type: multipart/report" in content


def parts(notice: EmailMessage) -> Any:
    """Its three parts."""
    return notice.get_payload()


def reported(notice: EmailMessage) -> list[tuple[str, str, str]]:
    """Recipient, status and diagnosis of each that failed."""
    report = parts(notice)[1]
    assert report.get_content_type().endswith("delivery-status")
    return [
        (block["Final-Recipient"], block["Status"], block["Diagnostic-Code"])
        for block in report.get_payload()
        if block["Action"] == "failed"
    ]


def of_notices(here: World, type_: RecordType) -> list[Record]:
    return [record for record in here.log.of(type_) if record.sender == ""]


async def settled(here: World) -> None:
    """Wait until nothing is queued."""
    await here.until(lambda: here.spool.entry_count == 0)


async def test_the_sender_of_mail_that_bounces_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, provider=BAD, dsn=True) as here:
        await here.send(
            1, recipients=("good", "bad", "bad2"), queue="news:acme@big.example", tenant="acme"
        )
        await here.until(lambda: notices(here) != [])
        await here.until(lambda: of_notices(here, RecordType.DELIVERY) != [])

        (notice,) = notices(here)
        assert notice["To"] == "from@sender.example"
        original = here.log.of(RecordType.BOUNCE)[0]
        assert notice["In-Reply-To"].startswith("<")
        assert reported(notice) == [
            ("rfc822; bad@big.example", "5.1.1", "smtp; 550 5.1.1 no such user"),
            ("rfc822; bad2@big.example", "5.1.1", "smtp; 550 5.1.1 no such user"),
        ]
        assert b"Subject: hello" in parts(notice)[2].as_bytes()
        assert b"and more" not in notice.as_bytes()
        (reception,) = of_notices(here, RecordType.RECEPTION)
        (delivery,) = of_notices(here, RecordType.DELIVERY)
        assert reception.id == delivery.id != original.id
        assert reception.queue == delivery.queue == "acme@sender.example"
        assert delivery.reception_protocol == reception.reception_protocol == "DSN"
        assert await here.spool.entries() == []
        assert here.spool.entry_count == 0


@pytest.mark.parametrize(
    "more", [{}, {"created": time.time() - 90_000}], ids=["after an attempt", "without one"]
)
async def test_the_sender_of_mail_that_grows_too_old_is_told(tmp_path: Path, more: dict) -> None:
    max_age = "1d" if more else "30m"
    async with world(tmp_path, provider=SLOW, dsn=True, max_age=max_age) as here:
        await here.send(1, recipients=("slow",), **more)
        await here.until(lambda: notices(here) != [])

        (notice,) = notices(here)
        ((recipient, status, diagnosis),) = reported(notice)
        assert (recipient, status) == ("rfc822; slow@big.example", "5.4.7")
        assert diagnosis.startswith("smtp; 551 5.4.7" if more else "smtp; 452 4.2.2 mailbox full")


@pytest.mark.parametrize(
    ("message", "queue"),
    [
        pytest.param({"sender": ""}, {"dsn": True}, id="null sender"),
        pytest.param({}, {"dsn": False}, id="turned off"),
        pytest.param({}, {"dsn": "expiry"}, id="turned off for this kind"),
        pytest.param({}, {"dsn": True, "big.example": {"dsn": False}}, id="off for the queue"),
    ],
)
async def test_nobody_is_told(tmp_path: Path, message: dict, queue: dict) -> None:
    own = {name: queue.pop(name) for name in list(queue) if "." in name}
    agent = {"queues": own} if own else {}
    async with world(tmp_path, provider=BAD, agent=agent, **queue) as here:
        await here.send(1, recipients=("bad",), **message)
        await here.until_records(RecordType.BOUNCE, 1)
        await settled(here)

        assert here.log.of(RecordType.RECEPTION) == []
        assert here.seen.messages_accepted == 0


@pytest.mark.parametrize(
    "sender",
    ["bad@sender.example", "from@nosuch.example", "from@null.example"],
    ids=["refused", "no such domain", "takes no mail"],
)
async def test_a_notice_that_can_not_be_delivered_ends_there(tmp_path: Path, sender: str) -> None:
    async with world(tmp_path, provider=BAD, dsn=True) as here:
        await here.send(1, recipients=("bad",), sender=sender)
        await here.until_records(RecordType.BOUNCE, 2)
        await settled(here)

        bounced = {record.sender: record.recipients for record in here.log.of(RecordType.BOUNCE)}
        assert bounced == {sender: ("bad@big.example",), "": (sender,)}
        assert len(of_notices(here, RecordType.RECEPTION)) == 1


async def test_a_domain_that_does_not_exist_is_told_without_a_host(tmp_path: Path) -> None:
    async with world(tmp_path, dsn=True) as here:
        await here.send(1, domain="nosuch.example")
        await here.until(lambda: notices(here) != [])

        (notice,) = notices(here)
        ((recipient, status, diagnosis),) = reported(notice)
        assert (recipient, status) == ("rfc822; a@nosuch.example", "5.1.2")
        assert diagnosis.startswith("smtp; 550 5.1.2")
        assert b"Remote-MTA" not in notice.as_bytes()


@pytest.mark.parametrize("sender", ["from@sender.example", "größe@sender.example"])
async def test_mail_in_utf8_is_reported_in_utf8(tmp_path: Path, sender: str) -> None:
    async with world(tmp_path, provider=BAD, dsn=True) as here:
        await here.send(
            1,
            recipients=("badü",),
            sender=sender,
            body="Subject: grüße\r\n\r\nhallo\r\n".encode(),
        )
        await here.until(lambda: notices(here) != [])

        (notice,) = notices(here)
        kept = next(iter(here.sink.providers.values())).messages[-1]
        assert kept.recipients == (sender,)
        kinds = [part.get_content_type() for part in parts(notice)]
        assert kinds[1:] == ["message/global-delivery-status", "message/global-headers"]
        assert kept.content.isascii() == sender.isascii()
        if not sender.isascii():
            assert "Final-Recipient: utf-8; badü@big.example".encode() in kept.content


async def test_a_notice_survives_a_crash_and_is_sent_once(tmp_path: Path) -> None:
    async with world(tmp_path, provider=BAD, dsn=True) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        # The path to the recipients is known, that to the senders is not.
        here.policies.is_away = True
        await here.send(5, recipients=("bad",))
        await here.until_records(RecordType.BOUNCE, 5)
        await here.until_records(RecordType.DELAYED, 5)
        await here.stop(0.0)
        here.policies.is_away = False
        await here.start()
        await here.until(lambda: len(notices(here)) >= 5)
        await settled(here)

        assert len(notices(here)) == 5
        assert len(here.log.of(RecordType.BOUNCE)) == 5
        assert len({notice["Message-ID"] for notice in notices(here)}) == 5


async def test_a_notice_that_the_disk_does_not_take_is_stored_with_its_cause(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, provider=BAD, dsn=True) as here:
        here.policies.is_away = True
        await here.send(5, recipients=("bad",))
        await here.until_records(RecordType.DELAYED, 5)
        with full_disk(tmp_path / "spool" / "spool.db-wal"):
            here.policies.is_away = False
            here.policies.change()
            await here.until(lambda: not here.spool.is_healthy)
            assert notices(here) == []
        await here.until(lambda: len(notices(here)) >= 5)
        await settled(here)

        assert len(notices(here)) == 5
        assert len(here.log.of(RecordType.BOUNCE)) == 5
