"""No mail is lost or sent twice: restarts, crashes, full disks, broken peers."""

import asyncio
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from tests.integration.dispatch_world import make_config, world


async def test_a_restart_keeps_mail_attempts_and_due_times(tmp_path: Path) -> None:
    rules = [{"pattern": "^slow", "reply": "451 4.7.1 later"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        await here.send(2, recipients=("slow", "quick"))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 2)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 2)
        await here.stop(0.0)
        await here.start()

        entries = await here.spool.entries()
        assert [entry.attempts for entry in entries] == [1, 1]
        assert all(entry.due > time.time() + 3000 for entry in entries)
        message = await here.spool.load(entries[0].id)
        assert message.recipients == ("slow@big.example",)


@pytest.mark.parametrize("at", ["mail", "rcpt", "data", "data_end"])
async def test_a_connection_that_drops_loses_no_mail(tmp_path: Path, at: str) -> None:
    broken = [{"at": at, "action": "drop", "probability": 0.3}]
    provider = {"misbehave": broken}
    async with world(
        tmp_path, provider=provider, retry_interval="50ms", max_retry_interval="100ms"
    ) as here:
        await here.send(30)
        await here.until_records(RecordType.DELIVERY, 30)

        assert await here.spool.entries() == []


async def test_an_outcome_that_the_disk_does_not_take_is_held_and_nothing_is_sent_again(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        here.policies.is_away = True
        await here.send(20)
        await here.until_records(RecordType.DELAYED, 20)
        with full_disk(tmp_path / "spool" / "spool.db-wal"):
            here.policies.is_away = False
            here.policies.change()
            await here.until(lambda: here.seen.messages_accepted > 0)
            await here.until(lambda: not here.spool.is_healthy)
            assert here.seen.messages_accepted <= 10
            assert here.log.of(RecordType.DELIVERY) == []
        await here.until_records(RecordType.DELIVERY, 20)

        assert here.seen.messages_accepted == 20
        assert await here.spool.entries() == []


@contextmanager
def full_disk(file: Path) -> Iterator[None]:
    """Let no file of this process grow beyond *file* as it is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_stop_does_not_wait_for_hosts_that_do_not_greet(tmp_path: Path) -> None:
    provider = {"misbehave": [{"at": "banner", "action": "silence"}]}
    async with world(tmp_path, provider=provider) as here:
        await here.send(5)
        await here.until(lambda: here.seen.open_connections > 0)
        begin = time.monotonic()
        await here.stop(30.0)

        # Not the 30 seconds that a transaction would be given.
        assert time.monotonic() - begin < 10
        await here.start()
        assert len(await here.spool.entries()) == 5


async def test_a_stop_lets_transactions_end_and_begins_nothing_new(tmp_path: Path) -> None:
    provider = {"latency": ["300ms", "400ms"]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(5)
        # One latency goes by at the banner, the next at the end of the message.
        await here.until(lambda: here.seen.messages_offered == 1)
        stopping = asyncio.create_task(here.dispatcher.stop(5.0))
        await here.send(3, domain="other.example")
        await stopping

        assert here.seen.messages_accepted == 1
        assert here.seen.open_connections == 0
        assert len(here.log.of(RecordType.DELIVERY)) == 1
        assert len(await here.spool.entries()) == 7


async def test_a_body_that_is_gone_holds_up_no_other_mail(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        here.policies.is_away = True
        await here.send(1, body=b"x" * 100 + b"\r\n" + (b"y" * 98 + b"\r\n") * 12_000)
        await here.until_records(RecordType.DELAYED, 1)
        for file in (tmp_path / "spool" / "bodies").iterdir():
            file.unlink()
        here.policies.is_away = False
        await here.send(3)
        await here.until_records(RecordType.DELIVERY, 3)

        assert len(await here.spool.entries()) == 1


async def test_a_crash_in_the_middle_loses_nothing_and_repeats_little(tmp_path: Path) -> None:
    async with world(tmp_path, provider={"latency": ["1ms", "3ms"]}) as here:
        await here.send(200)
        await here.until(lambda: here.seen.messages_accepted >= 60)
        await here.stop(0.0)
        await here.start()
        await here.until(
            lambda: (
                here.dispatcher.queue_counts()["ready"] == 0
                and here.dispatcher.queue_counts()["due"] == 0
            )
        )

        provider = next(iter(here.sink.providers.values()))
        assert len(provider.identities.seen) == 200
        assert provider.identities.duplicates <= 5
