"""Every kind of limit store lends as the book decides, and keeps what it promised."""

import asyncio
from random import Random

import pytest

from policy_server.errors import Unavailable
from policy_server.lending.clock import boottime_ns
from policy_server.lending.port import LimitStore
from policy_server.limits.messages import Demand, Report
from policy_server.limits.spec import Earning, LimitSpec
from tests.conformance.limit_stores import KINDS, PATIENCE, QUICK, Agent, LimitStores

KEY = "connection_limit:ip-1->(mx1|mx2).example.com"
SECOND = 1_000_000_000
TEN = LimitSpec(units=10)


@pytest.fixture(params=KINDS)
async def stores(request, database):
    made = KINDS[request.param](database)
    yield made
    await made.close()


def agents(names: str, spec: LimitSpec = TEN) -> dict[str, Agent]:
    return {name: Agent(name, spec, key=KEY) for name in names}


async def _until(store: LimitStore, agent: Agent, units: int, *others: Agent) -> None:
    """Have all report until *agent* may use so many units."""
    async with asyncio.timeout(PATIENCE):
        while agent.cap != units:
            for one in (agent, *others):
                await one.sync(store)
            await asyncio.sleep(0.02)


async def _hear_until(store: LimitStore, agent: Agent, units: int) -> None:
    """Have one listen, and say nothing, until it may use so many units."""
    async with asyncio.timeout(PATIENCE):
        while agent.cap != units:
            await agent.hear(store)
            await asyncio.sleep(0.02)


async def test_who_is_alone_has_all_until_another_one_comes(stores: LimitStores) -> None:
    store, fleet = await stores.start(), agents("ab")
    for agent in fleet.values():
        agent.attach(store)

    await fleet["a"].sync(store, wants=3)
    await _until(store, fleet["a"], 10)

    await fleet["b"].sync(store, wants=10)
    # The other one has not confirmed a lower grant yet.
    assert fleet["b"].cap == 0
    await _hear_until(store, fleet["a"], 3)
    await fleet["a"].sync(store)
    await _hear_until(store, fleet["b"], 7)


async def test_what_comes_twice_or_late_or_of_an_earlier_start_is_not_new(
    stores: LimitStores,
) -> None:
    store = await stores.start()

    def report(sequence: int, incarnation: int = 2) -> Report:
        demand = Demand(key=KEY, wants=5, enforced=0)
        return Report(agent="a", incarnation=incarnation, sequence=sequence, demands=(demand,))

    specs = {KEY: TEN}
    assert (await store.receive(report(2), specs)).is_new
    assert not (await store.receive(report(2), specs)).is_new
    assert not (await store.receive(report(1), specs)).is_new
    assert not (await store.receive(report(9, incarnation=1), specs)).is_new
    assert (await store.receive(report(1, incarnation=3), specs)).is_new


async def test_what_a_start_that_was_released_says_late_takes_nothing(stores: LimitStores) -> None:
    store, fleet = await stores.start(), agents("ab")
    for agent in fleet.values():
        agent.attach(store)
    await fleet["a"].sync(store, wants=10)
    await _until(store, fleet["a"], 10)

    await store.release("a", 2**64 - 1)

    demand = Demand(key=KEY, wants=10, enforced=10)
    late = Report(agent="a", incarnation=1, sequence=99, demands=(demand,))
    assert not (await store.receive(late, {KEY: TEN})).is_new
    await fleet["b"].sync(store, wants=10)
    await _until(store, fleet["b"], 10)
    later = Report(agent="a", incarnation=2, sequence=1, demands=())
    assert (await store.receive(later, {})).is_new


async def test_keys_without_a_limit_are_named(stores: LimitStores) -> None:
    store = await stores.start()
    demands = tuple(Demand(key=key, wants=1, enforced=0) for key in ("other", KEY))

    heard = await store.receive(
        Report(agent="a", incarnation=1, sequence=1, demands=demands), {KEY: TEN}
    )

    assert heard.unknown == ("other",)
    assert [view.key for view in (await store.list_limits("", 10)).limits] == [KEY]


async def test_a_grant_is_taken_once_and_again_by_who_attaches_anew(stores: LimitStores) -> None:
    store, agent = await stores.start(), agents("a")["a"]
    detach = agent.attach(store)
    await agent.say(store, wants=5)
    await store.settled()
    assert agent.woken.is_set()

    # It is lost on its way.
    (lost,) = (await store.take("a", 1, 10)).grants
    assert (await store.take("a", 1, 10)).grants == ()
    detach()
    agent.attach(store)
    await store.settled()

    (again,) = await agent.hear(store)
    assert (again.version, again.units) == (lost.version, lost.units)
    assert agent.cap == 10


async def test_a_lost_grant_is_sent_again_after_a_while(stores: LimitStores) -> None:
    store, agent = await stores.start(QUICK), agents("a")["a"]
    agent.attach(store)
    await agent.say(store, wants=5)
    await store.settled()
    assert (await store.take("a", 1, 10)).grants

    async with asyncio.timeout(PATIENCE):
        while not agent.cap:
            await asyncio.sleep(0.02)
            await agent.sync(store)


async def test_only_the_newest_grant_of_a_key_waits_to_be_taken(stores: LimitStores) -> None:
    store, fleet = await stores.start(), agents("ab")
    for agent in fleet.values():
        agent.attach(store)
    await fleet["a"].say(store, wants=5)
    await store.settled()
    await fleet["b"].say(store, wants=5)
    await store.settled()
    await store.configure({KEY: LimitSpec(units=4)})
    await store.settled()

    (grant,) = (await store.take("a", 1, 10)).grants

    assert grant.spec.units == 4
    assert grant.units <= 4


async def test_at_most_so_many_grants_are_taken_at_a_time(stores: LimitStores) -> None:
    store = await stores.start()
    keys = [f"connection_limit:{number}" for number in range(5)]
    store.attach("a", lambda: None)
    demands = tuple(Demand(key=key, wants=1, enforced=0) for key in keys)
    await store.receive(
        Report(agent="a", incarnation=1, sequence=1, demands=demands), dict.fromkeys(keys, TEN)
    )
    await store.settled()

    first = await store.take("a", 1, 3)
    second = await store.take("a", 1, 3)

    assert (len(first.grants), first.has_more) == (3, True)
    assert (len(second.grants), second.has_more) == (2, False)
    assert {grant.key for taken in (first, second) for grant in taken.grants} == set(keys)


async def test_a_worker_that_stops_in_good_order_leaves_all_at_once(stores: LimitStores) -> None:
    store, fleet = await stores.start(), agents("ab")
    for agent in fleet.values():
        agent.attach(store)
    await fleet["a"].sync(store, wants=10)
    await fleet["b"].sync(store, wants=10)

    await store.release("a", 1)
    # It may come twice, and of one that is not there.
    await store.release("a", 1)
    await store.release("nobody", 1)
    await store.settled()
    await fleet["b"].hear(store)

    assert fleet["b"].cap == 10


async def test_a_new_incarnation_ends_what_the_old_one_had(stores: LimitStores) -> None:
    store, fleet = await stores.start(), agents("ab")
    for agent in fleet.values():
        agent.attach(store)
    await fleet["a"].sync(store, wants=10)
    await fleet["b"].sync(store, wants=10)

    again = Agent("a", TEN, key=KEY, incarnation=2)
    again.attach(store)
    await again.say(store)
    await store.settled()
    await fleet["b"].hear(store)

    assert fleet["b"].cap == 10


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(LimitSpec(units=8), id="connections"),
        pytest.param(LimitSpec(units=8, earning=Earning(count=8, period_ns=SECOND)), id="a rate"),
    ],
)
async def test_what_a_silent_agent_had_goes_to_others_in_the_end(
    stores: LimitStores, spec: LimitSpec
) -> None:
    store, fleet = await stores.start(QUICK), agents("ab", spec)
    for agent in fleet.values():
        agent.attach(store)
    # Its lease is reckoned from later than that, on a busy machine by a good deal.
    begun = boottime_ns()
    await fleet["a"].sync(store, wants=8)

    # First nothing, then all that is no floor, in the end that too.
    await fleet["b"].say(store, wants=8)
    await _until(store, fleet["b"], 8)

    assert boottime_ns() - begun > QUICK.floor


async def test_a_lowered_limit_is_told_and_one_that_is_not_lent_is_left_alone(
    stores: LimitStores,
) -> None:
    store, agent = await stores.start(), agents("a")["a"]
    agent.attach(store)
    await agent.sync(store, wants=10)

    await store.configure({KEY: LimitSpec(units=4), "other": TEN})
    await store.settled()
    await agent.hear(store)

    assert agent.cap == 4
    assert (await store.find_limit("other")).limits == ()


async def test_units_of_a_rate_bring_their_events(stores: LimitStores) -> None:
    """A limit that nobody used has its whole burst, and what was used of it stays used."""
    spec = LimitSpec(units=2, earning=Earning(count=2, period_ns=3600 * SECOND))
    store, fleet = await stores.start(), agents("ab", spec)
    for agent in fleet.values():
        agent.attach(store)
    first, second = fleet["a"], fleet["b"]
    await first.sync(store, wants=2)
    assert first.holder is not None
    assert second.holder is not None
    passed = [first.holder.try_pass(KEY, boottime_ns()) for _ in range(3)]
    assert passed == [True, True, False]

    await second.sync(store, wants=1)
    await first.hear(store)
    await first.sync(store)
    await second.sync(store)

    assert second.cap == 1
    assert not second.holder.try_pass(KEY, boottime_ns())


async def test_who_is_heard_is_told_from_who_is_silent_and_from_who_is_gone(
    stores: LimitStores,
) -> None:
    store, fleet = await stores.start(QUICK), agents("ab")
    assert await store.hears("a") is None
    for agent in fleet.values():
        agent.attach(store)
    await fleet["a"].sync(store, wants=8)
    assert await store.hears("a") is True

    for state in (False, None):
        async with asyncio.timeout(PATIENCE):
            while await store.hears("a") is not state:
                await fleet["b"].sync(store, wants=1)
                await asyncio.sleep(0.02)
    assert await store.hears("b") is True
    await store.release("b", 1)
    assert await store.hears("b") is None


async def test_after_a_start_whoever_may_not_have_had_the_time_to_report_counts_as_heard(
    stores: LimitStores,
) -> None:
    before, fleet = await stores.start(), agents("ab")
    fleet["a"].attach(before)
    await fleet["a"].sync(before, wants=10)
    await _until(before, fleet["a"], 10)
    await stores.kill(before)

    after = await stores.start()
    fleet["b"].attach(after)
    await fleet["b"].sync(after, wants=10)

    assert await after.hears("a") is True


async def test_after_a_crash_who_proves_what_it_had_goes_on_and_others_wait(
    stores: LimitStores,
) -> None:
    before, fleet = await stores.start(), agents("abc")
    for name in "ab":
        fleet[name].attach(before)
    await fleet["a"].sync(before, wants=10)
    await fleet["b"].sync(before, wants=10)
    await fleet["a"].sync(before)
    await fleet["b"].sync(before)
    held = {name: fleet[name].cap for name in "ab"}
    assert sum(held.values()) == 10
    epoch = (await before.take("a", 1, 1)).epoch
    await stores.kill(before)

    after = await stores.start()
    for agent in fleet.values():
        agent.attach(after)
    await fleet["c"].sync(after, wants=10)

    taken = await after.take("c", 1, 1)
    assert taken.epoch > epoch
    assert taken.is_recovering
    assert fleet["c"].cap == 0
    # The first answer of the new epoch has each say all that it has.
    for name in "ab":
        await fleet[name].sync(after)
        await fleet[name].say(after)
    await after.settled()
    (view,) = (await after.find_limit(KEY)).limits
    assert view.booked <= 10
    assert {holder.agent: holder.booked for holder in view.holders if holder.booked} == held


async def test_after_a_crash_all_is_lent_again_once_leases_of_before_are_over(
    stores: LimitStores,
) -> None:
    before, fleet = await stores.start(QUICK), agents("ab")
    fleet["a"].attach(before)
    await fleet["a"].sync(before, wants=10)
    await stores.kill(before)

    after = await stores.start(QUICK)
    fleet["b"].attach(after)
    await fleet["b"].sync(after, wants=10)
    assert fleet["b"].cap == 0

    await _until(after, fleet["b"], 10)
    assert not (await after.take("b", 1, 1)).is_recovering


async def test_one_that_stops_in_good_order_is_followed_at_once(stores: LimitStores) -> None:
    before, agent = await stores.start(), agents("a")["a"]
    agent.attach(before)
    await agent.sync(before, wants=10)

    await before.close()
    with pytest.raises(Unavailable):
        await before.take("a", 1, 1)
    after = await stores.start()
    agent.attach(after)
    await agent.sync(after)
    await agent.sync(after)

    assert agent.cap == 10


async def test_what_nobody_uses_any_more_is_not_remembered(stores: LimitStores) -> None:
    before, agent = await stores.start(), agents("a")["a"]
    agent.attach(before)
    await agent.sync(before, wants=10)
    await agent.sync(before, wants=0)
    await agent.sync(before)
    assert (await before.list_limits("", 10)).limits == ()
    await stores.kill(before)

    after = await stores.start()
    newcomer = Agent("b", TEN, key=KEY)
    newcomer.attach(after)
    await newcomer.sync(after, wants=1)

    assert newcomer.cap == 10


async def test_people_see_who_has_what(stores: LimitStores) -> None:
    store, fleet = await stores.start(), agents("ab", LimitSpec(units=1))
    for agent in fleet.values():
        agent.attach(store)
        await agent.sync(store, wants=1)

    book = await store.find_limit(KEY)

    (view,) = book.limits
    assert (view.booked, view.wanted, view.waiting, view.holder_count) == (1, 2, 1, 2)
    has, waits = view.holders
    assert (has.agent, has.booked, has.waiting_for) == ("a", 1, None)
    assert (waits.agent, waits.units, waits.held_for) == ("b", 0, None)
    assert waits.waiting_for is not None
    assert (await store.list_limits(KEY, 10)).limits == ()


@pytest.mark.parametrize("seed", range(4))
async def test_no_fleet_is_above_its_limit_whatever_it_does(stores: LimitStores, seed: int) -> None:
    """Agents with connections that stay open, crashes of agents and of the store."""
    random, store = Random(seed), await stores.start()
    fleet = agents("abcd")
    for agent in fleet.values():
        agent.attach(store)

    async def step() -> None:
        nonlocal store
        agent = random.choice(list(fleet.values()))
        holder = agent.holder
        assert holder is not None
        match random.choice(["say", "say", "hear", "hear", "open", "open", "close", "rare"]):
            case "say":
                await agent.say(store, wants=random.randint(0, 12))
            case "hear":
                await store.settled()
                await agent.hear(store, random.randint(1, 2))
            case "open":
                holder.try_open(KEY, boottime_ns())
            case "close":
                if (lease := next(iter(holder.leases()), None)) and lease.in_use:
                    holder.close(KEY)
            case "rare" if random.random() < 0.15:
                await stores.kill(store)
                store = await stores.start()
                for one in fleet.values():
                    one.attach(store)
            case "rare" if random.random() < 0.15:
                name = agent.name
                again = Agent(name, TEN, key=KEY, incarnation=agent.incarnation + 1)
                fleet[name] = again
                again.attach(store)
            case _:
                pass

    for _ in range(250):
        await step()
        in_use = sum(
            lease.in_use
            for agent in fleet.values()
            if agent.holder is not None
            for lease in agent.holder.leases()
        )
        assert in_use <= 10
