"""The lease book, step by step."""

from collections.abc import Iterable

import pytest

from policy_server.limits.book import LeaseBook
from policy_server.limits.messages import Demand, Grant, Report
from policy_server.limits.spec import Earning, LeaseTiming, LimitSpec

SECOND = 1_000_000_000
TIMING = LeaseTiming()
KEY = "connections ip-1->mx"


def sign(*facts: object) -> bytes:
    """Prove a grant, well enough for a test."""
    return repr(facts).encode()


class Desk:
    """A book, and agents that do as they are told."""

    def __init__(self, units: int, *, earning: Earning | None = None, epoch: int = 1) -> None:
        self.book = LeaseBook(TIMING, epoch=epoch, sign=sign)
        self.book.configure(KEY, LimitSpec(units=units, earning=earning), 0)
        self.sequences: dict[str, int] = {}
        self.grants: dict[str, Grant] = {}
        self.promises: list = []

    def report(self, agent: str, now: int, *, wants: int, enforced: int, **changes) -> bool:
        self.sequences[agent] = self.sequences.get(agent, 0) + 1
        grant = self.grants.get(agent)
        facts = {
            "version": grant.version if grant else 0,
            "granted": grant.units if grant else 0,
            "floor": grant.floor if grant else 0,
            "proof": grant.proof if grant else b"",
        } | changes
        demand = Demand(key=KEY, wants=wants, enforced=enforced, **facts)
        return self.book.receive(
            Report(agent=agent, incarnation=1, sequence=self.sequences[agent], demands=(demand,)),
            now,
        )

    def settle(self, now: int) -> dict[str, int]:
        """Settle; return what agents are newly told."""
        decision = self.book.settle(now)
        self.promises += decision.promises
        for grant in decision.grants:
            self.grants[grant.agent] = grant
        return {grant.agent: grant.units for grant in decision.grants}

    def ask(self, agents: Iterable[str], now: int, *, wants: int) -> dict[str, int]:
        for agent in agents:
            self.report(agent, now, wants=wants, enforced=0)
        return self.settle(now)


def test_a_lowered_grant_is_free_only_once_the_agent_has_said_so() -> None:
    desk = Desk(10)
    assert desk.ask("a", 0, wants=10) == {"a": 10}

    assert desk.ask("b", SECOND, wants=10) == {"a": 5}
    assert desk.settle(2 * SECOND) == {}

    # Five of its connections are still open: nothing is free yet, then two, then all.
    desk.report("a", 2 * SECOND, wants=10, enforced=8)
    assert desk.settle(2 * SECOND) == {"b": 2}
    desk.report("a", 3 * SECOND, wants=10, enforced=5)
    assert desk.settle(3 * SECOND) == {"b": 5}


def test_a_report_that_crossed_with_a_newer_grant_frees_nothing() -> None:
    desk = Desk(10)
    desk.ask("a", 0, wants=4)
    old = desk.grants["a"].version
    desk.report("a", SECOND, wants=10, enforced=4)
    desk.settle(SECOND)
    assert desk.grants["a"].units == 10

    desk.report("a", 2 * SECOND, wants=10, enforced=4, version=old)

    assert desk.ask("b", 2 * SECOND, wants=10).get("b", 0) == 0


def test_what_comes_late_or_twice_changes_nothing() -> None:
    desk = Desk(10)
    desk.ask("a", 0, wants=10)
    desk.sequences["a"] = 0

    assert not desk.report("a", SECOND, wants=0, enforced=0)
    assert desk.settle(SECOND) == {}


@pytest.mark.parametrize(
    ("earning", "seconds"),
    [
        pytest.param(Earning(count=10, period_ns=SECOND), 20.1, id="a rate, after 20 s"),
        pytest.param(None, 75.2, id="connections, after 75 s"),
    ],
)
def test_what_a_silent_agent_had_goes_to_others(earning: Earning | None, seconds: float) -> None:
    desk = Desk(10, earning=earning)
    desk.ask("ab", 0, wants=10)
    desk.report("a", 0, wants=10, enforced=5)
    desk.report("b", 0, wants=10, enforced=5)
    end = int(seconds * SECOND)
    for second in range(1, int(seconds)):
        desk.report("b", second * SECOND, wants=10, enforced=5)
        assert desk.settle(second * SECOND).get("b", 5) == 5

    desk.report("b", end, wants=10, enforced=5)
    desk.settle(end)

    # The other's floor is its own for longer: it may use that without a server.
    assert desk.grants["b"].units == 8


def test_an_agent_that_stops_in_good_order_frees_all_at_once() -> None:
    desk = Desk(10)
    desk.ask("ab", 0, wants=10)

    desk.book.release("a", 1, SECOND)

    desk.report("b", SECOND, wants=10, enforced=5)
    assert desk.settle(SECOND) == {"b": 10}


def test_a_new_incarnation_frees_what_the_old_one_had() -> None:
    desk = Desk(10)
    desk.ask("ab", 0, wants=10)
    desk.report("b", SECOND, wants=10, enforced=5)

    desk.book.receive(Report(agent="a", incarnation=2, sequence=1), SECOND)

    assert desk.settle(SECOND) == {"b": 10}


def test_ceiling_and_floors_are_promised_before_they_are_granted() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=10)

    (promise,) = desk.promises
    assert promise.ceiling is not None
    assert promise.ceiling >= sum(grant.units for grant in desk.grants.values())
    assert dict(promise.floors) == {agent: desk.grants[agent].floor for agent in "ab"}


def test_after_a_crash_only_what_the_ceiling_leaves_is_given_until_all_have_spoken() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=30)
    (promise,) = desk.promises
    later = Desk(100, epoch=2)
    later.grants = dict(desk.grants)
    later.sequences = dict(desk.sequences)
    later.book.restore(KEY, ceiling=promise.ceiling, floors=dict(promise.floors), now=0)

    # Somebody new gets what was certainly never given out.
    spare = 100 - promise.ceiling
    assert later.ask("c", 1, wants=spare) == {"c": spare}
    # Who can prove what they had keeps it, and lowers what is taken to be out.
    held = desk.grants["a"].units
    later.report("a", 2, wants=30, enforced=held)
    assert later.settle(2).get("a", held) >= 30
    limit = later.book.limit(KEY)
    assert limit.out <= 100
    # At the end of the window the rest is free.
    for second in range(1, 77):
        later.report("c", second * SECOND, wants=spare, enforced=later.grants["c"].units)
        later.report("a", second * SECOND, wants=30, enforced=later.grants["a"].units)
        later.settle(second * SECOND)
        assert limit.out <= 100
    assert limit.unclaimed == 0


def test_a_claim_without_proof_is_booked_but_not_granted() -> None:
    desk = Desk(10, epoch=2)
    desk.ask("b", 0, wants=10)
    desk.report("liar", 0, wants=10, enforced=8, version=5, granted=8, proof=b"made up")

    told = desk.settle(0)

    # It may be using them, so nobody else gets them; that they are its own it has not shown.
    assert desk.book.limit(KEY).shares["liar"].booked == 8
    assert told == {"b": 5, "liar": 5}


def test_a_lowered_limit_only_falls() -> None:
    desk = Desk(10)
    desk.ask("ab", 0, wants=10)
    desk.book.configure(KEY, LimitSpec(units=4), SECOND)
    desk.settle(SECOND)
    assert {agent: grant.units for agent, grant in desk.grants.items()} == {"a": 2, "b": 2}

    limit, out = desk.book.limit(KEY), 10
    for enforced in (5, 4, 3, 2):
        for agent in "ab":
            desk.report(agent, 2 * SECOND, wants=10, enforced=enforced)
            desk.settle(2 * SECOND)
            assert limit.out <= out
            out = limit.out
    assert out == 4


def test_units_of_a_rate_take_their_events_along() -> None:
    """One message a minute: the unit goes from hand to hand, and nothing that it earned is lost."""
    desk = Desk(1, earning=Earning(count=1, period_ns=60 * SECOND))
    parts = 60 * SECOND
    assert desk.ask("a", 0, wants=1) == {"a": 1}
    assert desk.grants["a"].fill == parts
    # It stays for as long as it takes to earn an event.
    for second in range(1, 68, 3):
        desk.report("a", second * SECOND, wants=1, enforced=1)
        desk.report("b", second * SECOND, wants=1, enforced=0)
        desk.settle(second * SECOND)
        assert desk.grants["a"].units == (1 if second < 61 else 0)

    desk.report("a", 68 * SECOND, wants=1, enforced=0, returned=parts // 2)
    desk.settle(68 * SECOND)

    assert desk.grants["b"].units == 1
    assert desk.grants["b"].fill == parts // 2


def test_who_alone_wants_a_limit_has_all_of_it_and_its_floor() -> None:
    desk = Desk(100)

    assert desk.ask("a", 0, wants=1) == {"a": 100}
    (promise,) = desk.promises
    assert promise.floors == (("a", 100),)
    # The floor says it all.
    assert promise.ceiling == 0


def test_a_grant_that_nobody_confirms_is_sent_again_with_its_events() -> None:
    desk = Desk(10, earning=Earning(count=10, period_ns=SECOND))
    desk.ask("a", 0, wants=10)
    first = desk.grants.pop("a")
    assert first.fill == 10 * desk.book.limit(KEY).spec.event_parts

    # What says nothing of the limit shows that the agent is there.
    for second in (1, 2, 4):
        assert desk.settle(second * SECOND) == {}
        desk.sequences["a"] += 1
        desk.book.receive(
            Report(agent="a", incarnation=1, sequence=desk.sequences["a"]), second * SECOND
        )

    assert desk.settle(4 * SECOND) == {"a": 10}
    assert desk.grants["a"] == first


def test_a_limit_that_nobody_has_is_forgotten() -> None:
    desk = Desk(10)
    desk.ask("a", 0, wants=10)

    desk.report("a", SECOND, wants=0, enforced=10)
    assert desk.settle(SECOND) == {"a": 0}
    assert desk.book.limit(KEY) is not None
    desk.report("a", SECOND, wants=0, enforced=0)
    desk.settle(SECOND)

    assert desk.promises[-1].is_over
    assert desk.promises[-1].floors == (("a", 0),)
    assert desk.book.limit(KEY) is None


def test_a_rate_that_was_used_is_forgotten_once_it_is_full_again() -> None:
    desk = Desk(10, earning=Earning(count=10, period_ns=10 * SECOND))
    desk.ask("a", 0, wants=10)

    desk.book.release("a", 1, SECOND)
    desk.settle(SECOND)
    assert not desk.promises[-1].is_over
    assert desk.promises[-1].ceiling > 0
    desk.settle(10 * SECOND)
    assert desk.book.limit(KEY) is not None

    desk.settle(desk.book.next_time() or 0)

    assert desk.promises[-1].is_over
    assert desk.book.limit(KEY) is None
    assert desk.book.next_time() is None
