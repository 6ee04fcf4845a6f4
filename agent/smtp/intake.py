"""
Intake: the one way into the agent, for SMTP and gRPC alike.

A message is checked, gets its id and its trace field, is made safe in the spool, and only then
handed to the queues and the log. Whoever calls may answer "accepted" once it has the id, and not
before.
"""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Protocol

import msgspec

from agent.delivery.record import Peer, Record, RecordType, Response
from agent.errors import BadContent, BadRecipient, OverLimit, SpoolUnavailable, TryLater
from agent.queue.entry import Entry
from agent.queue.names import QueueName, label_mistake
from agent.settings import Settings
from agent.smtp.addresses import domain_of, parse_recipient, parse_sender
from agent.smtp.content import (
    FieldFinder,
    check_hops,
    has_bare_line_end,
    has_long_line,
    received_field,
    split_header,
)
from agent.smtp.message_ids import MessageIds
from agent.smtp.refusals import Refusals
from agent.spool.messages import Destination, NewMessage
from agent.spool.space import FreeSpace

logger = logging.getLogger(__name__)

_QUEUED = Response(code=250, enhanced_code=(2, 0, 0), content="queued", internal=True)
#: What clients and readiness say while the spool can't be written.
NOT_STORED = "mail can't be stored now; try again later"


class MailStore(Protocol):
    """What the intake needs of a spool."""

    def add(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[Entry]]:
        """Store messages durably; return their entries. Errors: `SpoolUnavailable`."""

    @property
    def entry_count(self) -> int:
        """How many entries are queued."""


class IncomingMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it was handed to us."""

    sender: str
    recipients: tuple[str, ...]
    #: As of RFC 5322, every line with CRLF.
    content: bytes
    #: Whether a line of it may begin with a dot.
    may_have_dots: bool = True
    #: "ESMTP", "SMTP", "UTF8SMTP", the first and the last also with "S" for TLS, or "gRPC".
    protocol: str
    #: Whether addresses may be written in UTF-8.
    smtp_utf8: bool = False
    #: Wins over the header field.
    tenant: str = ""
    campaign: str = ""
    #: The client's name for itself, and its address.
    helo: str = ""
    peer: str = ""
    #: Such as "TLSv1.3" and OpenSSL's name of a cipher; empty: in clear.
    tls_version: str = ""
    tls_cipher: str = ""


class Intake:
    """Takes mail in; *accept* gets the entries and *log* the records of each message."""

    def __init__(
        self,
        settings: Settings,
        store: MailStore,
        *,
        accept: Callable[[list[Entry]], None],
        log: Callable[[Sequence[Record]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.hostname = socket.gethostname()
        self.refusals = Refusals()
        self._limits = settings.listen
        self._most_queued = settings.spool.max_messages
        self._space = FreeSpace(settings.spool_dir, settings.spool.min_free_space)
        self._store = store
        self._accept = accept
        self._log = log
        self._clock = clock
        self._ids = MessageIds(secrets.randbits)
        self._tenant_field = FieldFinder(settings.listen.tenant_header)
        self._campaign_field = FieldFinder(settings.listen.campaign_header)
        self._storing: set[asyncio.Future[list[Entry]]] = set()
        #: Bytes on their way into the spool: a slow disk must not fill the memory.
        self._in_flight = 0
        self._most_in_flight = settings.listen.most_buffered

    async def receive(self, incoming: IncomingMessage) -> str:
        """
        Take a message; return its id once it is durably on disk. Errors: a `Refusal`, and then
        nothing of the message is kept.
        """
        return await self.take(incoming)

    def take(self, incoming: IncomingMessage) -> asyncio.Future[str]:
        """Do what `receive` does, for callers that wait otherwise; a refusal may come at once."""
        self.check_room()
        size = len(incoming.content)
        if self._in_flight and self._in_flight + size > self._most_in_flight:
            raise TryLater("too much mail at one time; try again later", enhanced_code="4.3.1")
        now = self._clock()
        message = self._make_message(incoming, now)
        self._in_flight += size
        taken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Nobody else has this one, to cancel it: once handed to the spool the message must reach
        # the queues too, even if the client is gone.
        stored = self._store.add([message])
        self._storing.add(stored)
        stored.add_done_callback(partial(self._on_stored, message, incoming, taken))
        return taken

    def check_room(self) -> None:
        """Refuse while the agent must protect itself. Errors: `TryLater`."""
        if self._store.entry_count >= self._most_queued:
            raise TryLater("too many messages are queued; try again later", enhanced_code="4.3.1")
        try:
            is_low = self._space.is_low(self._clock())
        except OSError as error:
            raise TryLater(NOT_STORED) from error
        if is_low:
            raise TryLater(
                "too little free disk space; try again later", code=452, enhanced_code="4.3.1"
            )

    async def drain(self) -> None:
        """Wait for messages that are on their way into the spool."""
        if self._storing:
            await asyncio.wait(self._storing)

    def _on_stored(
        self,
        message: NewMessage,
        incoming: IncomingMessage,
        taken: asyncio.Future[str],
        stored: asyncio.Future[list[Entry]],
    ) -> None:
        self._storing.discard(stored)
        self._in_flight -= len(incoming.content)
        error = stored.exception()
        if error is None:
            self._hand_on(message, incoming, stored.result())
        elif isinstance(error, SpoolUnavailable):
            refusal = TryLater(NOT_STORED)
            refusal.__cause__ = error
            error = refusal
        if taken.done():
            # Nobody waits any more.
            return
        if error is None:
            taken.set_result(message.id)
        else:
            taken.set_exception(error)

    def _hand_on(
        self, message: NewMessage, incoming: IncomingMessage, entries: list[Entry]
    ) -> None:
        self._accept(entries)
        try:
            self._log(_reception_records(message, incoming))
        except OSError as error:
            # The message is safe: refusing it now would make the client send it twice.
            logger.warning("reception can't be logged", extra={"reason": str(error)})

    def _make_message(self, incoming: IncomingMessage, now: float) -> NewMessage:
        limits = self._limits
        if len(incoming.content) > limits.max_message_size:
            raise OverLimit(f"larger than {limits.max_message_size} bytes", field="content")
        if has_bare_line_end(incoming.content):
            raise BadContent("a CR or LF stands alone; lines end with CRLF", field="content")
        if b"\0" in incoming.content:
            # RFC 2045 2.8. Hosts that drop it may see the end of the message behind it.
            raise BadContent("a NUL byte; encode the part it is in", field="content")
        if limits.max_line_length and has_long_line(incoming.content, limits.max_line_length):
            raise BadContent(
                f"a line is longer than {limits.max_line_length} bytes; encode the part it is in",
                field="content",
            )
        sender = parse_sender(incoming.sender, smtp_utf8=incoming.smtp_utf8)
        header, rest = split_header(incoming.content)
        check_hops(header, limits.max_hops)
        tenant, header = self._tenant_field.take(header)
        campaign, header = self._campaign_field.take(header)
        tenant = _checked_label("tenant", incoming.tenant or tenant)
        campaign = _checked_label("campaign", incoming.campaign or campaign)
        message_id = self._ids.next(now)
        trace = received_field(
            helo=incoming.helo,
            peer=incoming.peer,
            hostname=self.hostname,
            protocol=incoming.protocol,
            message_id=message_id,
            now=now,
            tls=f"{incoming.tls_version} {incoming.tls_cipher}".strip(),
        )
        return NewMessage(
            id=message_id,
            sender=sender,
            destinations=self._destinations(incoming, tenant, campaign),
            body=b"".join((trace, header, rest)),
            # Nothing stands alone that ends a line, as was seen above.
            is_plain=not incoming.may_have_dots,
            created=now,
            tenant=tenant,
            campaign=campaign,
            reception_protocol="gRPC" if incoming.protocol == "gRPC" else "ESMTP",
        )

    def _destinations(
        self, incoming: IncomingMessage, tenant: str, campaign: str
    ) -> tuple[Destination, ...]:
        """Group the recipients by domain, each once, in the order they came."""
        if not incoming.recipients:
            raise BadRecipient("at least one recipient is needed", field="recipients")
        if len(incoming.recipients) > self._limits.max_recipients:
            raise OverLimit(
                f"more than {self._limits.max_recipients} recipients",
                field="recipients",
                code=452,
                enhanced_code="4.5.3",
            )
        by_domain: dict[str, dict[str, None]] = {}
        for number, text in enumerate(incoming.recipients):
            address = parse_recipient(text, smtp_utf8=incoming.smtp_utf8, number=number)
            by_domain.setdefault(domain_of(address), {})[address] = None
        return tuple(
            [
                Destination(
                    queue_name=_queue_name(domain, tenant, campaign),
                    recipients=tuple(addresses),
                )
                for domain, addresses in by_domain.items()
            ]
        )


@lru_cache(maxsize=2048)
def _queue_name(domain: str, tenant: str, campaign: str) -> str:
    return str(QueueName(domain=domain, tenant=tenant, campaign=campaign))


def _checked_label(field: str, value: str) -> str:
    if value and (mistake := label_mistake(value)):
        raise BadContent(f"{field} {mistake}", field=field)
    return value


def _reception_records(message: NewMessage, incoming: IncomingMessage) -> list[Record]:
    """One record for each destination."""
    peer = Peer(name=incoming.helo, addr=incoming.peer) if incoming.peer else None
    return [
        Record(
            type=RecordType.RECEPTION,
            event_id=f"{message.id}-reception-{number}",
            timestamp=message.created,
            id=message.id,
            sender=message.sender,
            recipients=destination.recipients,
            response=_QUEUED,
            created=message.created,
            queue=destination.queue_name,
            recipient_domain=domain_of(destination.recipients[0]),
            size=len(message.body),
            tenant=message.tenant,
            campaign=message.campaign,
            peer_address=peer,
            reception_protocol=message.reception_protocol,
            tls_protocol_version=incoming.tls_version,
            tls_cipher=incoming.tls_cipher,
        )
        for number, destination in enumerate(message.destinations)
    ]
