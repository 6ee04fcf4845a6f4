"""A fleet on loopback: a provider with DNS in this process, our programs as processes."""

from collections.abc import AsyncIterator

import pytest

from agent.sink.dns_server import DnsServer
from agent.sink.server import Sink
from agent.sink.settings import parse_sink_settings
from tests.acceptance.fleet import Fleet

#: Domains of the simulated provider: two that share its MX hosts.
ZONE = {
    "mx": {
        "bigmail.example": [[10, "mx1.bigmail.example"], [20, "mx2.bigmail.example"]],
        "bigmail-too.example": [[10, "mx1.bigmail.example"], [20, "mx2.bigmail.example"]],
        "null.example": [[0, "."]],
    },
    "a": {"mx1.bigmail.example": ["127.0.2.1"], "mx2.bigmail.example": ["127.0.2.2"]},
}


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    """A DNS server for the provider's domains."""
    async with DnsServer(ZONE) as server:
        yield server


@pytest.fixture
async def fleet(tmp_path, dns) -> AsyncIterator[Fleet]:
    """A directory for programs; whatever a test starts ends with it."""
    fleet = Fleet(tmp_path, dns.port)
    yield fleet
    fleet.stop()


@pytest.fixture
def open_sink():
    """Make a sink of one provider, "bigmail", with the given settings."""

    def build(**provider: object) -> Sink:
        table = {"name": "bigmail", "listen": ["127.0.2.1:0", "127.0.2.2:0"], **provider}
        return Sink(parse_sink_settings({"sink": {"http_listen": ""}, "provider": [table]}))

    return build
