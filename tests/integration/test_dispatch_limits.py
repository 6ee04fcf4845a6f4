"""Limits and rates of paths, as the peers count them."""

import time
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from agent.policy.answer import MxHost
from tests.integration.dispatch_world import DOMAIN, make_config, world


@pytest.mark.parametrize("limit", [1, 3])
async def test_never_more_connections_than_allowed(tmp_path: Path, limit: int) -> None:
    provider = {"limits": {"max_connections": limit}, "latency": ["1ms", "5ms"]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(
            make_config(here.port, connection_limit=limit, max_deliveries_per_connection=4)
        )
        await here.send(120)
        await here.until_records(RecordType.DELIVERY, 120)

        assert here.seen.exceeded() == []
        assert here.seen.peak_connections == limit
        assert here.seen.most_messages_per_connection == 4
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []


async def test_a_named_limit_is_shared_by_all_paths_that_name_it(tmp_path: Path) -> None:
    async with world(
        tmp_path, provider={"limits": {"max_connections": 2}, "latency": ["1ms", "3ms"]}
    ) as here:
        here.dns.zone = type(here.dns.zone).from_mapping(
            {
                "mx": {f"d{n}.example": [[10, f"mx.d{n}.example"]] for n in range(4)},
                "a": {f"mx.d{n}.example": ["127.0.0.1"] for n in range(4)},
            }
        )
        config = make_config(here.port, connection_limit=5, idle_timeout=0.05)
        config.additional_connection_limits["together"].value = 2
        here.policies.change(config)
        for number in range(4):
            await here.send(20, domain=f"d{number}.example")
        await here.until_records(RecordType.DELIVERY, 80)

        assert here.seen.exceeded() == []
        assert len(here.dispatcher.snapshot()) == 4


async def test_message_rate_is_kept_as_the_peer_counts_it(tmp_path: Path) -> None:
    # Ten more at once than are sent so: a machine that stands still for a moment bunches them.
    async with world(
        tmp_path, provider={"limits": {"max_message_rate": "50/s,max_burst=15"}}
    ) as here:
        here.policies.change(
            make_config(here.port, connection_limit=5, max_message_rate=(50, 1, 5))
        )
        begin = time.monotonic()
        await here.send(60)
        await here.until_records(RecordType.DELIVERY, 60)

        assert time.monotonic() - begin >= (60 - 5) / 50
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        assert here.seen.exceeded() == []


async def test_connection_rate_is_kept(tmp_path: Path) -> None:
    async with world(
        tmp_path, provider={"limits": {"max_connection_rate": "10/s,max_burst=2"}}
    ) as here:
        here.policies.change(
            make_config(here.port, max_connection_rate=(10, 1, 1), max_deliveries_per_connection=2)
        )
        await here.send(20)
        await here.until_records(RecordType.DELIVERY, 20)

        assert here.seen.total_connections >= 10
        assert here.seen.exceeded() == []


async def test_a_slow_rate_opens_no_connections_in_vain(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(
            make_config(here.port, max_message_rate=(1, 3600, 1), idle_timeout=0.2)
        )
        await here.send(30)
        await here.until_records(RecordType.DELIVERY, 1)
        await here.until(lambda: here.seen.open_connections == 0)

        assert here.seen.total_connections <= 2
        assert here.dispatcher.queue_counts()["ready"] == 29

        here.policies.change(make_config(here.port, max_message_rate=(100000, 1, 100)))
        await here.until_records(RecordType.DELIVERY, 30)


async def test_a_lowered_connection_limit_holds_for_open_connections(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(60)
        await here.until_records(RecordType.DELIVERY, 60)
        assert here.seen.open_connections > 1

        here.policies.change(make_config(here.port, connection_limit=1))
        await here.policies.fetch(
            DOMAIN, "default", (MxHost(host="mx.big.example", preference=10),)
        )
        here.policies.change()
        await here.until(lambda: here.seen.open_connections <= 1)
        await here.send(20)
        await here.until_records(RecordType.DELIVERY, 80)

        assert here.seen.open_connections == 1


async def test_a_full_ready_queue_delivers_everything_in_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, max_ready=5))
        await here.send(100)
        await here.until_records(RecordType.DELIVERY, 100)

        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []


async def test_paths_that_share_a_limit_take_turns(tmp_path: Path) -> None:
    async with world(tmp_path, provider={"latency": ["1ms", "2ms"]}) as here:
        here.dns.zone = type(here.dns.zone).from_mapping(
            {
                "mx": {f"d{n}.example": [[10, f"mx.d{n}.example"]] for n in range(3)},
                "a": {f"mx.d{n}.example": ["127.0.0.1"] for n in range(3)},
            }
        )
        config = make_config(here.port, max_deliveries_per_connection=2)
        config.additional_connection_limits["together"].value = 1
        here.policies.change(config)
        await here.send(60, domain="d0.example")
        await here.send(60, domain="d1.example")
        await here.until_records(RecordType.DELIVERY, 4)
        await here.send(2, domain="d2.example")
        await here.until_records(RecordType.DELIVERY, 122)

        order = [one.recipient_domain for one in here.log.of(RecordType.DELIVERY)]
        assert here.seen.peak_connections == 1
        assert order.index("d2.example") < 30
        assert 20 < order[:60].count("d1.example") < 40


async def test_a_pool_gives_each_source_its_share(tmp_path: Path) -> None:
    agent = {
        "source": [{"name": "ip-1"}, {"name": "ip-2"}],
        "pool": [
            {
                "name": "mixed",
                "sources": [{"name": "ip-1", "weight": 3}, {"name": "ip-2", "weight": 1}],
            }
        ],
    }
    async with world(tmp_path, agent=agent, egress_pool="mixed") as here:
        await here.send(40)
        await here.until_records(RecordType.DELIVERY, 40)

        sources = [one.egress_source for one in here.log.of(RecordType.DELIVERY)]
        assert (sources.count("ip-1"), sources.count("ip-2")) == (30, 10)


async def test_a_selection_rate_paces_many_queues_without_losing_places(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, source_selection_rate=(50, 1, 1)))
        begin = time.monotonic()
        for number in range(30):
            await here.send(1, queue=f"tenant{number}@big.example")
        await here.until_records(RecordType.DELIVERY, 30)
        seconds = time.monotonic() - begin

        assert 29 / 50 <= seconds < 3
