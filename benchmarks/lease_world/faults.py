"""
What goes wrong: agents are cut off, crash and freeze; the server crashes and freezes.

Every fault has a number in the order of time. Those that a scenario leaves out are drawn like the
others and then don't happen, so that a run that fails can be tried again with fewer of them.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.lease_world.agent import SimulatedAgent
from benchmarks.lease_world.scenario import SECOND
from benchmarks.lease_world.timeline import Step

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

_FROZEN_SECONDS = (0.5, 40)
#: Longer than leases hold, at times.
_SERVER_FROZEN_SECONDS = (2, 20, 120)
_AWAY_SECONDS = (0.5, 60)


class Fault(NamedTuple):
    """One thing that goes wrong, drawn but not done yet."""

    says: str
    happen: Step


class Faults:
    """Draws faults at random times, and lets them happen."""

    def __init__(self, world: "LeaseWorld") -> None:
        self._world = world
        self._timeline, self._scenario = world.timeline, world.scenario
        #: They come at the same times whatever the book decides: so books can be compared.
        self._random = Random(f"faults of {world.seed}")
        self._server_random = world.server.random
        self._number = 0

    def begin(self) -> None:
        """Have faults of every kind happen from now on, as often as the scenario says."""
        scenario, agents = self._scenario, len(self._world.agents)
        self._every(scenario.cut_off_every / agents, self._cut_off)
        self._every(scenario.crash_every / agents, self._crash)
        self._every(scenario.freeze_every / agents, self._freeze)
        self._every(scenario.server_crash_every, self._crash_server)
        self._every(scenario.server_freeze_every, self._freeze_server)

    def _every(self, mean: float, draw: Callable[[], Fault | None]) -> None:
        """Draw a fault at random times, so many seconds apart in the mean."""
        if mean <= 0:
            return

        def again() -> None:
            if (fault := draw()) is not None:
                self._let_happen(fault)
            self._timeline.after(self._random.expovariate(1 / mean), again)

        self._timeline.after(self._random.expovariate(1 / mean), again)

    def _let_happen(self, fault: Fault) -> None:
        self._number += 1
        if self._number in self._scenario.left_out:
            return
        self._world.note(f"fault {self._number}: {fault.says}")
        fault.happen()

    # Agents.

    def _cut_off(self) -> Fault:
        agent = self._any_agent()
        until = self._after(self._random.uniform(*self._scenario.cut_off_for))

        def happen() -> None:
            self._world.network.cut_off_until[agent.name] = until

        return Fault(f"agent {agent.name} is cut off until {until / SECOND:.3f}", happen)

    def _crash(self) -> Fault | None:
        agent = self._any_agent()
        if not agent.is_up:
            return None
        seconds = self._random.uniform(*_AWAY_SECONDS)

        def happen() -> None:
            agent.die()
            self._timeline.after(seconds, lambda: agent.start(within=0.5))

        return Fault(f"agent {agent.name} crashes, and starts {seconds:.3f} s later", happen)

    def _freeze(self) -> Fault:
        agent = self._any_agent()
        until = max(agent.frozen_until, self._after(self._random.uniform(*_FROZEN_SECONDS)))

        def happen() -> None:
            agent.frozen_until = until

        return Fault(f"agent {agent.name} stands still until {until / SECOND:.3f}", happen)

    def _any_agent(self) -> SimulatedAgent:
        agents = self._world.agents
        return agents[str(self._random.randrange(len(agents)))]

    # The server.

    def _crash_server(self) -> Fault | None:
        server = self._world.server
        if server.book is None:
            return None
        seconds = self._random.uniform(*self._scenario.server_away)

        def happen() -> None:
            server.crash()
            self._timeline.after(seconds, server.start)

        return Fault(f"the server crashes, and starts {seconds:.3f} s later", happen)

    def _freeze_server(self) -> Fault | None:
        server = self._world.server
        if server.book is None:
            return None
        until = self._after(self._server_random.choice(_SERVER_FROZEN_SECONDS))
        return Fault(
            f"the server stands still until {until / SECOND:.3f}", lambda: server.freeze(until)
        )

    def _after(self, seconds: float) -> int:
        return self._timeline.now + int(seconds * SECOND)
