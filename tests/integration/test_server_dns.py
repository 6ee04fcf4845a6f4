"""MX resolution against a real server on loopback."""

import asyncio
from datetime import timedelta

import pytest

from agent.sink.dns_server import DnsServer
from policy_server.dns import MxResolver
from policy_server.errors import DnsUnavailable, DomainNotFound
from policy_server.rules.site import MxHost

_ZONE = {
    "mx": {
        "a.example": [[20, "MX2.a.example"], [10, "mx1.a.example"]],
        "plain.example": [],
        "null.example": [[0, "."]],
    },
    "faults": {
        "servfail.example": "servfail",
        "refused.example": "refused",
        "silent.example": "timeout",
    },
    "ttl": 60,
}


class _Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def dns():
    async with DnsServer(_ZONE) as server:
        yield server


@pytest.fixture
def clock():
    return _Clock()


@pytest.fixture
async def resolver(dns, clock):
    resolver = MxResolver(nameservers=[dns.address], timeout=timedelta(seconds=0.3), clock=clock)
    yield resolver
    await resolver.close()


@pytest.mark.parametrize(
    ("domain", "hosts"),
    [
        ("a.example", (MxHost("mx1.a.example", 10), MxHost("mx2.a.example", 20))),
        ("plain.example", (MxHost("plain.example", 0),)),
        ("null.example", (MxHost(".", 0),)),
        ("[192.0.2.1]", (MxHost("192.0.2.1", 0),)),
        ("[ipv6:2001:db8::1]", (MxHost("2001:db8::1", 0),)),
    ],
)
async def test_the_hosts_of_a_domain(resolver, domain, hosts):
    assert (await resolver.mx(domain)).hosts == hosts


async def test_an_answer_is_kept_for_its_ttl(resolver, dns, clock):
    first = await resolver.mx("a.example")
    clock.now += 59
    again = await resolver.mx("a.example")
    assert (first.ttl, again.ttl) == (timedelta(seconds=60), timedelta(seconds=1))
    assert len(dns.queries) == 1

    clock.now += 2
    await resolver.mx("a.example")
    assert len(dns.queries) == 2


async def test_questions_at_the_same_time_are_one_query(resolver, dns):
    await asyncio.gather(*(resolver.mx("a.example") for _ in range(20)))

    assert len(dns.queries) == 1


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(resolver):
    patient = asyncio.create_task(resolver.mx("a.example"))
    hasty = asyncio.create_task(resolver.mx("a.example"))
    await asyncio.sleep(0)
    hasty.cancel()

    assert len((await patient).hosts) == 2


async def test_a_domain_that_does_not_exist_is_remembered(resolver, dns, clock):
    for _ in range(2):
        with pytest.raises(DomainNotFound, match=r'"no.where" does not exist'):
            await resolver.mx("no.where")
    assert len(dns.queries) == 1

    clock.now += 301
    with pytest.raises(DomainNotFound):
        await resolver.mx("no.where")
    assert len(dns.queries) == 2


@pytest.mark.parametrize("domain", ["servfail.example", "refused.example", "silent.example"])
async def test_a_failure_is_told_apart_and_remembered_shortly(resolver, dns, clock, domain):
    with pytest.raises(DnsUnavailable):
        await resolver.mx(domain)
    asked = len(dns.queries)
    with pytest.raises(DnsUnavailable):
        await resolver.mx(domain)
    assert len(dns.queries) == asked

    clock.now += 3
    with pytest.raises(DnsUnavailable):
        await resolver.mx(domain)
    assert len(dns.queries) > asked


@pytest.mark.parametrize(("ttl", "kept"), [(0, 5), (10_000_000, 86400)])
async def test_ttls_are_kept_within_bounds(dns, resolver, ttl, kept):
    dns.zone = type(dns.zone).from_mapping({**_ZONE, "ttl": ttl})

    assert (await resolver.mx("a.example")).ttl == timedelta(seconds=kept)


async def test_the_second_nameserver_is_asked_when_the_first_is_silent(dns):
    async with DnsServer({"faults": {"a.example": "timeout"}}) as silent:
        resolver = MxResolver(
            nameservers=[silent.address, dns.address], timeout=timedelta(seconds=1)
        )
        assert len((await resolver.mx("a.example")).hosts) == 2
        await resolver.close()


async def test_a_name_that_is_too_long_for_dns_is_unavailable_not_a_crash(resolver):
    with pytest.raises(DnsUnavailable):
        await resolver.mx("x" * 64 + ".example")
