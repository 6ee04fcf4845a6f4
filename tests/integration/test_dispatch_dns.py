"""The agent's resolver against a real DNS server."""

import asyncio
from collections import Counter

import pytest

from agent.delivery.record import RecordType
from agent.dispatch import lookups
from agent.dns import DnsUnavailable, DomainNotFound, Resolver
from agent.policy.answer import MxHost
from agent.sink.dns_server import DnsServer
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_world import world

ZONE = {
    "mx": {
        "big.example": [[20, "mx2.big.example"], [10, "MX1.big.example"]],
        "null.example": [[0, "."]],
    },
    "a": {"mx1.big.example": ["127.0.0.1"], "plain.example": ["127.0.0.3"]},
    "aaaa": {"mx1.big.example": ["::1"]},
}


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("big.example", [("mx1.big.example", 10), ("mx2.big.example", 20)]),
        ("plain.example", [("plain.example", 0)]),
        ("null.example", [(".", 0)]),
        ("[192.0.2.1]", [("192.0.2.1", 0)]),
        ("[IPv6:2001:db8::1]", [("2001:db8::1", 0)]),
    ],
)
async def test_mx_hosts(domain: str, expected: list[tuple[str, int]]) -> None:
    async with DnsServer(ZONE) as server:
        found = await Resolver((server.address,)).mx(domain)

    assert found == tuple(MxHost(host=host, preference=number) for host, number in expected)


@pytest.mark.parametrize("domain", ["nosuch.example", "a..b", "x" * 64 + ".example"])
async def test_a_name_that_does_not_exist_is_permanent(domain: str) -> None:
    async with DnsServer(ZONE) as server:
        resolver = Resolver((server.address,))
        with pytest.raises(DomainNotFound):
            await resolver.mx(domain)


async def test_no_answer_is_transient() -> None:
    with pytest.raises(DnsUnavailable):
        await Resolver(("127.0.0.1:1",), timeout=0.3).mx("big.example")


async def test_equal_questions_share_one_query_and_answers_are_kept() -> None:
    async with DnsServer(ZONE) as server:
        resolver = Resolver((server.address,))
        await asyncio.gather(*(resolver.mx("big.example") for _ in range(20)))
        await resolver.mx("big.example")

        assert len(server.queries) == 1
        assert resolver.known_mx("big.example") is not None


async def test_zones_that_failed_before_do_not_hold_up_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lookups, "_AT_ONCE", 3)
    monkeypatch.setattr(lookups, "_DOUBTFUL_AT_ONCE", 2)
    asked: Counter[str] = Counter()
    mx = Resolver.mx

    async def slow_when_asked_again(resolver: Resolver, domain: str) -> tuple[MxHost, ...]:
        if not domain.startswith("dead"):
            return await mx(resolver, domain)
        asked[domain] += 1
        if asked[domain] > 1:
            await asyncio.Event().wait()
        raise DnsUnavailable(domain)

    monkeypatch.setattr(Resolver, "mx", slow_when_asked_again)
    async with world(tmp_path, retry_interval="50ms") as here:
        for number in range(6):
            await here.send(1, domain=f"dead{number}.example")
        await here.until(lambda: sum(count > 1 for count in asked.values()) == 2)
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 6)

        await here.send(3)
        await here.until_records(RecordType.DELIVERY, 3, seconds=5)

        assert sum(count > 1 for count in asked.values()) == 2


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (pb.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6, {"127.0.0.1", "::1"}),
        (pb.IP_LOOKUP_STRATEGY_IPV4_ONLY, {"127.0.0.1"}),
        (pb.IP_LOOKUP_STRATEGY_IPV6_ONLY, {"::1"}),
        (pb.IP_LOOKUP_STRATEGY_IPV6_THEN_IPV4, {"::1"}),
    ],
)
async def test_address_families(strategy: pb.IpLookupStrategy, expected: set[str]) -> None:
    async with DnsServer(ZONE) as server:
        found = await Resolver((server.address,)).addresses("mx1.big.example", strategy)

    assert set(found) == expected
