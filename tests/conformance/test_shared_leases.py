"""What several servers promise together: the newest counts, in the epoch that is in force."""

import pytest
from sqlalchemy import update

from policy_server.limits.messages import NOTHING_HELD, Holding, NumberedPromise, Promise
from policy_server.limits.spec import LimitSpec
from policy_server.store.leases import BookRow, keep_promises, read_promises
from policy_server.store.shared_leases import PromisedLimit, SharedLeases
from policy_server.store.tables import lease_book

KEY = "connection_limit:ip-1->example.com"
SPEC = LimitSpec(units=100)


@pytest.fixture
def leases(database):
    return SharedLeases(database)


async def _begin(leases: SharedLeases) -> int:
    known = await leases.read_book()
    made = await leases.take(known, address="server", secret="00")
    assert made is not None
    assert await leases.mark_begun(made.epoch)
    return made.epoch


def _held(units: int) -> Holding:
    return Holding(units=units, floor=units // 2, incarnation=7) if units else NOTHING_HELD


def _promise(number: int, **units: int) -> NumberedPromise:
    holdings = tuple((agent, _held(count)) for agent, count in units.items())
    promise = Promise(key=KEY, spec=SPEC, ceiling=100, holdings=holdings)
    return NumberedPromise(promise=promise, number=number)


def _facts(limit: PromisedLimit) -> tuple[int, int, dict[str, Holding]]:
    return limit.epoch, limit.ceiling, dict(limit.holdings)


async def test_an_older_promise_undoes_no_newer_one(leases) -> None:
    epoch = await _begin(leases)
    assert await leases.keep([_promise(3, a=5, b=7)], epoch)

    # Another server was slower with what it had to write.
    assert await leases.keep([_promise(2, a=9, c=1)], epoch)
    assert await leases.keep([_promise(4, b=0)], epoch)

    limit = (await leases.read([KEY]))[KEY]
    assert _facts(limit) == (epoch, 0, {"a": _held(5), "c": _held(1)})


async def test_numbers_begin_anew_with_each_epoch(leases) -> None:
    first = await _begin(leases)
    assert await leases.keep([_promise(9, a=9)], first)
    second = await _begin(leases)

    assert await leases.keep([_promise(1, a=1)], second)

    limit = (await leases.read([KEY]))[KEY]
    assert _facts(limit) == (second, 0, {"a": _held(1)})


async def test_what_is_written_in_an_epoch_that_is_over_changes_nothing(leases) -> None:
    first = await _begin(leases)
    assert await leases.renew(first)
    second = await _begin(leases)

    assert not await leases.renew(first)
    assert not await leases.keep([_promise(5, a=5)], first)
    assert not await leases.mark_begun(first)
    assert await leases.read([KEY]) == {}
    assert await leases.renew(second)


async def test_the_address_is_that_of_the_server_that_gave_the_last_sign_of_life(leases) -> None:
    epoch = await _begin(leases)

    assert await leases.renew(epoch, address="other")
    assert await leases.keep([_promise(1, a=5)], epoch)

    assert (await leases.read_book()).address == "other"
    assert not await leases.renew(epoch - 1, address="outdated")
    assert (await leases.read_book()).address == "other"


async def test_of_two_that_begin_an_epoch_one_does(leases) -> None:
    await _begin(leases)
    known = await leases.read_book()

    taken = [await leases.take(known, address=name, secret="00") for name in "ab"]

    assert [isinstance(row, BookRow) for row in taken] == [True, False]
    # Until it has begun it is nobody's to go by.
    assert not await leases.renew(taken[0].epoch)


async def test_a_limit_that_is_over_is_forgotten_unless_it_is_in_use_again(leases) -> None:
    epoch = await _begin(leases)
    over = Promise(key=KEY, spec=SPEC, ceiling=0, holdings=(("a", NOTHING_HELD),), is_over=True)
    assert await leases.keep([_promise(1, a=5)], epoch)
    assert await leases.has_older_than(epoch + 1)
    assert await leases.keep([NumberedPromise(promise=over, number=2)], epoch)
    assert await leases.read([KEY]) == {}
    assert not await leases.has_older_than(epoch + 1)

    assert await leases.keep([_promise(4, b=7)], epoch)
    # That came late.
    assert await leases.keep([NumberedPromise(promise=over, number=3)], epoch)

    limit = (await leases.read([KEY]))[KEY]
    assert _facts(limit) == (epoch, 0, {"b": _held(7)})


async def test_a_server_alone_and_servers_together_know_what_the_others_promised(leases) -> None:
    together = await _begin(leases)
    assert await leases.keep([_promise(1, a=5, b=0)], together)
    database = leases.database

    (limit,) = (await database.read(read_promises)).values()
    assert (limit.ceiling, dict(limit.holdings)) == (0, {"a": _held(5)})
    alone = Promise(key=KEY, spec=SPEC, ceiling=100, holdings=(("a", _held(7)),))
    assert database.write_now(lambda connection: keep_promises(connection, [alone], together))

    found = (await leases.read([KEY]))[KEY]
    assert _facts(found) == (0, 0, {"a": _held(7)})
    later = await _begin(leases)
    assert await leases.keep([_promise(1, a=2)], later)
    found = (await leases.read([KEY]))[KEY]
    assert _facts(found) == (later, 0, {"a": _held(2)})


async def test_after_an_older_version_ceilings_and_floors_count_until_all_is_said_anew(
    leases,
) -> None:
    """One of before keeps no holdings, and leaves those that it finds as they are."""
    first = await _begin(leases)
    assert await leases.keep([_promise(1, a=6)], first)
    database = leases.database
    of_before = update(lease_book).values(epoch=lease_book.c.epoch + 1, owner="")
    database.write_now(lambda connection: connection.execute(of_before))

    later = await _begin(leases)
    assert later == first + 2
    floor_alone = Holding(units=0, floor=3, incarnation=0)
    assert _facts((await leases.read([KEY]))[KEY]) == (first, 100, {"a": floor_alone})
    (limit,) = (await database.read(read_promises)).values()
    assert (limit.ceiling, dict(limit.holdings)) == (100, {"a": floor_alone})

    # As long as not all is accounted for the ceiling goes on to count, also after another start.
    unclaimed = Promise(
        key=KEY, spec=SPEC, ceiling=100, holdings=(("b", _held(4)),), is_whole=False
    )
    assert await leases.keep([NumberedPromise(promise=unclaimed, number=1)], later)
    again = await _begin(leases)
    assert (await leases.read([KEY]))[KEY].ceiling == 100
    assert await leases.keep([_promise(1, a=2, b=4)], again)
    last = await _begin(leases)
    assert _facts((await leases.read([KEY]))[KEY]) == (again, 0, {"a": _held(2), "b": _held(4)})
    assert last == again + 1


async def test_an_epoch_is_above_every_one_that_was_seen_elsewhere(leases) -> None:
    first = await _begin(leases)
    known = await leases.read_book()

    made = await leases.take(known, address="server", secret="00", after=first + 7)

    assert made is not None
    assert made.epoch > first + 7


async def test_doubt_stays_over_epochs_until_it_is_ended(leases) -> None:
    await _begin(leases)
    known = await leases.read_book()
    doubted = await leases.take(known, address="server", secret="00", is_doubted=True)
    assert doubted is not None
    assert doubted.is_doubted

    later = await _begin(leases)
    await leases.end_doubt(doubted.epoch)
    assert (await leases.read_book()).is_doubted

    await leases.end_doubt(later)
    assert not (await leases.read_book()).is_doubted
