"""Which paths name which limits."""

from hypothesis import given
from hypothesis import strategies as st

from policy_server.limits.naming import NamedLimits
from policy_server.limits.spec import Earning, LimitSpec

SECOND = 1_000_000_000


def rate(count: int, seconds: int, burst: int) -> LimitSpec:
    return LimitSpec(units=burst, earning=Earning(count=count, period_ns=seconds * SECOND))


def test_the_smallest_of_several_values_holds() -> None:
    names = NamedLimits()
    names.name("a", "path 1", {"k": LimitSpec(units=10)})
    names.name("b", "path 2", {"k": LimitSpec(units=4)})

    assert names.spec("k") == LimitSpec(units=4)
    assert names.disagreeing("k") == 1


def test_of_rates_the_slowest_and_the_smallest_burst_hold() -> None:
    names = NamedLimits()
    names.name("a", "path 1", {"k": rate(100, 1, 100)})
    names.name("a", "path 2", {"k": rate(600, 60, 600)})

    assert names.spec("k") == rate(600, 60, 100)


def test_a_changed_answer_says_which_limits_changed() -> None:
    names = NamedLimits()
    names.name("a", "path", {"k": LimitSpec(units=10), "other": LimitSpec(units=1)})

    changed = names.update("path", {"k": LimitSpec(units=5), "other": LimitSpec(units=1)})

    assert changed == {"k": LimitSpec(units=5)}
    assert names.update("path", {"k": LimitSpec(units=5)}) == {}
    assert names.spec("other") is None


def test_a_path_counts_until_all_who_named_it_are_gone() -> None:
    names = NamedLimits()
    for namer in "ab":
        names.name(namer, "path", {"k": LimitSpec(units=2)})
    names.name("b", "other", {"k": LimitSpec(units=9)})

    names.forget("a")
    assert names.spec("k") == LimitSpec(units=2)
    names.forget("b")
    names.forget("b")

    assert names.spec("k") is None
    assert names.paths() == []
    assert names.update("path", {"k": LimitSpec(units=3)}) == {}


def test_the_path_that_was_not_named_for_longest_is_forgotten_first() -> None:
    names = NamedLimits()
    for path in ("first", "second", "third"):
        names.name("a", path, {path: LimitSpec(units=1)})
    names.name("b", "second", {"second": LimitSpec(units=1)})
    assert names.name_again("a", "first")
    assert not names.name_again("b", "first")

    names.forget_oldest("a")
    assert names.has_named("a") == 2
    assert names.spec("second") is not None, "somebody else names it too"
    names.forget_oldest("a")

    assert names.paths() == ["first", "second"]
    assert names.spec("third") is None


_SPECS = st.builds(
    LimitSpec,
    units=st.integers(1, 5),
    earning=st.none() | st.builds(Earning, count=st.integers(1, 5), period_ns=st.integers(1, 5)),
)
_STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["p", "q", "r"]),
        st.dictionaries(st.sampled_from(["k", "l"]), _SPECS) | st.sampled_from(["all", "oldest"]),
    )
)


@given(_STEPS)
def test_what_holds_is_within_every_value_named(steps) -> None:
    names = NamedLimits()
    named: dict[str, list[str]] = {"a": [], "b": []}
    answers: dict[str, dict[str, LimitSpec]] = {}
    for namer, path, specs in steps:
        if specs == "all":
            names.forget(namer)
            named[namer] = []
        elif specs == "oldest":
            if named[namer]:
                names.forget_oldest(namer)
            del named[namer][:1]
        else:
            names.name(namer, path, specs)
            named[namer] = [one for one in named[namer] if one != path] + [path]
            answers[path] = specs
        present = {*named["a"], *named["b"]}
        assert set(names.paths()) == present
        for key in "kl":
            values = [answers[one][key] for one in present if key in answers[one]]
            held = names.spec(key)
            assert (held is None) == (not values)
            for value in values:
                assert held is not None
                assert held.units <= value.units
                if value.earning is not None:
                    assert held.earning is not None
                    assert (
                        held.earning.count * value.earning.period_ns
                        <= value.earning.count * held.earning.period_ns
                    )
