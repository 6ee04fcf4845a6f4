"""Delivery over real SMTP: outcomes, retries, bounces."""

from itertools import pairwise
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from tests.integration.dispatch_world import BODY, make_config, world


async def test_mail_is_delivered_over_few_reused_connections(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(50)
        await here.until_records(RecordType.DELIVERY, 50)

        assert here.seen.messages_accepted == 50
        assert here.seen.peak_connections <= 5
        assert here.seen.total_connections < 50
        kept = next(iter(here.sink.providers.values())).messages
        assert all(message.content.endswith(BODY) for message in kept)
        assert await here.spool.entries() == []


async def test_a_refused_recipient_bounces_and_the_others_are_delivered(tmp_path: Path) -> None:
    rules = [{"pattern": "^bad", "reply": "550 5.1.1 no such user"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        await here.send(1, recipients=("good", "bad"))
        await here.until_records(RecordType.BOUNCE, 1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert here.log.of(RecordType.BOUNCE)[0].recipients == ("bad@big.example",)
        assert here.log.of(RecordType.BOUNCE)[0].response.enhanced_code == (5, 1, 1)
        await here.until(
            lambda: here.dispatcher.queue_counts() == {"scheduled": 0, "due": 0, "ready": 0}
        )
        assert await here.spool.entries() == []


async def test_a_transient_failure_is_retried_with_doubling_delays(tmp_path: Path) -> None:
    rules = [{"pattern": "^slow", "reply": "451 4.7.1 later"}]
    async with world(tmp_path, provider={"recipient": rules}, retry_interval="100ms") as here:
        await here.send(1, recipients=("slow",))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 4)

        records = here.log.of(RecordType.TRANSIENT_FAILURE)[:4]
        gaps = [after.timestamp - before.timestamp for before, after in pairwise(records)]
        assert [record.num_attempts for record in records] == [0, 1, 2, 3]
        assert gaps[0] >= 0.095
        assert gaps[1] >= 0.19
        assert gaps[2] >= 0.38


async def test_mail_that_would_wait_beyond_its_age_expires(tmp_path: Path) -> None:
    rules = [{"pattern": "^slow", "reply": "451 4.7.1 later"}]
    async with world(
        tmp_path, provider={"recipient": rules}, retry_interval="1h", max_age="30m"
    ) as here:
        await here.send(1, recipients=("slow",))
        await here.until_records(RecordType.EXPIRATION, 1)

        assert here.log.of(RecordType.EXPIRATION)[0].response.code == 551
        assert len(here.log.of(RecordType.TRANSIENT_FAILURE)) == 1
        assert await here.spool.entries() == []


async def test_421_ends_the_use_of_a_connection(tmp_path: Path) -> None:
    rules = [{"pattern": "^gone", "reply": "421 4.7.0 [TS01] deferred"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(1, recipients=("gone",))
        await here.send(2)
        await here.until_records(RecordType.DELIVERY, 2)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        record = here.log.of(RecordType.TRANSIENT_FAILURE)[0]
        assert (record.response.code, record.response.internal) == (421, False)
        assert record.peer_address is not None
        assert here.seen.total_connections == 2


@pytest.mark.parametrize(
    ("domain", "code", "enhanced"),
    [("null.example", 556, (5, 1, 10)), ("nosuch.example", 550, (5, 1, 2))],
)
async def test_domains_that_take_no_mail_bounce(
    tmp_path: Path, domain: str, code: int, enhanced: tuple[int, int, int]
) -> None:
    async with world(tmp_path) as here:
        await here.send(3, domain=domain)
        await here.until_records(RecordType.BOUNCE, 3)

        response = here.log.of(RecordType.BOUNCE)[0].response
        assert (response.code, response.enhanced_code, response.internal) == (code, enhanced, True)
        assert await here.spool.entries() == []


async def test_many_recipients_are_sent_in_batches(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, max_recipients_per_batch=4))
        await here.send(1, recipients=tuple(f"r{number}" for number in range(10)))
        await here.until(
            lambda: sum(len(record.recipients) for record in here.log.of(RecordType.DELIVERY)) == 10
        )

        assert here.seen.messages_accepted == 3
        assert here.seen.recipients_accepted == 10


async def test_an_unreachable_host_uses_one_attempt(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(1))
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        record = here.log.of(RecordType.TRANSIENT_FAILURE)[0]
        assert (record.response.code, record.response.internal) == (400, True)
        assert (await here.spool.entries())[0].attempts == 1


async def test_prohibited_hosts_bounce(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        config = make_config(here.port)
        config.prohibited_hosts.cidrs.append("127.0.0.0/8")
        here.policies.change(config)
        await here.send(1)
        await here.until_records(RecordType.BOUNCE, 1)

        assert here.log.of(RecordType.BOUNCE)[0].response.enhanced_code == (5, 4, 4)
        assert here.seen.total_connections == 0
