"""
SmtpListener: the SMTP port. Connects sessions, which know the protocol, with the intake.

One asyncio protocol a connection, in the agent's own event loop. While a message is on its way
into the spool, or the client does not read its replies, no more than one piece is read from that
client.
"""

import asyncio
import logging
import ssl
from collections import Counter
from ipaddress import ip_address
from typing import cast

from agent.errors import Refusal
from agent.settings import Settings
from agent.smtp.certificate import Certificate
from agent.smtp.intake import IncomingMessage, Intake
from agent.smtp.session import Reply, Session, SessionLimits, Submission

logger = logging.getLogger(__name__)

_NOT_RELAYED = Reply("554 5.7.1 this host may not send mail here", closes=True)
_TOO_MANY = Reply("421 4.3.2 too many connections; try again later", closes=True)
_TOO_MANY_OF_ONE = Reply("421 4.7.0 too many connections from your address", closes=True)
_TIMED_OUT = Reply("421 4.4.2 silent or slow for too long; goodbye", closes=True)
_TOO_MUCH = Reply("421 4.3.1 too much mail at one time; try again later", closes=True)
_STOPPING = Reply("421 4.3.2 going down; try again later", closes=True)
_BROKEN = "451 4.3.0 something went wrong here; try again later"


#: A client with fewer bytes in memory is never the one to be sent away.
_SMALL = 64 * 1024
#: Replies gathered before they are sent: a client that reads none is noticed after so many bytes.
_MOST_GATHERED = 16 * 1024
#: Bytes that gain a client another second: one that trickles can't hold a place for long.
_LEAST_RATE = 500.0
#: How long a client may take to read our last reply, in seconds.
_LINGER_SECONDS = 5.0
#: How long a client may take over the TLS handshake, in seconds.
_HANDSHAKE_SECONDS = 30.0


class SmtpListener:
    """The listening port and its connections."""

    def __init__(self, settings: Settings, intake: Intake) -> None:
        """Read the certificate, if there is one. Errors: `SettingsError`."""
        self._listen = settings.listen
        self._networks = settings.relay_networks
        self._server: asyncio.Server | None = None
        self.intake = intake
        self.connections: set[_Connection] = set()
        #: Those by client address.
        self.by_peer: Counter[str] = Counter()
        self.limits = SessionLimits(
            hostname=intake.hostname,
            max_message_size=settings.listen.max_message_size,
            max_recipients=settings.listen.max_recipients,
            offers_tls=settings.listen.certificate_files is not None,
        )
        files = settings.listen.certificate_files
        self.certificate = Certificate(files) if files is not None else None
        #: TLS handshakes that ended well, and that did not, since the start.
        self.handshakes = 0
        self.handshake_failures = 0
        #: Connections that came in since the start, those that were not served too.
        self.accepted = 0
        #: Bytes of all clients in memory, and how many there may be.
        self.buffered = 0
        self.most_buffered = settings.listen.most_buffered
        self.client_timeout = settings.listen.client_timeout.total_seconds()

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before `start`."""
        if self._server is None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, *, is_shared: bool = False) -> None:
        """Begin to listen; *is_shared*: beside other processes on one port. Errors: `OSError`."""
        loop = asyncio.get_running_loop()
        address = self._listen.smtp
        self._server = await loop.create_server(
            lambda: _Connection(self),
            address.host,
            address.port,
            backlog=512,
            reuse_port=is_shared or None,
        )
        logger.info("smtp listens", extra={"host": address.host, "port": self.port})

    async def stop(self, deadline: float = 10.0) -> None:
        """Take no more mail, answer what is on its way in (at most *deadline* seconds), close."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.stop()
        open_connections = [connection.closed for connection in self.connections]
        if open_connections:
            await asyncio.wait(open_connections, timeout=deadline)
        for connection in tuple(self.connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    def refusal_of(self, peer: str) -> Reply | None:
        """Why a client at *peer* is not served, if so."""
        if len(self.connections) >= self._listen.max_connections:
            return _TOO_MANY
        if self.by_peer[peer] >= self._listen.max_connections_per_client:
            return _TOO_MANY_OF_ONE
        address = ip_address(peer)
        mapped = getattr(address, "ipv4_mapped", None)
        if not any((mapped or address) in network for network in self._networks):
            return _NOT_RELAYED
        return None

    def admit(self, connection: "_Connection", peer: str) -> None:
        """Count a connection that is served."""
        self.connections.add(connection)
        self.by_peer[peer] += 1

    def forget(self, connection: "_Connection", peer: str) -> None:
        """A connection has ended, whether it was served or not."""
        if connection not in self.connections:
            return
        self.connections.remove(connection)
        self.by_peer[peer] -= 1
        if not self.by_peer[peer]:
            del self.by_peer[peer]


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, listener: SmtpListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._session = Session(listener.limits, listener.intake.check_room)
        self._transport: asyncio.Transport | None = None
        #: What is under way that the client has to wait for: a message to be stored, or TLS.
        self._pending: asyncio.Future[str] | asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: When it last did something, by the loop's clock; bytes alone move it a little.
        self._last_heard = 0.0
        self._peer = ""
        self._held = 0
        self._is_blocked = False
        self._is_reading = True
        self._is_stopping = False
        #: The client says no more, but may listen.
        self._has_hung_up = False
        #: From STARTTLS until TLS is there nothing of ours may be sent.
        self._is_starting_tls = False
        self._tls_version = self._tls_cipher = ""
        #: Done when the connection is.
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._listener.accepted += 1
        peer = transport.get_extra_info("peername")
        if not peer:
            # It hung up before it was served; without an address it can't be let in either.
            self.abort()
            return
        self._peer = peer[0].partition("%")[0]
        refusal = self._listener.refusal_of(self._peer)
        if refusal is not None:
            logger.info("smtp client refused", extra={"peer": self._peer, "reply": refusal.text})
            self._send(refusal)
            return
        self._listener.admit(self, self._peer)
        self._last_heard = self._loop.time()
        self._watch()
        self._send(self._session.greeting())

    def data_received(self, data: bytes) -> None:
        self._last_heard = min(self._loop.time(), self._last_heard + len(data) / _LEAST_RATE)
        if self._is_starting_tls and self._is_in_clear():
            self.abort()
            return
        self._session.feed(data)
        if self._is_starting_tls:
            # It came with the end of the handshake, which is about to be reported.
            return
        self._go_on()
        if self._listener.buffered > self._listener.most_buffered and self._held > _SMALL:
            self._send(_TOO_MUCH)

    def eof_received(self) -> bool:
        # What has come is still answered; no more will.
        self._has_hung_up = True
        # TLS closes both ways at once.
        return self._pending is not None and not self._tls_version and not self._is_starting_tls

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._count_bytes(0)
        self._listener.forget(self, self._peer)
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._is_blocked = True
        self._set_reading()

    def resume_writing(self) -> None:
        self._is_blocked = False
        self._go_on()

    def stop(self) -> None:
        """Close as soon as nothing is on its way in."""
        self._is_stopping = True
        if self._is_starting_tls:
            self.abort()
        elif self._pending is None:
            self._send(_STOPPING)

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def _go_on(self) -> None:
        """Do what the session asks for until it waits for the client or the spool."""
        replies: list[Reply] = []
        gathered = 0
        while self._pending is None and not self._is_blocked and self._session.has_unread:
            action = self._session.next_action()
            if action is None:
                break
            self._last_heard = self._loop.time()
            if isinstance(action, Submission):
                # What came before it is answered first, whatever comes of the message.
                if replies:
                    self._send(*replies)
                replies, gathered = [], 0
                action = self._take(action)
                if action is None:
                    break
            replies.append(action)
            if action.starts_tls:
                self._begin_tls(replies)
                return
            gathered += len(action.text)
            if gathered > _MOST_GATHERED:
                # Sending may block the client, and so end the loop.
                self._send(*replies)
                replies, gathered = [], 0
        if replies:
            self._send(*replies)
        self._set_reading()
        if self._has_hung_up and self._pending is None and not self._is_blocked:
            self._close()
        if self._transport is not None:
            self._count_bytes(self._session.buffered)

    def _is_in_clear(self) -> bool:
        """Whether what comes in reaches us directly, and not by way of TLS."""
        return self._transport is None or self._transport.get_protocol() is self

    def _begin_tls(self, replies: list[Reply]) -> None:
        self._send(*replies)
        transport, certificate = self._transport, self._listener.certificate
        if transport is None or transport.is_closing() or certificate is None:
            return
        # Before anything else can come in clear; the handshake reads on.
        transport.pause_reading()
        self._is_starting_tls = True
        self._pending = self._loop.create_task(self._start_tls(transport, certificate.context()))

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            secured = await self._loop.start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
            # Nothing at all is given back where the connection ended meanwhile.
            cipher = secured.get_extra_info("cipher") if secured is not None else None
            if secured is None or cipher is None:
                raise ConnectionResetError("the connection ended")
        except OSError as error:
            self._listener.handshake_failures += 1
            facts = {"peer": self._peer, "reason": str(error)}
            logger.info("smtp client began no tls", extra=facts)
            transport.abort()
            self.connection_lost(None)
            return
        self._listener.handshakes += 1
        self._transport = secured
        self._tls_cipher, self._tls_version = cipher[0], cipher[1]
        # Of the connection below; that of TLS tells anew.
        self._is_blocked, self._is_reading = False, True
        self._is_starting_tls, self._pending = False, None
        self._last_heard = self._loop.time()
        self._session.tls_started()
        if self._is_stopping or self._has_hung_up:
            self._send(_STOPPING)
        else:
            self._go_on()

    def _count_bytes(self, held: int) -> None:
        self._listener.buffered += held - self._held
        self._held = held

    def _take(self, submission: Submission) -> Reply | None:
        """Have a message stored, which is answered later; the reply, if it is refused at once."""
        try:
            self._pending = taken = self._listener.intake.take(
                IncomingMessage(
                    sender=submission.sender,
                    recipients=submission.recipients,
                    content=submission.content,
                    may_have_dots=submission.has_dots,
                    protocol=submission.protocol,
                    smtp_utf8=submission.smtp_utf8,
                    helo=submission.helo,
                    peer=self._peer,
                    tls_version=self._tls_version,
                    tls_cipher=self._tls_cipher,
                )
            )
        # Supervisor: a fault of ours must not leave the client without an answer.
        except Exception as error:
            return self._session.answer(_answer_to(error))
        taken.add_done_callback(self._on_taken)
        return None

    def _on_taken(self, taken: asyncio.Future[str]) -> None:
        error = taken.exception()
        text = f"250 2.0.0 queued as {taken.result()}" if error is None else _answer_to(error)
        self._pending = None
        self._last_heard = self._loop.time()
        self._send(self._session.answer(text))
        if self._is_stopping:
            self._send(_STOPPING)
        else:
            self._go_on()

    def _send(self, *replies: Reply) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        lines, closes = [], False
        for reply in replies:
            if reply.text >= "4":
                # 4xx or 5xx.
                self._listener.intake.refusals.count(reply.text)
            lines.append(reply.encode())
            closes = closes or reply.closes
        self._transport.write(b"".join(lines))
        if closes:
            self._close()

    def _close(self) -> None:
        """Close once the client has read what was sent, or has had time to."""
        if self._transport is None:
            return
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        # A transport closes only after the client has read all of it, which may be never.
        self._timer = self._loop.call_later(_LINGER_SECONDS, self.abort)

    def _set_reading(self) -> None:
        if self._transport is None or self._transport.is_closing() or self._is_starting_tls:
            return
        # While a message is stored most clients wait for the answer: they need not be held back.
        must_wait = self._is_blocked or (self._pending is not None and self._session.has_unread)
        if must_wait is not self._is_reading:
            return
        self._is_reading = not must_wait
        if must_wait:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _watch(self) -> None:
        """
        Close a client that is silent, or trickles; a message on its way into the spool is not the
        client's silence.
        """
        silent = self._loop.time() - self._last_heard
        timeout = self._listener.client_timeout
        if silent >= timeout and self._pending is None:
            self._send(_TIMED_OUT)
            return
        wait = timeout - silent if silent < timeout else timeout
        self._timer = self._loop.call_later(wait, self._watch)


def _answer_to(error: BaseException) -> str:
    """What a client hears of a message that was not taken."""
    if isinstance(error, Refusal):
        return error.reply
    logger.error("message not taken", exc_info=error)
    return _BROKEN
