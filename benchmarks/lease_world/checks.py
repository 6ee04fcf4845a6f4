"""
What was promised of limits, held against what is, at every event.

1. No more is in use than the limit, or than what is still out after it was lowered; and never more
   than the largest limit that the server has gone by within the longest lease.
2. No agent uses more than the book has of it; while the server is down, than what is durable.
3. What is out is never above the limit, except after it was lowered; then it only falls. An agent
   that says it has more than is known is believed, though: what it said may be of before its lease
   was over, and to count it once more does no harm.
4. In every window no more events pass than the burst, and what was earned in it: as much as the
   units earn that are out, each as fast as the fastest rate that the server goes by or that an
   agent holds a lease of. No agent goes by a rate that the server left longer ago than the longest
   lease.
5. Once the server has settled, all who are heard have been told of the limit as it is.
"""

from typing import TYPE_CHECKING

from agent.limits.lease import Lease
from benchmarks.lease_world.agent import USE
from benchmarks.lease_world.scenario import KEY, SECOND
from policy_server.limits.spec import LimitSpec

if TYPE_CHECKING:
    from benchmarks.lease_world.agent import SimulatedAgent
    from benchmarks.lease_world.world import LeaseWorld

#: What is used is measured after a first while.
_FIRST = 60 * SECOND


class Checks:
    """Looks at a world after every event."""

    def __init__(self, world: "LeaseWorld") -> None:
        self._world = world
        self._timeline, self._findings = world.timeline, world.findings
        timing = world.timing
        #: Until after its last sign of life nobody has anything that an agent had.
        self._longest_lease = timing.longer(timing.floor + timing.drain) + timing.grace
        #: Units that the book has given out, and the most that it ever had when it had settled.
        self._out = self._most_out = 0
        #: Of a rate: events beyond what was earned, since when, how fast it is earned at most, and
        #: the most units since there were none.
        self._beyond = 0.0
        self._beyond_since = 0
        self._units = self._most_units = world.spec.units
        self._earns = _per_unit(world.spec) * self._units

    # What happens.

    def note_events(self, agent: "SimulatedAgent", count: int) -> None:
        """Events of a rate have passed at an agent."""
        if self._world.is_traced:
            self._world.note(f"agent {agent.name} lets {count} events pass")
        self.look_at_agent(agent)
        self._earn()
        self._beyond += count
        self._findings.peak = max(self._findings.peak, self._beyond)
        if self._beyond > self._most_units + 1e-6:
            self._world.violate(
                f"{self._beyond:.3f} events beyond what was earned, burst {self._most_units}"
            )
        if self._timeline.now >= _FIRST:
            self._findings.events += count
            self._findings.used += count

    def measure(self, until: int) -> None:
        """Add up what was used and what could have been, before time goes on."""
        self._findings.seconds_above += self._time_above(until) / SECOND
        span = (until - max(self._timeline.now, _FIRST)) / SECOND
        if span <= 0:
            return
        spec = self._world.spec
        if spec.earning is not None:
            self._findings.wanted += spec.earning.count / spec.earning.period_ns * span * SECOND
            return
        self._findings.wanted += min(self._world.wanted, spec.units) * span
        self._findings.used += min(self._world.in_use, spec.units) * span

    def look(self) -> None:
        """Hold what is in use against the limit."""
        if self._world.spec.is_rate:
            return
        in_use, units = self._world.in_use, self._world.server.spec.units
        if in_use > units:
            in_use -= self._past_the_end()
        self._findings.peak = max(self._findings.peak, in_use)
        if in_use <= units:
            return
        if in_use > self._out:
            self._world.violate(f"{in_use} in use, limit {units}, out {self._out}")
        if in_use > max(spec.units for spec in self._for_long()):
            self._world.violate(f"{in_use} in use, more than any limit for long")

    def look_at_agent(self, agent: "SimulatedAgent") -> None:
        """Hold what an agent uses against what is known of it."""
        lease = agent.holder.lease(KEY)
        if not agent.is_up or lease is None:
            return
        is_rate = self._world.spec.is_rate
        used, known = lease.units if is_rate else agent.in_use, self._known_of(agent)
        if used > known and not is_rate:
            used -= self._past_the_end_at(agent)
        if used > known:
            self._world.violate(f"agent {agent.name} uses {used}, known is {known}")
        if is_rate and self._goes_by_old_rate(lease):
            self._world.violate(f"agent {agent.name} goes by a rate of long ago")

    def look_at_book(self, *, is_settled: bool = False) -> None:
        """Hold what the book has given out against the limit; and what agents use against it."""
        server = self._world.server
        assert server.book is not None
        limit = server.book.limit(KEY)
        out = limit.out if limit is not None else 0
        if is_settled and out > max(self._out, server.spec.units):
            self._world.violate(f"{out} are out, limit {server.spec.units}, before {self._out}")
        if is_settled:
            self._most_out = max(self._most_out, out)
        if out != self._out:
            self._out = out
            self.look_at_limit()
        if not self._world.spec.is_rate:
            for agent in self._world.agents.values():
                if agent.in_use:
                    self.look_at_agent(agent)
        if is_settled and limit is not None:
            self._look_at_news()

    def look_at_limit(self) -> None:
        """Note how fast a rate may be earned from now on, and in how many units."""
        if not self._world.spec.is_rate:
            return
        self._earn()
        server = self._world.server
        units = max(self._out, server.spec.units)
        rates = [_per_unit(server.spec)]
        rates += [
            lease.earns / lease.event_parts
            for agent in self._world.agents.values()
            if agent.is_up and (lease := agent.holder.lease(KEY)) and lease.units
        ]
        self._earns, self._units = max(rates) * units, units
        self._most_units = max(self._most_units, units)

    def look_at_start(self) -> None:
        """
        A server starts anew. What was durable may be more than was still out, as it is not always
        lowered when that is, but never more than was out when it was written.
        """
        holdings = self._world.server.holdings.values()
        out = sum(max(one.units, one.floor) for one in holdings)
        if out > self._most_out:
            self._world.violate(f"{out} are durable, more than ever were out: {self._most_out}")
        self._out = max(self._out, out)

    def _time_above(self, until: int) -> float:
        """For how long of the time from now on more is used than may be."""
        span = until - self._timeline.now
        if not self._world.spec.is_rate:
            return span if self._world.in_use > self._world.server.spec.units else 0
        if self._beyond <= self._most_units:
            return 0
        self._earn()
        return min(span, max(0.0, self._beyond - self._most_units) / self._earns)

    # What is known.

    def _known_of(self, agent: "SimulatedAgent") -> int:
        server = self._world.server
        if server.book is None:
            holding = server.holdings.get(agent.name)
            if holding is None or holding.incarnation != agent.incarnation:
                return 0
            return max(holding.units, holding.floor)
        limit = server.book.limit(KEY)
        share = limit.shares.get(agent.name) if limit is not None else None
        return share.occupied if share is not None else 0

    def _look_at_news(self) -> None:
        server, now = self._world.server, self._timeline.now
        if not server.spec.is_rate or server.book is None:
            return
        limit = server.book.limit(KEY)
        assert limit is not None
        for name, share in limit.shares.items():
            session = server.book.session(name)
            if not share.granted or share.is_restored or session is None:
                continue
            if now < session.speaks_until and server.told[name].spec != server.spec:
                self._world.violate(f"agent {name} is heard, and was not told of {server.spec}")

    def _goes_by_old_rate(self, lease: Lease) -> bool:
        return not any(
            spec.earning is not None
            and (spec.event_parts, spec.earning.count) == (lease.event_parts, lease.earns)
            for spec in self._for_long()
        )

    def _for_long(self) -> list[LimitSpec]:
        """All that the server has gone by within the longest lease."""
        went_by = self._world.server.went_by
        first = len(went_by) - 1
        while first and went_by[first][0] > self._timeline.now - self._longest_lease:
            first -= 1
        return [spec for _, spec in went_by[first:]]

    def _earn(self) -> None:
        earned = (self._timeline.now - self._beyond_since) * self._earns
        self._beyond_since = self._timeline.now
        self._beyond = max(0.0, self._beyond - earned)
        if not self._beyond:
            self._most_units = self._units

    def _past_the_end(self) -> int:
        return sum(self._past_the_end_at(agent) for agent in self._world.agents.values())

    def _past_the_end_at(self, agent: "SimulatedAgent") -> int:
        """
        Connections that a frozen agent could not close when its lease was over: like those of a
        host without power they stand until the peer gives up, and no protocol can prevent that.
        """
        if not agent.is_up or self._timeline.now > agent.frozen_until + USE:
            return 0
        return agent.holder.must_close(KEY, agent.clock())


def _per_unit(spec: LimitSpec) -> float:
    """Events that one unit of a rate earns in a nanosecond."""
    return spec.earning.count / spec.event_parts if spec.earning is not None else 0.0
