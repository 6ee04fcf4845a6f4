"""What is left after `kill -9`, and while the policy server is away."""

import asyncio

from tests.acceptance.fleet import Fleet, Program, until
from tests.acceptance.mail import inject

_RULES = """
["default"]
smtp_port = {port}
prohibited_hosts = []
connection_limit = 5
max_message_rate = "{rate}"
max_deliveries_per_connection = 40
enable_tls = "Disabled"
on_unreachable = "{on_unreachable}"
"""


def _accepted(sink) -> dict[str, int]:
    """Times each (message, recipient) was accepted."""
    return sink.report(identities=True)["providers"]["bigmail"]["accepted"]


async def _started(fleet: Fleet, sink, *, rate: str, on_unreachable: str = "Stop") -> Program:
    await fleet.start_server()
    port = sink.listening["bigmail"][0][1]
    await fleet.import_rules(_RULES.format(port=port, rate=rate, on_unreachable=on_unreachable))
    return await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1")


async def test_killed_agent_loses_nothing_and_doubles_at_most_what_was_in_flight(fleet, open_sink):
    async with open_sink(limits={"client_max_connections": 5}) as sink:
        agent = await _started(fleet, sink, rate="400/s,max_burst=20")
        await inject(agent.ports["smtp"], 1000, domain="bigmail.example", connections=8)
        await until(lambda: len(_accepted(sink)) >= 300, what="300 delivered")
        agent.kill()
        assert len(_accepted(sink)) < 1000, "it was to be killed in the middle"

        await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1")
        await until(lambda: len(_accepted(sink)) == 1000, seconds=60, what="all delivered")
        # Nothing may come after the last one either.
        assert fleet.agents["mta-1"].stop() == 0

    accepted = _accepted(sink)
    assert len(accepted) == 1000
    assert sum(accepted.values()) - 1000 <= 5, "at most one message on each of 5 connections"
    assert sink.report()["exceeded"] == []


async def test_agent_delivers_on_within_its_limits_while_the_server_is_away(fleet, open_sink):
    limits = {"client_max_connections": 5, "client_max_message_rate": "60/s,max_burst=25"}
    async with open_sink(limits=limits) as sink:
        # With "Stop" a new start would wait for the server: test_fleet_limits.py.
        agent = await _started(fleet, sink, rate="40/s,max_burst=5", on_unreachable="Local")
        await inject(agent.ports["smtp"], 20, domain="bigmail.example")
        await until(lambda: len(_accepted(sink)) == 20, what="first 20 delivered")
        assert fleet.server is not None
        fleet.server.kill()

        await inject(agent.ports["smtp"], 80, domain="bigmail.example", start=20)
        await until(lambda: len(_accepted(sink)) == 100, what="delivered without a server")
        assert agent.stop() == 0
        agent = await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1")
        await inject(agent.ports["smtp"], 50, domain="bigmail.example", start=100)
        await until(lambda: len(_accepted(sink)) == 150, what="delivered after a restart")

        await fleet.start_server()
        await inject(agent.ports["smtp"], 10, domain="bigmail.example", start=150)
        await until(lambda: len(_accepted(sink)) == 160, what="delivered with the server back")

        assert sink.report()["exceeded"] == []
        assert set(_accepted(sink).values()) == {1}


async def test_killed_server_keeps_rules_and_actions(fleet, open_sink):
    async with open_sink() as sink:
        await _started(fleet, sink, rate="100/s")
        assert fleet.server is not None
        fleet.server.kill()
        await fleet.start_server()

        agent = fleet.agents["mta-1"]
        await inject(agent.ports["smtp"], 30, domain="bigmail.example")
        await until(lambda: len(_accepted(sink)) == 30, what="delivered by the kept rules")


async def test_graceful_stop_finishes_what_is_under_way(fleet, open_sink):
    async with open_sink(latency=["20ms", "40ms"]) as sink:
        agent = await _started(fleet, sink, rate="200/s")
        await inject(agent.ports["smtp"], 100, domain="bigmail.example")
        await until(lambda: len(_accepted(sink)) >= 10, what="some delivered")
        assert await asyncio.to_thread(agent.stop) == 0

        await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1")
        await until(lambda: len(_accepted(sink)) == 100, what="all delivered")
        assert set(_accepted(sink).values()) == {1}, "a graceful stop doubles nothing"
