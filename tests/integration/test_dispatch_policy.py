"""What dispatch does when the policy holds mail back, changes or is not known."""

import asyncio
import time
from pathlib import Path

from agent.delivery.record import RecordType
from agent.policy.answer import MxHost, Suspension
from tests.integration.dispatch_world import DOMAIN, suspend, world


async def test_a_suspension_holds_mail_without_an_attempt_and_releases_it_at_once(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        policy = here.policies.lookup(DOMAIN, "default")
        here.policies.suspensions = [
            Suspension(
                action_id=1,
                egress_source="default",
                site_name=policy.site_name,
                routing_domain="",
                reason="test",
                expire_time=time.time() + 3600,
            )
        ]
        here.policies.change()
        await here.until(lambda: here.seen.open_connections == 0)
        await here.send(10)
        await here.until(lambda: here.dispatcher.snapshot()[0].queued == 10)
        (state,) = here.dispatcher.snapshot()
        assert state.connections == 0
        assert state.suspended_until > time.time()

        here.policies.suspensions = []
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 11, seconds=3)

        assert {record.num_attempts for record in here.log.records} == {0}


async def test_suspended_mail_still_grows_old(tmp_path: Path) -> None:
    async with world(tmp_path, max_age="400ms") as here:
        policy = await here.policies.fetch(
            DOMAIN, "default", (MxHost(host="mx.big.example", preference=10),)
        )
        here.policies.suspensions = [
            Suspension(
                action_id=1,
                egress_source="default",
                site_name=policy.site_name,
                routing_domain="",
                reason="test",
                expire_time=time.time() + 3600,
            )
        ]
        await here.send(3)
        await here.until_records(RecordType.EXPIRATION, 3)

        assert here.seen.total_connections == 0


async def test_mail_waits_while_no_policy_is_known(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.is_away = True
        await here.send(2)
        await here.until_records(RecordType.DELAYED, 2)
        here.policies.is_away = False
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 2)

        assert {record.num_attempts for record in here.log.records} == {0}


async def test_a_suspended_domain_does_not_hold_the_others_of_its_path(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        policy = here.policies.lookup(DOMAIN, "default")
        suspend(here.policies, policy, routing_domain=DOMAIN)
        here.policies.change()
        await here.send(5)
        await here.send(5, domain="other.example")
        await here.until_records(RecordType.DELIVERY, 6, seconds=5)

        delivered = [one.recipient_domain for one in here.log.of(RecordType.DELIVERY)]
        assert delivered.count("other.example") == 5
        assert here.dispatcher.queue_counts()["due"] == 5


async def test_many_changes_of_policy_leave_nothing_behind(tmp_path: Path) -> None:
    """Each change looks at every queue that waits; the memory they take must not grow by it."""
    async with world(tmp_path) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        suspend(here.policies, here.policies.lookup(DOMAIN, "default"))
        here.policies.change()
        for number in range(600):
            await here.send(1, queue=f"tenant{number}@big.example")
        for _ in range(20):
            here.policies.change()
            await asyncio.sleep(0.11)

        assert len(here.dispatcher._scheduler._waiting) <= 1200
        assert here.dispatcher.queue_counts()["due"] == 600
        here.policies.suspensions = []
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 601)
