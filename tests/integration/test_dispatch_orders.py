"""What dispatch does with the mail of a tenant, campaign or domain that is suspended or bounced."""

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest

from agent.delivery.record import RecordType
from agent.policy.answer import Bounce, Suspension
from tests.integration.dispatch_world import DOMAIN, world

ACME = f"acme@{DOMAIN}"
NEWS = f"news:acme@{DOMAIN}"
OTHER = f"other@{DOMAIN}"


def _hold(**scope: str) -> Suspension:
    return Suspension(action_id=1, reason="test", expire_time=time.time() + 3600, **scope)


def _bounce(**scope: str) -> Bounce:
    return Bounce(action_id=2, reason="listed", expire_time=time.time() + 3600, **scope)


def _by_queue(here: Any) -> list[tuple[str, RecordType, int]]:
    return sorted({(one.queue, one.type, one.num_attempts) for one in here.log.records})


@pytest.mark.parametrize(
    ("scope", "held", "others"),
    [
        pytest.param({"tenant": "acme"}, (ACME, NEWS), (OTHER, DOMAIN), id="tenant"),
        pytest.param({"tenant": "acme", "campaign": "news"}, (NEWS,), (ACME, OTHER), id="campaign"),
        pytest.param({}, (ACME, DOMAIN), (), id="domain"),
    ],
)
async def test_held_mail_waits_without_an_attempt_and_goes_at_once_when_it_may(
    tmp_path: Path, scope: dict[str, str], held: tuple[str, ...], others: tuple[str, ...]
) -> None:
    async with world(tmp_path) as here:
        here.policies.suspensions = [_hold(routing_domain=DOMAIN, **scope)]
        for queue in (*held, *others):
            await here.send(3, queue=queue)
        await here.until_records(RecordType.DELIVERY, 3 * len(others))
        assert {one.queue for one in here.log.records} == set(others)
        assert here.dispatcher.queue_counts()["due"] == 3 * len(held)

        here.policies.suspensions = []
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 3 * (len(held) + len(others)), seconds=3)

        assert {one.num_attempts for one in here.log.records} == {0}


async def test_mail_that_is_ready_goes_back_before_the_next_transaction(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        here.policies.suspensions = [_hold(tenant="acme")]
        await here.send(20, queue=ACME)
        await here.send(5, queue=OTHER)
        await here.until_records(RecordType.DELIVERY, 6)

        assert ACME not in {one.queue for one in here.log.records}


async def test_a_suspension_ends_by_itself_and_a_pinned_one_does_not(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        pinned = Suspension(action_id=9, tenant="other", reason="test", expire_time=math.inf)
        short = Suspension(action_id=1, tenant="acme", reason="test", expire_time=time.time() + 0.5)
        here.policies.suspensions = [pinned, short]
        await here.send(2, queue=ACME)
        await here.send(2, queue=OTHER)
        await here.until_records(RecordType.DELIVERY, 2)

        assert {one.queue for one in here.log.records} == {ACME}


async def test_held_mail_still_grows_old(tmp_path: Path) -> None:
    async with world(tmp_path, max_age="400ms") as here:
        here.policies.suspensions = [_hold(tenant="acme")]
        await here.send(3, queue=ACME)
        await here.until_records(RecordType.EXPIRATION, 3)


async def test_a_bounce_ends_mail_that_is_held_and_mail_that_arrives(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.suspensions = [_hold(tenant="acme")]
        await here.send(4, queue=ACME)
        await here.send(1, queue=OTHER)
        await here.until_records(RecordType.DELIVERY, 1)

        here.policies.order_bounce(_bounce(routing_domain=DOMAIN, tenant="acme"))
        await here.until_records(RecordType.ADMIN_BOUNCE, 4)
        await here.send(2, queue=NEWS)
        await here.until_records(RecordType.ADMIN_BOUNCE, 6)

        bounced = [one for one in here.log.records if one.type is RecordType.ADMIN_BOUNCE]
        assert {(one.response.code, one.response.enhanced_code) for one in bounced} == {
            (551, (5, 7, 1))
        }
        assert {one.response.content for one in bounced} == {
            "Administrator bounced with reason: listed"
        }
        assert all(one.response.internal for one in bounced)
        assert await here.spool.entries() == []

        here.policies.bounces, here.policies.suspensions = [], []
        here.policies.change()
        await here.send(1, queue=ACME)
        await here.until_records(RecordType.DELIVERY, 2)


async def test_a_bounce_sweeps_mail_whose_time_has_not_come_without_stalling(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        entries = 3000
        # Their next attempt is an hour away.
        here.policies.suspensions = [_hold(tenant="acme")]
        await here.send(entries, queue=ACME)
        later = time.time() + 3600
        await here.spool.postpone([(entry.id, later) for entry in await here.spool.entries()])
        await here.stop()
        await here.start()
        assert here.dispatcher.queue_counts()["scheduled"] == entries
        longest, last = 0.0, asyncio.get_running_loop().time()
        here.policies.order_bounce(_bounce(tenant="acme"))

        def is_over() -> bool:
            nonlocal longest, last
            now = asyncio.get_running_loop().time()
            longest, last = max(longest, now - last), now
            return len(here.log.records) >= entries

        await here.until(is_over, seconds=60)

        assert {one.type for one in here.log.records} == {RecordType.ADMIN_BOUNCE}
        assert await here.spool.entries() == []
        assert longest < 2.0, "others had no turn"
