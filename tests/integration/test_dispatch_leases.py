"""Mail on leases: it waits for them, keeps to them, and leaves when they go."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from agent.delivery.record import RecordType
from agent.dispatch.limits import lease_clock_ns
from agent.dispatch.waits import WaitReason
from agent.limits.fleet import FleetLimits
from agent.limits.holder import LeaseHolder
from agent.limits.limit import FleetLimit
from agent.limits.times import HolderTimes
from tests.integration.dispatch_world import World, make_config, world
from tests.unit.agent.limits.leases import LOCAL, SECOND, Lender, connections, messages


class Lent:
    """What is lent to an agent's dispatch, changed by the test as the limit service would."""

    def __init__(self, *, session: float = 600.0, floor: float = 1200.0, drain: float = 60.0):
        times = HolderTimes(
            session=round(session * SECOND),
            floor=round(floor * SECOND),
            drain=round(drain * SECOND),
            drift=1_000_000,
        )
        holder = LeaseHolder(times, agent="a", incarnation=1)
        self.fleet = FleetLimits(holder, now=lease_clock_ns())
        self.lender = Lender(holder)
        self.here: World | None = None

    def lend(self, limit: FleetLimit, units: int, **more: Any) -> None:
        self.lender.answer(self.lender.grant(limit, units, **more), at=lease_clock_ns())
        if self.here is not None:
            self.dispatcher.leases_changed({limit.key})

    def renew(self) -> None:
        self.lender.answer(at=lease_clock_ns())

    @property
    def dispatcher(self) -> Any:
        assert self.here is not None
        return self.here.dispatcher

    def wants(self, key: str) -> int:
        self.dispatcher.tell_demand()
        lease = self.fleet.holder.lease(key)
        return lease.wants if lease is not None else 0

    def waits_for(self) -> list[str]:
        return [
            state.waits_for.limit.key
            for state in self.dispatcher.snapshot()
            if state.waits_for is not None
        ]


async def test_mail_waits_for_a_lease_and_goes_when_it_comes(tmp_path: Path) -> None:
    lent, limit = Lent(), connections("c", limit=5)
    async with world(tmp_path, fleet=lent.fleet) as here:
        lent.here, here.policies.fleet_limits = here, (limit,)
        begun = time.time()
        await here.send(30)
        await here.until(lambda: lent.waits_for() == ["c"])

        [state] = lent.dispatcher.snapshot()
        assert state.waits_for is not None
        assert begun <= state.waits_for.since <= time.time()
        assert here.seen.total_connections == 0
        [(path, _)] = lent.dispatcher.paths().values()
        [wait] = path.waits()
        assert wait.reason is WaitReason.LEASE
        assert "(c: 0 of 5), since 20" in wait.text
        assert lent.wants("c") == 3, "what 30 messages ask for of five connections"
        lent.lend(limit, 2)
        await here.until_records(RecordType.DELIVERY, 30)

        assert here.seen.peak_connections == 2
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        await here.until(lambda: lent.waits_for() == [])


async def test_a_smaller_lease_closes_what_is_idle_at_once_and_the_rest_after_its_message(
    tmp_path: Path,
) -> None:
    lent, limit = Lent(), connections("c", limit=5)
    async with world(tmp_path, fleet=lent.fleet, provider={"latency": ["300ms", "300ms"]}) as here:
        lent.here, here.policies.fleet_limits = here, (limit,)
        lent.lend(limit, 5)
        await here.send(60)
        await here.until(lambda: here.seen.open_connections >= 3)
        lent.lend(limit, 1)
        await here.until(lambda: here.seen.open_connections == 1)
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []

        lent.lend(limit, 5)
        await here.until_records(RecordType.DELIVERY, 60)
        await here.until(lambda: here.seen.open_connections > 1)
        lent.lend(limit, 1)
        await here.until(lambda: here.seen.open_connections == 1, 2.0)


async def test_a_lapsed_lease_stops_mail_without_using_attempts(tmp_path: Path) -> None:
    lent, limit = Lent(session=1.0, floor=1.0), connections("c", limit=5)
    async with world(tmp_path, fleet=lent.fleet, provider={"latency": ["40ms", "40ms"]}) as here:
        lent.here, here.policies.fleet_limits = here, (limit,)
        lent.lend(limit, 1)
        await here.send(200)
        # No timer and no word: whoever is about to send looks for itself.
        await here.until(lambda: here.seen.total_connections and not here.seen.open_connections)
        sent = len(here.log.of(RecordType.DELIVERY))
        assert 0 < sent < 200
        await asyncio.sleep(0.3)
        assert here.seen.messages_offered == here.seen.messages_accepted
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        assert lent.waits_for() == ["c"]

        lent.fleet.holder.times = HolderTimes(
            session=600 * SECOND, floor=600 * SECOND, drain=SECOND, drift=10**6
        )
        lent.lend(limit, 4)
        await here.until_records(RecordType.DELIVERY, 200)


async def test_a_message_in_the_midst_is_cut_off_at_the_end_of_the_drain_and_sent_later(
    tmp_path: Path,
) -> None:
    lent, limit = Lent(session=0.8, floor=0.8, drain=0.7), connections("c", limit=5)
    async with world(
        tmp_path,
        fleet=lent.fleet,
        provider={"misbehave": [{"at": "data_end", "action": "silence"}]},
        retry_interval="1s",
    ) as here:
        lent.here, here.policies.fleet_limits = here, (limit,)
        begun = time.monotonic()
        lent.lend(limit, 1)
        await here.send(1)
        await here.until(lambda: here.seen.open_connections == 1)
        await asyncio.sleep(max(0.0, begun + 0.85 - time.monotonic()))
        lent.dispatcher.leases_changed(None)
        assert here.seen.open_connections == 1, "it may end its message while it drains"
        await asyncio.sleep(max(0.0, begun + 1.55 - time.monotonic()))
        lent.dispatcher.leases_changed(None)
        await here.until(lambda: here.seen.open_connections == 0, 2.0)

        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)
        assert here.spool is not None
        assert len(await here.spool.entries()) == 1


async def test_a_connection_that_is_being_opened_is_cut_off_and_its_mail_kept(
    tmp_path: Path,
) -> None:
    lent, limit = Lent(session=0.8, floor=0.8, drain=0.1), connections("c", limit=5)
    async with world(
        tmp_path,
        fleet=lent.fleet,
        provider={"misbehave": [{"at": "ehlo", "action": "silence"}]},
    ) as here:
        lent.here, here.policies.fleet_limits = here, (limit,)
        begun = time.monotonic()
        lent.lend(limit, 1)
        await here.send(1)
        await here.until(lambda: here.seen.open_connections == 1)
        await asyncio.sleep(max(0.0, begun + 0.95 - time.monotonic()))
        lent.dispatcher.leases_changed(None)
        await here.until(lambda: here.seen.open_connections == 0, 4.0)

        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        assert here.dispatcher is not None
        await here.until(lambda: here.dispatcher.queue_counts()["ready"] == 1)


async def test_messages_go_as_their_rate_is_lent(tmp_path: Path) -> None:
    lent = Lent()
    limit, rate = connections("c", limit=5), messages("m", count=100, seconds=1, burst=10)
    async with world(
        tmp_path, fleet=lent.fleet, provider={"limits": {"max_message_rate": "20/s,max_burst=3"}}
    ) as here:
        lent.here, here.policies.fleet_limits = here, (limit, rate)
        here.policies.change(make_config(here.port, max_message_rate=(100, 1, 10)))
        lent.lend(limit, 3)
        await here.send(40)
        await here.until(lambda: lent.waits_for() == ["m"])
        assert lent.wants("m") == 10
        begun = time.monotonic()
        lent.lend(rate, 2)
        await here.until_records(RecordType.DELIVERY, 40)

        # Two of ten units are a fifth of the rate.
        assert time.monotonic() - begun >= (40 - 2) / 20
        assert here.seen.exceeded() == []


async def test_an_idle_connection_gives_way_to_another_path(tmp_path: Path) -> None:
    lent = Lent()
    limit = connections("s", limit=5, option="additional_connection_limits", name="together")
    async with world(tmp_path, fleet=lent.fleet) as here:
        here.dns.zone = type(here.dns.zone).from_mapping(
            {
                "mx": {f"d{n}.example": [[10, f"mx.d{n}.example"]] for n in range(2)},
                "a": {f"mx.d{n}.example": ["127.0.0.1"] for n in range(2)},
            }
        )
        config = make_config(here.port, connection_limit=5, idle_timeout=60.0)
        config.additional_connection_limits["together"].value = 5
        lent.here, here.policies.fleet_limits = here, (limit,)
        here.policies.change(config)
        lent.lend(limit, 1)
        await here.send(1, domain="d0.example")
        await here.until_records(RecordType.DELIVERY, 1)
        assert here.seen.open_connections == 1
        await here.send(1, domain="d1.example")

        await here.until_records(RecordType.DELIVERY, 2)
        assert here.seen.peak_connections == 1


@pytest.mark.parametrize("is_supported", [False, True])
async def test_without_a_limit_service_mail_goes_as_ever(
    tmp_path: Path, is_supported: bool
) -> None:
    lent, limit = Lent(), connections("c", limit=2, on_unreachable=LOCAL)
    lent.fleet.is_supported = is_supported
    async with world(
        tmp_path, fleet=lent.fleet, provider={"limits": {"max_connections": 2}}
    ) as here:
        lent.here, here.policies.fleet_limits = here, (limit,)
        here.policies.change(make_config(here.port, connection_limit=2))
        await here.send(30)
        if is_supported:
            await here.until(lambda: lent.waits_for() == ["c"])
            lent.fleet.is_supported = False
            lent.dispatcher.leases_changed(None)
        await here.until_records(RecordType.DELIVERY, 30)

        assert here.seen.exceeded() == []
