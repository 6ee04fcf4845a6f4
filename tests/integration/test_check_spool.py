"""`check --spool` on spools that are whole, in use, and damaged in one way each."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SpoolUnavailable
from agent.spool.messages import Destination, NewMessage, Settlement
from agent.spool.sqlite import SqliteSpool
from agent.spool.verify import MOST_NAMED, verify_spool
from tests.integration.test_agent_commands import agent

_LARGE = 1000


def _message(id_: str, size: int = 10) -> NewMessage:
    return NewMessage(
        id=id_,
        sender="a@x.example",
        destinations=(Destination(queue_name="y.example", recipients=("b@y.example",)),),
        body=b"x" * size,
        created=1.0,
    )


async def _make_spool(directory: Path, count: int = 2) -> None:
    """Small messages s0, s1, …, large ones l0, l1, …"""
    spool = await SqliteSpool.open(directory, large_body=_LARGE)
    await spool.add([_message(f"s{number}") for number in range(count)])
    await spool.add([_message(f"l{number}", 2 * _LARGE) for number in range(count)])
    await spool.close()


def _execute(statement: str) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        connection = sqlite3.connect(place / "spool.db")
        connection.execute(statement)
        connection.commit()
        connection.close()

    return damage


def _cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda place: _write(place / name, (place / name).read_bytes()[:size])


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _overwrite_pages(place: Path) -> None:
    """As a disk that lost what it had: every page but the first is full of other things."""
    _execute("PRAGMA wal_checkpoint(TRUNCATE)")(place)
    path = place / "spool.db"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


@pytest.mark.parametrize(
    ("damage", "is_error", "text", "remedy"),
    [
        pytest.param(
            lambda place: (place / "bodies" / "l1").unlink(),
            True,
            "1 messages whose body file is gone: l1",
            "put the files back",
            id="a body file is gone",
        ),
        pytest.param(
            _cut("bodies/l0", 70),
            True,
            "1 damaged bodies: l0 (70 bytes of 2000)",
            "does not send them",
            id="a body file is cut off",
        ),
        pytest.param(
            lambda place: _write(place / "bodies" / "l0", b"y" * 2000),
            True,
            "1 damaged bodies: l0 (checksum differs)",
            "does not send them",
            id="a body file has other content",
        ),
        pytest.param(
            _execute("UPDATE messages SET body = x'00' WHERE id = 's1'"),
            True,
            "1 damaged bodies: s1 (1 bytes of 10)",
            "does not send them",
            id="a body in the database is another",
        ),
        pytest.param(
            lambda place: _write(place / "bodies" / "stray", b"z"),
            False,
            "1 body files that no message refers to: stray",
            "next start removes them",
            id="a body file without a row",
        ),
        pytest.param(
            _execute("DELETE FROM messages WHERE id = 's0'"),
            True,
            "1 entries without a message: 1",
            "DELETE FROM entries WHERE id IN (1)",
            id="an entry without its message",
        ),
        pytest.param(
            _execute("DELETE FROM entries WHERE id = 1"),
            True,
            "1 messages that nothing is to be done with: s0",
            "DELETE FROM messages",
            id="a message without entries",
        ),
        pytest.param(
            _execute("UPDATE entries SET recipients = '[]' WHERE id = 2"),
            True,
            "1 entries whose recipients can't be read: 2",
            "restore",
            id="nobody to send to",
        ),
        pytest.param(
            _overwrite_pages, True, "the database is damaged", ".recover", id="pages overwritten"
        ),
        pytest.param(
            lambda place: _write(place / "spool.db", b"no database " * 1000),
            True,
            "the database is damaged: file is not a database",
            ".recover",
            id="no database at all",
        ),
    ],
)
async def test_damage_is_told_with_what_to_do(
    tmp_path: Path, damage: Callable[[Path], Any], is_error: bool, text: str, remedy: str
):
    await _make_spool(tmp_path)
    damage(tmp_path / "spool")
    before = {path: path.read_bytes() for path in (tmp_path / "spool").rglob("*") if path.is_file()}

    found = [one for one in await asyncio.to_thread(verify_spool, tmp_path) if text in one.text]

    assert [one.is_error for one in found] == [is_error]
    assert remedy in found[0].remedy
    for path, data in before.items():
        assert path.name.endswith("-shm") or path.read_bytes() == data, "it changes nothing"


async def test_a_whole_spool_has_no_damage(tmp_path: Path):
    assert verify_spool(tmp_path) == []
    await _make_spool(tmp_path)

    assert verify_spool(tmp_path) == []


async def test_much_damage_is_counted_and_some_of_it_named(tmp_path: Path):
    await _make_spool(tmp_path, count=MOST_NAMED + 5)
    _execute("UPDATE messages SET checksum = 1")(tmp_path / "spool")

    (damage,) = verify_spool(tmp_path)

    assert damage.text.startswith(f"{2 * MOST_NAMED + 10} damaged bodies: s0 (checksum differs), ")
    assert damage.text.endswith(f" and {MOST_NAMED + 10} more")


async def test_a_spool_in_use_is_read_while_mail_comes_and_goes(tmp_path: Path):
    spool = await SqliteSpool.open(tmp_path, large_body=_LARGE)
    stop = asyncio.Event()

    async def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (entry,) = await spool.add([_message(f"m{number}", _LARGE + number)])
            if number % 3:
                await spool.settle([_ended(entry.id)])

    task = asyncio.create_task(work())
    try:
        for _ in range(20):
            assert await asyncio.to_thread(verify_spool, tmp_path) == []
    finally:
        stop.set()
        await task
        await spool.close()
    assert verify_spool(tmp_path) == []


def _ended(entry_id: int) -> Settlement:
    return Settlement(entry_id=entry_id, remaining=())


async def test_a_damaged_body_is_not_handed_out(tmp_path: Path):
    await _make_spool(tmp_path)
    _cut("bodies/l0", 70)(tmp_path / "spool")
    spool = await SqliteSpool.open(tmp_path, large_body=_LARGE)
    try:
        with pytest.raises(SpoolUnavailable, match="the body of l0 is damaged: 70 bytes of 2000"):
            await spool.load(3)
        assert (await spool.load(1)).body == b"x" * 10
    finally:
        await spool.close()


async def test_the_command_says_it_and_fails(tmp_path: Path):
    config = tmp_path / "agent.toml"
    config.write_text(
        f"""
        [agent]
        data_dir = "{tmp_path}/data"
        [policy]
        server = "127.0.0.1:1"
        [dns]
        nameservers = ["127.0.0.1:1"]
        timeout = "200ms"
        """
    )
    await _make_spool(tmp_path / "data")
    command = ("check", "--spool", "--json", "--config", str(config))

    good = await agent(*command)
    (tmp_path / "data" / "spool" / "bodies" / "l1").unlink()
    bad = await agent(*command)

    assert [status for status, _, _ in (good, bad)] == [0, 1]
    texts = [
        [one["text"] for one in json.loads(out)["findings"] if one["what"] == "spool"]
        for _, out, _ in (good, bad)
    ]
    assert texts[0][-1] == "whole: every row and every body is as it was stored"
    assert texts[1][-1].startswith("1 messages whose body file is gone: l1; put the files back")
