"""
The scripts in Valkey decide what the pure book decides, and so keep what it keeps.

The traces are those that the pure book is tested on: every fleet, network and fault of
`benchmarks.lease_world`, whose checks run as well; and reports of every kind on many limits at
once. Each seed is another trace; PENSTOCK_SEEDS="from-to" runs others, or more of them.
"""

import os
from functools import partial
from random import Random

import pytest

from benchmarks.lease_world.findings import Findings
from benchmarks.lease_world.scenario import Scenario, draw_scenario
from benchmarks.lease_world.shrink import explain
from benchmarks.lease_world.world import LeaseWorld
from policy_server.limits.messages import NOTHING_HELD, Demand, Grant, Holding, Report
from policy_server.limits.spec import Earning, LeaseTiming, LimitSpec
from tests.simulation.paired_book import PairedBook
from tests.valkey import start_valkey

_AT_ONCE = 10
_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-60").split("-"))
_SECOND = 1_000_000_000
_AGENTS = ("a", "b", "c", "d", "e")
_KEYS = tuple(f"limit {number}" for number in range(6))


@pytest.fixture(scope="module")
def valkey():
    server = start_valkey()
    yield server
    server.stop()


@pytest.fixture
def client(valkey):
    with valkey.client() as client:
        client.flushall()
        yield client


def sign(*facts: object) -> bytes:
    """Prove a grant, well enough for a test."""
    return repr(facts).encode()


@pytest.mark.parametrize("first", range(_FIRST, _LAST, _AT_ONCE))
def test_every_trace_is_decided_alike(client, first: int) -> None:
    for seed in range(first, min(first + _AT_ONCE, _LAST)):
        scenario, run = draw_scenario(seed), partial(_run, client, seed)

        if run(scenario).violations:
            pytest.fail(explain(scenario, seed, run))


def _run(client, seed: int, scenario: Scenario) -> Findings:
    client.flushall()
    make_book = partial(PairedBook, client)
    world = LeaseWorld(scenario, seed, make_book=make_book, is_traced=True)
    try:
        return world.run()
    except AssertionError as error:
        first, *_ = str(error).splitlines() or [""]
        world.violate(f"the scripts decide otherwise: {first}")
        return world.findings


class _Trace:
    """Reports of every kind, true and untrue, drawn from a seed."""

    def __init__(self, client, seed: int) -> None:
        self.random = Random(f"trace {seed}")
        self.client = client
        self.now = 0
        self.epoch = 0
        self.specs = {key: self._draw_spec() for key in _KEYS}
        self.durable: dict[str, tuple[int, int, LimitSpec, dict[str, Holding]]] = {}
        self.grants: dict[tuple[str, str], Grant] = {}
        self.sequences = dict.fromkeys(_AGENTS, 0)
        self.incarnations = dict.fromkeys(_AGENTS, 1)
        self._restart()

    def run(self, steps: int) -> None:
        """Take so many steps, and compare after each."""
        actions = [self._report] * 12 + [self._settle] * 8 + [self._wait] * 4
        actions += [self._release, self._change, self._start_anew, self._restart]
        for _ in range(steps):
            self.random.choice(actions)()
            self.book.compare(self.now)

    def _draw_spec(self) -> LimitSpec:
        units = self.random.choice([1, 2, 5, 20, 1000, 100_000])
        if self.random.random() < 0.4:
            return LimitSpec(units=units)
        count = self.random.choice([1, 7, units, 10 * units])
        seconds = self.random.choice([1, 60, 3600, 86_400])
        return LimitSpec(units=units, earning=Earning(count=count, period_ns=seconds * _SECOND))

    def _restart(self) -> None:
        """Begin a new epoch, from what is durable."""
        self.epoch += 1
        self.book = PairedBook(self.client, LeaseTiming(), epoch=self.epoch, sign=sign)
        for key, (ceiling, owed, spec, holdings) in self.durable.items():
            self.book.configure(key, spec, self.now)
            if self.random.random() < 0.2:
                # As a version left it that knew no holdings.
                holdings = {
                    agent: Holding(units=0, floor=held.floor, incarnation=0)
                    for agent, held in holdings.items()
                    if held.floor
                }
            else:
                ceiling = 0
            if spec.earning is None:
                assert not owed
            self.book.restore(key, ceiling=ceiling, holdings=holdings, owed=owed, now=self.now)

    def _report(self) -> None:
        agent = self.random.choice(_AGENTS)
        keys = self.random.sample(_KEYS, self.random.randint(0, 3))
        for key in keys:
            if self.random.random() < 0.95:
                self.book.configure(key, self.specs[key], self.now)
        self.sequences[agent] += self.random.choice([1, 1, 1, 1, 0])
        self.book.receive(
            Report(
                agent=agent,
                incarnation=self.incarnations[agent] - (self.random.random() < 0.05),
                sequence=self.sequences[agent],
                demands=tuple(self._demand(agent, key) for key in keys),
            ),
            self.now,
        )

    def _demand(self, agent: str, key: str) -> Demand:
        random, units = self.random, self.specs[key].units
        grant = self.grants.get((agent, key))
        demand = {
            "key": key,
            "wants": random.choice([0, 1, units // 2, units, 2 * units]),
            "enforced": random.choice([0, 1, units // 3, units]),
            "weight": random.choice([1, 1, 1, 3]),
            "in_use": random.choice([0, 1]),
            "returned": random.randrange(1 + 3 * self.specs[key].event_parts),
        }
        if grant is not None and random.random() < 0.9:
            lied = random.random() < 0.1
            demand |= {
                "enforced": random.choice([grant.units, grant.units, demand["enforced"]]),
                "version": grant.version,
                "granted": grant.units + lied,
                "floor": grant.floor,
                "proof": grant.proof,
            }
        return Demand(**demand)

    def _settle(self) -> None:
        decision = self.book.settle(self.now)
        for promise in decision.promises:
            if promise.is_over:
                self.durable.pop(promise.key, None)
                continue
            held = dict(self.durable[promise.key][-1]) if promise.key in self.durable else {}
            held |= dict(promise.holdings)
            kept = {agent: one for agent, one in held.items() if one != NOTHING_HELD}
            self.durable[promise.key] = (promise.ceiling, promise.owed, promise.spec, kept)
        for grant in decision.grants:
            # Some are lost on their way.
            if self.random.random() < 0.9:
                self.grants[grant.agent, grant.key] = grant

    def _wait(self) -> None:
        longest = self.random.choice([0.001, 0.1, 1, 5, 25, 80, 1300, 90_000])
        self.now += int(self.random.uniform(0, longest) * _SECOND)

    def _release(self) -> None:
        agent = self.random.choice(_AGENTS)
        self.book.release(agent, self.incarnations[agent], self.now)

    def _start_anew(self) -> None:
        agent = self.random.choice(_AGENTS)
        self.incarnations[agent] += 1
        self.sequences[agent] = 0
        self.grants = {place: one for place, one in self.grants.items() if place[0] != agent}

    def _change(self) -> None:
        key = self.random.choice(_KEYS)
        self.specs[key] = self._draw_spec()


@pytest.mark.parametrize("seed", range(_FIRST, _LAST))
def test_reports_of_every_kind_on_many_limits_are_decided_alike(client, seed: int) -> None:
    _Trace(client, seed).run(150)
