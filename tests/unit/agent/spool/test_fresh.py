"""Fresh messages: handed out once, as they were stored, within a bound."""

from hypothesis import given
from hypothesis import strategies as st

from agent.queue.entry import Entry
from agent.spool.fresh import FreshMessages
from agent.spool.messages import Destination, NewMessage

_RECIPIENTS = (("a@x.example", "b@x.example"), ("c@y.example",))


def _message(number, size=10, destinations=1):
    return NewMessage(
        id=f"m{number}",
        sender="s@sender.example",
        destinations=tuple(
            Destination(queue_name=f"q{place}", recipients=_RECIPIENTS[place])
            for place in range(destinations)
        ),
        body=b"x" * size,
        created=1.0,
        tenant="acme",
    )


def _entries(*ids):
    return [Entry(id=number, queue_name="q", created=1.0, due=1.0) for number in ids]


def test_each_destination_is_an_entry_of_its_own_and_handed_out_once():
    fresh = FreshMessages()
    fresh.add([_message(1), _message(2, destinations=2)], _entries(7, 8, 9))

    taken = [fresh.take(number) for number in (7, 8, 9)]

    assert [one.message_id for one in taken] == ["m1", "m2", "m2"]
    assert [one.recipients for one in taken] == [_RECIPIENTS[0], *_RECIPIENTS]
    assert taken[1].tenant == "acme"
    assert [fresh.take(number) for number in (7, 8, 9)] == [None] * 3
    assert fresh.size == 0


def test_a_large_body_drives_out_nothing():
    fresh = FreshMessages(most_bytes=1_000_000)
    fresh.add([_message(1), _message(2, size=500_000)], _entries(1, 2))

    assert fresh.take(2) is None
    assert fresh.take(1) is not None


@given(st.lists(st.tuples(st.integers(0, 20_000), st.booleans()), max_size=60))
def test_memory_is_bounded_and_what_is_kept_is_the_newest(steps):
    fresh = FreshMessages(most_bytes=100_000)
    added = []
    for number, (size, takes) in enumerate(steps):
        fresh.add([_message(number, size=size)], _entries(number))
        added.append(number)
        if takes:
            fresh.take(added.pop())
        assert fresh.size <= 100_000

    kept = [number for number in added if fresh.take(number) is not None]

    # Of those that may be kept at all, an older one is kept only if every newer one is.
    fit = [number for number in added if steps[number][0] <= 100_000 // 64]
    assert kept == fit[len(fit) - len(kept) :]
    assert fresh.size == 0
