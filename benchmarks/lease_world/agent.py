"""One agent of the simulated fleet: a holder, a clock of its own, and mail to send."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from agent.limits.holder import LeaseHolder
from agent.limits.messages import Answer
from agent.limits.times import HolderTimes
from benchmarks.lease_world.handing import to_report
from benchmarks.lease_world.scenario import KEY, SECOND
from benchmarks.lease_world.timeline import Step

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

#: As `agent.leases.client` has them: between two reports at least, and how long news is gathered.
_SOONEST = SECOND // 4
_GATHER = SECOND // 200
_REPORT_SECONDS = 2
#: How often an agent looks at what it may do.
USE = SECOND // 10
_PASS_SECONDS = 0.02
#: Events of a rate that pass at one look, at most.
_MOST_AT_ONCE = 20


def show_version(version: int) -> str:
    """Write the version of a grant as epoch and number."""
    return f"grant {version >> 32}.{version & 0xFFFF_FFFF}"


class SimulatedAgent:
    """Reports what it wants, takes what it is lent, and uses as much of that as it can."""

    def __init__(self, world: "LeaseWorld", name: str) -> None:
        self._world, self.name = world, name
        self._timeline, self._scenario = world.timeline, world.scenario
        #: Its own, so that it is the same fleet whatever the book decides.
        self._random = Random(f"agent {name} of {world.seed}")
        self._rate = 1 + self._random.uniform(-1, 1) * self._scenario.drift
        self._offset = self._random.randrange(10**15)
        self.incarnation = 0
        self.wants = 0
        self.is_up = False
        #: Connections open; they go with the process.
        self.in_use = 0
        self.frozen_until = 0
        self._last_report = 0
        self._is_about_to_report = False
        self._has_demanded = False
        self.holder: LeaseHolder
        self._start_process()

    def clock(self) -> int:
        """What its clock shows, which runs a little wrong."""
        return self._offset + int(self._timeline.now * self._rate)

    def start(self, *, within: float) -> None:
        """Start anew after an end; its loops begin some time *within* so many seconds."""
        self._start_process()
        self.begin(0, within)

    def begin(self, low: float, high: float) -> None:
        """Begin its loops, each some time between so many seconds from now."""
        for loop in (self._demand, self._use, self._report):
            self._repeat(loop, self._random.uniform(low, high))

    def die(self) -> None:
        """End at once, with all connections."""
        self.is_up = False
        self._set_wants(0)
        self._count(-self.in_use)

    def stop(self) -> None:
        """End in good order, and say so to the server."""
        self.die()
        incarnation = self.incarnation
        self._world.network.carry(
            self.name, lambda: self._world.server.release(self.name, incarnation)
        )

    def hear(self, answer: Answer) -> None:
        """Take an answer, once it runs."""
        if not self.is_up:
            return
        if self._timeline.now < self.frozen_until:
            self._timeline.at(self.frozen_until, lambda: self.hear(answer))
            return
        self.holder.hear(answer, self.clock())
        if answer.grants:
            if self._world.is_traced:
                self._note(f"hears {show_version(answer.grants[0].version)}")
            self._world.checks.look_at_limit()
        if answer.grants:
            self._report_soon()

    def _start_process(self) -> None:
        self.incarnation += 1
        timing = self._world.timing
        self.holder = LeaseHolder(
            HolderTimes.of(
                session=timing.session, floor=timing.floor, drain=timing.drain, drift=timing.drift
            ),
            agent=self.name,
            incarnation=self.incarnation,
        )
        self.is_up = True
        self._has_demanded = False
        self._last_report = -SECOND
        self._is_about_to_report = False

    def _repeat(self, loop: Callable[[], float], first: float) -> None:
        """Run a loop of this process; each turn says how many seconds later the next one is."""

        def turn() -> None:
            self._timeline.after(loop(), step)

        step = self._of_this_process(turn)
        self._timeline.after(first, step)

    def _of_this_process(self, step: Step) -> Step:
        """Have a step taken later if it is frozen, and not at all once it has ended."""
        incarnation = self.incarnation

        def turn() -> None:
            if not self.is_up or self.incarnation != incarnation:
                return
            if self._timeline.now < self.frozen_until:
                self._timeline.at(self.frozen_until, turn)
                return
            step()

        return turn

    # Its loops.

    def _demand(self) -> float:
        wants = self._random.randint(*self._scenario.wants)
        if not self._world.is_calm or not self._has_demanded:
            self._has_demanded = True
            self._set_wants(wants)
        self.holder.want(KEY, min(self.wants, self._world.spec.units))
        self._report_soon()
        if step := self._scenario.step_seconds:
            return step - self._timeline.now / SECOND % step
        return self._random.uniform(0.5, 1.5) * self._scenario.wants_every

    def _report(self) -> float:
        self._send_report()
        return _REPORT_SECONDS * self._random.uniform(0.9, 1.1)

    def _use(self) -> float:
        clock, holder = self.clock(), self.holder
        if self._world.spec.is_rate:
            passed = 0
            while passed < _MOST_AT_ONCE and self.wants and holder.try_pass(KEY, clock):
                passed += 1
            if passed:
                self._world.checks.note_events(self, passed)
            return USE / SECOND if self._world.is_calm else _PASS_SECONDS
        before = self.in_use
        for _ in range(holder.must_close(KEY, clock)):
            self._close()
        while self.in_use < self.wants and holder.try_open(KEY, clock):
            self._count(1)
            self._world.checks.look_at_agent(self)
            self._send_message()
        if self._world.is_traced and self.in_use != before:
            self._note(f"had {before} connections open, has {self.in_use}")
        return USE / SECOND

    def _send_message(self) -> None:
        """Keep a connection busy; then it goes on with the next message, or closes."""

        def end() -> None:
            if not self.in_use:
                return
            if self.holder.surplus(KEY, self.clock()) or self.in_use > self.wants:
                self._close()
                self._report_soon()
            else:
                self._timeline.after(self._world.random.uniform(*self._scenario.busy), step)

        step = self._of_this_process(end)
        self._timeline.after(self._world.random.uniform(*self._scenario.busy), step)

    def _close(self) -> None:
        self.holder.close(KEY)
        self._count(-1)

    def _set_wants(self, wants: int) -> None:
        self._world.wanted += wants - self.wants
        self.wants = wants

    def _count(self, change: int) -> None:
        self.in_use += change
        self._world.in_use += change

    # What it says.

    def _report_soon(self) -> None:
        """Something has changed: say so, together with what else does until then."""
        if self._is_about_to_report:
            return
        self._is_about_to_report = True
        when = max(self._timeline.now + _GATHER, self._last_report + _SOONEST)
        self._timeline.at(when, self._of_this_process(self._report_news))

    def _report_news(self) -> None:
        if self._is_about_to_report and self.holder.has_more_to_tell:
            self._send_report()
        self._is_about_to_report = False

    def _send_report(self) -> None:
        self._is_about_to_report = False
        self._last_report = self._timeline.now
        report = to_report(self.holder.report(self.clock()), self.holder.event_parts)
        if self._world.is_traced:
            for one in report.demands:
                self._note(
                    f"reports {report.sequence}: wants {one.wants}, keeps to {one.enforced}, "
                    f"has {show_version(one.version)}"
                )
        self._world.network.carry(self.name, lambda: self._world.server.hear(report))

    def _note(self, says: str) -> None:
        self._world.note(f"agent {self.name} {says}")
