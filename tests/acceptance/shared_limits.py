"""
Agents that share limits, and the peers that count: what the acceptance tests of these have in
common.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.sink.counts import Tally
from agent.sink.dns_server import DnsServer
from agent.sink.server import Sink
from agent.sink.settings import parse_sink_settings
from tests.acceptance.fleet import Fleet
from tests.acceptance.mail import inject
from tests.acceptance.separate_host import SeparateHost

AGENTS = ("mta-1", "mta-2", "mta-3", "mta-4")
CONNECTIONS = 8
RATE, BURST = 20, 8
#: Between the charge of a message and its arrival a loaded machine may take a while: so many
#: messages as pass in a second.
_ON_THE_WAY = 20
#: Seconds, and how long it takes until what a silent agent had is free.
_SESSION, _GRACE, _DRAIN, _FLOOR = 5, 1, 3, 60
OVER = _SESSION + _GRACE + _DRAIN

#: As long as that connections stay an agent's own after it was last heard, however busy we are.
LONG_DRAIN = 20


def lease_settings(drain: int = _DRAIN) -> str:
    """The server's configuration of leases."""
    return f"""
[limits]
session_ttl = "{_SESSION}s"
grace = "{_GRACE}s"
drain_time = "{drain}s"
floor_ttl = "{_FLOOR}s"
"""


_RULES = f"""
["default"]
smtp_port = {{port}}
prohibited_hosts = []
enable_tls = "Disabled"
connection_limit = {CONNECTIONS}
max_deliveries_per_connection = 20
idle_timeout = "5s"

["paced.example"]
smtp_port = {{paced_port}}
connection_limit = 40
max_message_rate = "{RATE}/s,max_burst={BURST}"
"""

_PROVIDERS = [
    {
        "name": "crowded",
        "latency": ["300ms", "700ms"],
        "limits": {"max_connections": CONNECTIONS},
    },
    {
        "name": "paced",
        "limits": {"max_message_rate": f"{RATE}/s,max_burst={BURST + _ON_THE_WAY}"},
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
        return connections >= least * CONNECTIONS and messages >= least * RATE

    def exceeded(self) -> list[str]:
        """Every limit that was ever exceeded."""
        return self.crowded.exceeded() + self.paced.exceeded()


@asynccontextmanager
async def open_peers(
    directory: Path, *, drain: int = _DRAIN, host: SeparateHost | None = None
) -> AsyncIterator[tuple[Fleet, Sink, Watched]]:
    """Run a server and the peers; with *host* on addresses that it reaches, too."""
    addresses = ("127.0.2.1", "127.0.2.2") if host is None else (host.line.ours, host.line.ours)
    names = ("crowded", "paced")
    zone = {
        "mx": {f"{name}.example": [[10, f"mx.{name}.example"]] for name in names},
        "a": {f"mx.{name}.example": [at] for name, at in zip(names, addresses, strict=True)},
    }
    providers = [
        {**provider, "listen": [f"{at}:0"]}
        for provider, at in zip(_PROVIDERS, addresses, strict=True)
    ]
    sink = Sink(parse_sink_settings({"sink": {"http_listen": ""}, "provider": providers}))
    local = "127.0.0.1"
    async with sink, DnsServer(zone, host=host.line.ours if host else local) as dns:
        fleet, watched = Fleet(directory, dns.port, dns_host=dns.host), Watched(sink)
        looking = asyncio.create_task(watched.look())
        try:
            await fleet.start_server(lease_settings(drain))
            crowded, paced = (sink.listening[name][0][1] for name in ("crowded", "paced"))
            await fleet.import_rules(_RULES.format(port=crowded, paced_port=paced))
            yield fleet, sink, watched
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            fleet.stop()


async def start(
    fleet: Fleet,
    name: str,
    *,
    server_port: int = 0,
    host: SeparateHost | None = None,
    called: str = "",
) -> None:
    """Start an agent with the one source whose limits all share; each has its own address."""
    address = host.line.theirs if host else f"127.0.1.{AGENTS.index(name) + 1}"
    await fleet.start_agent(
        name, source="ip-1", address=address, server_port=server_port, host=host, called=called
    )


async def fill(fleet: Fleet, name: str) -> None:
    """Give an agent more mail than it can send while the test goes on."""
    agent = fleet.agents[name]
    place, number = {"host": agent.host}, AGENTS.index(name) * 100_000
    await inject(agent.ports["smtp"], 250, domain="crowded.example", start=number, **place)
    await inject(agent.ports["smtp"], 450, domain="paced.example", start=number + 50_000, **place)


def modes(fleet: Fleet, name: str) -> set[str]:
    """By what an agent keeps its limits."""
    status = fleet.agents[name].status()
    return {limit["mode"] for limit in status["leases"]["limits"]} if status else set()


def rate_units(fleet: Fleet, name: str) -> int:
    """How much of the rate an agent has."""
    status = fleet.agents[name].status()
    limits = status["leases"]["limits"] if status else []
    return sum(limit["units"] for limit in limits if limit["limit"].startswith("max_message_rate"))


def units(fleet: Fleet, name: str) -> int:
    """How much of all limits an agent has."""
    status = fleet.agents[name].status()
    return sum(limit["units"] for limit in status["leases"]["limits"]) if status else 0
