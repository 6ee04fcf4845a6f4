"""
The simulated server: the book, what is durable of it, and a process that crashes and freezes.

What is durable is there at once, before grants leave: as `lending.embedded` has it.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Protocol

from agent.limits.messages import Answer
from benchmarks.lease_world.agent import show_version
from benchmarks.lease_world.handing import count_returned, to_held
from benchmarks.lease_world.scenario import KEY, SECOND
from benchmarks.lease_world.timeline import Step
from policy_server.limits.book import Signer
from policy_server.limits.messages import NOTHING_HELD, Decision, Grant, Holding, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.limits.state import Limit, Session

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

#: How long reports are gathered before the book settles.
_GATHER = SECOND // 20
#: How long what is decided may stand in a process that may freeze.
_STANDS_SECONDS = 0.1


class Book(Protocol):
    """What a world needs of a book; the scripts in Valkey are another one."""

    def configure(self, key: str, spec: LimitSpec, now: int) -> None: ...
    def restore(
        self, key: str, *, holdings: Mapping[str, Holding], owed: int, now: int
    ) -> None: ...
    def receive(self, report: Report, now: int) -> bool: ...
    def settle(self, now: int) -> Decision: ...
    def next_time(self) -> int | None: ...
    def heard(self, agent: str) -> int: ...
    def release(self, agent: str, incarnation: int, now: int) -> None: ...
    def limit(self, key: str) -> Limit | None: ...
    def session(self, agent: str) -> Session | None: ...


class BookMaker(Protocol):
    """Begins an empty book."""

    def __call__(self, timing: LeaseTiming, *, epoch: int, sign: Signer) -> Book: ...


class SimulatedServer:
    """One server at a time: it starts anew with what the one before had made durable."""

    def __init__(self, world: "LeaseWorld", make_book: BookMaker) -> None:
        self._world = world
        self._timeline = world.timeline
        self._make_book = make_book
        self.random = Random(f"server of {world.seed}")
        self._epoch = 0
        #: None: it is down.
        self.book: Book | None = None
        self.frozen_until = 0
        self._settles_at: int | None = None
        #: What it takes the limit for, and since when it has taken it for what.
        self.spec = world.spec
        self.went_by: list[tuple[int, LimitSpec]] = [(0, self.spec)]
        #: Durable: the limit, and who may have how much of it; None: nobody has any.
        self._durable_spec: LimitSpec | None = None
        self._durable_owed = 0
        self.holdings: dict[str, Holding] = {}
        #: The newest grant of each agent.
        self.told: dict[str, Grant] = {}

    def start(self) -> None:
        """Begin a new epoch, from what is durable."""
        self._epoch += 1
        self._settles_at = None
        self._world.checks.look_at_start()
        self.book = self._make_book(self._world.timing, epoch=self._epoch, sign=_sign)
        if self._durable_spec is not None:
            self._configure(self._durable_spec)
            self.book.restore(
                KEY, holdings=self.holdings, owed=self._durable_owed, now=self._timeline.now
            )
        self._world.checks.look_at_book()

    def crash(self) -> None:
        """End at once."""
        self.book = None
        self.frozen_until = 0

    def freeze(self, until: int) -> None:
        """Stand still for a while."""
        self.frozen_until = max(self.frozen_until, until)

    def hear(self, report: Report) -> None:
        """Take a report; while it stands still that waits in the socket, and goes with it."""
        self._once_it_runs(lambda: self._receive(report))

    def hear_change(self) -> None:
        """The rules have changed: so does the limit, if it is lent."""
        self._once_it_runs(self._change)

    def release(self, agent: str, incarnation: int) -> None:
        """End what an agent has, up to an incarnation."""
        self._once_it_runs(lambda: self._release(agent, incarnation))

    def _configure(self, spec: LimitSpec) -> None:
        assert self.book is not None
        self.book.configure(KEY, spec, self._timeline.now)
        if spec != self.spec:
            self.spec = spec
            self.went_by.append((self._timeline.now, spec))
            self._world.checks.look_at_limit()

    def _change(self) -> None:
        assert self.book is not None
        if self.book.limit(KEY) is not None:
            self._configure(self._world.spec)
            self._settle_soon(self._timeline.now + _GATHER)

    def _release(self, agent: str, incarnation: int) -> None:
        assert self.book is not None
        self.book.release(agent, incarnation, self._timeline.now)
        self._world.checks.look_at_book()
        self._settle_soon(self._timeline.now + _GATHER)

    def _receive(self, report: Report) -> None:
        assert self.book is not None
        if report.demands:
            # It may have been forgotten since.
            self._configure(self._world.spec)
        counted = count_returned(report, self.spec.event_parts)
        if not self.book.receive(counted, self._timeline.now):
            return
        if self._world.is_traced and report.demands:
            self._world.note(f"the server hears report {report.sequence} of agent {report.agent}")
        self._world.checks.look_at_book()
        self._say(report.agent, report.incarnation, report.sequence, ())
        self._settle_soon(self._timeline.now + _GATHER)

    def _settle_soon(self, when: int) -> None:
        if self._settles_at is not None and self._settles_at <= when:
            return
        self._settles_at = when
        epoch = self._epoch

        def settle() -> None:
            if self._epoch == epoch and self._settles_at == when:
                self._once_it_runs(self._settle)

        self._timeline.at(when, settle)

    def _settle(self) -> None:
        assert self.book is not None
        self._settles_at = None
        decision = self.book.settle(self._timeline.now)
        for promise in decision.promises:
            self._durable_spec = None if promise.is_over else promise.spec
            self._durable_owed = promise.owed
            for agent, holding in promise.holdings:
                if holding == NOTHING_HELD:
                    self.holdings.pop(agent, None)
                else:
                    self.holdings[agent] = holding
        for grant in decision.grants:
            self.told[grant.agent] = grant
            if self._world.is_traced:
                self._world.note(
                    f"the server lends agent {grant.agent} {grant.units} units, as its floor "
                    f"{grant.floor}, by {show_version(grant.version)}"
                )
        self._world.checks.look_at_book(is_settled=True)
        for grant in decision.grants:
            self._say(grant.agent, grant.incarnation, self.book.heard(grant.agent), (grant,))
        if (when := self.book.next_time()) is not None:
            self._settle_soon(max(when, self._timeline.now + _GATHER))

    def _say(self, name: str, incarnation: int, sequence: int, grants: Sequence[Grant]) -> None:
        agent = self._world.agents[name]
        answer = Answer(
            epoch=self._epoch,
            incarnation=incarnation,
            sequence=sequence,
            grants=tuple(map(to_held, grants)),
        )

        def leave() -> None:
            self._world.network.carry(name, lambda: agent.hear(answer))

        if not self._world.scenario.server_freeze_every:
            leave()
            return
        # What is decided may stand in the process for a while, or for good.
        epoch = self._epoch
        self._timeline.after(
            self.random.uniform(0, _STANDS_SECONDS),
            lambda: self._once_it_runs(leave) if self._epoch == epoch else None,
        )

    def _once_it_runs(self, step: Step) -> None:
        """Take a step now, or when it does not stand still any more; not if it is down then."""
        if self.book is None:
            return
        if self._timeline.now >= self.frozen_until:
            step()
            return
        epoch = self._epoch
        self._timeline.at(
            self.frozen_until,
            lambda: self._once_it_runs(step) if self._epoch == epoch else None,
        )


def _sign(agent: str, incarnation: int, key: str, version: int, units: int, floor: int) -> bytes:
    text = f"{agent}\n{incarnation}\n{key}\n{version}\n{units}\n{floor}"
    return blake2b(text.encode(), key=b"simulation", digest_size=16).digest()
