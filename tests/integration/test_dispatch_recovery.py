"""What a started agent does with the mail that it finds in its spool."""

import asyncio
import time
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from agent.dispatch import recovery
from agent.dispatch.recovery import Recovery
from agent.errors import SpoolUnavailable
from agent.policy.answer import Bounce
from agent.queue.entry import Entry
from agent.spool.messages import Destination, NewMessage, Settlement
from agent.spool.sqlite import SqliteSpool
from tests.integration.dispatch_world import DOMAIN, world


def message(number: int, queue_name: str = f"acme@{DOMAIN}") -> NewMessage:
    destination = Destination(queue_name=queue_name, recipients=(f"u{number}@{DOMAIN}",))
    return NewMessage(
        id=f"m{number}",
        sender="s@x.example",
        destinations=(destination,),
        body=b"Subject: x\r\n\r\n",
        created=time.time(),
    )


async def fill(directory: Path, count: int, **due_and_attempts: float) -> list[Entry]:
    spool = await SqliteSpool.open(directory)
    entries = await spool.add([message(number) for number in range(count)])
    if due_and_attempts:
        await spool.settle(
            [
                Settlement(
                    entry_id=entry.id,
                    remaining=("u@big.example",),
                    due=due_and_attempts["due"],
                    attempts=1,
                )
                for entry in entries
            ]
        )
    await spool.close()
    return entries


class Taken:
    """What recovery handed over."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ended = asyncio.Event()


def recover(spool: SqliteSpool, taken: Taken) -> Recovery:
    return Recovery(spool, taken.entries.extend, on_end=taken.ended.set, clock=time.time)


async def test_all_mail_is_handed_over_once_while_new_mail_comes_in(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "_AT_ONCE", 7)
    monkeypatch.setattr(recovery, "_AT_START", 14)
    found = await fill(tmp_path, 100)
    spool, taken = await SqliteSpool.open(tmp_path), Taken()
    recovering = recover(spool, taken)
    try:
        await recovering.start()
        assert 0 < recovering.remaining < 100
        added = await spool.add([message(number) for number in range(200, 220)])
        async with asyncio.timeout(10):
            await taken.ended.wait()

        assert [entry.id for entry in taken.entries] == [entry.id for entry in found]
        assert min(entry.id for entry in added) > taken.entries[-1].id
        assert recovering.remaining == 0
    finally:
        await recovering.stop()
        await spool.close()


async def test_a_spool_that_can_not_be_read_for_a_while_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "_AT_ONCE", 7)
    monkeypatch.setattr(recovery, "_AT_START", 7)
    monkeypatch.setattr(recovery, "_RETRY_SECONDS", 0.01)
    await fill(tmp_path, 50)
    spool, taken = await SqliteSpool.open(tmp_path), Taken()
    recovering = recover(spool, taken)
    try:
        await recovering.start()
        read, failures = spool._read, 0

        async def read_seldom(work):
            nonlocal failures
            failures += 1
            if failures % 3:
                raise SpoolUnavailable("the spool can't be read: test")
            return await read(work)

        monkeypatch.setattr(spool, "_read", read_seldom)
        async with asyncio.timeout(10):
            await taken.ended.wait()

        assert len({entry.id for entry in taken.entries}) == len(taken.entries) == 50
    finally:
        await recovering.stop()
        await spool.close()


async def test_what_came_due_while_stopped_is_spread_over_as_long_a_time(tmp_path):
    now = time.time()
    await fill(tmp_path, 1, due=now - 50.0)
    spool, taken = await SqliteSpool.open(tmp_path), Taken()
    # As if the agent had been stopped for 100 seconds.
    spool.last_change = now - 100.0
    recovering = recover(spool, taken)
    try:
        await recovering.start()

        (entry,) = taken.entries
        assert entry.due == pytest.approx(now + 50.0, abs=5.0)
        # On disk it stays as it was: another restart works from the same times.
        (stored,) = await spool.entries()
        assert stored.due == now - 50.0
    finally:
        await recovering.stop()
        await spool.close()


async def test_a_bounce_reaches_mail_that_was_read_after_it_began(tmp_path):
    async with world(tmp_path) as here:
        here.policies.is_away = True
        now = time.time()
        entries = await here.spool.add([message(number) for number in range(3)])
        await here.spool.postpone([(entry.id, now + 3600.0) for entry in entries])
        bounce = Bounce(action_id=1, tenant="acme", reason="listed", expire_time=now + 3600.0)
        here.policies.order_bounce(bounce)
        await here.until(lambda: here.dispatcher._scheduler._bounces.swept == 1)
        here.dispatcher.accept(await here.spool.entries())
        assert here.dispatcher.queue_counts()["scheduled"] == 3

        here.dispatcher.recovered()

        await here.until_records(RecordType.ADMIN_BOUNCE, 3)
