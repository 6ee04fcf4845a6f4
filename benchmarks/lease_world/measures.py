"""
How well a limit is shared, beside how it is kept.

- Convergence: the time from a moment at which everybody wants something else until nobody has more
  than one unit less than their max-min fair share.
- Fairness: Jain's index of what each agent had of its fair share over the whole run: 1 if all had
  the same part of it, 1/n if one of n had everything.
"""

from typing import TYPE_CHECKING

from benchmarks.lease_world.fairness import share_fairly
from benchmarks.lease_world.scenario import KEY, SECOND

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

_FIRST = 60 * SECOND
_LOOK_SECONDS = 0.02
_SAMPLE_SECONDS = 1


class Measures:
    """Looks at what agents have, from time to time, after the first minute."""

    def __init__(self, world: "LeaseWorld") -> None:
        self._world = world
        self._timeline = world.timeline
        #: Of each agent: units that it could use, and that were fair, added up.
        self._had: dict[str, float] = {}
        self._fair: dict[str, float] = {}
        self._stepped_at: int | None = None

    def begin(self) -> None:
        """Measure from the end of the first minute on."""
        self._timeline.at(_FIRST, self._sample)
        if self._world.scenario.step_seconds:
            self._timeline.at(_FIRST, self._step)

    def end(self) -> None:
        """Write down what was measured."""
        parts = [self._had[name] / fair for name, fair in self._fair.items() if fair]
        if any(parts):
            squares = sum(part * part for part in parts)
            self._world.findings.fairness = sum(parts) ** 2 / (len(parts) * squares)

    def _sample(self) -> None:
        for name, fair in self._fair_shares().items():
            agent = self._world.agents[name]
            has = min(agent.holder.cap(KEY, agent.clock()), agent.wants)
            self._had[name] = self._had.get(name, 0) + has
            self._fair[name] = self._fair.get(name, 0) + fair
        self._timeline.after(_SAMPLE_SECONDS, self._sample)

    def _step(self) -> None:
        """Everybody wants something else from now on."""
        if self._stepped_at is None:
            self._timeline.after(_LOOK_SECONDS, self._look)
        else:
            self._note_convergence()
        self._stepped_at = self._timeline.now
        self._timeline.after(self._world.scenario.step_seconds, self._step)

    def _look(self) -> None:
        agents = self._world.agents
        if all(
            agents[name].holder.cap(KEY, agents[name].clock()) >= fair - 1
            for name, fair in self._fair_shares().items()
        ):
            self._note_convergence()
            self._stepped_at = None
        else:
            self._timeline.after(_LOOK_SECONDS, self._look)

    def _note_convergence(self) -> None:
        assert self._stepped_at is not None
        self._world.findings.convergence.append((self._timeline.now - self._stepped_at) / SECOND)

    def _fair_shares(self) -> dict[str, float]:
        units = self._world.spec.units
        wants = {name: agent.wants for name, agent in self._world.agents.items() if agent.wants}
        return share_fairly(units, {name: min(units, one) for name, one in wants.items()})
