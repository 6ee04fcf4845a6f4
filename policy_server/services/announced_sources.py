"""
Which connected agents send from which egress sources.

Agents that send from one source share its limits. One of an earlier version, which has no leases,
keeps them for itself, and the source is then allowed more: that must be seen.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

#: Most sources of one stream that are heeded.
MAX_SOURCES = 1000


class AnnouncedSources:
    """The sources of the streams that are open; memory is proportional to them."""

    def __init__(self) -> None:
        #: An agent that connects again may have two streams for a while.
        self._agents: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, agent: str, sources: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Note a stream; return those of its sources that other agents have, with their names."""
        shared: dict[str, tuple[str, ...]] = {}
        for source in sources:
            agents = self._agents[source]
            agents[agent] += 1
            if len(agents) > 1:
                shared[source] = tuple(sorted(agents.keys() - {agent}))
        return shared

    def remove(self, agent: str, sources: Iterable[str]) -> None:
        """Forget a stream that was added."""
        for source in sources:
            agents = self._agents[source]
            agents[agent] -= 1
            if not agents[agent]:
                del agents[agent]
            if not agents:
                del self._agents[source]

    def count_shared(self) -> int:
        """Count the sources that more than one agent has."""
        return sum(len(agents) > 1 for agents in self._agents.values())
