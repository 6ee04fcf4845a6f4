from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.queue.pool import SourcePool


def anything(name: str) -> bool:
    return True


def test_choices_are_spread_smoothly():
    pool = SourcePool({"a": 5, "b": 1, "c": 1})

    assert [pool.choose(anything) for _ in range(7)] == list("aabacaa")


def test_a_source_of_weight_zero_is_never_chosen():
    pool = SourcePool({"a": 0, "b": 1})

    assert {pool.choose(anything) for _ in range(5)} == {"b"}
    assert pool.sources == ("b",)


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 1}])
def test_nothing_is_chosen_where_nothing_is_usable(weights):
    assert SourcePool(weights).choose(lambda name: False) is None


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9), min_size=1))
def test_every_round_meets_the_weights_exactly(weights):
    pool = SourcePool(weights)

    chosen = Counter(pool.choose(anything) for _ in range(sum(weights.values())))

    assert chosen == Counter(weights)


@given(st.lists(st.sets(st.sampled_from("abc"), min_size=1), max_size=60))
def test_only_usable_sources_are_chosen_and_none_saves_up_a_burst(usable_sets):
    pool = SourcePool({"a": 3, "b": 2, "c": 1})
    for usable in usable_sets:
        assert pool.choose(usable.__contains__) in usable

    later = Counter(pool.choose(anything) for _ in range(60))

    for name, share in {"a": 30, "b": 20, "c": 10}.items():
        assert abs(later[name] - share) <= 3
