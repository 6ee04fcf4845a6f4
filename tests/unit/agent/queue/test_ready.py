from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from agent.queue.entry import Entry
from agent.queue.ready import ReadyQueue


def entry(number: int) -> Entry:
    return Entry(id=number, queue_name="q", created=0.0, due=0.0)


def id_of(item: Entry | None) -> int | None:
    return None if item is None else item.id


def test_the_oldest_goes_first_whatever_the_order_of_arrival():
    queue = ReadyQueue(10)
    for number in (3, 1, 2):
        assert queue.put(entry(number))

    assert id_of(queue.oldest()) == 1
    assert [id_of(queue.pop()) for _ in range(3)] == [1, 2, 3]
    assert queue.pop() is None
    assert queue.oldest() is None


def test_tenants_take_turns_so_that_none_starves_another():
    queue = ReadyQueue(2000)
    for number in range(1000):
        queue.put(entry(number), "large")
    queue.put(entry(1000), "small")
    queue.put(entry(1001), "small")

    assert [id_of(queue.pop()) for _ in range(5)] == [0, 1000, 1, 1001, 2]


def test_a_full_queue_takes_nothing_more_and_a_lowered_bound_drops_nothing():
    queue = ReadyQueue(2)
    assert [queue.put(entry(number)) for number in range(3)] == [True, True, False]

    queue.max_ready = 1

    assert queue.is_full
    assert len(queue) == 2
    assert [item.id for item in queue.drain()] == [0, 1]
    assert len(queue) == 0
    assert queue.put(entry(5))


def test_an_entry_can_be_taken_out_of_its_turn():
    queue = ReadyQueue(5)
    for number, tenant in ((1, "a"), (2, "a"), (3, "b")):
        queue.put(entry(number), tenant)

    assert id_of(queue.remove(3)) == 3
    assert queue.remove(3) is None
    assert id_of(queue.remove(1)) == 1
    assert [item.id for item in queue.drain()] == [2]


@given(
    st.lists(st.none() | st.tuples(st.integers(0, 10**6), st.sampled_from("abc")), max_size=80),
    st.integers(1, 10),
)
def test_it_holds_what_was_put_and_not_popped(steps, most):
    queue = ReadyQueue(most)
    inside: deque[int] = deque()

    for step in steps:
        if step is None:
            popped = queue.pop()
            assert (popped is None) == (not inside)
            if popped is not None:
                inside.remove(popped.id)
        elif step[0] not in inside and queue.put(entry(step[0]), step[1]):
            inside.append(step[0])
        assert len(queue) == len(inside) <= most

    assert [item.id for item in queue.drain()] == sorted(inside)
