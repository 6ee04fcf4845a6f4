"""
Peer: one SMTP connection, from the socket to QUIT, by aiosmtplib.

A reply that arrives is a `Response`, whatever it says. What is no reply (a timeout, a broken
connection, octets that are no SMTP) is `Broken`, and the connection is gone. What replies mean is
decided in `agent.delivery`.
"""

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence

import aiosmtplib

from agent.delivery import internal
from agent.delivery.classify import Replies, ends_connection, is_accepted, parse_reply
from agent.delivery.dane import Authenticated, Mismatch
from agent.delivery.envelope import MailCommand, path_of
from agent.delivery.plan import Candidate
from agent.delivery.record import Response
from agent.delivery.tls import Handshake
from agent.dispatch.certificates import peer_chain
from agent.dispatch.options import PathOptions, Timeouts
from agent.errors import AgentError

#: How long a farewell may take, in seconds.
_QUIT_SECONDS = 2.0
#: Messages larger than this are watched while they are sent.
_LARGE = 64 * 1024
_WATCH_SECONDS = 0.02
# Linux: choose the port at connect, so that it need not be unique for the source address.
_IP_BIND_ADDRESS_NO_PORT = 24


class Broken(AgentError):
    """The connection can't be used any more."""

    def __init__(self, response: Response, *, is_silent: bool = False) -> None:
        super().__init__(response.content)
        self.response = response
        #: The peer closed without a word, or had done so before.
        self.is_silent = is_silent
        #: The message had been sent: the peer may have it although no reply came.
        self.is_after_content = False


class Peer:
    """An open connection."""

    def __init__(self, smtp: aiosmtplib.SMTP, candidate: Candidate, timeouts: Timeouts) -> None:
        self._smtp = smtp
        self._timeouts = timeouts
        self.candidate = candidate
        self.tls_version = ""
        self.tls_cipher = ""
        #: Over TLS with a certificate that was checked.
        self.is_verified = False
        #: The name for which a DANE authority's certificate was accepted; empty: none was.
        self.accepted_name = ""
        #: What cut the last transaction short.
        self.failure: Broken | None = None
        self._has_sent_content = False

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return self._smtp.is_connected

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
        if not self.is_open:
            return ""
        name = self._smtp.get_transport_info("sockname")
        return str(name[0]) if name else ""

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

    async def reset(self) -> Response:
        """Send RSET. Errors: `Broken`."""
        return await self._command("RSET", b"RSET", timeout=self._timeouts.rset)

    async def send(
        self,
        command: MailCommand,
        recipients: tuple[str, ...],
        content: bytes,
        before_content: Callable[[], Awaitable[None]],
    ) -> Replies:
        """
        Carry out one transaction; *content* is in wire form. *before_content* is awaited when the
        peer is ready for the message. A failure on the way is in the replies; whether the
        connection survived it, `is_open` tells.
        """
        rcpt: list[Response] = []
        mail: Response | None = None
        data: Response | None = None
        self.failure, self._has_sent_content = None, False
        try:
            mail = await self._command(
                "MAIL FROM",
                b"MAIL",
                b"FROM:" + command.path,
                *command.parameters,
                timeout=self._timeouts.mail_from,
            )
            if is_accepted(mail):
                await self._name_recipients(recipients, rcpt)
            if any(is_accepted(each) for each in rcpt):
                data = await self._command("DATA", b"DATA", timeout=self._timeouts.data)
            if data is None or data.code != 354:
                return Replies(recipients=recipients, mail=mail, rcpt=tuple(rcpt), data=data)
            await before_content()
            self._has_sent_content = True
            end = await self._send_content(content)
        except Broken as error:
            self.failure = error
            error.is_after_content = self._has_sent_content
            return _cut_short(recipients, mail, rcpt, error)
        return Replies(recipients=recipients, mail=mail, rcpt=tuple(rcpt), data=data, end=end)

    async def wait_until_spoken(self) -> None:
        """Return when the peer says something unasked or closes; nothing can follow that."""
        protocol = self._smtp.protocol
        if protocol is None:
            return
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            await protocol.read_response()
        self.abort()

    async def quit(self) -> None:
        """
        Take leave: QUIT, then wait until the peer has closed, so that it no longer counts this
        connection when we open another.
        """
        try:
            async with asyncio.timeout(_QUIT_SECONDS):
                await self._raw(b"QUIT", timeout=_QUIT_SECONDS)
                protocol = self._smtp.protocol
                if protocol is not None and protocol.is_connected:
                    await protocol.read_response()
        except (Broken, TimeoutError, aiosmtplib.SMTPException, OSError):
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

    async def _name_recipients(self, recipients: tuple[str, ...], rcpt: list[Response]) -> None:
        for recipient in recipients:
            response = await self._command(
                "RCPT TO", b"RCPT", b"TO:" + path_of(recipient), timeout=self._timeouts.rcpt_to
            )
            if ends_connection(response):
                raise Broken(response)
            rcpt.append(response)

    async def _send_content(self, content: bytes) -> Response:
        protocol = self._smtp.protocol
        if protocol is None:
            raise self._broken("DATA", None)
        try:
            protocol.write(content)
            if len(content) > _LARGE:
                await self._watch_sending()
            response = await protocol.read_response(timeout=self._timeouts.data_dot)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._broken(".", error) from None
        if response.code == 421:
            self.abort()
        return _reply(response, ".")

    async def _watch_sending(self) -> None:
        """Wait until the message has left, as long as some of it goes each data_timeout."""
        loop = asyncio.get_running_loop()
        left, last_progress = sys.maxsize, loop.time()
        while (transport := self._smtp.transport) is not None:
            size = transport.get_write_buffer_size()  # type: ignore[attr-defined]  # it writes
            if size == 0:
                return
            if size < left:
                left, last_progress = size, loop.time()
            elif loop.time() - last_progress > self._timeouts.data:
                raise aiosmtplib.SMTPReadTimeoutError("the peer does not take the message")
            await asyncio.sleep(_WATCH_SECONDS)

    async def _command(self, name: str, *parts: bytes, timeout: float) -> Response:
        return _reply(await self._raw(*parts, timeout=timeout, name=name), name)

    async def _raw(self, *parts: bytes, timeout: float, name: str = "") -> aiosmtplib.SMTPResponse:
        try:
            return await self._smtp.execute_command(*parts, timeout=timeout)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise self._broken(name or parts[0].decode("ascii"), error) from None

    def _broken(self, command: str, error: Exception | None) -> Broken:
        """Give the connection up: replies that come later must not be taken for others."""
        self.abort()
        if isinstance(error, aiosmtplib.SMTPTimeoutError):
            return Broken(internal.timed_out(command))
        if isinstance(error, aiosmtplib.SMTPResponseException):
            return Broken(internal.broken(command, f"no SMTP reply: {error.message[:200]}"))
        return Broken(internal.broken(command, "connection lost"), is_silent=True)


class CandidateFailed(AgentError):
    """A candidate of the plan gave no usable session."""


async def connect(
    candidate: Candidate, *, source_address: str, ehlo_domain: str, options: PathOptions
) -> Peer:
    """Open a connection and read the banner. Errors: `CandidateFailed`."""
    label = f"{candidate.host}/{candidate.address}:{options.port}"
    sock = await _open_socket(candidate.address, options, source_address, label)
    smtp = aiosmtplib.SMTP(local_hostname=ehlo_domain, start_tls=False)
    is_greeted = False
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
    return Peer(smtp, candidate, options.timeouts)


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
            sock.bind((source_address, 0))
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


def _reply(response: aiosmtplib.SMTPResponse, command: str) -> Response:
    return parse_reply(response.code, response.message, command)


def _cut_short(
    recipients: tuple[str, ...], mail: Response | None, rcpt: list[Response], error: Broken
) -> Replies:
    """A transaction that broke: whoever has no refusal of their own shares the failure."""
    return Replies(
        recipients=recipients,
        mail=mail if mail is not None else error.response,
        rcpt=tuple(rcpt),
        failure=error.response,
    )
