"""A run of one scenario under one seed."""

from random import Random

from benchmarks.lease_world.agent import SimulatedAgent
from benchmarks.lease_world.checks import Checks
from benchmarks.lease_world.faults import Faults
from benchmarks.lease_world.findings import Findings
from benchmarks.lease_world.measures import Measures
from benchmarks.lease_world.network import Network
from benchmarks.lease_world.progress import Progress
from benchmarks.lease_world.scenario import SECOND, Scenario
from benchmarks.lease_world.server import BookMaker, SimulatedServer
from benchmarks.lease_world.timeline import Timeline
from policy_server.limits.book import LeaseBook
from policy_server.limits.spec import LeaseTiming


class LeaseWorld:
    """A fleet, its server, the network between them, and all that goes wrong."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        timing: LeaseTiming | None = None,
        *,
        make_book: BookMaker = LeaseBook,
        is_traced: bool = False,
        is_measured: bool = False,
    ) -> None:
        """
        *is_traced*: what is said is noted as well, and the first violation ends the run.
        *is_measured*: it is looked at how fast and how fairly limits are shared.
        """
        self.scenario = scenario
        self.seed = seed
        self.timing = timing or LeaseTiming(floor=scenario.floor_seconds * SECOND)
        #: The limit as the rules have it; the server and agents may not know yet.
        self.spec = scenario.spec
        self.is_traced = is_traced
        #: Whether nothing goes wrong any more.
        self.is_calm = False
        self.random = Random(seed)
        self.timeline = Timeline()
        self.findings = Findings()
        #: Connections open, and what all agents that run want of them.
        self.in_use = 0
        self.wanted = 0
        self.checks = Checks(self)
        self.network = Network(self.timeline, scenario, self.random)
        self.server = SimulatedServer(self, make_book)
        self.agents = {
            name: SimulatedAgent(self, name) for name in map(str, range(scenario.agents))
        }
        self._faults = Faults(self)
        self._measures = Measures(self) if is_measured else None

    def run(self) -> Findings:
        """Run the scenario; return what it showed."""
        self.server.start()
        for agent in self.agents.values():
            agent.begin(0, 1)
        self._faults.begin()
        if self._measures is not None:
            self._measures.begin()
        end = (self.scenario.seconds + self.scenario.calm_seconds) * SECOND
        if self.scenario.calm_seconds:
            self.timeline.at(self.scenario.seconds * SECOND, self._calm_down)
        while (taken := self.timeline.take_next(end)) is not None:
            when, step = taken
            self.checks.measure(when)
            self.timeline.now = when
            step()
            self.checks.look()
            if self.is_traced and self.findings.violations:
                break
        self.checks.measure(end)
        if self._measures is not None:
            self._measures.end()
        return self.findings

    def _calm_down(self) -> None:
        """What has begun to go wrong comes to its end, and nothing else does."""
        self.is_calm = True
        self.network.mend()
        self.note("nothing goes wrong any more")
        Progress(self).begin()

    def note(self, says: str) -> None:
        """Write down what happened."""
        self.findings.trace.append(f"{self.timeline.now / SECOND:9.3f} {says}")

    def violate(self, says: str) -> None:
        """Write down that something happened that never should."""
        self.note(f"VIOLATION: {says}")
        self.findings.violations.append(f"{self.timeline.now / SECOND:.3f}: {says}")
