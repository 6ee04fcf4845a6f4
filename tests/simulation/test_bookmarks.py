"""
How old what an agent knows may be: an idle server speaks at least every 5 s, and an agent says by
itself when its server has been silent for too long.

On a virtual clock, so that the times are exact.
"""

import asyncio
from itertools import pairwise
from random import Random

import pytest

from agent.policy.access import PolicyAccess
from agent.policy.staleness import FRESH_SECONDS, LAGGING_SECONDS, Staleness
from penstock.v1 import policy_service_pb2 as pb
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from tests.simulation.agents import SimulatedAgent
from tests.simulation.servers import SimulatedDns, SimulatedServer, utc
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.wire import CALM, Network

_EPOCH = 1_800_000_000.0
_MAX_STALE = 120.0
#: How long a message takes at most, and the work of a thread.
_ON_THE_WAY = 0.5


class _Idle:
    """One server and one agent between which nothing happens."""

    def __init__(self, directory) -> None:
        path = directory / "penstock.db"
        database = Database(f"sqlite:///{path}")
        upgrade(database)
        database.close()
        self.loop = VirtualLoop(Random(1))
        self.network = Network(self.loop, seed=1, faults=CALM)
        self.network.on_read = self._note
        #: When the agent read what kind of response.
        self.read: list[tuple[float, int]] = []
        self.server = SimulatedServer(
            "server-0",
            loop=self.loop,
            network=self.network,
            path=path,
            clock=lambda: utc(self.now()),
            dns=SimulatedDns(Random(2)),
            canary_share=0.0,
            seed="1",
        )
        self.agent = SimulatedAgent(
            "agent-0",
            loop=self.loop,
            network=self.network,
            directory=directory / "agent-0",
            clock=self.now,
            addresses=("server-0",),
            is_balanced=False,
            random=Random(3),
            on_event=lambda record: None,
            on_forgotten=lambda event_id: None,
            on_change=lambda agent: None,
            on_obeyed=lambda agent, action: None,
        )
        self.agent.is_busy = False
        self._access = PolicyAccess(
            client=self.agent.client,
            book=self.agent.book,
            watch=self.agent.watch,
            disk=self.agent.disk,
            clock=self.now,
            max_stale=_MAX_STALE,
        )

    def now(self) -> float:
        return _EPOCH + self.loop.time()

    def _note(self, _client: str, path: str, message: object) -> None:
        if path.endswith("WatchPolicy") and isinstance(message, pb.WatchPolicyResponse):
            self.read.append((self.loop.time(), message.kind))

    def staleness(self) -> Staleness:
        return self._access.staleness

    def run(self, story) -> None:
        """Run both, and *story* beside them."""
        self.server.start()
        self.agent.start()
        try:
            self.loop.run_until_complete(story())
        finally:
            self.agent.kill()
            self.server.kill()
            self.loop.bury()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    async def become_fresh(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            if self.read and self.staleness() is Staleness.FRESH:
                return


@pytest.fixture
def idle(tmp_path):
    return _Idle(tmp_path)


def test_an_idle_server_says_at_least_every_five_seconds_that_nothing_changed(idle):
    async def story():
        await idle.become_fresh()
        began = len(idle.read)
        await asyncio.sleep(120)
        heard = idle.read[began - 1 :]
        gaps = [later - sooner for (sooner, _), (later, _) in pairwise(heard)]

        assert {kind for _, kind in heard[1:]} == {pb.WatchPolicyResponse.KIND_BOOKMARK}
        assert max(gaps) <= 5 + _ON_THE_WAY
        assert len(gaps) <= 120 / 4, "nor much more often"
        assert idle.staleness() is Staleness.FRESH

    idle.run(story)


def test_an_agent_whose_server_falls_silent_says_so_at_the_promised_times(idle):
    async def story():
        await idle.become_fresh()
        await asyncio.sleep(30)
        idle.network.cut_off("agent-0", 2 * _MAX_STALE)
        # What was on its way still comes.
        await asyncio.sleep(_ON_THE_WAY)
        last = idle.read[-1][0]
        seen: dict[Staleness, float] = {}
        while idle.staleness() is not Staleness.EXPIRED:
            seen.setdefault(idle.staleness(), idle.loop.time() - last)
            await asyncio.sleep(0.1)
        seen[Staleness.EXPIRED] = idle.loop.time() - last

        assert idle.read[-1][0] == last
        assert list(seen) == ["fresh", "lagging", "stale", "expired"]
        for state, after in (
            (Staleness.LAGGING, FRESH_SECONDS),
            (Staleness.STALE, LAGGING_SECONDS),
            (Staleness.EXPIRED, _MAX_STALE),
        ):
            assert after <= seen[state] <= after + 0.2
        assert FRESH_SECONDS == 15

    idle.run(story)
