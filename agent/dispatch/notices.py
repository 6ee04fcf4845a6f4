"""
Notices: whether a sender is told of a settlement's failures, and the message that does it.

Rules:

1. Senders are told of permanent failures and of mail that grew too old, as the queue's `dsn` has
   it; never of what an administrator bounced, nor of mail that we found to go in circles.
2. Mail from the null sender brings nothing about, so a notice that fails ends there.
3. One settlement makes at most one notice, for all its recipients.
4. A notice is mail like any other: to the queue of the sender's domain, for the tenant of the
   original. Not for its campaign: what is in force against a campaign is meant for its content.

No input or output: the id and the time are arguments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agent.delivery.dsn import Failure, Report, TellSender, build_dsn
from agent.delivery.record import Record, RecordType, Response
from agent.dispatch.settling import Attempt
from agent.queue.names import QueueName
from agent.settings import QueueSettings
from agent.spool.messages import Destination, NewMessage, Settlement

_TOLD_OF = {
    TellSender.ALWAYS: frozenset({RecordType.BOUNCE, RecordType.EXPIRATION}),
    TellSender.FAILURE: frozenset({RecordType.BOUNCE}),
    TellSender.EXPIRY: frozenset({RecordType.EXPIRATION}),
    TellSender.NEVER: frozenset[RecordType](),
}
#: RFC 3463: routing loop detected.
_LOOP = (5, 4, 6)
_QUEUED = Response(code=250, enhanced_code=(2, 0, 0), content="queued", internal=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a notice comes from."""

    #: Its id, as of any message in the spool.
    message_id: str
    #: The name of the host that reports.
    host_name: str


def told_records(
    settlement: Settlement, attempt: Attempt, settings: QueueSettings
) -> tuple[Record, ...]:
    """The records of *settlement* that the sender is to be told of; none: no notice."""
    if not settlement.records or "@" not in attempt.message.sender:
        return ()
    told_of = _TOLD_OF[settings.dsn]
    return tuple(
        record
        for record in settlement.records
        if record.type in told_of
        and not (record.response.internal and record.response.enhanced_code == _LOOP)
    )


def with_notice(
    settlement: Settlement,
    told: Sequence[Record],
    attempt: Attempt,
    settings: QueueSettings,
    origin: Origin,
) -> Settlement:
    """The settlement with a notice that tells of *told*, at least one, and its Reception record."""
    message = _make_message(told, attempt, settings, origin)
    return replace(
        settlement,
        new_messages=(*settlement.new_messages, message),
        records=(*settlement.records, _reception(message)),
    )


def _make_message(
    told: Sequence[Record], attempt: Attempt, settings: QueueSettings, origin: Origin
) -> NewMessage:
    original = attempt.message
    now = told[0].timestamp
    body = build_dsn(
        Report(
            id=origin.message_id,
            reporting_mta=origin.host_name,
            mail_from=settings.dsn_from or f"mailer-daemon@{origin.host_name}",
            to=original.sender,
            now=now,
            arrival=original.created,
            failures=tuple(_failures(told, attempt)),
            original=original.body,
        )
    )
    domain = original.sender.rpartition("@")[2]
    return NewMessage(
        id=origin.message_id,
        sender="",
        destinations=(
            Destination(
                queue_name=str(QueueName(domain=domain, tenant=attempt.queue.tenant)),
                recipients=(original.sender,),
            ),
        ),
        body=body,
        created=now,
        tenant=attempt.queue.tenant,
        reception_protocol="DSN",
    )


def _failures(told: Sequence[Record], attempt: Attempt) -> Iterator[Failure]:
    said = {each.recipient: each.response for each in attempt.results}
    for record in told:
        is_expired = record.type is RecordType.EXPIRATION
        for recipient in record.recipients:
            yield Failure(
                recipient=recipient,
                response=record.response,
                last_response=said.get(recipient) if is_expired else None,
                is_expired=is_expired,
                remote_mta=attempt.way.peer.name if attempt.way.peer else "",
                last_attempt=record.timestamp if attempt.results else None,
            )


def _reception(message: NewMessage) -> Record:
    (destination,) = message.destinations
    return Record(
        type=RecordType.RECEPTION,
        event_id=f"{message.id}-reception-0",
        timestamp=message.created,
        id=message.id,
        sender=message.sender,
        recipients=destination.recipients,
        response=_QUEUED,
        created=message.created,
        queue=destination.queue_name,
        recipient_domain=destination.recipients[0].rpartition("@")[2],
        size=len(message.body),
        tenant=message.tenant,
        reception_protocol=message.reception_protocol,
    )
