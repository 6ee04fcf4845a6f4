"""What several servers promise together: the newest counts, in the epoch that is in force."""

import pytest

from policy_server.limits.messages import NumberedPromise, Promise
from policy_server.limits.spec import LimitSpec
from policy_server.store.leases import BookRow, keep_promises, read_promises
from policy_server.store.shared_leases import SharedLeases

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


def _promise(number: int, ceiling: int, **floors: int) -> NumberedPromise:
    promise = Promise(key=KEY, spec=SPEC, ceiling=ceiling, floors=tuple(floors.items()))
    return NumberedPromise(promise=promise, number=number)


async def test_an_older_promise_undoes_no_newer_one(leases) -> None:
    epoch = await _begin(leases)
    assert await leases.keep([_promise(3, 30, a=5, b=7)], epoch)

    # Another server was slower with what it had to write.
    assert await leases.keep([_promise(2, 20, a=9, c=1)], epoch)
    assert await leases.keep([_promise(4, 40, b=0)], epoch)

    limit = (await leases.read([KEY]))[KEY]
    assert (limit.epoch, limit.ceiling, dict(limit.floors)) == (epoch, 40, {"a": 5, "c": 1})


async def test_numbers_begin_anew_with_each_epoch(leases) -> None:
    first = await _begin(leases)
    assert await leases.keep([_promise(9, 90, a=9)], first)
    second = await _begin(leases)

    assert await leases.keep([_promise(1, 10, a=1)], second)

    limit = (await leases.read([KEY]))[KEY]
    assert (limit.epoch, limit.ceiling, dict(limit.floors)) == (second, 10, {"a": 1})


async def test_what_is_written_in_an_epoch_that_is_over_changes_nothing(leases) -> None:
    first = await _begin(leases)
    assert await leases.renew(first)
    second = await _begin(leases)

    assert not await leases.renew(first)
    assert not await leases.keep([_promise(5, 50, a=5)], first)
    assert not await leases.mark_begun(first)
    assert await leases.read([KEY]) == {}
    assert await leases.renew(second)


async def test_of_two_that_begin_an_epoch_one_does(leases) -> None:
    await _begin(leases)
    known = await leases.read_book()

    taken = [await leases.take(known, address=name, secret="00") for name in "ab"]

    assert [isinstance(row, BookRow) for row in taken] == [True, False]
    # Until it has begun it is nobody's to go by.
    assert not await leases.renew(taken[0].epoch)


async def test_a_limit_that_is_over_is_forgotten_unless_it_is_in_use_again(leases) -> None:
    epoch = await _begin(leases)
    over = Promise(key=KEY, spec=SPEC, ceiling=0, floors=(("a", 0),), is_over=True)
    assert await leases.keep([_promise(1, 10, a=5)], epoch)
    assert await leases.has_older_than(epoch + 1)
    assert await leases.keep([NumberedPromise(promise=over, number=2)], epoch)
    assert await leases.read([KEY]) == {}
    assert not await leases.has_older_than(epoch + 1)

    assert await leases.keep([_promise(4, 40, b=7)], epoch)
    # That came late.
    assert await leases.keep([NumberedPromise(promise=over, number=3)], epoch)

    limit = (await leases.read([KEY]))[KEY]
    assert (limit.ceiling, dict(limit.floors)) == (40, {"b": 7})


async def test_a_server_alone_and_servers_together_know_what_the_others_promised(leases) -> None:
    together = await _begin(leases)
    assert await leases.keep([_promise(1, 10, a=5, b=0)], together)
    database = leases.database

    (limit,) = (await database.read(read_promises)).values()
    assert (limit.ceiling, dict(limit.floors)) == (10, {"a": 5})
    alone = Promise(key=KEY, spec=SPEC, ceiling=30, floors=(("a", 7),))
    assert database.write_now(lambda connection: keep_promises(connection, [alone], together))

    found = (await leases.read([KEY]))[KEY]
    assert (found.epoch, found.ceiling, dict(found.floors)) == (0, 30, {"a": 7})
    later = await _begin(leases)
    assert await leases.keep([_promise(1, 12, a=2)], later)
    found = (await leases.read([KEY]))[KEY]
    assert (found.epoch, found.ceiling, dict(found.floors)) == (later, 12, {"a": 2})
