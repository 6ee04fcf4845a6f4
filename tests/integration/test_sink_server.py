import asyncio
import json
import shutil
import smtplib
import socket
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from agent.errors import SettingsError
from agent.sink.server import Sink
from agent.sink.settings import parse_sink_settings

_SMTP_SOURCE = shutil.which("smtp-source") or shutil.which("smtp-source", path="/usr/sbin")


@asynccontextmanager
async def _running(*providers, **rest):
    async with Sink(parse_sink_settings({"provider": list(providers), **rest})) as sink:
        yield sink


async def test_mail_is_accepted_and_counted_for_its_client():
    async with _running({"name": "p", "listen": ["127.0.2.1:0", "127.0.2.2:0"]}) as sink:
        (host, port), (_, other_port) = sink.listening["p"]
        assert other_port == port

        def send() -> None:
            with smtplib.SMTP(host, port, source_address=("127.0.1.1", 0)) as client:
                text = "Message-ID: <1@x>\r\n\r\n.dots\r\n"
                client.sendmail("a@b.c", ["x@y.z", "v@y.z"], text)

        await asyncio.to_thread(send)
        report = sink.report(identities=True)["providers"]["p"]

    assert report["accepted"] == {"1@x x@y.z": 1, "1@x v@y.z": 1}
    assert report["clients"]["127.0.1.1"]["messages_accepted"] == 1
    assert report["total"]["recipients_accepted"] == 2


async def test_starttls_upgrades_the_connection(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    provider = {
        "name": "p",
        "certificate": str(tmp_path / "cert.pem"),
        "private_key": str(tmp_path / "key.pem"),
        "keep_messages": 1,
    }
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with _running(provider) as sink:

        def send() -> bool:
            with smtplib.SMTP("localhost", sink.listening["p"][0][1]) as client:
                client.starttls(context=context)
                client.ehlo()
                client.sendmail("a@b.c", ["x@y.z"], b"Subject: secret\r\n\r\n" + b"x" * 900)
                return client.has_extn("starttls")

        assert not await asyncio.to_thread(send)
        assert sink.providers["p"].messages[0].content.startswith(b"Subject: secret")


async def test_failed_tls_handshake_leaves_the_sink_at_work(tmp_path):
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    async with _running({"name": "p", "certificate": str(tmp_path / "both.pem")}) as sink:
        reader, writer = await asyncio.open_connection(*sink.listening["p"][0])
        await reader.readline()
        writer.write(b"EHLO me\r\n")
        await reader.readuntil(b"250 STARTTLS\r\n")
        writer.write(b"STARTTLS\r\n")
        await reader.readline()

        writer.write(b"this is no handshake\r\n" * 50)

        assert not (await reader.read()).startswith(b"2")
        writer.close()
        await writer.wait_closed()
        with socket.create_connection(sink.listening["p"][0]) as again:
            assert again.fileno() > 0


async def test_421_reaches_a_client_that_has_pipelined_more():
    """Closing with unread input would reset the connection and lose the reply."""
    push_back = {"duration": "1min", "reply": "421 4.7.0 [TS01] {ip} deferred"}
    async with _running({"name": "p", "push_back": [push_back]}) as sink:
        reader, writer = await asyncio.open_connection(*sink.listening["p"][0])
        writer.write(b"EHLO me\r\n")
        await reader.readuntil(b"\r\n250 ")
        await reader.readline()

        writer.write(b"MAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\n" + b"x" * 200_000)
        said = await reader.read()

        assert said == b"421 4.7.0 [TS01] 127.0.0.1 deferred\r\n"
        assert sink.providers["p"].total.open_connections == 0
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("action", ["drop", "silence"])
async def test_misbehaviour_reaches_the_client(action):
    async with _running({"name": "p", "misbehave": [{"at": "ehlo", "action": action}]}) as sink:
        reader, writer = await asyncio.open_connection(*sink.listening["p"][0])
        await reader.readline()
        writer.write(b"EHLO me\r\n")

        said = asyncio.create_task(reader.read())
        done, _ = await asyncio.wait([said], timeout=0.2)

        assert bool(done) == (action == "drop")
        writer.close()
        assert await said == b""
        await writer.wait_closed()


async def test_counts_are_shown_and_push_back_is_taken_over_http():
    async with (
        _running({"name": "p"}) as sink,
        aiohttp.ClientSession(f"http://{sink.http.address}") as http,
    ):
        content = {"provider": "p", "duration": "1min", "reply": "421 4.7.0 no"}
        async with http.post("/push-back", json=content) as response:
            assert response.status == 200
        async with http.post("/push-back", json={"provider": "none"}) as response:
            assert response.status == 400
        async with http.get("/counts") as response:
            counts = await response.json()
        async with http.get("/accepted") as response:
            accepted = await response.json()

    assert counts["providers"]["p"]["pushing_back"]
    assert accepted == {"p": {}}


async def test_address_in_use_is_an_error_that_leaves_nothing_open():
    async with _running({"name": "p"}) as sink:
        host, port = sink.listening["p"][0]
        again = Sink(
            parse_sink_settings({"provider": [{"name": "q", "listen": [f"{host}:{port}"]}]})
        )

        with pytest.raises(OSError, match="in use"):
            await again.start()

        assert again._servers == []


async def test_missing_certificate_is_a_mistake_in_the_settings():
    sink = Sink(parse_sink_settings({"provider": [{"name": "p", "certificate": "/none.pem"}]}))

    with pytest.raises(SettingsError, match=r"/none\.pem"):
        await sink.start()


@pytest.mark.skipif(_SMTP_SOURCE is None, reason="Postfix's smtp-source is not installed")
async def test_smtp_source_of_postfix_delivers_within_the_limits():
    limits = {"client_max_connections": 5, "max_messages_per_connection": 1000}
    async with _running({"name": "p", "limits": limits}) as sink:
        host, port = sink.listening["p"][0]

        source = await asyncio.create_subprocess_exec(
            str(_SMTP_SOURCE), "-d", "-s", "5", "-m", "200", "-N",
            "-f", "a@b.example", "-t", "x@y.example", f"{host}:{port}",
        )  # fmt: skip
        async with asyncio.timeout(60):
            assert await source.wait() == 0
        report = sink.report()

    assert report["exceeded"] == []
    total = report["providers"]["p"]["total"]
    assert total["messages_accepted"] == 200
    assert total["connections"]["peak"] <= 5
    assert total["protocol_violations"] == 0


def test_report_is_written_whole(tmp_path: Path):
    sink = Sink(parse_sink_settings({"provider": [{"name": "p"}]}))

    sink.write_report(tmp_path / "report.json")

    assert json.loads((tmp_path / "report.json").read_text())["providers"]["p"]["accepted"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
