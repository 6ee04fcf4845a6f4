"""The client of the limit service, against one that says what a test wants."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import grpc
import pytest

from agent.dispatch.limits import lease_clock_ns
from agent.leases import client
from agent.leases.client import LeaseClient, Parts
from agent.limits.fleet import FleetLimits, Mode, Wish
from agent.limits.holder import LeaseHolder
from agent.limits.limit import FleetLimit, LimitPath
from agent.policy.channel import open_channel
from tests.integration.limit_peer import LimitPeer
from tests.integration.policy_peer import until
from tests.unit.agent.limits.leases import LOCAL, connections, messages


class Here:
    """A client, what it draws for, and what that hears."""

    def __init__(self, port: int, worker: str = "") -> None:
        self.fleet = FleetLimits(LeaseHolder(agent="mta-1", incarnation=7), now=lease_clock_ns())
        self.wishes: list[Wish] = []
        self.changes: list[set[str] | None] = []
        self.unknown: list[LimitPath] = []
        self.client = LeaseClient(
            lambda address: open_channel(address or f"127.0.0.1:{port}", is_shared=False),
            self.fleet,
            agent_name="mta-1",
            worker=worker,
            host="host-1",
            incarnation=7,
            clock_ns=lease_clock_ns,
            random=Random(1),
        )
        self.client.parts = Parts(
            tell_demand=lambda: self.fleet.want(self.wishes, lease_clock_ns()),
            on_change=lambda keys: self.changes.append(None if keys is None else set(keys)),
            on_unknown=self.unknown.append,
        )

    def want(self, *wanted: tuple[FleetLimit, int]) -> None:
        self.wishes = [Wish(limit=limit, amount=amount) for limit, amount in wanted]

    def cap(self, limit: FleetLimit) -> int:
        return self.fleet.cap(limit, lease_clock_ns())

    def mode(self, limit: FleetLimit) -> Mode:
        return self.fleet.mode(limit, lease_clock_ns())


@asynccontextmanager
async def client_of(peer: LimitPeer, *, worker: str = "") -> AsyncIterator[Here]:
    if not peer.port:
        await peer.start()
    here = Here(peer.port, worker)
    here.client.start()
    try:
        yield here
    finally:
        await here.client.close()
        await peer.stop()


async def test_what_is_wanted_is_told_and_what_is_granted_may_be_used():
    peer, limit = LimitPeer(), connections("c")
    peer.lend("c", 4)
    async with client_of(peer, worker="w1") as here:
        here.want((limit, 3))
        await until(lambda: here.cap(limit) == 4)
        await until(lambda: any(one.version for one in peer.told("c")))

        first = peer.told("c")[0]
        assert (first.wants, first.enforced, first.version) == (3, 0, 0)
        [path] = first.paths
        assert (path.routing_domain, path.egress_source) == ("foo.example", "ip-1")
        assert peer.told("c")[-1].enforced == 4
        assert not peer.told("c")[-1].paths, "the number says it all"
        assert peer.metadata[0]["penstock-agent"] == "mta-1"
        assert {(one.worker, one.incarnation) for one in peer.reports} == {("w1", 7)}
        peer.lend("c", 5)
        await until(lambda: here.changes[-1] == {"c"})
    assert peer.released == [("w1", 7)]


async def test_a_shortage_is_told_at_once_but_not_more_than_four_times_a_second():
    peer, limit = LimitPeer(), connections("c", limit=100)
    peer.next_sync = 30.0
    async with client_of(peer) as here:
        await until(lambda: here.client.connected)
        begun, before = time.monotonic(), here.client.requests
        for wants in range(1, 60):
            here.want((limit, wants))
            here.client.nudge()
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - begun

        assert here.client.requests - before <= seconds * 4 + 2
        assert here.client.requests - before >= 3
        await until(lambda: peer.told("c")[-1].wants == 59)


async def test_a_nudge_without_news_says_nothing():
    peer, limit = LimitPeer(), connections("c")
    peer.next_sync = 30.0
    async with client_of(peer) as here:
        here.want((limit, 3))
        here.client.nudge()
        await until(lambda: peer.told("c"))
        before = here.client.requests
        for _ in range(8):
            here.client.nudge()
            await asyncio.sleep(0.1)

        assert here.client.requests == before


async def test_many_limits_are_told_in_parts():
    peer = LimitPeer()
    limits = [connections(f"c{number}") for number in range(1200)]
    for limit in limits:
        peer.lend(limit.key, 2)
    async with client_of(peer) as here:
        here.want(*((limit, 1) for limit in limits))
        await until(lambda: all(here.cap(limit) == 2 for limit in limits))

        assert max(len(report.demands) for report in peer.reports) <= 500


async def test_a_silent_server_leaves_the_floors_and_then_nothing():
    peer, limit = LimitPeer(ttl=0.6, floor=1.5), connections("c")
    peer.lend("c", 5, floor=2)
    async with client_of(peer) as here:
        here.want((limit, 5))
        await until(lambda: here.cap(limit) == 5)
        peer.is_silent = True

        await until(lambda: here.cap(limit) == 2, 3)
        assert here.mode(limit) is Mode.FLOORS
        await until(lambda: here.changes[-1] is None, 3)
        await until(lambda: here.cap(limit) == 0, 4)
        assert here.mode(limit) is Mode.STOPPED

        peer.is_silent = False
        await until(lambda: here.cap(limit) == 5)


async def test_a_silent_stream_is_given_up_with_its_connection():
    peer = LimitPeer()
    async with client_of(peer) as here:
        await until(lambda: here.client.connected)
        peer.is_silent = True
        await until(lambda: len(peer.streams) == 2)


async def test_leases_hold_over_a_server_that_is_started_again():
    peer, limit = LimitPeer(ttl=10.0), connections("c")
    peer.lend("c", 5)
    async with client_of(peer) as here:
        here.want((limit, 5))
        await until(lambda: here.cap(limit) == 5)
        here.fleet.open(limit)
        await peer.stop()
        assert here.cap(limit) == 5

        peer.units.clear()
        peer.begin_anew(epoch=2)
        await peer.start()
        await until(lambda: len(peer.streams) > 1 and peer.streams[-1])

        claim = peer.streams[-1][0].demands[0]
        assert (claim.enforced, claim.version, claim.in_use) == (5, (1 << 32) + 1, 1)
        assert (claim.claim.units, claim.claim.proof) == (5, b"c 5")
        assert claim.paths[0].routing_domain == "foo.example"
        assert here.cap(limit) == 5
        peer.lend("c", 3)
        await until(lambda: here.cap(limit) == 3)


async def test_a_server_with_another_database_is_believed():
    peer, limit = LimitPeer(), connections("c")
    peer.epoch = 9
    peer.lend("c", 5)
    async with client_of(peer) as here:
        here.want((limit, 5))
        await until(lambda: here.cap(limit) == 5)
        await peer.stop()
        peer.begin_anew(epoch=1)
        peer.lend("c", 2)
        await peer.start()

        await until(lambda: here.cap(limit) == 2)


async def test_a_server_without_limit_service_leaves_limits_to_the_agent(caplog):
    peer, limit = LimitPeer(), connections("c")
    peer.breakages = [grpc.StatusCode.UNIMPLEMENTED]
    async with client_of(peer) as here:
        await until(lambda: not here.fleet.is_supported)

        assert here.mode(limit) is Mode.LOCAL
        assert here.changes[-1] is None
        said = [one for one in caplog.messages if "no limit service" in one]
        assert len(said) == 1


async def test_a_server_that_has_lent_is_not_believed_to_have_no_limit_service():
    """A proxy before it answers so while it is being started again."""
    peer, limit = LimitPeer(), connections("c", limit=20)
    peer.lend("c", 2)
    async with client_of(peer) as here:
        here.want((limit, 20))
        await until(lambda: here.cap(limit) == 2)
        await peer.stop()
        peer.begin_anew(epoch=2)
        peer.lend("c", 3)
        peer.breakages = [grpc.StatusCode.UNIMPLEMENTED] * 3
        await peer.start()

        caps = {here.cap(limit)}
        while peer.breakages or here.cap(limit) != 3:
            caps.add(here.cap(limit))
            await asyncio.sleep(0.005)
        assert caps == {2}
        assert here.mode(limit) is Mode.LEASED


async def test_a_server_that_has_lent_and_says_that_it_has_no_limit_service_counts_as_silent():
    peer, limit = LimitPeer(ttl=0.6, floor=1.2), connections("c", limit=20)
    peer.lend("c", 5, floor=2)
    async with client_of(peer) as here:
        here.want((limit, 20))
        await until(lambda: here.cap(limit) == 5)
        await peer.stop()
        peer.breakages = [grpc.StatusCode.UNIMPLEMENTED] * 1000
        await peer.start()

        modes = {here.mode(limit)}
        while here.mode(limit) is not Mode.STOPPED:
            modes.add(here.mode(limit))
            await asyncio.sleep(0.005)
        assert modes == {Mode.LEASED, Mode.FLOORS}
        assert here.cap(limit) == 0


async def test_who_is_told_that_a_later_start_has_reported_stops_until_it_is_heard_again(
    caplog, monkeypatch
):
    # It is asked again once a minute.
    monkeypatch.setattr(client, "_SELDOM_SECONDS", 1.0)
    peer, limit = LimitPeer(), connections("c", on_unreachable=LOCAL)
    peer.lend("c", 5, floor=5)
    async with client_of(peer) as here:
        here.want((limit, 5))
        await until(lambda: here.cap(limit) == 5)
        here.fleet.open(limit)
        here.changes.clear()
        await peer.stop()
        peer.says = "a later start of this worker has reported, or this one was released"
        peer.breakages = [grpc.StatusCode.ABORTED] * 2
        await peer.start()

        await until(lambda: here.mode(limit) is Mode.STOPPED)
        assert here.cap(limit) == 0
        assert here.fleet.surplus("c", lease_clock_ns()) == 1
        assert here.changes[-1] is None
        [said] = [one for one in caplog.records if one.levelname == "ERROR"]
        assert "if it runs twice, as on a cloned machine, give each its own name" in said.message
        await until(lambda: here.cap(limit) == 5)
        assert here.mode(limit) is Mode.LEASED


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL]
)
async def test_a_stream_that_breaks_is_opened_again(code):
    peer, limit = LimitPeer(), connections("c")
    peer.lend("c", 1)
    peer.breakages = [code, code]
    async with client_of(peer) as here:
        here.want((limit, 1))
        await until(lambda: here.cap(limit) == 1)

        assert here.fleet.is_supported


async def test_a_limit_that_the_server_does_not_know_has_the_answer_asked_for_again():
    peer, limit = LimitPeer(), connections("c")
    peer.unknown.add("c")
    async with client_of(peer) as here:
        here.want((limit, 1))
        await until(lambda: here.unknown)

        assert here.unknown[0].routing_domain == "foo.example"
        peer.unknown.clear()
        peer.lend("c", 1)
        await until(lambda: here.cap(limit) == 1)


async def test_events_of_a_rate_come_and_go_with_its_units():
    peer, limit = LimitPeer(), messages("m", count=10, seconds=3600, burst=10)
    peer.shapes["m"] = (10, 10, 3600.0)
    peer.lend("m", 6)
    async with client_of(peer) as here:
        here.want((limit, 6))
        await until(lambda: here.cap(limit) == 6)
        for _ in range(2):
            assert here.fleet.wait_ns(limit, lease_clock_ns()) == 0
            here.fleet.take(limit, lease_clock_ns())

        peer.lend("m", 1)
        await until(lambda: peer.told("m")[-1].enforced == 1)

        [back] = {one.returned_nano_events for one in peer.told("m") if one.enforced == 1}
        assert 3_000_000_000 <= back < 3_001_000_000, "four were left, one of them stays"


async def test_a_server_that_is_about_to_stop_is_left_before():
    peer, limit = LimitPeer(), connections("c")
    peer.lend("c", 1)
    async with client_of(peer) as here:
        here.want((limit, 1))
        await until(lambda: here.cap(limit) == 1)
        peer.lend("c", 2)
        answer = peer._answer

        def ending(*arguments):
            response = answer(*arguments)
            response.answer.reconnect_after.FromMilliseconds(50)
            return response

        peer._answer = ending  # type: ignore[method-assign]
        await until(lambda: len(peer.streams) > 1)
        peer._answer = answer  # type: ignore[method-assign]
        await until(lambda: here.cap(limit) == 2)


async def test_the_server_that_keeps_the_book_is_asked_and_the_configured_one_when_it_is_gone():
    other, peer, limit = LimitPeer(), LimitPeer(), connections("c")
    other.lend("c", 3)
    await other.start()
    peer.elsewhere = f"127.0.0.1:{other.port}"
    async with client_of(peer) as here:
        here.want((limit, 3))
        await until(lambda: here.cap(limit) == 3)
        assert len(peer.streams) == 1

        await other.stop()
        peer.elsewhere = ""
        peer.begin_anew(epoch=2)
        peer.lend("c", 2)
        await until(lambda: here.cap(limit) == 2)


async def test_a_client_is_closed_in_the_very_moment_that_its_connection_is_refused():
    # There grpc.aio loses a cancel, once in a thousand or so.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        for turn in range(400):
            here = Here(port)
            here.client.start()
            # Over all the moments of a start, the failure among them.
            await asyncio.sleep(turn % 50 / 10_000)
            closing = asyncio.create_task(here.client.close())
            done, _ = await asyncio.wait([closing], timeout=4)
            assert done, turn
