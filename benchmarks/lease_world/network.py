"""The network between agents and server: it loses, doubles and delays, and so puts out of order."""

from random import Random

from benchmarks.lease_world.scenario import Scenario
from benchmarks.lease_world.timeline import Step, Timeline


class Network:
    """Carries messages both ways."""

    def __init__(self, timeline: Timeline, scenario: Scenario, random: Random) -> None:
        self._timeline = timeline
        self._scenario = scenario
        self._random = random
        #: Agents that nothing reaches and of which nothing is heard, until when.
        self.cut_off_until: dict[str, int] = {}

    def carry(self, agent: str, deliver: Step) -> None:
        """Bring a message from or to an agent, or not."""
        if self._timeline.now < self.cut_off_until.get(agent, 0):
            return
        if self._random.random() < self._scenario.loss:
            return
        copies = 2 if self._random.random() < self._scenario.doubled else 1
        for _ in range(copies):
            self._timeline.after(self._random.uniform(*self._scenario.delay), deliver)
