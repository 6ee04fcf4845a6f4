"""The network between agents and server: it loses, doubles and delays, and so puts out of order."""

from random import Random

from benchmarks.lease_world.scenario import Scenario
from benchmarks.lease_world.timeline import Step, Timeline


class Network:
    """Carries messages both ways."""

    def __init__(self, timeline: Timeline, scenario: Scenario, random: Random) -> None:
        self._timeline = timeline
        self._loss, self._doubled = scenario.loss, scenario.doubled
        self._delay = scenario.delay
        self._random = random
        #: Agents that nothing reaches and of which nothing is heard, until when.
        self.cut_off_until: dict[str, int] = {}
        self.long_cut_off_until: dict[str, int] = {}

    def mend(self) -> None:
        """Lose and double nothing any more, and be quick."""
        self._loss, self._doubled, self._delay = 0, 0, (0.005, 0.1)
        self.cut_off_until.clear()
        self.long_cut_off_until.clear()

    def carry(self, agent: str, deliver: Step) -> None:
        """Bring a message from or to an agent, or not."""
        now = self._timeline.now
        if now < self.cut_off_until.get(agent, 0) or now < self.long_cut_off_until.get(agent, 0):
            return
        if self._random.random() < self._loss:
            return
        copies = 2 if self._random.random() < self._doubled else 1
        for _ in range(copies):
            self._timeline.after(self._random.uniform(*self._delay), deliver)
