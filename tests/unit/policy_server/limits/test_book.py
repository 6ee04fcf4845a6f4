"""The lease book, step by step."""

from collections.abc import Iterable

import pytest

from policy_server.limits.book import LeaseBook
from policy_server.limits.messages import NOTHING_HELD, Demand, Grant, Holding, Report
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
        #: As it is durable.
        self.held: dict[str, Holding] = {}

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
        for promise in decision.promises:
            self.held |= dict(promise.holdings)
        self.held = {agent: one for agent, one in self.held.items() if one != NOTHING_HELD}
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


def test_what_agents_may_have_is_promised_before_it_is_granted() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=10)

    (promise,) = desk.promises
    assert dict(promise.holdings) == {
        agent: Holding(units=grant.units, floor=grant.floor, incarnation=1)
        for agent, grant in desk.grants.items()
    }
    assert promise.ceiling == 100
    assert promise.is_whole


def test_of_a_holding_that_says_enough_nothing_is_written() -> None:
    desk = Desk(10)
    desk.ask("a", 0, wants=10)
    desk.book.configure(KEY, LimitSpec(units=4), SECOND)
    assert desk.settle(SECOND) == {"a": 4}
    desk.report("a", 2 * SECOND, wants=10, enforced=9)
    desk.settle(2 * SECOND)
    written = len(desk.promises)

    # Its connections close one by one, and nobody has what gets free.
    desk.report("a", 3 * SECOND, wants=10, enforced=8)
    desk.settle(3 * SECOND)

    assert len(desk.promises) == written
    assert desk.book.limit(KEY).shares["a"].booked == 8
    assert desk.held["a"].units == 9


def _restart(desk: Desk, now: int, *, units: int = 100) -> Desk:
    """A server that comes after a crash, for the agents as they are."""
    later = Desk(units, epoch=2)
    later.grants, later.sequences = dict(desk.grants), dict(desk.sequences)
    later.book.restore(KEY, holdings=desk.held, now=now)
    return later


def test_after_a_crash_what_an_agent_has_no_more_is_free_once_it_confirms() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=50)
    later = _restart(desk, 0)
    limit = later.book.limit(KEY)
    assert limit.out == 100

    # It has been without a server for so long that it has no more than its floor.
    later.report("a", SECOND, wants=10, enforced=25)
    told = later.settle(SECOND)["a"]
    # A grant of the server before may be under way to it still, so nothing is free yet.
    assert limit.out == 100
    later.report("c", SECOND, wants=50, enforced=0)
    assert "c" not in later.settle(SECOND)
    later.report("a", 2 * SECOND, wants=10, enforced=told)
    assert later.settle(2 * SECOND) == {"c": 50 - told}

    # Whose lease is over beyond doubt has its floor, and no more.
    assert limit.shares["b"].booked == 50
    for second in range(3, 77):
        for agent in "ac":
            units = later.grants[agent].units
            later.report(agent, second * SECOND, wants=50, enforced=units)
        later.settle(second * SECOND)
        assert limit.out <= 100
    assert limit.shares["b"].booked == 0
    assert limit.shares["b"].floor == 25
    assert limit.out == 100


def test_who_has_what_was_written_down_is_told_so_once() -> None:
    desk = Desk(100)
    desk.ask("a", 0, wants=10)
    later = _restart(desk, 0)

    later.report("a", SECOND, wants=10, enforced=100)

    # It may not have heard what the limit is now.
    assert later.settle(SECOND) == {"a": 100}
    # What it has less of is free only once it has confirmed a grant of this book.
    later.report("a", 2 * SECOND, wants=10, enforced=40, version=desk.grants["a"].version)
    assert later.settle(2 * SECOND) == {"a": 100}
    assert later.book.limit(KEY).out == 100
    later.report("a", 3 * SECOND, wants=0, enforced=100)
    assert later.settle(3 * SECOND) == {"a": 0}
    later.report("a", 4 * SECOND, wants=0, enforced=40)
    later.settle(4 * SECOND)
    assert later.book.limit(KEY).out == 40


def test_a_later_start_frees_what_an_earlier_one_had_also_across_a_crash_of_the_server() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=50)
    later = _restart(desk, 0)

    later.book.receive(Report(agent="a", incarnation=2, sequence=1), SECOND)
    later.report("b", SECOND, wants=100, enforced=50)

    assert later.settle(SECOND) == {"b": 100}


def test_an_agent_that_has_forgotten_a_limit_is_told_what_it_has() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=50)
    later = _restart(desk, 0)
    for second in range(1, 76):
        for agent in "ab":
            later.sequences[agent] += 1
            report = Report(agent=agent, incarnation=1, sequence=later.sequences[agent])
            later.book.receive(report, second * SECOND)
        told = later.settle(second * SECOND)
        assert later.book.limit(KEY).out == 100

    later.sequences["a"] += 1
    report = Report(agent="a", incarnation=1, sequence=later.sequences["a"])
    later.book.receive(report, 76 * SECOND)
    told |= later.settle(76 * SECOND)

    assert told == {"a": 0, "b": 0}
    for agent in "ab":
        later.report(agent, 77 * SECOND, wants=0, enforced=0)
    later.settle(77 * SECOND)
    assert later.book.limit(KEY) is None


def test_after_an_older_version_only_what_the_ceiling_leaves_is_given_until_all_is_over() -> None:
    desk = Desk(100)
    desk.ask("ab", 0, wants=30)
    later = Desk(100, epoch=2)
    later.grants, later.sequences = dict(desk.grants), dict(desk.sequences)
    floors = {
        agent: Holding(units=0, floor=grant.floor, incarnation=0)
        for agent, grant in desk.grants.items()
    }
    later.book.restore(KEY, ceiling=80, holdings=floors, now=0)

    # Somebody new gets what was certainly never given out.
    assert later.ask("c", 1, wants=20) == {"c": 20}
    # Until all is accounted for, holdings don't say all that may be out.
    assert not later.promises[-1].is_whole
    # Who can prove what they had keeps it, and lowers what is taken to be out.
    held = desk.grants["a"].units
    later.report("a", 2, wants=30, enforced=held)
    assert later.settle(2).get("a", held) >= 30
    limit = later.book.limit(KEY)
    assert limit.out <= 100
    # At the end of the window the rest is free.
    for second in range(1, 77):
        later.report("c", second * SECOND, wants=20, enforced=later.grants["c"].units)
        later.report("a", second * SECOND, wants=30, enforced=later.grants["a"].units)
        later.settle(second * SECOND)
        assert limit.out <= 100
    assert limit.unclaimed == 0


def test_what_nobody_lent_counts_once_its_agent_has_confirmed_a_grant() -> None:
    desk = Desk(10, epoch=2)
    desk.ask("b", 0, wants=10)
    desk.report("liar", 0, wants=10, enforced=8, version=5, granted=8, proof=b"made up")

    # It may be long ago that it said so: b keeps what it has not given back.
    assert desk.settle(0) == {"b": 5, "liar": 0}
    assert desk.book.limit(KEY).shares["liar"].booked == 0
    desk.report("b", SECOND, wants=10, enforced=5)
    desk.report("liar", SECOND, wants=10, enforced=8)

    # It still uses them, so nobody else gets them; of these its part is its own.
    assert desk.settle(SECOND) == {"liar": 5}
    assert desk.book.limit(KEY).shares["liar"].booked == 8


def test_what_was_said_before_units_went_to_another_one_takes_none_of_them() -> None:
    """The server before had taken in that they were given back; the new one does not know that."""
    desk = Desk(2)
    desk.ask("a", 0, wants=2)
    first = desk.grants["a"]
    desk.ask("b", SECOND, wants=2)
    desk.report("a", 2 * SECOND, wants=2, enforced=1)
    assert desk.settle(2 * SECOND) == {"b": 1}
    later = _restart(desk, 3 * SECOND, units=2)

    later.report("a", 3 * SECOND, wants=2, enforced=2, version=first.version, granted=2)
    later.report("b", 3 * SECOND, wants=2, enforced=1)
    told = later.settle(3 * SECOND)

    assert told.get("a", 1) <= 1
    assert later.book.limit(KEY).out == 2


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


@pytest.mark.parametrize("silent_seconds", [3, 16, 80, 600])
@pytest.mark.parametrize("has_news", [True, False], ids=["says all anew", "says nothing of it"])
@pytest.mark.parametrize("is_new_server", [True, False], ids=["another server", "the same"])
def test_whoever_was_silent_hears_that_a_rate_has_changed(
    silent_seconds: int, has_news: bool, is_new_server: bool
) -> None:
    """Who alone has a limit has all of it as its floor, so that nothing else may be new."""
    desk = Desk(100, earning=Earning(count=100, period_ns=60 * SECOND))
    desk.ask("a", 0, wants=100)
    desk.report("a", SECOND, wants=100, enforced=100)
    desk.settle(SECOND)
    slow = LimitSpec(units=100, earning=Earning(count=100, period_ns=3600 * SECOND))
    back = (2 + silent_seconds) * SECOND

    desk.book.configure(KEY, slow, back - SECOND)
    desk.settle(back - SECOND)
    if is_new_server:
        later = Desk(100, earning=slow.earning, epoch=2)
        later.grants, later.sequences = dict(desk.grants), dict(desk.sequences)
        later.book.restore(KEY, holdings=desk.held, now=back)
        desk = later
    if has_news or is_new_server:
        desk.report("a", back, wants=100, enforced=100)
    else:
        desk.sequences["a"] += 1
        desk.book.receive(Report(agent="a", incarnation=1, sequence=desk.sequences["a"]), back)
    desk.settle(back)

    assert desk.grants["a"].spec == slow


def test_a_start_that_was_released_is_not_heard_for_a_while() -> None:
    """Whether what it said comes late or it lives after all, it has nothing any more."""
    desk = Desk(10)
    desk.ask("a", 0, wants=10)

    desk.book.release("a", 2**64 - 1, SECOND)

    assert not desk.report("a", 2 * SECOND, wants=10, enforced=10)
    assert desk.ask("b", 3 * SECOND, wants=10) == {"b": 10}
    later = Report(agent="a", incarnation=2, sequence=1)
    assert desk.book.receive(later, 4 * SECOND)
    desk.book.release("a", 2, 5 * SECOND)
    assert desk.report("a", 66 * SECOND, wants=10, enforced=0)


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
    assert promise.holdings == (("a", Holding(units=100, floor=100, incarnation=1)),)


def test_a_grant_that_nobody_confirms_is_sent_again_with_its_events() -> None:
    desk = Desk(10, earning=Earning(count=10, period_ns=SECOND))
    desk.ask("a", 0, wants=10)
    first = desk.grants.pop("a")
    assert first.fill == 10 * desk.book.limit(KEY).spec.event_parts

    # What says nothing of the limit shows that the agent is there.
    late = TIMING.repeat + 1
    for now in (late // 3, late // 2, late):
        assert desk.settle(now) == {}
        desk.sequences["a"] += 1
        desk.book.receive(Report(agent="a", incarnation=1, sequence=desk.sequences["a"]), now)

    assert desk.settle(late) == {"a": 10}
    assert desk.grants["a"] == first


def test_of_very_many_grants_that_nobody_confirms_some_are_sent_again_at_a_time() -> None:
    book = LeaseBook(TIMING, epoch=1, sign=sign)
    keys = [f"limit {number:03}" for number in range(120)]
    for key in keys:
        book.configure(key, LimitSpec(units=10), 0)
    demands = tuple(Demand(key=key, wants=1, enforced=0) for key in keys)
    book.receive(Report(agent="a", incarnation=1, sequence=1, demands=demands), 0)
    assert len(book.settle(0).grants) == 120

    sent: list[str] = []
    for sequence in (2, 3, 4):
        at = TIMING.repeat + sequence
        book.receive(Report(agent="a", incarnation=1, sequence=sequence), at)
        again = [grant.key for grant in book.settle(at).grants]
        assert len(again) <= 50
        sent += again

    assert sent == keys


def test_a_limit_that_nobody_has_is_forgotten() -> None:
    desk = Desk(10)
    desk.ask("a", 0, wants=10)

    desk.report("a", SECOND, wants=0, enforced=10)
    assert desk.settle(SECOND) == {"a": 0}
    assert desk.book.limit(KEY) is not None
    desk.report("a", SECOND, wants=0, enforced=0)
    desk.settle(SECOND)

    assert desk.promises[-1].is_over
    assert desk.promises[-1].holdings == (("a", NOTHING_HELD),)
    assert desk.book.limit(KEY) is None


def test_a_rate_that_was_used_is_forgotten_once_it_is_full_again() -> None:
    desk = Desk(10, earning=Earning(count=10, period_ns=10 * SECOND))
    desk.ask("a", 0, wants=10)

    desk.book.release("a", 1, SECOND)
    desk.settle(SECOND)
    assert not desk.promises[-1].is_over
    assert desk.held == {}
    desk.settle(10 * SECOND)
    assert desk.book.limit(KEY) is not None

    desk.settle(desk.book.next_time() or 0)

    assert desk.promises[-1].is_over
    assert desk.book.limit(KEY) is None
    assert desk.book.next_time() is None


_TEN, _ONE = (LimitSpec(units=n, earning=Earning(count=6, period_ns=60 * SECOND)) for n in (10, 1))


def _lower_after_use(*, is_released: bool = True) -> Desk:
    """A rate of one event in 10 s and a burst of 10, all used; then its burst is lowered to 1."""
    desk = Desk(_TEN.units, earning=_TEN.earning)
    desk.ask("a", 0, wants=10)
    if is_released:
        desk.book.release("a", 1, SECOND)
        desk.settle(SECOND)
    desk.book.configure(KEY, _ONE, SECOND)
    desk.settle(SECOND)
    return desk


@pytest.mark.parametrize(
    ("seconds", "events"),
    [
        # The one unit has earned an event after 10 s, and the others none.
        pytest.param(50, 1, id="not all is earned again"),
        pytest.param(110, 10, id="all is, and the limit as good as new"),
    ],
)
def test_a_limit_that_was_lowered_and_raised_is_not_as_good_as_new(
    seconds: int, events: int
) -> None:
    desk = _lower_after_use()
    desk.settle(seconds * SECOND)

    desk.book.configure(KEY, _TEN, seconds * SECOND)
    desk.report("b", seconds * SECOND, wants=10, enforced=0)
    desk.settle(seconds * SECOND)

    assert desk.grants["b"].units == 10
    assert desk.grants["b"].fill // _TEN.event_parts == events


def test_a_server_that_starts_anew_knows_what_a_lowered_limit_owes() -> None:
    desk = _lower_after_use()
    promise = desk.promises[-1]
    assert (promise.spec, promise.owed) == (_ONE, 9)
    # That it becomes less is not written down each time.
    assert not desk.book.settle(30 * SECOND).promises

    desk = Desk(1, earning=_ONE.earning, epoch=2)
    desk.book.restore(KEY, holdings={}, owed=9, now=0)
    desk.settle(90 * SECOND)
    limit = desk.book.limit(KEY)
    assert limit is not None
    desk.settle(limit.full_after(TIMING.drift) + 90 * SECOND)
    assert desk.book.limit(KEY) is None


@pytest.mark.parametrize("unused", [0, 4, 9])
def test_what_is_out_when_a_limit_is_lowered_counts_as_used_until_it_comes_back(
    unused: int,
) -> None:
    desk = _lower_after_use(is_released=False)
    limit = desk.book.limit(KEY)
    assert limit is not None
    assert limit.owed == 9 * _ONE.event_parts

    # Its holder keeps one unit, and gives the others back with what it has not used.
    desk.report("a", SECOND, wants=1, enforced=1, returned=unused * _ONE.event_parts)
    desk.settle(SECOND)
    assert limit.owed == (9 - unused) * _ONE.event_parts

    desk.book.configure(KEY, _TEN, SECOND)
    assert limit.owed == 0
