"""What was promised of limits, held against what is."""

from typing import TYPE_CHECKING

from benchmarks.lease_world.agent import USE
from benchmarks.lease_world.scenario import KEY, SECOND

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

#: What is used is measured after a first while.
_FIRST = 60 * SECOND


class Checks:
    """Looks at a world after every event, and at what passed in the end."""

    def __init__(self, world: "LeaseWorld") -> None:
        self._world = world
        self._timeline, self._scenario = world.timeline, world.scenario
        self._findings = world.findings
        #: When events of a rate passed.
        self._events: list[int] = []

    def note_events(self, count: int) -> None:
        """Events of a rate have passed."""
        self._events += [self._timeline.now] * count

    def measure(self, until: int) -> None:
        """Add up what was used and what could have been, before time goes on."""
        if self._scenario.spec.is_rate:
            return
        span = (until - max(self._timeline.now, _FIRST)) / SECOND
        if span <= 0:
            return
        units = self._scenario.spec.units
        self._findings.wanted += min(self._world.wanted, units) * span
        self._findings.used += min(self._world.in_use, units) * span

    def look(self) -> None:
        """Hold what is in use against the limit."""
        if self._scenario.spec.is_rate:
            return
        units, in_use = self._scenario.spec.units, self._world.in_use
        if in_use > units:
            in_use -= self._frozen_past_the_end()
        self._findings.peak = max(self._findings.peak, in_use)
        if in_use > units:
            self._world.violate(f"{in_use} in use, limit {units}")

    def end(self) -> None:
        """In every window of t no more than burst + rate * t events may lie."""
        earning = self._scenario.spec.earning
        if earning is None:
            return
        per_ns = earning.count / earning.period_ns
        lowest = float("inf")
        for number, at in enumerate(self._events):
            lowest = min(lowest, number - per_ns * at)
            beyond = number - per_ns * at - lowest + 1
            self._findings.peak = max(self._findings.peak, beyond)
            if beyond > self._scenario.spec.units + 1e-6:
                self._world.violate(
                    f"{beyond:.3f} events beyond the steady rate, "
                    f"burst {self._scenario.spec.units}",
                    at=at,
                )
        late = [at for at in self._events if at >= _FIRST]
        self._findings.events = len(late)
        self._findings.used = len(late)
        self._findings.wanted = per_ns * max(0, self._scenario.seconds * SECOND - _FIRST)

    def _frozen_past_the_end(self) -> int:
        """
        Connections that a frozen agent could not close when its lease was over: like those of a
        host without power they stand until the peer gives up, and no protocol can prevent that.
        """
        return sum(
            agent.holder.must_close(KEY, agent.clock())
            for agent in self._world.agents.values()
            if agent.is_up and self._timeline.now <= agent.frozen_until + USE
        )
