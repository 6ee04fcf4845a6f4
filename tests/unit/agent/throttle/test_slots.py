from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent.throttle.slots import ConnectionSlots


def test_a_full_limit_is_named_and_nothing_is_taken():
    slots = ConnectionSlots()
    assert slots.try_take({"path": 2, "shared": 1}) is None

    assert slots.try_take({"path": 2, "shared": 1}) == "shared"

    assert slots.in_use("path") == 1
    slots.release(["path", "shared"])
    assert slots.in_use("path") == slots.in_use("shared") == 0


def test_a_lowered_limit_opens_nothing_until_enough_have_closed():
    slots = ConnectionSlots()
    for _ in range(3):
        slots.try_take({"path": 3})

    assert slots.try_take({"path": 2}) == "path"
    slots.release(["path"])
    assert slots.try_take({"path": 2}) == "path"
    slots.release(["path"])
    assert slots.try_take({"path": 2}) is None


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 4), min_size=1), max_size=40)
)
def test_no_limit_is_ever_exceeded(wanted):
    slots = ConnectionSlots()
    held: Counter[str] = Counter()

    for limits in wanted:
        full = slots.try_take(limits)
        if full is None:
            held.update(limits.keys())
            assert all(held[name] <= most for name, most in limits.items())
        else:
            assert held[full] >= limits[full]
        assert all(slots.in_use(name) == held[name] for name in "abc")
