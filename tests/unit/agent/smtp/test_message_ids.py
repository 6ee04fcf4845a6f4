import random

from hypothesis import given
from hypothesis import strategies as st

from agent.smtp.message_ids import MessageIds


@given(st.lists(st.floats(0, 4e9), max_size=100), st.integers())
def test_ids_are_unique_and_sort_in_the_order_they_were_made(times, seed):
    ids = MessageIds(random.Random(seed).getrandbits)

    made = [ids.next(now) for now in times]

    assert made == sorted(set(made))
    assert all(len(id_) == 26 for id_ in made)


def test_two_agents_do_not_make_the_same_id():
    one, other = MessageIds(random.Random(1).getrandbits), MessageIds(random.Random(2).getrandbits)

    assert one.next(1e9) != other.next(1e9)
