"""Mail in from clients that are not ours: swaks and Postfix's smtp-source."""

import asyncio
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.integration.real_receivers import program
from tests.integration.test_intake_smtp import start

__all__ = ["start"]

_BODY = "first\n.dot\n..two\n\nlast"


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    issued = trustme.CA().issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return {"tls_certificate": str(chain), "tls_private_key": str(key)}


async def _run(*command: str) -> "subprocess.CompletedProcess[bytes]":
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("options", "is_encrypted"),
    [
        ([], False),
        (["--pipeline"], False),
        (["--tls"], True),
        (["--tls", "--pipeline"], True),
        (["--protocol", "SMTP"], False),
    ],
    ids=["plain", "pipelined", "tls", "tls, pipelined", "HELO"],
)
async def test_swaks(start, certificate, options: list[str], is_encrypted: bool):
    command = program("swaks")
    host = await start(**certificate)

    done = await _run(
        *(command, "--server", f"127.0.0.1:{host.port}", "--from", "a@x.example"),
        *("--to", "b@y.example,c@y.example,d@z.example", "--body", _BODY, *options),
    )

    if b"TLS not available" in done.stderr:
        pytest.skip("swaks has no TLS here (Debian: libnet-ssleay-perl)")
    assert done.returncode == 0, done.stdout
    assert [entry.queue_name for entry in host.accepted] == ["y.example", "z.example"]
    first, second = await host.bodies()
    assert first == second
    text = first.replace(b"\r\n", b"\n")
    assert text.partition(b"\n\n")[2].strip() == _BODY.encode()
    assert (b"with ESMTPS" in first) == is_encrypted


@pytest.mark.parametrize(
    ("recipient", "code"),
    [("nobody", b"553 5.1.3"), ("b@[127.0.0.1]", b"553 5.1.3"), ("b@y.example:25", b"553 5.1.3")],
)
async def test_swaks_is_told_why(start, recipient: str, code: bytes):
    command = program("swaks")
    host = await start()

    done = await _run(
        command, "--server", f"127.0.0.1:{host.port}", "--from", "a@x.example", "--to", recipient
    )

    assert done.returncode != 0
    assert code in done.stdout
    assert host.accepted == []


@pytest.mark.parametrize(
    "options",
    [
        ["-s", "1", "-m", "200", "-l", "1000"],
        ["-s", "20", "-m", "1000", "-l", "4096"],
        ["-s", "10", "-m", "100", "-l", "4096", "-r", "5"],
        ["-s", "4", "-m", "8", "-l", "3000000"],
        ["-s", "10", "-m", "100", "-l", "1000", "-d"],
    ],
    ids=["one by one", "a thousand", "five recipients", "large", "one connection each"],
)
async def test_smtp_source(start, options: list[str]):
    command = program("smtp-source")
    host = await start()

    done = await _run(
        *(command, *options, "-f", "a@x.example", "-t", "b@y.example"), f"127.0.0.1:{host.port}"
    )

    assert done.returncode == 0, done.stderr
    count = int(options[options.index("-m") + 1])
    entries = await host.spool.entries()
    assert len(entries) == len(host.accepted) == count
    size = int(options[options.index("-l") + 1])
    assert all(len(body) > size * 0.9 for body in await host.bodies())
