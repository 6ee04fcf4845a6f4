"""Of several servers on one database one keeps the lease book, and no two at a time."""

import asyncio
import time
from functools import partial

import pytest
from sqlalchemy import delete, insert, select, text, update

from policy_server.lending.keeper import BookKeeper, BookLost
from policy_server.limits.messages import NOTHING_HELD, Holding, Promise
from policy_server.limits.spec import Earning, LimitSpec
from policy_server.store.database import Database
from policy_server.store.leases import end_doubt, read_book, read_promises
from policy_server.store.tables import lease_book

SECOND = 1_000_000_000
RATE = LimitSpec(units=7, earning=Earning(count=9, period_ns=60 * SECOND))


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def make_keeper(database):
    """Make servers that each have connections of their own, as other processes have."""
    opened = []

    def make(owner: str) -> tuple[BookKeeper, Clock]:
        clock, own = Clock(), Database(database.url.render_as_string(hide_password=False))
        keeper = BookKeeper(own, owner=owner, address=f"{owner}:1", clock=clock)
        opened.append((keeper, own))
        return keeper, clock

    yield make
    for keeper, own in opened:
        if keeper._file is not None:
            keeper._file.close()
        own.close()


def held(units: int) -> Holding:
    return Holding(units=units, floor=units // 2, incarnation=3)


def promise(key: str = "k", **changes) -> Promise:
    facts = {"spec": LimitSpec(units=10), "ceiling": 10, "holdings": (("a", held(5)),)} | changes
    return Promise(key=key, **facts)


async def _is_taken(keeper: BookKeeper) -> bool:
    """Whether *keeper* has the book after a few looks at it."""
    try:
        async with asyncio.timeout(1.2):
            await keeper.acquire()
    except TimeoutError:
        return False
    return True


async def test_promises_are_read_as_they_were_kept(database, make_keeper) -> None:
    keeper, _ = make_keeper("one")
    await keeper.acquire()

    await keeper.keep([promise(), promise("r", spec=RATE, ceiling=0, holdings=(("b", held(2)),))])
    await keeper.keep([promise(holdings=(("a", NOTHING_HELD), ("c", held(3))))])
    await keeper.keep([promise("r", is_over=True, ceiling=0, holdings=(("b", NOTHING_HELD),))])

    read = await database.read(read_promises)
    assert {key: (one.spec, one.ceiling, one.holdings) for key, one in read.items()} == {
        "k": (LimitSpec(units=10), 0, {"c": held(3)})
    }


async def test_a_rate_is_read_as_it_was_kept(database, make_keeper) -> None:
    keeper, _ = make_keeper("one")
    await keeper.acquire()

    await keeper.keep([promise(spec=RATE)])

    assert (await database.read(read_promises))["k"].spec == RATE


async def test_each_owner_has_a_higher_epoch_and_the_same_secret(make_keeper) -> None:
    first, _ = make_keeper("one")
    before = await first.acquire()
    await first.give_up()
    second, _ = make_keeper("two")

    after = await second.acquire()

    assert after.epoch > before.epoch
    assert after.secret == before.secret
    assert not first.is_ours


async def test_an_epoch_is_later_than_any_that_a_database_may_have_forgotten(
    database, make_keeper
) -> None:
    """As an older copy has that was put back; agents know the newer ones."""
    begun = int(time.time())
    first, _ = make_keeper("one")
    assert (await first.acquire()).epoch > begun
    await first.give_up()
    await database.write(lambda connection: connection.execute(update(lease_book).values(epoch=7)))
    second, _ = make_keeper("two")

    assert (await second.acquire()).epoch > begun


async def test_another_server_waits_for_as_long_as_the_owner_lives(database, make_keeper) -> None:
    first, first_clock = make_keeper("one")
    second, second_clock = make_keeper("two")
    await first.acquire()

    assert not await _is_taken(second)
    for _ in range(3):
        first_clock.now += 10 * SECOND
        second_clock.now += 10 * SECOND
        if not database.is_sqlite:
            # Its time is over before the other one may take the book.
            first_clock.now -= 10 * SECOND
        await first.keep([promise()])
        assert not await _is_taken(second)
    assert "one:1" in second.whose


async def test_a_server_that_is_silent_stops_before_another_one_begins(
    database, make_keeper
) -> None:
    if database.is_sqlite:
        pytest.skip("there a lock on a file says who lives")
    first, first_clock = make_keeper("one")
    second, second_clock = make_keeper("two")
    await first.acquire()
    assert not await _is_taken(second)

    # It hangs, and wakes up after the other one has taken over.
    second_clock.now += 18 * SECOND
    assert await _is_taken(second)
    first_clock.now += 15 * SECOND
    assert not first.is_ours
    with pytest.raises(BookLost):
        await first.keep([promise()])

    # Even if its clock stood still, what it writes does not count.
    third, _ = make_keeper("three")
    assert not await _is_taken(third)


async def test_what_a_successor_does_not_know_of_is_not_written(database, make_keeper) -> None:
    first, _ = make_keeper("one")
    await first.acquire()
    if first._file is not None:
        first._file.close()
    # The same server, started again, need not wait.
    second, _ = make_keeper("one")
    assert await _is_taken(second)

    with pytest.raises(BookLost):
        await first.keep([promise()])

    assert await database.read(read_promises) == {}
    await second.keep([promise()])


async def test_one_of_two_that_find_no_book_gets_it(make_keeper) -> None:
    keepers = [make_keeper(name)[0] for name in ("one", "two")]

    taken = await asyncio.gather(*map(_is_taken, keepers))

    assert sorted(taken) == [False, True]


async def test_a_database_that_knows_less_than_its_server_is_doubted(database, make_keeper) -> None:
    keeper, _ = make_keeper("one")
    before = await keeper.acquire()
    assert not before.is_doubted
    await database.write(lambda connection: connection.execute(update(lease_book).values(epoch=7)))
    with pytest.raises(BookLost):
        await keeper.keep([promise()])

    after = await keeper.acquire()

    assert after.is_doubted
    assert after.epoch > before.epoch


async def test_a_row_that_comes_from_a_dump_is_doubted(database, make_keeper) -> None:
    if database.is_sqlite:
        pytest.skip("there a file says how far the book had come")
    first, _ = make_keeper("one")
    await first.acquire()
    await first.keep([promise()])
    await first.give_up()
    known = await database.read(read_book)
    assert not known.is_copied
    await database.write(_restore_from_dump)
    second, _ = make_keeper("two")

    assert (await second.acquire()).is_doubted
    await database.write(partial(end_doubt, epoch=second._book.epoch))
    await second.give_up()

    third, _ = make_keeper("three")
    assert not (await third.acquire()).is_doubted


def _restore_from_dump(connection) -> None:
    rows = [dict(row._mapping) for row in connection.execute(select(lease_book))]
    connection.execute(delete(lease_book))
    connection.execute(insert(lease_book), rows)


async def test_who_puts_a_copy_back_can_say_so(database, make_keeper) -> None:
    """As docs/limits.md says."""
    first, _ = make_keeper("one")
    await first.acquire()
    await first.give_up()
    statement = "UPDATE lease_book SET is_doubted = true, owner = ''"
    await database.write(lambda connection: connection.execute(text(statement)))
    second, _ = make_keeper("two")

    assert (await second.acquire()).is_doubted
