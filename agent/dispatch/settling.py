"""
Settling: what an attempt's results change in the spool, and the records that say so.

No input or output: time and chance are arguments.
"""

from collections.abc import Callable, Sequence

import msgspec

from agent.delivery import internal
from agent.delivery.classify import RecipientResult, Result
from agent.delivery.record import Peer, Record, RecordType, Response
from agent.policy.answer import PathPolicy
from agent.queue.backoff import is_too_old, retry_delay
from agent.queue.entry import Entry
from agent.queue.names import QueueName
from agent.settings import QueueSettings
from agent.spool.messages import LastReply, Settlement, SpooledMessage

_TYPES = {
    Result.DELIVERED: RecordType.DELIVERY,
    Result.TRANSIENT: RecordType.TRANSIENT_FAILURE,
    Result.AGAIN: RecordType.TRANSIENT_FAILURE,
    Result.PERMANENT: RecordType.BOUNCE,
}


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """The way that mail took or would have taken, for its records."""

    pool: str = ""
    source: str = ""
    policy: PathPolicy | None = None
    source_address: str = ""
    peer: Peer | None = None
    session_id: str = ""
    tls_version: str = ""
    tls_cipher: str = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One entry's attempt: what was tried and what became of each recipient."""

    entry: Entry
    queue: QueueName
    message: SpooledMessage
    way: Way
    results: Sequence[RecipientResult]
    #: Recipients that were not tried, to be sent on without an attempt used for their sake.
    unsent: tuple[str, ...] = ()
    #: Log what happened, but use up no attempt: another host is tried at once.
    goes_on: bool = False


class Chance(msgspec.Struct, frozen=True, kw_only=True):
    """What a settlement needs besides the facts."""

    now: float
    #: From 0 up to 1.
    jitter: float
    event_id: Callable[[], str]


def settle_attempt(attempt: Attempt, settings: QueueSettings, chance: Chance) -> Settlement:
    """Work out what the attempt changes. Mail that would wait beyond its age ends here."""
    entry = attempt.entry
    records = _result_records(attempt, chance)
    put_off = [
        each.recipient
        for each in attempt.results
        if each.result in (Result.TRANSIENT, Result.AGAIN)
    ]
    remaining = (*put_off, *attempt.unsent)
    last_reply = _last_reply(attempt, chance.now)
    if attempt.goes_on or not put_off:
        return Settlement(
            entry_id=entry.id,
            remaining=remaining,
            due=entry.due,
            attempts=entry.attempts,
            records=tuple(records),
            last_reply=last_reply,
        )
    delay = retry_delay(
        entry.attempts,
        retry_interval=settings.retry_interval,
        max_retry_interval=settings.max_retry_interval,
        jitter=chance.jitter,
    )
    due = chance.now + delay.total_seconds()
    if is_too_old(created=entry.created, next_attempt=due, max_age=settings.max_age):
        records.append(_expiration(attempt, remaining, due, settings, chance))
        remaining = ()
    return Settlement(
        entry_id=entry.id,
        remaining=remaining,
        due=due,
        attempts=entry.attempts + 1,
        records=tuple(records),
        last_reply=last_reply,
    )


def expire(attempt: Attempt, settings: QueueSettings, chance: Chance) -> Settlement:
    """End an entry that has grown too old without a further attempt."""
    recipients = attempt.message.recipients
    record = _expiration(attempt, recipients, chance.now, settings, chance)
    return Settlement(entry_id=attempt.entry.id, remaining=(), records=(record,))


def delayed_record(attempt: Attempt, response: Response, chance: Chance) -> Record:
    """Say that mail waits without an attempt being used."""
    return _record(attempt, RecordType.DELAYED, response, attempt.message.recipients, chance)


def same_for_all(message: SpooledMessage, response: Response) -> list[RecipientResult]:
    """One internally made response for every recipient."""
    result = Result.PERMANENT if 500 <= response.code < 600 else Result.TRANSIENT
    return [
        RecipientResult(recipient=recipient, result=result, response=response)
        for recipient in message.recipients
    ]


def _last_reply(attempt: Attempt, now: float) -> LastReply | None:
    """What put the attempt's recipients off, the last of it; None: nothing did."""
    replies = [
        each.response for each in attempt.results if each.result in (Result.TRANSIENT, Result.AGAIN)
    ]
    if not replies:
        return None
    peer = attempt.way.peer
    is_of_peer = peer is not None and not replies[-1].internal
    return LastReply(response=replies[-1], time=now, peer=peer.name if peer and is_of_peer else "")


def _result_records(attempt: Attempt, chance: Chance) -> list[Record]:
    """One record for all recipients that met the same reply."""
    if len(attempt.results) == 1:
        (each,) = attempt.results
        return [_record(attempt, _type_of(each), each.response, (each.recipient,), chance)]
    groups: dict[tuple[RecordType, Response], list[str]] = {}
    for each in attempt.results:
        groups.setdefault((_type_of(each), each.response), []).append(each.recipient)
    return [
        _record(attempt, type_, response, tuple(recipients), chance)
        for (type_, response), recipients in groups.items()
    ]


def _type_of(each: RecipientResult) -> RecordType:
    if internal.is_ordered(each.response):
        return RecordType.ADMIN_BOUNCE
    return _TYPES[each.result]


def _expiration(
    attempt: Attempt,
    recipients: tuple[str, ...],
    due: float,
    settings: QueueSettings,
    chance: Chance,
) -> Record:
    response = internal.expired(due - attempt.entry.created, settings.max_age.total_seconds())
    return _record(attempt, RecordType.EXPIRATION, response, recipients, chance)


def _record(
    attempt: Attempt,
    type_: RecordType,
    response: Response,
    recipients: tuple[str, ...],
    chance: Chance,
) -> Record:
    entry, message, way, policy = attempt.entry, attempt.message, attempt.way, attempt.way.policy
    return Record(
        type=type_,
        event_id=chance.event_id(),
        timestamp=chance.now,
        id=message.message_id,
        sender=message.sender,
        recipients=recipients,
        response=response,
        created=entry.created,
        queue=entry.queue_name,
        site=policy.path_name if policy else "",
        site_name=policy.site_name if policy else "",
        routing_domain=attempt.queue.next_domain,
        recipient_domain=attempt.queue.domain,
        size=len(message.body),
        num_attempts=entry.attempts,
        egress_pool=way.pool,
        egress_source=way.source,
        source_address=way.source_address,
        provider_name=policy.provider_name if policy else "",
        # As queued now: mail may have been bound to another tenant since it came.
        tenant=attempt.queue.tenant,
        campaign=attempt.queue.campaign,
        peer_address=way.peer,
        delivery_protocol=_protocol(policy),
        reception_protocol=message.reception_protocol,
        session_id=way.session_id,
        tls_protocol_version=way.tls_version,
        tls_cipher=way.tls_cipher,
    )


def _protocol(policy: PathPolicy | None) -> str:
    if policy is None:
        return ""
    return "LMTP" if policy.config.use_lmtp else "ESMTP"
