"""
Four agents share one limit, and the peers count: whatever is killed or cut off, the agents
together never have more connections open than allowed, nor send more than the rate, and what one
can't use goes to the others.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agent.sink.counts import Tally
from agent.sink.dns_server import DnsServer
from agent.sink.server import Sink
from agent.sink.settings import parse_sink_settings
from tests.acceptance.fleet import Fleet, until
from tests.acceptance.mail import inject
from tests.acceptance.network import Link, open_link

_AGENTS = ("mta-1", "mta-2", "mta-3", "mta-4")
_CONNECTIONS = 8
_RATE, _BURST = 20, 8
#: Between the charge of a message and its arrival a loaded machine may take a while: so many
#: messages as pass in a second.
_ON_THE_WAY = 20
#: Seconds, and how long it takes until what a silent agent had is free.
_SESSION, _GRACE, _DRAIN, _FLOOR = 5, 1, 3, 60
_OVER = _SESSION + _GRACE + _DRAIN

_LEASES = f"""
[limits]
session_ttl = "{_SESSION}s"
grace = "{_GRACE}s"
drain_time = "{_DRAIN}s"
floor_ttl = "{_FLOOR}s"
"""

_RULES = f"""
["default"]
smtp_port = {{port}}
prohibited_hosts = []
enable_tls = "Disabled"
connection_limit = {_CONNECTIONS}
max_deliveries_per_connection = 20
idle_timeout = "5s"

["paced.example"]
smtp_port = {{paced_port}}
connection_limit = 40
max_message_rate = "{_RATE}/s,max_burst={_BURST}"
"""

_ZONE = {
    "mx": {
        "crowded.example": [[10, "mx.crowded.example"]],
        "paced.example": [[10, "mx.paced.example"]],
    },
    "a": {"mx.crowded.example": ["127.0.2.1"], "mx.paced.example": ["127.0.2.2"]},
}


_PROVIDERS = [
    {
        "name": "crowded",
        "listen": ["127.0.2.1:0"],
        "latency": ["300ms", "700ms"],
        "limits": {"max_connections": _CONNECTIONS},
    },
    {
        "name": "paced",
        "listen": ["127.0.2.2:0"],
        "limits": {"max_message_rate": f"{_RATE}/s,max_burst={_BURST + _ON_THE_WAY}"},
    },
]


class Watched:
    """What the peers see, looked at all the time."""

    def __init__(self, sink: Sink) -> None:
        self.crowded: Tally = sink.providers["crowded"].total
        self.paced: Tally = sink.providers["paced"].total
        self._samples: list[tuple[float, int, int]] = []

    async def look(self) -> None:
        """Note what is open and what was sent, until cancelled."""
        while True:
            sample = (self.crowded.open_connections, self.paced.messages_accepted)
            self._samples.append((time.monotonic(), *sample))
            await asyncio.sleep(0.05)

    def is_used(self, least: float, *, seconds: float = 2.5, since: float = 0.0) -> bool:
        """Whether that part of both limits was used over the last seconds, all after *since*."""
        begin = max(time.monotonic() - seconds, since)
        if begin + seconds > time.monotonic() + 0.1:
            return False
        seen = [sample for sample in self._samples if sample[0] >= begin]
        connections = sum(count for _, count, _ in seen) / len(seen)
        messages = (seen[-1][2] - seen[0][2]) / (seen[-1][0] - seen[0][0])
        return connections >= least * _CONNECTIONS and messages >= least * _RATE

    def exceeded(self) -> list[str]:
        """Every limit that was ever exceeded."""
        return self.crowded.exceeded() + self.paced.exceeded()


@asynccontextmanager
async def _peers(directory: Path) -> AsyncIterator[tuple[Fleet, Sink, Watched]]:
    sink = Sink(parse_sink_settings({"sink": {"http_listen": ""}, "provider": _PROVIDERS}))
    async with sink, DnsServer(_ZONE) as dns:
        fleet, watched = Fleet(directory, dns.port), Watched(sink)
        looking = asyncio.create_task(watched.look())
        try:
            await fleet.start_server(_LEASES)
            crowded, paced = (sink.listening[name][0][1] for name in ("crowded", "paced"))
            await fleet.import_rules(_RULES.format(port=crowded, paced_port=paced))
            yield fleet, sink, watched
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            fleet.stop()


async def _start(fleet: Fleet, name: str, link: Link) -> None:
    # One source, whose limits all agents share; each has an address of its own.
    address = f"127.0.1.{_AGENTS.index(name) + 1}"
    await fleet.start_agent(name, source="ip-1", address=address, server_port=link.port)


async def _fill(fleet: Fleet, name: str) -> None:
    port = fleet.agents[name].ports["smtp"]
    number = _AGENTS.index(name) * 100_000
    await inject(port, 250, domain="crowded.example", start=number)
    await inject(port, 450, domain="paced.example", start=number + 50_000)


def _modes(fleet: Fleet, name: str) -> set[str]:
    status = fleet.agents[name].status()
    return {limit["mode"] for limit in status["leases"]["limits"]} if status else set()


def _holds(fleet: Fleet, name: str) -> int:
    status = fleet.agents[name].status()
    return sum(limit["units"] for limit in status["leases"]["limits"]) if status else 0


async def test_four_agents_keep_one_limit_whatever_is_killed_or_cut_off(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        fleet, _, watched = await stack.enter_async_context(_peers(tmp_path))
        links = {
            name: await stack.enter_async_context(open_link(fleet.server_port)) for name in _AGENTS
        }
        await asyncio.gather(*(_start(fleet, name, links[name]) for name in _AGENTS))
        await asyncio.gather(*(_fill(fleet, name) for name in _AGENTS))
        used = watched.is_used
        await until(lambda: used(0.85), seconds=60, what="four agents use what there is")
        await until(lambda: all(_holds(fleet, name) for name in _AGENTS), what="all have a part")

        killed = time.monotonic()
        fleet.agents["mta-1"].kill()
        # But for its floors, which it may yet come back to use.
        await until(
            lambda: used(0.8, since=killed), seconds=60, what="a killed agent's part goes to others"
        )
        assert time.monotonic() - killed <= _OVER + 15
        assert watched.exceeded() == []

        assert fleet.server is not None
        fleet.server.kill()
        await fleet.start_server(_LEASES)
        begun = time.monotonic()
        await until(
            lambda: used(0.8, since=begun),
            seconds=60,
            what="as much is used after a server's crash",
        )
        assert watched.exceeded() == []

        cut = time.monotonic()
        links["mta-2"].cut()
        await until(lambda: _modes(fleet, "mta-2") == {"floors"}, what="floors hold")
        await until(
            lambda: used(0.8, since=cut), seconds=60, what="what one can't use goes to the others"
        )
        assert watched.exceeded() == []

        links["mta-2"].heal()
        await _start(fleet, "mta-1", links["mta-1"])
        await until(lambda: all(_holds(fleet, name) for name in _AGENTS), what="all have a part")
        await until(lambda: _modes(fleet, "mta-2") == {"leased"}, what="leases hold again")
        await until(lambda: used(0.85), seconds=60, what="four agents use what there is")

        statuses = [await asyncio.to_thread(fleet.agents[name].stop) for name in _AGENTS]
        assert statuses == [0, 0, 0, 0]
        assert watched.exceeded() == []


async def test_an_agent_that_starts_without_the_server_sends_nothing(tmp_path: Path) -> None:
    """What it held before is not its own any more: others may have it."""
    async with AsyncExitStack() as stack:
        fleet, _, watched = await stack.enter_async_context(_peers(tmp_path))
        link = await stack.enter_async_context(open_link(fleet.server_port))
        await _start(fleet, "mta-1", link)
        smtp = fleet.agents["mta-1"].ports["smtp"]
        await inject(smtp, 5, domain="paced.example")
        await until(lambda: watched.paced.messages_accepted == 5, what="mail goes on a lease")
        assert await asyncio.to_thread(fleet.agents["mta-1"].stop) == 0
        assert fleet.server is not None
        fleet.server.kill()

        await _start(fleet, "mta-1", link)
        await inject(smtp, 5, domain="paced.example", start=10)

        def waits() -> bool:
            paths = fleet.agents["mta-1"].status().get("paths", [])
            return any(path["waits_for"] for path in paths)

        await until(waits, what="mail waits for a lease")
        assert watched.paced.messages_accepted == 5
        await fleet.start_server(_LEASES)
        await until(lambda: watched.paced.messages_accepted == 10, what="mail goes again")
