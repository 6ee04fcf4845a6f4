"""
Peer: one SMTP connection, from the socket to QUIT. aiosmtplib connects, greets, upgrades and
authenticates; from the first transaction on commands go over a `Wire`, pipelined where the peer
offers it (RFC 2920).

A connection of which something came that is no reply, or nothing in time, is `Broken`, and gone.
What replies mean is decided in `agent.delivery`.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import cast

import aiosmtplib

from agent.delivery import internal
from agent.delivery.classify import Replies, parse_reply
from agent.delivery.dane import Authenticated, Mismatch
from agent.delivery.envelope import MailCommand
from agent.delivery.plan import Candidate
from agent.delivery.record import Peer as PeerName
from agent.delivery.record import Response
from agent.delivery.tls import Handshake
from agent.dispatch.certificates import peer_chain
from agent.dispatch.dialogue import Broken, Dialogue
from agent.dispatch.options import PathOptions
from agent.dispatch.transaction import Transaction
from agent.dispatch.wire import Wire
from agent.errors import AgentError

#: How long a farewell may take, in seconds.
_QUIT_SECONDS = 2.0
# Linux: choose the port at connect, so that it need not be unique for the source address.
_IP_BIND_ADDRESS_NO_PORT = 24


class Peer:
    """An open connection."""

    def __init__(
        self,
        smtp: aiosmtplib.SMTP,
        candidate: Candidate,
        options: PathOptions,
        on_progress: Callable[[str], None],
    ) -> None:
        """
        *on_progress* is told what is waited for next, after every reply and every part of a message
        that went.
        """
        self._smtp = smtp
        self._timeouts = options.timeouts
        self._may_pipeline = options.enable_pipelining
        self._use_lmtp = options.use_lmtp
        #: From the first transaction on.
        self._wire: Wire | None = None
        self.candidate = candidate
        #: The host, for records.
        self.name = PeerName(name=candidate.host, addr=candidate.address)
        self.tls_version = ""
        self.tls_cipher = ""
        #: Over TLS with a certificate that was checked.
        self.is_verified = False
        #: The name for which a DANE authority's certificate was accepted; empty: none was.
        self.accepted_name = ""
        #: What cut the last transaction short.
        self.failure: Broken | None = None
        self._source_address = ""
        self.on_progress = on_progress
        self._dialogue = Dialogue(self._take_over, on_progress, self.abort)

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return self._smtp.is_connected if self._wire is None else self._wire.is_open

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is up."""
        return bool(self.tls_version)

    @property
    def offered(self) -> Collection[str]:
        """The EHLO keywords of the peer, in lower case."""
        return self._smtp.esmtp_extensions.keys()

    @property
    def source_address(self) -> str:
        """The local address of the connection."""
        if not self._source_address and self._smtp.is_connected:
            name = self._smtp.get_transport_info("sockname")
            self._source_address = str(name[0]) if name else ""
        return self._source_address

    async def greet(self, ehlo_domain: str, *, use_lmtp: bool = False) -> None:
        """Send EHLO, or LHLO. Errors: `Broken`, also where the reply is not 250."""
        verb = b"LHLO" if use_lmtp else b"EHLO"
        response = await self._raw(
            verb, ehlo_domain.encode("ascii", "replace"), timeout=self._timeouts.ehlo
        )
        if response.code != 250:
            raise Broken(_reply(response, verb.decode()))
        self._smtp.last_ehlo_response = response

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_name: str = "",
        check: Callable[[Sequence[bytes]], Authenticated | Mismatch] | None = None,
    ) -> tuple[Handshake, str]:
        """
        Send STARTTLS and shake hands; how it went, and what went wrong. *server_name*: other than
        the host's; *check* judges the peer's certificates (DER, its own first) in place of the
        context.
        """
        try:
            await self._smtp.starttls(
                tls_context=context,
                server_hostname=server_name or self.candidate.host,
                timeout=self._timeouts.starttls,
            )
        except aiosmtplib.SMTPTimeoutError:
            return Handshake.REFUSED, "STARTTLS timed out"
        except aiosmtplib.SMTPResponseException as error:
            return Handshake.REFUSED, f"STARTTLS: {error.code}"
        except (ssl.SSLError, ssl.CertificateError) as error:
            return Handshake.FAILED, f"TLS: {getattr(error, 'verify_message', '') or error.reason}"
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return Handshake.FAILED, f"TLS: {type(error).__name__}"
        self.is_verified = context.verify_mode is ssl.CERT_REQUIRED
        if check is not None:
            verdict = check(peer_chain(self._smtp.get_transport_info("ssl_object")))
            if isinstance(verdict, Mismatch):
                return Handshake.FAILED, f"DANE: {verdict.reason}"
            self.is_verified, self.accepted_name = True, verdict.name
        cipher = self._smtp.get_transport_info("cipher")
        self.tls_cipher, self.tls_version = cipher[0], cipher[1]
        return Handshake.GOOD, ""

    async def authenticate(self, username: str, password: str) -> None:
        """Send AUTH PLAIN. Errors: `Broken`, also where the peer refuses."""
        try:
            await self._smtp.auth_plain(username, password, timeout=self._timeouts.auth)
        except aiosmtplib.SMTPResponseException as error:
            raise Broken(parse_reply(error.code, error.message, "AUTH")) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise self._broken("AUTH", error) from None

    async def send(
        self,
        command: MailCommand,
        recipients: tuple[str, ...],
        content: bytes,
        before_content: Callable[[], Awaitable[None]],
        *,
        needs_reset: bool = False,
    ) -> Replies:
        """
        Carry out one transaction; *content* is in wire form. *before_content* is awaited when the
        peer is ready for the message. *needs_reset*: RSET goes before it, along with MAIL where
        commands are pipelined. A failure on the way is in the replies; whether the connection
        survived it, `is_open` tells. Errors: `ResetFailed`, and then nothing else was heard.
        """
        self.failure = None
        transaction = Transaction(
            self._dialogue,
            command,
            recipients,
            timeouts=self._timeouts,
            is_lmtp=self._use_lmtp,
        )
        try:
            await transaction.run(
                content,
                before_content,
                is_pipelined=self._may_pipeline and "pipelining" in self.offered,
                needs_reset=needs_reset,
            )
        except Broken as error:
            self.failure = error
            error.is_after_content = transaction.has_sent_content
            return transaction.cut_short(error.response)
        return transaction.replies()

    def watch(self, on_failed: Callable[[], None]) -> None:
        """
        Have *on_failed* called when the peer says something unasked or closes; nothing can follow
        that. It is called at once where that is so already.
        """
        with contextlib.suppress(Broken):
            self._take_over().on_failed = on_failed
        if not self.is_open:
            on_failed()

    async def quit(self) -> None:
        """
        Take leave: QUIT, then wait until the peer has closed, so that it no longer counts this
        connection when we open another.
        """
        try:
            async with asyncio.timeout(_QUIT_SECONDS):
                wire = self._take_over()
                wire.write(b"QUIT\r\n", replies=1)
                await wire.read(_QUIT_SECONDS)
                await wire.wait_until_closed()
        except (Broken, OSError, ValueError):
            # What a peer makes of a farewell changes nothing any more.
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """
        Close at once and send nothing more. A plain close would still flush what is buffered, so
        that a message given up for lost could yet be taken.
        """
        transport = self._smtp.transport
        if transport is not None:
            transport.abort()  # type: ignore[attr-defined]  # it is one that writes
        self._smtp.close()

    def _take_over(self) -> Wire:
        if self._wire is None:
            transport = self._smtp.transport
            if transport is None or transport.is_closing():
                raise self._broken("", None)
            # Not every loop's transports derive from asyncio's, but they do the same.
            self._wire = Wire(cast(asyncio.Transport, transport))
            self._wire.on_taken = lambda: self.on_progress("content")
        return self._wire

    async def _raw(self, *parts: bytes, timeout: float, name: str = "") -> aiosmtplib.SMTPResponse:
        try:
            return await self._smtp.execute_command(*parts, timeout=timeout)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise self._broken(name or parts[0].decode("ascii"), error) from None

    def _broken(self, command: str, error: Exception | None) -> Broken:
        """Give the connection up: replies that come later must not be taken for others."""
        self.abort()
        match error:
            case aiosmtplib.SMTPTimeoutError():
                return Broken(internal.timed_out(command))
            case aiosmtplib.SMTPResponseException():
                return Broken(internal.broken(command, f"no SMTP reply: {error.message[:200]}"))
            case _:
                return Broken(internal.broken(command, "connection lost"), is_silent=True)


def _ignore(phase: str) -> None:
    """Nobody wants to know."""


class CandidateFailed(AgentError):
    """A candidate of the plan gave no usable session."""


class SourceUnusable(CandidateFailed):
    """The source itself can't be used, whichever host it is."""


async def connect(
    candidate: Candidate,
    *,
    source_address: str,
    ehlo_domain: str,
    options: PathOptions,
    on_progress: Callable[[str], None] = _ignore,
) -> Peer:
    """Open a connection and read the banner. Errors: `CandidateFailed`."""
    on_progress("connect")
    label = f"{candidate.host}/{candidate.address}:{options.port}"
    sock = await _open_socket(candidate.address, options, source_address, label)
    smtp = aiosmtplib.SMTP(local_hostname=ehlo_domain, start_tls=False)
    is_greeted = False
    on_progress("banner")
    try:
        await smtp.connect(sock=sock, timeout=options.timeouts.banner)
        is_greeted = True
    except aiosmtplib.SMTPResponseException as error:
        text = parse_reply(error.code, error.message)
        raise CandidateFailed(f"{label}: banner {text.code} {text.content}") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise CandidateFailed(f"{label}: no banner: {type(error).__name__}") from None
    finally:
        if not is_greeted:
            # The transport first: a descriptor closed under it may be another socket's by then.
            smtp.close()
            sock.close()
    return Peer(smtp, candidate, options, on_progress)


async def _open_socket(
    address: str, options: PathOptions, source_address: str, label: str
) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source_address:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            _bind(sock, source_address)
        async with asyncio.timeout(options.timeouts.connect):
            await asyncio.get_running_loop().sock_connect(sock, (address, options.port))
    except TimeoutError:
        sock.close()
        raise CandidateFailed(f"{label}: connect timed out") from None
    except OSError as error:
        sock.close()
        raise CandidateFailed(f"{label}: {error.strerror or type(error).__name__}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, address: str) -> None:
    try:
        sock.bind((address, 0))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        sock.close()
        raise SourceUnusable(f"this host does not have the address {address}") from None


def _reply(response: aiosmtplib.SMTPResponse, command: str) -> Response:
    return parse_reply(response.code, response.message, command)
