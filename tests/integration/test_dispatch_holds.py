"""What holding much mail costs, and what operators see of it."""

import asyncio
import gc
import math
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from agent.dispatch.holds import HoldKind
from agent.policy.answer import Bounce, Suspension
from agent.queue.entry import Entry
from agent.status import describe_held
from tests.integration.dispatch_world import DOMAIN, World, world

MANY = 100_000
#: Longest time for which others may have no turn, in seconds of this thread's own work: what other
#: processes of the machine take does not count.
_LONGEST_TURN = 0.1


def _hold(action_id: int = 1, end: float = 3600.0, **scope: str) -> Suspension:
    until = time.time() + end
    return Suspension(action_id=action_id, reason="they asked", expire_time=until, **scope)


def _accept_many(here: World, queue_of: Callable[[int], str], many: int = MANY) -> None:
    """Mail that is in the queues alone: when its turn comes, it turns out to be finished."""
    now = time.time()
    for number in range(many):
        entry = Entry(id=number + 1, queue_name=sys.intern(queue_of(number)), created=now, due=now)
        here.dispatcher.accept([entry])


class Turns:
    """How long others had to wait for their turn."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest, last = max(self.longest, now - last), now


@asynccontextmanager
async def watching_turns() -> AsyncIterator[Turns]:
    turns = Turns()
    task = asyncio.create_task(turns.watch())
    # Its pauses grow with all that the process holds, of other tests as well.
    gc.collect()
    gc.disable()
    try:
        yield turns
    finally:
        gc.enable()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("queue_of", "many"),
    [
        pytest.param(lambda number: f"acme@{DOMAIN}", MANY, id="one queue"),
        pytest.param(lambda number: f"c{number}:acme@{DOMAIN}", 20_000, id="a queue each"),
    ],
)
async def test_much_mail_is_held_and_released_without_stalling(
    tmp_path: Path, queue_of: Callable[[int], str], many: int
) -> None:
    async with world(tmp_path) as here:
        here.policies.suspensions = [_hold(tenant="acme")]
        _accept_many(here, queue_of, many)
        held = here.dispatcher.held_counts
        await here.until(lambda: held()[HoldKind.TENANT] == many, 60)

        # Nothing happens, and nothing is done.
        used = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - used < 0.1

        # Changes that do not concern it.
        async with watching_turns() as turns:
            for number in range(3):
                here.policies.suspensions = [
                    *here.policies.suspensions[:1],
                    _hold(number + 2, tenant="other"),
                ]
                here.policies.change()
                await asyncio.sleep(0.12)
            await here.until(lambda: not here.dispatcher._scheduler._stale, 60)
        assert held()[HoldKind.TENANT] == many
        assert turns.longest < _LONGEST_TURN

        here.policies.suspensions = []
        async with watching_turns() as turns:
            here.policies.change()
            await here.until(lambda: here.seen.total_connections > 0, 5)
            await here.until(lambda: held()[HoldKind.TENANT] == 0, 60)
        assert turns.longest < _LONGEST_TURN


async def test_much_held_mail_grows_old_without_stalling(tmp_path: Path) -> None:
    async with world(tmp_path, max_age="1s") as here:
        here.policies.suspensions = [_hold(tenant="acme")]
        _accept_many(here, lambda number: f"acme@{DOMAIN}")
        async with watching_turns() as turns:
            await here.until(lambda: here.dispatcher.held_counts()[HoldKind.TENANT] == 0, 60)
        assert turns.longest < _LONGEST_TURN


async def test_held_queues_are_shown_with_their_reason_action_and_end(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        policy = here.policies.lookup(DOMAIN, "default")
        path = {"egress_source": "default", "site_name": policy.site_name}
        tenant = _hold(1, 600, tenant="acme", routing_domain="other.example")
        pinned = Suspension(action_id=3, campaign="news", reason="asked", expire_time=math.inf)
        here.policies.suspensions = [tenant, pinned]
        await here.send(3, domain="other.example", queue="acme@other.example")
        await here.send(2, queue=f"news:acme@{DOMAIN}")
        await here.until(lambda: sum(here.dispatcher.held_counts().values()) == 5)

        shown = [describe_held(one) for one in here.dispatcher.held_queues(10)]

        until = shown[0].pop("until")
        assert until.endswith("Z")
        assert shown == [
            {
                "queue_name": "acme@other.example",
                "due": 3,
                "scheduled": 0,
                "action_id": 1,
                "order_id": 0,
                "kind": "tenant",
                "reason": "they asked",
            },
            {
                "queue_name": f"news:acme@{DOMAIN}",
                "due": 2,
                "scheduled": 0,
                "action_id": 3,
                "order_id": 0,
                "kind": "campaign",
                "reason": "asked",
                "until": None,
            },
        ]
        assert len(here.dispatcher.held_queues(1)) == 1
        assert here.dispatcher.held_counts() == {
            "path": 0,
            "domain": 0,
            "tenant": 3,
            "campaign": 2,
            "all": 0,
        }

        # Held by the path that it would take, and by nothing any more.
        here.policies.suspensions = [_hold(4, **path)]
        here.policies.change()
        await here.until(lambda: here.dispatcher.held_counts()[HoldKind.PATH] == 5)
        assert {one.action_id for one in here.dispatcher.held_queues(10)} == {4}
        here.policies.suspensions = []
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 6)
        assert here.dispatcher.held_queues(10) == []


async def test_a_bounce_ends_much_held_mail_without_stalling(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.suspensions = [_hold(tenant="acme")]
        _accept_many(here, lambda number: f"acme@{DOMAIN}")
        await here.until(lambda: here.dispatcher.held_counts()[HoldKind.TENANT] == MANY, 60)
        async with watching_turns() as turns:
            here.policies.order_bounce(
                Bounce(action_id=2, tenant="acme", reason="listed", expire_time=time.time() + 60)
            )
            await here.until(lambda: here.dispatcher.held_counts()[HoldKind.TENANT] == 0, 60)
        assert turns.longest < _LONGEST_TURN
