"""SMTP peers that behave in ways the sink does not: for tests of dispatch."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session


class Handler:
    """Keeps what it takes; takes so many recipients a transaction, then gives *full*."""

    def __init__(self, *, most_recipients: int = 1000, full: str = "") -> None:
        self.taken: list[Envelope] = []
        self.most_recipients, self.full = most_recipients, full

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if len(envelope.rcpt_tos) >= self.most_recipients:
            return self.full
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append(envelope)
        return "250 2.0.0 ok"


class EachItsOwn(Handler):
    """Says of each recipient of a message what *says* has for it (RFC 2033 section 4.2)."""

    def __init__(self, says: dict[str, str]) -> None:
        super().__init__()
        self.says = says

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append(envelope)
        return "\r\n".join(
            self.says.get(recipient.partition("@")[0], "250 2.0.0 ok")
            for recipient in envelope.rcpt_tos
        )


class Scripted:
    """
    A peer that answers each command by *says* (command to reply, "250 ok" for others) and keeps
    what came in one read, to see what was sent without waiting.
    """

    def __init__(self, says: dict[bytes, bytes], *, keywords: tuple[bytes, ...] = ()) -> None:
        self.says, self.keywords = says, keywords
        self.reads: list[list[bytes]] = []
        self.contents: list[bytes] = []
        #: Says nothing more after so many messages on one connection; None: it always answers.
        self.silent_after: int | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        writer.write(b"220 mx.big.example\r\n")
        content: bytes | None = None
        taken = 0
        try:
            while data := await reader.read(65536):
                self.reads.append([])
                lines = data.split(b"\r\n")[:-1]
                for line in lines:
                    if self.silent_after is not None and taken >= self.silent_after:
                        continue
                    if content is not None:
                        if line == b".":
                            taken += 1
                            self.contents.append(content)
                            content = None
                            writer.write(self._reply(b"."))
                        else:
                            content += line + b"\r\n"
                        continue
                    self.reads[-1].append(line)
                    reply = self._reply(line)
                    writer.write(reply)
                    if line == b"DATA" and reply.startswith(b"354"):
                        content = b""
                    if line == b"QUIT":
                        return
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _reply(self, line: bytes) -> bytes:
        if line.startswith(b"EHLO"):
            lines = [b"mx.big.example", *self.keywords]
            return b"".join(b"250-" + one + b"\r\n" for one in lines[:-1]) + (
                b"250 " + lines[-1] + b"\r\n"
            )
        for command, reply in self.says.items():
            if line.startswith(command):
                return reply + b"\r\n"
        return b"354 go on\r\n" if line == b"DATA" else b"250 2.0.0 ok\r\n"


@asynccontextmanager
async def scripted_peer(peer: Scripted) -> AsyncIterator[int]:
    """Listen; gives the port."""
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def smtp_peer(
    handler: Handler, *, host: str = "127.0.0.1", port: int = 0, use_lmtp: bool = False, **more: Any
) -> AsyncIterator[int]:
    """Listen; gives the port."""
    loop = asyncio.get_running_loop()
    kind = LMTP if use_lmtp else SMTP
    server = await loop.create_server(
        lambda: kind(handler, hostname="mx.big.example", loop=loop, **more), host, port
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def check_login(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
) -> AuthResult:
    """Let one name and password in."""
    is_good = (data.login, data.password) == (b"relay", b"secret")
    return AuthResult(success=is_good, handled=False)


class Impatient:
    """
    A peer that takes leave *after* seconds without a command behind a message: with a 421 that it
    does not follow by closing, or by closing without a word. Before the first message and in the
    midst of one it is patient, however busy the host is that the test runs on.
    """

    def __init__(self, *, after: float, says: bytes) -> None:
        self.after, self.says = after, says
        self.connections = 0
        self.messages = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.big.example\r\n")
        in_data, is_idle = False, False
        while True:
            try:
                patience = self.after if is_idle else None
                line = await asyncio.wait_for(reader.readline(), patience)
            except TimeoutError:
                if self.says:
                    writer.write(self.says)
                    await reader.read()
                return
            if not line or line == b"QUIT\r\n":
                return
            is_idle = not in_data and line.startswith(b"RSET")
            if in_data:
                in_data = line != b".\r\n"
                self.messages += not in_data
                is_idle = not in_data
            elif line == b"DATA\r\n":
                in_data = True
                writer.write(b"354 go on\r\n")
                continue
            if not in_data:
                writer.write(b"250 ok\r\n")


@asynccontextmanager
async def impatient_peer(peer: Impatient) -> AsyncIterator[int]:
    """Listen; gives the port."""
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class StarttlsPeer:
    """
    A peer that speaks just enough SMTP to take mail, and does with STARTTLS as it is told.

    *answer*: the reply to STARTTLS; empty: it is not offered. *context*: None: the reply is
    followed by octets that are no TLS.
    """

    def __init__(
        self, *, context: ssl.SSLContext | None = None, answer: bytes = b"220 2.0.0 go on"
    ) -> None:
        self.context, self.answer = context, answer
        self.connections = 0
        #: One a message: whether it came over TLS.
        self.taken: list[bool] = []
        #: What came with AUTH.
        self.passwords: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_encrypted, in_data = False, False
        writer.write(b"220 mx.big.example\r\n")
        while (line := await reader.readline()) and line != b"QUIT\r\n":
            if in_data:
                if line == b".\r\n":
                    in_data = False
                    self.taken.append(is_encrypted)
                    writer.write(b"250 2.0.0 ok\r\n")
            elif line.startswith(b"EHLO"):
                offer = b"250-STARTTLS\r\n" if self.answer and not is_encrypted else b""
                writer.write(b"250-mx.big.example\r\n" + offer + b"250 AUTH PLAIN\r\n")
            elif line == b"STARTTLS\r\n":
                writer.write(self.answer + b"\r\n")
                if not self.answer.startswith(b"220"):
                    continue
                if self.context is None:
                    writer.write(b"this is no TLS record\r\n")
                    return
                await writer.start_tls(self.context)
                is_encrypted = True
            elif line == b"DATA\r\n":
                in_data = True
                writer.write(b"354 go on\r\n")
            elif line.startswith(b"AUTH"):
                self.passwords.append(line)
                writer.write(b"235 2.7.0 ok\r\n")
            else:
                writer.write(b"250 2.0.0 ok\r\n")


@asynccontextmanager
async def starttls_peer(
    peer: StarttlsPeer, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """Listen; gives the port."""
    server = await asyncio.start_server(peer.serve, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
