"""
What has to become of a fleet once nothing goes wrong any more.

As soon as everybody runs and what went before can't hold anything back, and as long as nobody
wants anything else:

1. As much is out as is wanted and there is; a moment is allowed for what goes from one to another.
2. Everybody has what is fair, within one unit; a unit, where there are enough for all.
3. Where there are not, nobody waits for longer than it takes for all to have a turn.
"""

from typing import TYPE_CHECKING

from benchmarks.lease_world.fairness import share_fairly
from benchmarks.lease_world.scenario import KEY, SECOND

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

#: So often in a row something has to be missing, a second apart.
_MOMENT = 5
#: For what is under way, beside the times of leases.
_SPARE_SECONDS = 10


class Progress:
    """Looks at a world every second from the time on at which it is calm."""

    def __init__(self, world: "LeaseWorld") -> None:
        self._world = world
        timing, spec = world.timing, world.scenario.spec
        self._busy = 0 if spec.is_rate else int(world.scenario.busy[1] * SECOND)
        drain = 0 if spec.is_rate else timing.longer(timing.drain)
        #: So long what went before may hold something back.
        self._lease = timing.longer(timing.session) + timing.grace + drain + self._busy
        self._lease += _SPARE_SECONDS * SECOND
        self._well_since = 0
        self._wanted: dict[str, int] = {}
        #: How often in a row something was missing, and since when each agent has waited.
        self._missing: dict[str, int] = {}
        self._waiting_since: dict[str, int] = {}

    def begin(self) -> None:
        """From now on."""
        self._well_since = self._world.timeline.now
        self._look()

    def _look(self) -> None:
        world, now = self._world, self._world.timeline.now
        wanted = {name: agent.wants for name, agent in world.agents.items() if agent.wants}
        if not self._is_well() or wanted != self._wanted:
            self._well_since, self._wanted = now, wanted
        if now - self._well_since > self._lease:
            self._compare()
        else:
            self._missing, self._waiting_since = {}, {}
        world.timeline.after(1, self._look)

    def _is_well(self) -> bool:
        world, now = self._world, self._world.timeline.now
        is_served = world.server.book is not None and now >= world.server.frozen_until
        return is_served and all(
            agent.is_up and now >= agent.frozen_until for agent in world.agents.values()
        )

    def _compare(self) -> None:
        world = self._world
        assert world.server.book is not None
        spec = world.spec
        wants = {name: min(units, spec.units) for name, units in self._wanted.items()}
        limit = world.server.book.limit(KEY)
        out = limit.out if limit is not None else 0
        least = min(spec.units, sum(wants.values()))
        self._note(f"{least} units", out < least, f"{out} are out, {least} are wanted and there")
        for name, fair in share_fairly(spec.units, wants).items():
            agent = world.agents[name]
            has = agent.holder.cap(KEY, agent.clock())
            due = max(1, int(fair + 1e-9) - 1) if len(wants) <= spec.units else 0
            self._note(name, has < due, f"agent {name} has {has} units, {fair:.2f} are fair")
            self._note_turn(name, is_waiting=not has, turns=-(-len(wants) // spec.units))

    def _note(self, what: str, is_missing: bool, says: str) -> None:
        self._missing[what] = self._missing.get(what, 0) + 1 if is_missing else 0
        if self._missing[what] == _MOMENT:
            self._world.violate(says)

    def _note_turn(self, name: str, *, is_waiting: bool, turns: int) -> None:
        if not is_waiting:
            self._waiting_since.pop(name, None)
            return
        now = self._world.timeline.now
        since = self._waiting_since.setdefault(name, now)
        hold = self._world.timing.hold(self._world.spec)
        longest = (turns + 1) * (hold + hold // 10 + self._busy + _MOMENT * SECOND)
        if now - since > longest:
            self._waiting_since[name] = now
            self._world.violate(f"agent {name} has waited {(now - since) / SECOND:.0f} s")
