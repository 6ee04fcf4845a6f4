"""
The simulated server: the book, what is durable of it, and a process that crashes and freezes.

What is durable is there at once, before grants leave: as `lending.embedded` has it.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Protocol

from agent.limits.messages import Answer
from agent.limits.messages import Grant as HeldGrant
from benchmarks.lease_world.scenario import KEY, SECOND
from benchmarks.lease_world.timeline import Step
from policy_server.limits.book import Signer
from policy_server.limits.messages import NOTHING_HELD, Decision, Grant, Holding, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec

if TYPE_CHECKING:
    from benchmarks.lease_world.world import LeaseWorld

#: How long reports are gathered before the book settles.
_GATHER = SECOND // 20
#: How long what is decided may stand in a process that may freeze.
_STANDS_SECONDS = 0.1


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
        self._is_promised = False
        self._holdings: dict[str, Holding] = {}
        self.start()

    def start(self) -> None:
        """Begin a new epoch, from what is durable."""
        self._epoch += 1
        self.book = self._make_book(self._world.timing, epoch=self._epoch, sign=_sign)
        if self._is_promised:
            now = self._timeline.now
            self.book.configure(KEY, self._world.scenario.spec, now)
            self.book.restore(KEY, holdings=self._holdings, now=now)
        self._settles_at = None

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

    def _receive(self, report: Report) -> None:
        assert self.book is not None
        if report.demands:
            # It may have been forgotten since.
            self.book.configure(KEY, self._world.scenario.spec, self._timeline.now)
        if not self.book.receive(report, self._timeline.now):
            return
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
            self._is_promised = not promise.is_over
            for agent, holding in promise.holdings:
                if holding == NOTHING_HELD:
                    self._holdings.pop(agent, None)
                else:
                    self._holdings[agent] = holding
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
