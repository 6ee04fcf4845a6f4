"""
The power fails, and what was not synced is gone, or there in part.

The agent runs as always, under a library that writes down what it does to its disk. Then the power
is cut at many instants of what was written down, and the spool that is found is looked into.
PENSTOCK_SEEDS="from-to" runs other seeds, or more of them.
"""

import asyncio
import os
import random
import signal
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.orders.disk import OrderDisk
from agent.spool.sqlite import SqliteSpool
from tests.acceptance.crash_world import FINAL, CrashWorld, Mail, crash_world
from tests.acceptance.power_loss.disk import Disk
from tests.acceptance.power_loss.disk_journal import journal_environment, read_journal

_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-1").split("-"))
#: Messages that are given in to each of the runs.
_MESSAGES = 60
#: Cuts of power at any instant, and right after a message was acknowledged.
_CUTS, _CUTS_AFTER_ACKNOWLEDGEMENT = 30, 20


class _Accepted(Counter[str]):
    """What the provider accepts, with the moments."""

    def __init__(self, moment: Callable[[], int]) -> None:
        super().__init__()
        self._moment = moment
        self.moments: dict[str, int] = {}

    def __setitem__(self, key: str, count: int) -> None:
        self.moments.setdefault(key, self._moment())
        super().__setitem__(key, count)


class _Reports(list[list[str]]):
    """The event ids that the policy server takes, with the moments."""

    def __init__(self, moment: Callable[[], int]) -> None:
        super().__init__()
        self._moment = moment
        self.moments: dict[str, int] = {}

    def append(self, event_ids: list[str]) -> None:
        for event_id in event_ids:
            self.moments.setdefault(event_id, self._moment())
        super().append(event_ids)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(_FIRST, _LAST))
async def test_what_is_acknowledged_outlives_a_loss_of_power(tmp_path, seed):
    root, journal = tmp_path / "agent", tmp_path / "journal"
    root.mkdir()
    environment = journal_environment(root, journal, tmp_path)
    # The moments of all that happens are the length of the journal then.
    journal.touch()

    def moment() -> int:
        return journal.stat().st_size

    async with crash_world(tmp_path, seed, environment=environment) as world:
        world.moment = moment
        accepted, reports = _Accepted(moment), _Reports(moment)
        world.sink.providers["big"].identities.seen = accepted
        world.policy.reports = reports
        for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            await _run(world, end)
        ended, _ = world.log_lines()

    assert len(world.acknowledged) > _MESSAGES
    outcomes = {outcome["event_id"]: outcome for outcome in ended}
    happened = _Happened(world, accepted.moments, reports.moments, outcomes)
    dice = random.Random(seed)
    lines = read_journal(journal)
    ends = [line.end for line in lines]
    cuts = {dice.choice(ends) for _ in range(_CUTS)}
    acknowledged = dice.sample(sorted(world.acknowledged.values()), _CUTS_AFTER_ACKNOWLEDGEMENT)
    cuts |= {ends[min(bisect_left(ends, one), len(ends) - 1)] for one in acknowledged}
    disk, found = Disk(root), []
    for line in lines:
        disk.apply(line)
        if line.end in cuts:
            place = tmp_path / f"cut-{line.end}"
            place.mkdir()
            disk.lose_power(place, dice)
            found += [f"{line.end}: {one}" for one in await _look_into(place, line.end, happened)]
    assert found == []


async def _run(world: CrashWorld, end: signal.Signals) -> None:
    async with world.agent() as run:
        feeding = asyncio.create_task(world.feed(run, _MESSAGES))
        ordering = asyncio.create_task(world.give_orders(run))
        await asyncio.wait([feeding], timeout=1.0 + world.dice.random())
        run.signal(end)
        assert await run.status(20.0) is not None, run.output()
        await asyncio.gather(feeding, ordering)


@dataclass
class _Happened:
    """What others saw, by the moment."""

    world: CrashWorld
    #: By "message-id recipient".
    accepted: dict[str, int]
    #: By event id.
    reported: dict[str, int]
    #: The lines of the delivery log, by event id.
    outcomes: dict[str, dict[str, Any]]

    def acknowledged_by(self, moment: int) -> list[Mail]:
        """What the agent had taken."""
        numbers = self.world.acknowledged.items()
        return [self.world.sent[number] for number, when in numbers if when <= moment]


async def _look_into(place: Path, moment: int, happened: _Happened) -> list[str]:
    """What is wrong with what was found after the power failed."""
    mistakes = await _find_forgotten_orders(place, moment, happened)
    spool = await SqliteSpool.open(place, large_body=0)
    try:
        here: defaultdict[str, set[str]] = defaultdict(set)
        for entry in await spool.entries():
            message = await spool.load(entry.id)
            assert message is not None
            here[message.sender] |= set(message.recipients)
            if message.sender:
                number = int(message.sender.partition("@")[0].removeprefix("from"))
                assert message.body.endswith(happened.world.sent[number].content)
        records = [one.record for one in await spool.pending_records(0, 1_000_000)]
    finally:
        await spool.close()
    final = {
        (record.sender, recipient): record.type.value
        for record in records
        for recipient in record.recipients
        if record.type.value in FINAL
    }
    for event_id, when in happened.reported.items():
        line = happened.outcomes.get(event_id)
        if when <= moment and line is not None and line["type"] in FINAL:
            final |= dict.fromkeys(_each(line), line["type"])
    for mail in happened.acknowledged_by(moment):
        for recipient in set(mail.recipients) - here[mail.sender]:
            outcome = final.get((mail.sender, recipient))
            if outcome is None:
                mistakes.append(f"{mail.sender} to {recipient} is gone without an outcome")
            elif outcome == "Delivery":
                accepted = happened.accepted.get(f"{mail.identity} {recipient}")
                if accepted is None or accepted > moment:
                    mistakes.append(f"{mail.sender} to {recipient} was delivered to nobody")
            elif outcome == "Bounce" and not _is_told(mail, here, happened.accepted, moment):
                mistakes.append(f"{mail.sender} was not told that {recipient} bounced")
    return mistakes


async def _find_forgotten_orders(place: Path, moment: int, happened: _Happened) -> list[str]:
    orders = OrderDisk(place / "orders.db")
    try:
        kept = {order.request_id for order in await orders.open()}
    finally:
        await orders.close()
    given = happened.world.ordered.items()
    return [
        f"the order {request_id!r} is forgotten"
        for request_id, when in given
        if when <= moment and request_id not in kept
    ]


def _each(line: dict[str, Any]) -> Iterable[tuple[str, str]]:
    to = line["recipient"]
    return [(line["sender"], recipient) for recipient in ([to] if isinstance(to, str) else to)]


def _is_told(mail: Mail, here: dict[str, set[str]], accepted: dict[str, int], moment: int) -> bool:
    """Whether the sender has a notice, or is to get one."""
    got = [when for key, when in accepted.items() if key.rpartition(" ")[2] == mail.sender]
    return mail.sender in here[""] or any(when <= moment for when in got)
