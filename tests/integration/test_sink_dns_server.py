import asyncio
import struct

import dns.asyncresolver
import dns.exception
import dns.message
import dns.resolver
import pytest

from agent.sink.dns_server import DnsServer

_ZONE = {
    "mx": {
        "d.example": [[10, "mx.d.example"]],
        "null.example": [[0, "."]],
        "plain.example": [],
        "large.example": [[number, f"mx{number}.large.example"] for number in range(300)],
    },
    "a": {"mx.d.example": ["127.0.2.1"]},
    "faults": {"broken.example": "servfail", "silent.example": "timeout"},
}


def _resolver(server: DnsServer) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [server.host]
    resolver.port = server.port
    resolver.lifetime = 1.0
    return resolver


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_resolver_finds_mx_and_address(tcp):
    async with DnsServer(_ZONE) as server:
        resolver = _resolver(server)

        mx = await resolver.resolve("d.example", "MX", tcp=tcp)
        address = await resolver.resolve("mx.d.example", "A", tcp=tcp)

    assert [record.to_text() for record in mx] == ["10 mx.d.example."]
    assert [record.to_text() for record in address] == ["127.0.2.1"]
    assert list(server.queries) == [("d.example", "MX"), ("mx.d.example", "A")]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere.example", dns.resolver.NXDOMAIN),
        ("plain.example", dns.resolver.NoAnswer),
        ("broken.example", dns.resolver.NoNameservers),
        ("silent.example", dns.resolver.LifetimeTimeout),
    ],
)
async def test_resolver_sees_each_failure(name, error):
    async with DnsServer(_ZONE) as server:
        with pytest.raises(error):
            await _resolver(server).resolve(name, "MX")


async def test_large_answer_is_fetched_over_tcp():
    async with DnsServer(_ZONE) as server:
        answer = await _resolver(server).resolve("large.example", "MX")

    assert len(answer) == 300
    assert server.queries.count(("large.example", "MX")) == 2


async def test_zone_may_change_while_it_runs():
    async with DnsServer(_ZONE) as server:
        server.zone = type(server.zone).from_mapping({"mx": {"new.example": [[1, "."]]}})

        answer = await _resolver(server).resolve("new.example", "MX")

    assert answer[0].exchange.to_text() == "."


async def test_nonsense_is_not_answered_and_does_no_harm():
    async with DnsServer(_ZONE) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        query = dns.message.make_query("d.example", "MX").to_wire()
        writer.write(struct.pack("!H", 5) + b"junk!" + struct.pack("!H", len(query)) + query)

        (size,) = struct.unpack("!H", await reader.readexactly(2))
        answer = dns.message.from_wire(await reader.readexactly(size))

        assert len(answer.answer) == 1
        writer.close()
        await writer.wait_closed()


async def test_wanted_port_in_use_is_an_error():
    async with DnsServer(_ZONE) as server:
        with pytest.raises(OSError, match="in use"):
            await DnsServer(_ZONE, port=server.port).start()
