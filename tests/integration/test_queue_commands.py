"""`penstock-agent queue` against a running agent, as an operator uses it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_agent_commands import PROGRAM, agent

QUEUE = "news:acme@held.example"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[str]:
    """An agent without policy server or DNS, with three messages in a queue; gives its address."""
    path = tmp_path / "agent.toml"
    path.write_text(
        f"""
        [agent]
        data_dir = "{tmp_path}/data"
        shutdown_timeout = "1s"
        [policy]
        server = "127.0.0.1:1"
        [listen]
        smtp = "127.0.0.1:0"
        grpc = "127.0.0.1:0"
        http = "127.0.0.1:0"
        [dns]
        nameservers = ["127.0.0.1:1"]
        timeout = "200ms"
        [spool]
        min_free_space = "1KiB"
        """
    )
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "run", "--json", "--config", str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ports = json.loads(await process.stdout.readline())
        yield f"127.0.0.1:{ports['grpc']}"
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            await process.wait()
        await process.stdout.read()


async def queue(running: str, *arguments: str) -> Any:
    """Run a command that must succeed; its JSON document."""
    status, out, err = await agent("queue", *arguments, "--agent", running, "--json")
    assert status == 0, err
    return json.loads(out)


async def inject(running: str, count: int = 3) -> list[str]:
    status, out, err = await agent(
        "inject", "--json", "--from", "x@y.example", "--to", "a@held.example",
        "--tenant", "acme", "--campaign", "news", "--count", str(count), "--server", running, "-",
        stdin=b"Subject: x\r\n\r\nhello\r\n",
    )  # fmt: skip
    assert status == 0, err
    return json.loads(out)["message_ids"]


async def test_mail_is_held_shown_moved_and_bounced(running: str) -> None:
    held = await queue(
        running, "suspend", "--tenant", "acme", "--duration", "1h", "--reason", "why"
    )
    (message_id, *_) = await inject(running)
    order = held["order"]
    assert (order["id"], order["kind"], order["selector"]) == (1, "suspend", {"tenant": "acme"})

    listed = await queue(running, "list")
    assert [(one["name"], one["due"]) for one in listed["scheduled"]] == [(QUEUE, 3)]
    assert listed["scheduled"][0]["waits"][0]["id"] == 1
    assert [one["id"] for one in listed["orders"]] == [1]
    assert listed["ready"] == []

    shown = (await queue(running, "show", message_id))["message"]
    assert (shown["message_id"], shown["sender"], shown["tenant"]) == (
        message_id,
        "x@y.example",
        "acme",
    )
    (entry,) = shown["entries"]
    assert (entry["state"], entry["recipients"]) == ("due", ["a@held.example"])
    assert entry["waits"][0]["text"] == "it is held by order 1 of an operator: why"
    assert (await queue(running, "show", QUEUE))["queue"]["due"] == 3

    moved = await queue(
        running, "rebind", "--tenant", "acme", "--to-campaign", "", "--to-domain", "b.example"
    )
    assert moved == {"moved": 3, "unchanged": 0}
    assert [one["name"] for one in (await queue(running, "list"))["scheduled"]] == [
        "acme@b.example"
    ]

    await queue(running, "bounce", "--domain", "b.example", "--reason", "gone")
    async with asyncio.timeout(20):
        while (listed := await queue(running, "list"))["scheduled"]:
            pass
    (bounce,) = [one for one in listed["orders"] if one["kind"] == "bounce"]
    assert bounce["bounced"] == 3
    for number in (1, 2):
        assert (await queue(running, "resume", str(number)))["ended"]["id"] == number
    assert (await queue(running, "list"))["orders"] == []


async def test_people_are_told_in_plain_words(running: str) -> None:
    said: dict[str, str] = {}
    for name, arguments in (
        ("suspend", ("suspend", "--tenant", "acme", "--reason", "complaints [1]")),
        ("list", ("list",)),
        ("show", ("show", QUEUE)),
        ("resume", ("resume", "1")),
    ):
        if name == "list":
            (message_id,) = await inject(running, 1)
        status, said[name], err = await agent("queue", *arguments, "--agent", running)
        assert (status, "Traceback" in err) == (0, False), err
        if name == "show":
            _, said["message"], _ = await agent("queue", "show", message_id, "--agent", running)

    assert "order 1 holds mail of tenant acme; it ends in 4 min" in said["suspend"]
    assert "queue resume 1" in said["suspend"]
    assert QUEUE in said["list"]
    assert "its mail is held by order 1 of an operator: complaints [1]" in said["list"]
    assert "0 scheduled, 1 due, 0 ready" in said["show"]
    assert f"{QUEUE}: due, after 0 attempts" in said["message"]
    assert "why: it is held by order 1 of an operator: complaints [1] (in 4 min" in said["message"]
    assert "given up: in 6 d" in said["message"]
    assert "order 1 has ended (suspend of tenant acme)" in said["resume"]


MISTAKES = [
    (("suspend",), 2, "no mail is selected; give one or more of --queue"),
    (("suspend", "--tenant", "a@b"), 2, "--tenant: 'a@b': must not"),
    (("suspend", "--tenant", "a", "--all"), 2, "--all: contradicts"),
    (("suspend", "--tenant", "a", "--duration", "5x"), 2, "--duration"),
    (("suspend", "--tenant", "a", "--duration", "9999h"), 2, "--duration: must"),
    (("bounce", "--source", "a"), 2, "No such option"),
    (("rebind", "--tenant", "a"), 2, "nowhere to move to"),
    (("rebind", "--tenant", "a", "--to-tenant", "a:b"), 2, "--to-tenant: 'a:b'"),
    (("resume", "17"), 1, "no order 17 is in force"),
    (("show", "nothing"), 1, "no message with this id"),
    (("show", "a->b"), 1, "no such path"),
]


async def test_mistakes_are_told_without_a_traceback(running: str) -> None:
    for arguments, status, text in MISTAKES:
        found, out, err = await agent("queue", *arguments, "--agent", running)

        assert (found, out) == (status, ""), arguments
        assert text in err, arguments
        assert "Traceback" not in err, arguments


async def test_an_agent_that_does_not_run_is_told() -> None:
    status, out, err = await agent("queue", "list", "--agent", "127.0.0.1:1")

    assert (status, out) == (1, "")
    assert err == "penstock-agent: no agent answers at 127.0.0.1:1; is it running?\n"
