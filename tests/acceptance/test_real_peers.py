"""Programs that are not ours at both ends: Postfix's smtp-source sends in, smtp-sink receives."""

import asyncio
import os
import shutil
import subprocess

import pytest

from tests.acceptance.fleet import free_port, until


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: postfix, swaks)")
    return found


_RULES = """
["default"]
smtp_port = {port}
prohibited_hosts = []
connection_limit = 5
max_message_rate = "500/s"
"""


@pytest.fixture
async def smtp_sink(tmp_path):
    """Postfix's receiver on the address of mx1.bigmail.example, one file a message."""
    port = free_port("127.0.2.1")
    dumps = tmp_path / "received"
    dumps.mkdir()
    command = [_program("smtp-sink"), "-u", "root", "-d", f"{dumps}/%s", f"127.0.2.1:{port}", "64"]

    if os.geteuid() != 0:
        command = [command[0], *command[3:]]
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    yield port, dumps
    process.kill()
    process.communicate(timeout=10)


async def _agent(fleet, port):
    await fleet.start_server()
    await fleet.import_rules(_RULES.format(port=port))
    return await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1")


async def test_smtp_source_to_smtp_sink(fleet, smtp_sink):
    port, dumps = smtp_sink
    agent = await _agent(fleet, port)
    command = [
        *(_program("smtp-source"), "-s", "5", "-m", "200", "-l", "4096", "-c"),
        *("-f", "news@sender.example", "-t", "user@bigmail.example"),
        f"127.0.0.1:{agent.ports['smtp']}",
    ]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr

    await until(lambda: len(list(dumps.iterdir())) == 200, what="200 received")


async def test_swaks_sends_in_and_the_content_arrives_unchanged(fleet, smtp_sink):
    port, dumps = smtp_sink
    agent = await _agent(fleet, port)
    body = "first line\n.starts with a dot\n..two\n\nlast line"
    command = [
        *(_program("swaks"), "--server", f"127.0.0.1:{agent.ports['smtp']}"),
        *("--from", "news@sender.example", "--to", "user@bigmail.example", "--body", body),
    ]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout

    def received() -> str:
        files = list(dumps.iterdir())
        return files[0].read_text() if files else ""

    text = await until(lambda: body.splitlines()[-1] in received() and received(), what="received")
    assert "\n.starts with a dot\n..two\n\nlast line\n" in text.replace("\r\n", "\n")
