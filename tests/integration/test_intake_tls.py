"""STARTTLS on the SMTP port: real handshakes, files that change, and clients that try tricks."""

import asyncio
import os
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
import uvloop

from agent.delivery.record import Record
from agent.errors import SettingsError
from agent.queue.entry import Entry
from agent.settings import Settings
from agent.smtp.certificate import Certificate, CertificateFiles, load_context
from agent.smtp.intake import Intake
from agent.smtp.listener import SmtpListener
from agent.spool.sqlite import SqliteSpool

ENVELOPE = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<u@one.example>\r\nDATA\r\n"
MESSAGE = ENVELOPE + b"Subject: hello\r\n\r\nbody\r\n.\r\n"
LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


def write_pair(directory: Path, authority: trustme.CA, *, mode: int = 0o600) -> CertificateFiles:
    """A certificate for `mta.example` and its key, in the place of those before."""
    issued = authority.issue_cert("mta.example")
    files = CertificateFiles(certificate=directory / "chain.pem", private_key=directory / "key.pem")
    for path, blobs in (
        (files.certificate, issued.cert_chain_pems),
        (files.private_key, [issued.private_key_pem]),
    ):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
        fresh.chmod(mode)
        fresh.rename(path)
    return files


def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@dataclass
class Host:
    """A running listener that offers STARTTLS."""

    listener: SmtpListener
    intake: Intake
    spool: SqliteSpool
    authority: trustme.CA
    files: CertificateFiles
    accepted: list[Entry] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # counts have no event
                await asyncio.sleep(0.01)

    async def connect(self) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        client = Client(reader, writer)
        assert (await client.reply()).startswith("220 ")
        return client


@dataclass
class Client:
    """A client that says what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def reply(self) -> str:
        """One reply; the last line of it."""
        while True:
            line = (await self.reader.readline()).decode()
            if line[3:4] != "-":
                return line

    async def say(self, data: bytes) -> str:
        self.writer.write(data)
        return await self.reply()

    async def begin_tls(self, context: ssl.SSLContext) -> None:
        assert (await self.say(b"STARTTLS\r\n")).startswith("220 ")
        await self.writer.start_tls(context, server_hostname="mta.example")

    async def rest(self) -> bytes:
        """All that is still sent."""
        with suppress(ConnectionError, ssl.SSLError):
            return await self.reader.read()
        return b""

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@asynccontextmanager
async def host(directory: Path, **listen: object) -> AsyncIterator[Host]:
    authority = trustme.CA()
    files = write_pair(directory, authority)
    settings = Settings.model_validate(
        {
            "agent": {"name": "test", "data_dir": directory},
            "listen": {
                "smtp": "127.0.0.1:0",
                "tls_certificate": files.certificate,
                "tls_private_key": files.private_key,
                **listen,
            },
            "spool": {"min_free_space": 0},
        }
    )
    spool = await SqliteSpool.open(directory)
    accepted: list[Entry] = []
    records: list[Record] = []
    intake = Intake(settings, spool, accept=accepted.extend, log=records.extend)
    listener = SmtpListener(settings, intake)
    await listener.start()
    try:
        yield Host(listener, intake, spool, authority, files, accepted, records)
    finally:
        await listener.stop()
        await intake.drain()
        await spool.close()


async def exchange(directory: Path) -> None:
    async with host(directory) as here:
        client = await here.connect()
        assert "STARTTLS" in await client.say(b"EHLO c\r\n")
        await client.begin_tls(trust(here.authority))
        assert (await client.say(ENVELOPE[:25])).startswith("503 "), "the session begins anew"
        assert "STARTTLS" not in await client.say(b"EHLO c\r\n")
        client.writer.write(MESSAGE * 20 + b"QUIT\r\n")
        said = (await client.rest()).decode().splitlines()
        await client.close()

        assert len([line for line in said if line.startswith("250 2.0.0 queued as ")]) == 20
        assert len(here.accepted) == len(here.records) == 20
        record = here.records[0]
        assert record.tls_protocol_version == "TLSv1.3"
        assert record.tls_cipher.startswith("TLS_")
        loaded = await here.spool.load(here.accepted[0].id)
        assert loaded is not None
        tls = f"with ESMTPS\r\n\t(TLSv1.3 {record.tls_cipher}) id {record.id};"
        assert tls.encode() in loaded.body
        assert here.listener.handshakes == 1
        await here.until(lambda: not here.listener.connections)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_mail_comes_in_over_tls(tmp_path, new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(exchange(tmp_path))


async def test_the_standard_library_client_is_served_over_tls(tmp_path):
    async with host(tmp_path) as here:

        def send() -> dict[str, tuple[int, bytes]]:
            with smtplib.SMTP("127.0.0.1", here.listener.port) as client:
                # The name that the certificate is for.
                client._host = "mta.example"  # type: ignore[attr-defined]  # has no other way in
                client.starttls(context=trust(here.authority))
                return client.sendmail("a@x.example", ["u@one.example"], b"A: 1\r\n\r\nbody\r\n")

        assert await asyncio.to_thread(send) == {}
        assert len(here.accepted) == 1


async def send_commands_in_clear(directory: Path) -> None:
    async with host(directory) as here:
        client = await here.connect()
        await client.say(b"EHLO c\r\n")
        client.writer.write(b"STARTTLS\r\n" + b"EHLO evil\r\n" + MESSAGE)
        said = await client.rest()
        await client.close()

        assert said.startswith(b"554 5.5.1 nothing may follow STARTTLS")
        assert said.count(b"\r\n") == 1
        assert here.accepted == []


async def send_commands_during_the_handshake(directory: Path) -> None:
    async with host(directory) as here:
        client = await here.connect()
        await client.say(b"EHLO c\r\n")
        await client.say(b"STARTTLS\r\n")
        client.writer.write(b"EHLO evil\r\n" + MESSAGE)
        said = await client.rest()
        await client.close()

        assert b"250" not in said
        await here.until(lambda: here.listener.handshake_failures == 1)
        await here.until(lambda: not here.listener.connections)
        assert here.accepted == []


async def hang_up_during_the_handshake(directory: Path) -> None:
    async with host(directory) as here:
        for abort in (False, True):
            client = await here.connect()
            await client.say(b"EHLO c\r\n")
            await client.say(b"STARTTLS\r\n")
            if abort:
                client.writer.transport.abort()
            await client.close()
        await here.until(lambda: not here.listener.connections)

        assert here.listener.handshake_failures == 2
        assert here.listener.buffered == 0


async def stop_during_the_handshake(directory: Path) -> None:
    async with host(directory) as here:
        client = await here.connect()
        await client.say(b"EHLO c\r\n")
        await client.say(b"STARTTLS\r\n")
        await here.listener.stop()

        assert await client.rest() == b""
        await client.close()


async def hang_up_with_a_message_on_its_way(directory: Path) -> None:
    """The message is safe though the client can't be told so."""
    async with host(directory) as here:
        client = await here.connect()
        await client.say(b"EHLO c\r\n")
        await client.begin_tls(trust(here.authority))
        await client.say(b"EHLO c\r\n")
        client.writer.write(MESSAGE)
        await client.close()
        await here.until(lambda: len(here.accepted) == 1 and not here.listener.connections)


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize(
    "play",
    [
        send_commands_in_clear,
        send_commands_during_the_handshake,
        hang_up_during_the_handshake,
        stop_during_the_handshake,
        hang_up_with_a_message_on_its_way,
    ],
)
def test_clients_that_do_not_play_by_the_rules(tmp_path, play, new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(play(tmp_path))


async def test_a_client_that_begins_no_handshake_is_sent_away(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.smtp.listener._HANDSHAKE_SECONDS", 0.1)
    async with host(tmp_path) as here:
        client = await here.connect()
        await client.say(b"EHLO c\r\n")
        await client.say(b"STARTTLS\r\n")

        assert await client.rest() == b""
        await client.close()
        await here.until(lambda: here.listener.handshake_failures == 1)
        assert not here.listener.connections


async def test_a_silent_client_is_sent_away_over_tls(tmp_path):
    async with host(tmp_path, client_timeout="300ms") as here:
        client = await here.connect()
        await client.say(b"EHLO c\r\n")
        await client.begin_tls(trust(here.authority))

        assert (await client.rest()).startswith(b"421 4.4.2")
        await client.close()
        await here.until(lambda: not here.listener.connections)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        pytest.param("0302", "UNSUPPORTED_PROTOCOL", id="TLS 1.1"),
        # Old enough to be answered by an error too, but not for its version.
        pytest.param("0303", "NO_SHARED_CIPHER", id="TLS 1.2"),
    ],
)
def test_tls_older_than_1_2_is_refused(tmp_path, version, reason):
    """Greeted by hand, for the OpenSSL of a test may not speak what is old."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = load_context(write_pair(tmp_path, trustme.CA()))
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    # A record of a handshake: the client's version, a random, no session, one suite, null.
    greeting = bytes.fromhex(version) + bytes(32) + bytes.fromhex("00000200050100")
    message = b"\x01\x00" + len(greeting).to_bytes(2) + greeting
    incoming.write(b"\x16\x03\x01" + len(message).to_bytes(2) + message)

    with pytest.raises(ssl.SSLError) as caught:
        server.do_handshake()

    assert caught.value.reason == reason


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path):
    async with host(tmp_path) as here:
        shown = []
        renewed = trustme.CA()
        for authority in (here.authority, renewed):
            write_pair(tmp_path, authority)
            client = await here.connect()
            await client.say(b"EHLO c\r\n")
            await client.begin_tls(trust(authority))
            shown.append(client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            await client.close()

        assert len(set(shown)) == 2


def test_files_that_are_no_good_when_they_change_leave_the_old_ones_in_force(tmp_path):
    files = write_pair(tmp_path, trustme.CA())
    certificate = Certificate(files)
    first = certificate.context()
    assert certificate.context() is first

    good = files.private_key.read_bytes()
    files.private_key.write_text("half a ke")
    assert certificate.context() is first
    files.private_key.unlink()
    assert certificate.context() is first
    files.private_key.write_bytes(good)
    os.utime(files.private_key, ns=(1, 1))

    second = certificate.context()
    assert second is not first
    assert certificate.context() is second


def no_certificate(files: CertificateFiles) -> None:
    files.certificate.write_text("hello")


def no_key(files: CertificateFiles) -> None:
    files.private_key.write_text("hello")


def missing_certificate(files: CertificateFiles) -> None:
    files.certificate.unlink()


def missing_key(files: CertificateFiles) -> None:
    files.private_key.unlink()


def directory_as_key(files: CertificateFiles) -> None:
    files.private_key.unlink()
    files.private_key.mkdir()


def foreign_key(files: CertificateFiles) -> None:
    files.private_key.write_bytes(trustme.CA().issue_cert("x.example").private_key_pem.bytes())


def encrypted_key(files: CertificateFiles) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(files.private_key.read_bytes(), password=None)
    files.private_key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (no_certificate, "listen.tls_certificate: {certificate}: holds no certificate in PEM"),
        (no_key, "listen.tls_private_key: {key}: holds no private key in PEM that can be used"),
        (
            missing_certificate,
            "listen.tls_certificate: {certificate}: can't be read: No such file or directory",
        ),
        (missing_key, "listen.tls_private_key: {key}: can't be read: No such file or directory"),
        (directory_as_key, "listen.tls_private_key: {key}: can't be read: Is a directory"),
        (foreign_key, "listen.tls_private_key: {key}: does not belong to the certificate in "),
        (encrypted_key, "listen.tls_private_key: {key}: is encrypted; there is nobody to ask"),
    ],
)
def test_a_file_that_is_no_good_is_told_by_its_key(tmp_path, spoil, told):
    files = write_pair(tmp_path, trustme.CA())
    spoil(files)

    with pytest.raises(SettingsError) as caught:
        load_context(files)

    (mistake,) = caught.value.mistakes
    assert mistake.startswith(told.format(certificate=files.certificate, key=files.private_key))
