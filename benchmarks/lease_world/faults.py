"""
What goes wrong: agents are cut off, crash and freeze; the server crashes and freezes. And what
people do meanwhile: they change the limit, and stop and restart agents.

Every fault has a number in the order of time. Those that a scenario leaves out are drawn like the
others and then don't happen, so that a run that fails can be tried again with fewer of them.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.lease_world.agent import SimulatedAgent
from benchmarks.lease_world.scenario import SECOND, draw_change
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
        #: Of what was added later, so that each fleet stays what it was.
        self._later_random = Random(f"later faults of {world.seed}")
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
        later = self._later_random
        self._every(scenario.change_every, self._change_limit, later)
        self._every(scenario.long_cut_off_every / agents, self._cut_off_for_long, later)
        self._every(scenario.restart_every / agents, self._restart, later)
        self._every(scenario.stop_every / agents, self._stop, later)
        self._every(scenario.release_every / agents, self._release, later)

    def _every(
        self, mean: float, draw: Callable[[], Fault | None], random: Random | None = None
    ) -> None:
        """Draw a fault at random times, so many seconds apart in the mean."""
        if mean <= 0:
            return
        times = random or self._random

        def again() -> None:
            if self._world.is_calm:
                return
            if (fault := draw()) is not None:
                self._let_happen(fault)
            self._timeline.after(times.expovariate(1 / mean), again)

        self._timeline.after(times.expovariate(1 / mean), again)

    def _let_happen(self, fault: Fault) -> None:
        self._number += 1
        if self._number in self._scenario.left_out:
            return
        self._world.findings.faults.append(self._number)
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

    def _any_agent(self, random: Random | None = None) -> SimulatedAgent:
        agents = self._world.agents
        return agents[str((random or self._random).randrange(len(agents)))]

    def _cut_off_for_long(self) -> Fault:
        agent, random = self._any_agent(self._later_random), self._later_random
        until = self._after(random.uniform(*self._scenario.long_cut_off_for))

        def happen() -> None:
            self._world.network.long_cut_off_until[agent.name] = until

        return Fault(f"agent {agent.name} is cut off for long, until {until / SECOND:.3f}", happen)

    def _restart(self) -> Fault | None:
        """What was on its way from and to the process before may come to the new one."""
        agent, random = self._any_agent(self._later_random), self._later_random
        if not agent.is_up:
            return None
        seconds = random.choice([0, random.uniform(0, 0.3)])

        def happen() -> None:
            agent.die()
            self._timeline.after(seconds, lambda: agent.start(within=0.5))

        return Fault(f"agent {agent.name} is killed, and starts {seconds:.3f} s later", happen)

    def _stop(self) -> Fault | None:
        agent, random = self._any_agent(self._later_random), self._later_random
        if not agent.is_up or self._timeline.now < agent.frozen_until:
            return None
        seconds = random.choice([random.uniform(0, 1), random.uniform(*_AWAY_SECONDS)])

        def happen() -> None:
            agent.stop()
            self._timeline.after(seconds, lambda: agent.start(within=0.5))

        return Fault(f"agent {agent.name} stops, and starts {seconds:.3f} s later", happen)

    def _release(self) -> Fault | None:
        """An operator knows that an agent is dead, and says so."""
        down = [agent for agent in self._world.agents.values() if not agent.is_up]
        if not down:
            return None
        agent = self._later_random.choice(down)
        return Fault(
            f"an operator ends the leases of agent {agent.name}",
            lambda: self._world.server.release(agent.name, agent.incarnation),
        )

    # The limit, and the server.

    def _change_limit(self) -> Fault | None:
        spec = draw_change(self._later_random, self._world.spec)
        if spec == self._world.spec:
            return None

        def happen() -> None:
            self._world.spec = spec
            self._world.server.hear_change()

        return Fault(f"the limit becomes {spec}", happen)

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
