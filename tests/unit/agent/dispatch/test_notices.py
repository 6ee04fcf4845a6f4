"""Of what a sender is told, and the mail that does it."""

import email
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.delivery.classify import RecipientResult, Result
from agent.delivery.record import Peer, RecordType, Response
from agent.dispatch.notices import Origin, told_records, with_notice
from agent.dispatch.settling import Attempt, Chance, Way, expire, settle_attempt
from agent.queue.entry import Entry
from agent.queue.names import QueueName
from agent.settings import QueueSettings
from agent.spool.messages import Settlement, SpooledMessage

NO_SUCH_USER = Response(code=550, enhanced_code=(5, 1, 1), content="no such user")
FULL = Response(code=452, enhanced_code=(4, 2, 2), content="mailbox full")
TAKEN = Response(code=250, content="ok")
ORIGIN = Origin(message_id="notice-1", host_name="mta1.sender.example")
DAY = 86_400.0
RESULTS = {250: Result.DELIVERED, 452: Result.TRANSIENT, 550: Result.PERMANENT}


def attempt(
    *responses: Response, sender: str = "from@sender.example", created: float = 0.0, **more
) -> Attempt:
    """One recipient a response, `r0@big.example` and so on."""
    recipients = tuple(f"r{number}@big.example" for number in range(max(1, len(responses))))
    return Attempt(
        entry=Entry(id=1, queue_name="big.example", created=created, due=created),
        queue=QueueName(domain="big.example", tenant="acme", campaign="news"),
        message=SpooledMessage(
            entry_id=1,
            message_id="m1",
            sender=sender,
            recipients=recipients,
            body=b"Message-ID: <1@sender.example>\r\n\r\nbody\r\n",
            created=created,
            tenant="acme",
            campaign="news",
        ),
        way=Way(peer=Peer(name="mx.big.example", addr="192.0.2.1"), **more),
        results=[
            RecipientResult(recipient=recipient, result=RESULTS[response.code], response=response)
            for recipient, response in zip(recipients, responses, strict=False)
        ],
    )


def chance(now: float = 100.0) -> Chance:
    return Chance(now=now, jitter=0.5, event_id=lambda: "e")


def settings(**queue) -> QueueSettings:
    return QueueSettings.model_validate({"retry_interval": "1h", "max_age": "1d", **queue})


def settled(tried: Attempt, rules: QueueSettings | None = None, now: float = 100.0) -> Settlement:
    """What the attempt changes, with its notice."""
    rules = rules or settings()
    settlement = settle_attempt(tried, rules, chance(now))
    told = told_records(settlement, tried, rules)
    return with_notice(settlement, told, tried, rules, ORIGIN) if told else settlement


def statuses(settlement: Settlement) -> Sequence[tuple[str, str]]:
    """Recipient and status, as the notice reports them."""
    (message,) = settlement.new_messages
    parts: Any = email.message_from_bytes(message.body).get_payload()
    return [
        (block["Final-Recipient"], block["Status"])
        for block in parts[1].get_payload()
        if block["Final-Recipient"]
    ]


def test_a_permanent_failure_brings_about_mail_to_the_sender():
    settlement = settled(attempt(NO_SUCH_USER))

    (message,) = settlement.new_messages
    assert (message.id, message.sender, message.tenant) == ("notice-1", "", "acme")
    assert (message.campaign, message.reception_protocol) == ("", "DSN")
    assert message.created == 100.0
    (destination,) = message.destinations
    assert destination.queue_name == "acme@sender.example"
    assert destination.recipients == ("from@sender.example",)
    assert statuses(settlement) == [("rfc822; r0@big.example", "5.1.1")]
    bounce, reception = settlement.records
    assert bounce.type is RecordType.BOUNCE
    assert reception.type is RecordType.RECEPTION
    assert (reception.id, reception.reception_protocol) == ("notice-1", "DSN")
    assert (reception.queue, reception.sender) == ("acme@sender.example", "")
    assert reception.size == len(message.body)


def test_failures_of_one_attempt_share_a_notice_and_what_waits_is_not_in_it():
    settlement = settled(attempt(NO_SUCH_USER, TAKEN, FULL, NO_SUCH_USER))

    assert settlement.remaining == ("r2@big.example",)
    assert statuses(settlement) == [
        ("rfc822; r0@big.example", "5.1.1"),
        ("rfc822; r3@big.example", "5.1.1"),
    ]


def test_mail_that_expires_with_an_attempt_shows_the_reply_and_one_that_waited_does_not():
    tried = attempt(FULL)

    with_reply = settled(tried, now=DAY - 60.0)
    silent = attempt()
    settlement = expire(silent, settings(), chance(2 * DAY))
    told = told_records(settlement, silent, settings())
    without = with_notice(settlement, told, silent, settings(), ORIGIN)

    assert statuses(with_reply) == statuses(without) == [("rfc822; r0@big.example", "5.4.7")]
    assert b"smtp; 452 4.2.2 mailbox full" in with_reply.new_messages[0].body
    assert b"smtp; 551 5.4.7" in without.new_messages[0].body
    assert b"Last-Attempt-Date" not in without.new_messages[0].body


@pytest.mark.parametrize(
    "tried",
    [
        pytest.param(attempt(TAKEN), id="delivered"),
        pytest.param(attempt(FULL), id="put off"),
        pytest.param(attempt(NO_SUCH_USER, sender=""), id="null sender"),
    ],
)
def test_there_is_no_notice(tried):
    assert settled(tried).new_messages == ()


@pytest.mark.parametrize(
    ("dsn", "told_of"),
    [
        (True, {"bounce", "expiration"}),
        (False, set()),
        ("failure", {"bounce"}),
        ("expiry", {"expiration"}),
    ],
)
def test_the_queue_says_of_what_senders_are_told(dsn, told_of):
    rules = settings(dsn=dsn)

    assert bool(settled(attempt(NO_SUCH_USER), rules).new_messages) == ("bounce" in told_of)
    assert bool(settled(attempt(FULL), rules, DAY).new_messages) == ("expiration" in told_of)


def test_nobody_is_told_of_what_an_administrator_bounced_or_of_circles():
    tried = attempt(NO_SUCH_USER)
    bounce = settled(tried).records[0]
    loop = Response(code=554, enhanced_code=(5, 4, 6), internal=True)

    for changed in (
        replace(bounce, type=RecordType.ADMIN_BOUNCE),
        replace(bounce, response=loop),
    ):
        settlement = Settlement(entry_id=1, remaining=(), records=(changed,))
        assert told_records(settlement, tried, settings()) == ()


def test_the_notice_comes_from_the_address_that_is_set():
    rules = settings(dsn_from="bounces@ops.example")

    ours = email.message_from_bytes(settled(attempt(NO_SUCH_USER)).new_messages[0].body)
    theirs = email.message_from_bytes(settled(attempt(NO_SUCH_USER), rules).new_messages[0].body)

    assert ours["From"] == "Mail Delivery System <mailer-daemon@mta1.sender.example>"
    assert theirs["From"] == "Mail Delivery System <bounces@ops.example>"


@given(
    st.lists(st.sampled_from([NO_SUCH_USER, FULL, TAKEN]), min_size=1, max_size=6),
    st.sampled_from([0.0, DAY]),
)
def test_a_sender_hears_once_of_each_recipient_that_is_given_up(responses, now):
    settlement = settled(attempt(*responses), now=now)

    given_up = {
        f"rfc822; r{number}@big.example"
        for number, response in enumerate(responses)
        if response is NO_SUCH_USER or (response is FULL and now)
    }
    told = [recipient for recipient, _ in statuses(settlement)] if given_up else []
    assert sorted(told) == sorted(given_up)
    assert len(settlement.new_messages) == bool(given_up)
