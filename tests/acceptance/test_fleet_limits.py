"""
Agents share one limit, and the peers count: whatever is killed, stands still or is cut off, the
agents together never have more connections open than allowed, nor send more than the rate, and
what one can't use goes to the others.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.acceptance.fleet import until
from tests.acceptance.mail import inject
from tests.acceptance.network import open_link
from tests.acceptance.separate_host import open_host
from tests.acceptance.shared_limits import (
    AGENTS,
    BURST,
    LONG_DRAIN,
    OVER,
    fill,
    lease_settings,
    modes,
    open_peers,
    rate_units,
    start,
    units,
)


async def test_four_agents_keep_one_limit_whatever_is_killed_or_cut_off(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        fleet, _, watched = await stack.enter_async_context(open_peers(tmp_path))
        links = {
            name: await stack.enter_async_context(open_link(fleet.server_port)) for name in AGENTS
        }
        await asyncio.gather(*(start(fleet, name, server_port=links[name].port) for name in AGENTS))
        await asyncio.gather(*(fill(fleet, name) for name in AGENTS))
        used = watched.is_used
        await until(lambda: used(0.85), seconds=60, what="four agents use what there is")
        await until(lambda: all(units(fleet, name) for name in AGENTS), what="all have a part")

        killed = time.monotonic()
        fleet.agents["mta-1"].kill()
        # But for its floors, which it may yet come back to use.
        await until(
            lambda: used(0.8, since=killed), seconds=60, what="a killed agent's part goes to others"
        )
        assert time.monotonic() - killed <= OVER + 15
        assert watched.exceeded() == []

        assert fleet.server is not None
        fleet.server.kill()
        await fleet.start_server(lease_settings())
        begun = time.monotonic()
        await until(
            lambda: used(0.8, since=begun),
            seconds=60,
            what="as much is used after a server's crash",
        )
        assert watched.exceeded() == []

        cut = time.monotonic()
        links["mta-2"].cut()
        await until(lambda: modes(fleet, "mta-2") == {"floors"}, what="floors hold")
        await until(
            lambda: used(0.8, since=cut), seconds=60, what="what one can't use goes to the others"
        )
        assert watched.exceeded() == []

        links["mta-2"].heal()
        await start(fleet, "mta-1", server_port=links["mta-1"].port)
        await until(lambda: all(units(fleet, name) for name in AGENTS), what="all have a part")
        await until(lambda: modes(fleet, "mta-2") == {"leased"}, what="leases hold again")
        await until(lambda: used(0.85), seconds=60, what="four agents use what there is")

        statuses = [await asyncio.to_thread(fleet.agents[name].stop) for name in AGENTS]
        assert statuses == [0, 0, 0, 0]
        assert watched.exceeded() == []


async def test_what_stands_still_for_a_while_exceeds_nothing(tmp_path: Path) -> None:
    """
    An agent, until what it had of the rate goes to others; then the server, until agents live on
    their floors. Neither knows how long it has stood still before it goes on.
    """
    names = AGENTS[:3]
    async with AsyncExitStack() as stack:
        fleet, _, watched = await stack.enter_async_context(open_peers(tmp_path, drain=LONG_DRAIN))
        await asyncio.gather(*(start(fleet, name) for name in names))
        await asyncio.gather(*(fill(fleet, name) for name in names))
        used = watched.is_used
        await until(lambda: used(0.85), seconds=60, what="three agents use what there is")
        await until(lambda: all(units(fleet, name) for name in names), what="all have a part")

        frozen, *others = names
        await until(
            lambda: sum(rate_units(fleet, name) for name in names) == BURST, what="all is lent"
        )
        before = sum(rate_units(fleet, name) for name in others)
        fleet.agents[frozen].freeze()
        await until(
            lambda: sum(rate_units(fleet, name) for name in others) > before,
            what="others have more of the rate",
        )
        # Its connections still stand, and are its own for a while longer.
        fleet.agents[frozen].thaw()
        await until(lambda: modes(fleet, frozen) == {"leased"}, what="leases hold again")
        assert watched.exceeded() == []

        assert fleet.server is not None
        fleet.server.freeze()
        await until(
            lambda: all(modes(fleet, name) == {"floors"} for name in names), what="floors hold"
        )
        fleet.server.thaw()
        await until(
            lambda: all(modes(fleet, name) == {"leased"} for name in names),
            what="leases hold again",
        )
        begun = time.monotonic()
        await until(
            lambda: used(0.85, since=begun), seconds=60, what="three agents use what there is"
        )
        assert watched.exceeded() == []


async def test_what_loses_its_line_to_the_server_exceeds_nothing(tmp_path: Path) -> None:
    """
    An agent on a host of its own, whose packets are lost without a word, both ways; then another
    one that bears its name.
    """
    names = AGENTS[:2]
    async with AsyncExitStack() as stack:
        host = stack.enter_context(open_host())
        fleet, _, watched = await stack.enter_async_context(open_peers(tmp_path, host=host))
        apart, other = names
        # The server itself listens on loopback alone.
        end = await stack.enter_async_context(
            open_link(fleet.server_port, host=host.server_line.ours)
        )
        await asyncio.gather(
            start(fleet, apart, server_port=end.port, host=host), start(fleet, other)
        )
        await asyncio.gather(*(fill(fleet, name) for name in names))
        used = watched.is_used
        await until(lambda: used(0.85), seconds=60, what="two agents use what there is")
        await until(lambda: all(units(fleet, name) for name in names), what="both have a part")
        before = units(fleet, other)

        host.cut_off_from_server()
        await until(lambda: modes(fleet, apart) == {"floors"}, what="floors hold")
        await until(lambda: units(fleet, other) > before, what="what is no floor goes to the other")
        cut = time.monotonic()
        await until(lambda: used(0.8, since=cut), seconds=60, what="nearly all is used")
        assert modes(fleet, apart) == {"floors"}
        assert watched.exceeded() == []

        # It is thought to be dead, and started on our host under the name it has.
        moved = AGENTS[2]
        await start(fleet, moved, called=apart)
        await fill(fleet, moved)
        await until(lambda: units(fleet, moved), what="it has a part of what is free")
        begun = time.monotonic()
        await until(lambda: used(0.8, since=begun), seconds=60, what="nearly all is used by three")
        assert modes(fleet, apart) == {"floors"}
        assert watched.exceeded() == []

        host.reach_server()
        await until(lambda: modes(fleet, apart) == {"leased"}, seconds=60, what="leases hold again")
        healed = time.monotonic()
        await until(
            lambda: used(0.85, since=healed), seconds=60, what="three agents use what there is"
        )
        assert modes(fleet, moved) == {"leased"}
        assert watched.exceeded() == []


async def test_an_agent_that_starts_without_the_server_sends_nothing(tmp_path: Path) -> None:
    """What it held before is not its own any more: others may have it."""
    async with AsyncExitStack() as stack:
        fleet, _, watched = await stack.enter_async_context(open_peers(tmp_path))
        await start(fleet, "mta-1")
        smtp = fleet.agents["mta-1"].ports["smtp"]
        await inject(smtp, 5, domain="paced.example")
        await until(lambda: watched.paced.messages_accepted == 5, what="mail goes on a lease")
        assert await asyncio.to_thread(fleet.agents["mta-1"].stop) == 0
        assert fleet.server is not None
        fleet.server.kill()

        await start(fleet, "mta-1")
        await inject(smtp, 5, domain="paced.example", start=10)

        def waits() -> bool:
            paths = fleet.agents["mta-1"].status().get("paths", [])
            return any(path["waits_for"] for path in paths)

        await until(waits, what="mail waits for a lease")
        assert watched.paced.messages_accepted == 5
        await fleet.start_server(lease_settings())
        await until(lambda: watched.paced.messages_accepted == 10, what="mail goes again")
