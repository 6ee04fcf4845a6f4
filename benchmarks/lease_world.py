"""
A fleet on a virtual clock that shares limits: the real book, the real holders, a bad network.

Everything is drawn from one seed, so a run is repeated by its seed. Messages are lost, doubled,
delayed and so put out of order; agents are cut off, crash, freeze and have clocks that run wrong;
the server freezes, or crashes and comes back with what it had made durable. After every step the
sum of what is in use is held against the limit; at the end every window of time is held against the
rate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random
from typing import Protocol

from agent.limits.holder import LeaseHolder
from agent.limits.messages import Answer
from agent.limits.messages import Grant as HeldGrant
from agent.limits.times import HolderTimes
from benchmarks.lease_scenario import SECOND, Scenario
from policy_server.limits.book import LeaseBook, Signer
from policy_server.limits.messages import NOTHING_HELD, Decision, Demand, Grant, Holding, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec

_KEY = "limit"
_GATHER = SECOND // 20
_SOONEST = SECOND // 4
#: How often an agent looks at what it may do.
_USE = SECOND // 10


class Book(Protocol):
    """What a world needs of a book; the scripts in Valkey are another one."""

    def configure(self, key: str, spec: LimitSpec, now: int) -> None: ...
    def restore(self, key: str, *, holdings: Mapping[str, Holding], now: int) -> None: ...
    def receive(self, report: Report, now: int) -> bool: ...
    def settle(self, now: int) -> Decision: ...
    def next_time(self) -> int | None: ...
    def heard(self, agent: str) -> int: ...


class BookMaker(Protocol):
    """Begins an empty book."""

    def __call__(self, timing: LeaseTiming, *, epoch: int, sign: Signer) -> Book: ...


@dataclass(slots=True)
class Findings:
    """What a run showed."""

    #: Most units in use at one time, or of a rate: most events beyond its steady part in a window.
    peak: float = 0
    violations: list[str] = field(default_factory=list)
    #: Of units times time, after the first minute: what was wanted and could be had, and was used.
    wanted: float = 0
    used: float = 0
    events: int = 0
    trace: list[str] = field(default_factory=list)

    @property
    def share_used(self) -> float:
        """Part of the capacity that was wanted and was used."""
        return self.used / self.wanted if self.wanted else 1.0


class _Agent:
    """One agent: a holder, a clock of its own, and mail to send."""

    def __init__(self, world: "LeaseWorld", name: str) -> None:
        self.world, self.name = world, name
        #: Its own, so that it is the same fleet whatever the book decides.
        self.random = random = Random(f"agent {name} of {world.seed}")
        self.rate = 1 + random.uniform(-1, 1) * world.scenario.drift
        self.offset = random.randrange(10**15)
        self.incarnation = 0
        self.wants = 0
        self.is_up = False
        #: Connections open; they go with the process.
        self.in_use = 0
        self.frozen_until = 0
        self.cut_off_until = 0
        self.last_report = 0
        self.holder: LeaseHolder
        self.start()

    def start(self) -> None:
        self.incarnation += 1
        times, timing = HolderTimes, self.world.timing
        self.holder = LeaseHolder(
            times.of(
                session=timing.session, floor=timing.floor, drain=timing.drain, drift=timing.drift
            ),
            agent=self.name,
            incarnation=self.incarnation,
        )
        self.is_up = True
        self.last_report = -SECOND

    def clock(self) -> int:
        return self.offset + int(self.world.now * self.rate)

    def open(self, clock: int) -> bool:
        if not self.holder.try_open(_KEY, clock):
            return False
        self._count(1)
        return True

    def close(self) -> None:
        self.holder.close(_KEY)
        self._count(-1)

    def set_wants(self, wants: int) -> None:
        self.world.wanted += wants - self.wants
        self.wants = wants

    def die(self) -> None:
        self.is_up = False
        self.set_wants(0)
        self._count(-self.in_use)

    def _count(self, change: int) -> None:
        self.in_use += change
        self.world.in_use += change


class LeaseWorld:
    """A run of one scenario under one seed."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        timing: LeaseTiming | None = None,
        *,
        make_book: BookMaker = LeaseBook,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.random = Random(seed)
        #: Faults come at the same times whatever the book decides: so books can be compared.
        self._chance = Random(f"faults of {seed}")
        self._server_random = Random(f"server of {seed}")
        self.timing = timing or LeaseTiming()
        self._make_book = make_book
        self.now = 0
        #: Connections open, and what all agents that run want of them.
        self.in_use = 0
        self.wanted = 0
        self.findings = Findings()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._epoch = 0
        self._is_promised = False
        self._holdings: dict[str, Holding] = {}
        self._events: list[int] = []
        self._book: Book | None = None
        self._server_frozen_until = 0
        self._settles_at: int | None = None
        self._measured = 0
        self._start_server()
        self._agents = {name: _Agent(self, name) for name in map(str, range(scenario.agents))}

    def run(self) -> Findings:
        """Run the scenario; return what it showed."""
        scenario = self.scenario
        for agent in self._agents.values():
            self._soon(agent, 0, 1)
        self._every(scenario.cut_off_every / len(self._agents), self._cut_off)
        self._every(scenario.crash_every / len(self._agents), self._crash)
        self._every(scenario.freeze_every / len(self._agents), self._freeze)
        self._every(scenario.server_crash_every, self._crash_server)
        self._every(scenario.server_freeze_every, self._freeze_server)
        end = scenario.seconds * SECOND
        while self._queue and self._queue[0][0] <= end:
            at, _, step = heappop(self._queue)
            self._measure(at)
            self.now = at
            step()
            self._check()
        if scenario.spec.is_rate:
            self._check_windows()
        return self.findings

    # Time.

    def at(self, when: int, step: Callable[[], None]) -> None:
        """Have *step* taken at a time."""
        self._number += 1
        heappush(self._queue, (max(when, self.now), self._number, step))

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        self.at(self.now + int(seconds * SECOND), step)

    def _every(self, mean: float, step: Callable[[], None]) -> None:
        """Take *step* at random times, so many seconds apart in the mean."""
        if mean <= 0:
            return

        def again() -> None:
            step()
            self._after(self._chance.expovariate(1 / mean), again)

        self._after(self._chance.expovariate(1 / mean), again)

    def _soon(self, agent: _Agent, low: float, high: float) -> None:
        """Begin an agent's loops, each anew after a crash."""
        incarnation = agent.incarnation

        def loop(step: Callable[[_Agent], float]) -> None:
            def turn() -> None:
                if not agent.is_up or agent.incarnation != incarnation:
                    return
                if self.now < agent.frozen_until:
                    self.at(agent.frozen_until, turn)
                    return
                self._after(step(agent), turn)

            self._after(agent.random.uniform(low, high), turn)

        loop(self._demand)
        loop(self._use)
        loop(self._report)

    # What agents do.

    def _demand(self, agent: _Agent) -> float:
        agent.set_wants(agent.random.randint(*self.scenario.wants))
        self._tell_wants(agent)
        return agent.random.uniform(0.5, 1.5) * self.scenario.wants_every

    def _tell_wants(self, agent: _Agent) -> None:
        agent.holder.want(_KEY, min(agent.wants, self.scenario.spec.units))
        if self.now - agent.last_report >= _SOONEST:
            self._send_report(agent)

    def _report(self, agent: _Agent) -> float:
        self._send_report(agent)
        return 2 * agent.random.uniform(0.9, 1.1)

    def _use(self, agent: _Agent) -> float:
        clock, holder = agent.clock(), agent.holder
        if self.scenario.spec.is_rate:
            passed = 0
            while passed < 20 and agent.wants and holder.try_pass(_KEY, clock):
                self._events.append(self.now)
                passed += 1
            return 0.02
        for _ in range(holder.must_close(_KEY, clock)):
            agent.close()
        while agent.in_use < agent.wants and agent.open(clock):
            self._after(self.random.uniform(*self.scenario.busy), self._end_of_use(agent))
        return _USE / SECOND

    def _end_of_use(self, agent: _Agent) -> Callable[[], None]:
        """A message has been sent: the connection goes on with the next, or closes."""
        incarnation = agent.incarnation

        def step() -> None:
            if not agent.is_up or agent.incarnation != incarnation or not agent.in_use:
                return
            if self.now < agent.frozen_until:
                self.at(agent.frozen_until, step)
                return
            if agent.holder.surplus(_KEY, agent.clock()) or agent.in_use > agent.wants:
                agent.close()
                if self.now - agent.last_report >= _SOONEST:
                    self._send_report(agent)
            else:
                self._after(self.random.uniform(*self.scenario.busy), step)

        return step

    def _send_report(self, agent: _Agent) -> None:
        agent.last_report = self.now
        made = agent.holder.report(agent.clock())
        report = Report(
            agent=made.agent,
            incarnation=made.incarnation,
            sequence=made.sequence,
            demands=tuple(
                Demand(
                    key=one.key,
                    wants=one.wants,
                    enforced=one.enforced,
                    version=one.version,
                    returned=one.returned,
                    granted=one.granted,
                    floor=one.floor,
                    proof=one.proof,
                )
                for one in made.demands
            ),
        )
        self._carry(agent, lambda: self._hear(report))

    # The network.

    def _carry(self, agent: _Agent, deliver: Callable[[], None]) -> None:
        if self.now < agent.cut_off_until or self.random.random() < self.scenario.loss:
            return
        copies = 2 if self.random.random() < self.scenario.doubled else 1
        for _ in range(copies):
            self._after(self.random.uniform(*self.scenario.delay), deliver)

    # The server.

    def _start_server(self) -> None:
        self._epoch += 1
        self._book = self._make_book(self.timing, epoch=self._epoch, sign=_sign)
        if self._is_promised:
            self._book.configure(_KEY, self.scenario.spec, self.now)
            self._book.restore(_KEY, holdings=self._holdings, now=self.now)
        self._settles_at = None

    def _hear(self, report: Report) -> None:
        if self._book is None:
            return
        if self.now < self._server_frozen_until:
            # It waits in the socket, and is lost with the process.
            epoch = self._epoch
            self.at(
                self._server_frozen_until,
                lambda: self._hear(report) if self._epoch == epoch else None,
            )
            return
        if report.demands:
            # It may have been forgotten since.
            self._book.configure(_KEY, self.scenario.spec, self.now)
        if not self._book.receive(report, self.now):
            return
        sequence = report.sequence
        self._say(report.agent, report.incarnation, sequence, ())
        self._settle_soon(self.now + _GATHER)

    def _settle_soon(self, when: int) -> None:
        if self._settles_at is not None and self._settles_at <= when:
            return
        self._settles_at = when
        epoch = self._epoch

        def settle() -> None:
            if self._book is None or self._epoch != epoch or self._settles_at != when:
                return
            if self.now < self._server_frozen_until:
                self.at(self._server_frozen_until, settle)
                return
            self._settles_at = None
            self._settle()

        self.at(when, settle)

    def _settle(self) -> None:
        assert self._book is not None
        decision = self._book.settle(self.now)
        for promise in decision.promises:
            self._is_promised = not promise.is_over
            for agent, holding in promise.holdings:
                if holding == NOTHING_HELD:
                    self._holdings.pop(agent, None)
                else:
                    self._holdings[agent] = holding
        for grant in decision.grants:
            self._say(grant.agent, grant.incarnation, self._book.heard(grant.agent), (grant,))
        if (when := self._book.next_time()) is not None:
            self._settle_soon(max(when, self.now + _GATHER))

    def _say(self, name: str, incarnation: int, sequence: int, grants: Sequence[Grant]) -> None:
        agent = self._agents[name]
        answer = Answer(
            epoch=self._epoch,
            incarnation=incarnation,
            sequence=sequence,
            grants=tuple(
                HeldGrant(
                    key=grant.key,
                    version=grant.version,
                    units=grant.units,
                    floor=grant.floor,
                    fill=grant.fill,
                    proof=grant.proof,
                    event_parts=grant.spec.event_parts,
                    earns=grant.spec.earning.count if grant.spec.earning else 0,
                )
                for grant in grants
            ),
        )

        def deliver() -> None:
            if not agent.is_up:
                return
            if self.now < agent.frozen_until:
                self.at(agent.frozen_until, deliver)
                return
            agent.holder.hear(answer, agent.clock())
            if grants and self.now - agent.last_report >= _SOONEST // 10:
                # What was applied is acknowledged at once.
                self._send_report(agent)

        if not self.scenario.server_freeze_every:
            self._carry(agent, deliver)
            return
        epoch = self._epoch

        def leave() -> None:
            """What is decided may stand in the process for a while, or for good."""
            if self._book is None or self._epoch != epoch:
                return
            if self.now < self._server_frozen_until:
                self.at(self._server_frozen_until, leave)
                return
            self._carry(agent, deliver)

        self._after(self._server_random.uniform(0, 0.1), leave)

    # Faults.

    def _any_agent(self) -> _Agent:
        return self._agents[str(self._chance.randrange(len(self._agents)))]

    def _cut_off(self) -> None:
        agent = self._any_agent()
        agent.cut_off_until = self.now + int(
            self._chance.uniform(*self.scenario.cut_off_for) * SECOND
        )
        self._note(f"{agent.name} cut off until {agent.cut_off_until / SECOND:.1f}")

    def _crash(self) -> None:
        agent = self._any_agent()
        if not agent.is_up:
            return
        agent.die()
        self._note(f"{agent.name} crashed")

        def restart() -> None:
            agent.start()
            self._soon(agent, 0, 0.5)

        self._after(self._chance.uniform(0.5, 60), restart)

    def _freeze(self) -> None:
        agent = self._any_agent()
        until = self.now + int(self._chance.uniform(0.5, 40) * SECOND)
        agent.frozen_until = max(agent.frozen_until, until)
        self._note(f"{agent.name} frozen until {agent.frozen_until / SECOND:.1f}")

    def _crash_server(self) -> None:
        if self._book is None:
            return
        self._book = None
        self._server_frozen_until = 0
        self._note("server crashed")
        self._after(self._chance.uniform(*self.scenario.server_away), self._start_server)

    def _freeze_server(self) -> None:
        if self._book is None:
            return
        # Longer than leases hold, at times.
        until = self.now + int(self._server_random.choice([2, 20, 120]) * SECOND)
        self._server_frozen_until = max(self._server_frozen_until, until)
        self._note(f"server frozen until {self._server_frozen_until / SECOND:.1f}")

    # Looking.

    def _note(self, text: str) -> None:
        self.findings.trace.append(f"{self.now / SECOND:9.3f} {text}")

    def _check(self) -> None:
        if self.scenario.spec.is_rate:
            return
        in_use = self.in_use
        if in_use > self.scenario.spec.units:
            in_use -= self._frozen_past_the_end()
        self.findings.peak = max(self.findings.peak, in_use)
        if in_use > self.scenario.spec.units:
            self.findings.violations.append(
                f"{self.now / SECOND:.3f}: {in_use} in use, limit {self.scenario.spec.units}"
            )

    def _frozen_past_the_end(self) -> int:
        """
        Connections that a frozen agent could not close when its lease was over: like those of a
        host without power they stand until the peer gives up, and no protocol can prevent that.
        """
        return sum(
            agent.holder.must_close(_KEY, agent.clock())
            for agent in self._agents.values()
            if agent.is_up and self.now <= agent.frozen_until + _USE
        )

    def _measure(self, until: int) -> None:
        """Add up what was used and what could have been, after the first minute."""
        if self.scenario.spec.is_rate:
            return
        span = (until - max(self.now, 60 * SECOND)) / SECOND
        if span <= 0:
            return
        units = self.scenario.spec.units
        self.findings.wanted += min(self.wanted, units) * span
        self.findings.used += min(self.in_use, units) * span

    def _check_windows(self) -> None:
        """In every window of t no more than burst + rate * t events may lie."""
        earning = self.scenario.spec.earning
        assert earning is not None
        per_ns = earning.count / earning.period_ns
        lowest = float("inf")
        for number, at in enumerate(self._events):
            lowest = min(lowest, number - per_ns * at)
            beyond = number - per_ns * at - lowest + 1
            self.findings.peak = max(self.findings.peak, beyond)
            if beyond > self.scenario.spec.units + 1e-6:
                self.findings.violations.append(
                    f"{at / SECOND:.3f}: {beyond:.3f} events beyond the steady rate, "
                    f"burst {self.scenario.spec.units}"
                )
        late = [at for at in self._events if at >= 60 * SECOND]
        self.findings.events = len(late)
        self.findings.used = len(late)
        self.findings.wanted = per_ns * max(0, self.scenario.seconds - 60) * SECOND


def _sign(agent: str, incarnation: int, key: str, version: int, units: int, floor: int) -> bytes:
    text = f"{agent}\n{incarnation}\n{key}\n{version}\n{units}\n{floor}"
    return blake2b(text.encode(), key=b"simulation", digest_size=16).digest()
