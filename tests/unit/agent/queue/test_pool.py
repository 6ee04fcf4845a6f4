import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.queue.pool import SourcePool


def anything(name: str) -> bool:
    return True


def test_choices_are_spread_smoothly():
    pool = SourcePool({"a": 5, "b": 1, "c": 1})

    assert [pool.choose(anything) for _ in range(14)] == list("aaabaac") * 2


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


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=1),
    st.integers(0, 200),
)
def test_every_source_is_near_its_share_at_any_time(weights, count):
    pool = SourcePool(weights)
    chosen = Counter(pool.choose(anything) for _ in range(count))

    for name, weight in weights.items():
        share = weight / sum(weights.values())
        # A source is within a turn of where its weight has it, and all together within one each.
        assert abs(chosen[name] - count * share) <= 1 + len(weights) * share


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), min_size=1),
    st.sets(st.sampled_from("abcdefgh")),
)
def test_usable_sources_share_by_weight_what_the_others_can_not_take(weights, unusable):
    usable = {name: weight for name, weight in weights.items() if name not in unusable}
    pool = SourcePool(weights)

    chosen = Counter(
        pool.choose(lambda name: name not in unusable) for _ in range(sum(usable.values()))
    )

    assert chosen == Counter(usable)


def test_few_sources_are_asked_however_many_there_are():
    names = [f"ip-{number}" for number in range(100)]
    pool, asked = SourcePool(dict.fromkeys(names, 1)), Counter[str]()

    def is_usable(name: str) -> bool:
        asked[name] += 1
        return int(name.removeprefix("ip-")) % 2 == 0

    for _ in range(500):
        pool.choose(is_usable)

    assert asked.total() <= 2 * 500
    assert max(asked.values()) <= 500 / 50


@given(st.sets(st.sampled_from("abcde")), st.sampled_from("abcde"))
def test_a_failure_while_asking_changes_no_turn(unusable, broken):
    pool = SourcePool(dict.fromkeys("abcde", 1))

    def ask(name: str) -> bool:
        if name == broken:
            raise LookupError
        return name not in unusable

    with contextlib.suppress(LookupError):
        while pool.choose(ask) is not None:
            pass

    assert Counter(pool.choose(anything) for _ in range(25)) == Counter(dict.fromkeys("abcde", 5))
