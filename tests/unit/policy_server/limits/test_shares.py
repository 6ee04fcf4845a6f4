"""Who is to have how much."""

from hypothesis import given
from hypothesis import strategies as st

from policy_server.limits.shares import Claimant, divide

_claimants = st.lists(
    st.builds(
        Claimant,
        name=st.uuids().map(str),
        wants=st.integers(0, 50),
        weight=st.integers(1, 4),
        is_protected=st.booleans(),
        waiting_since=st.integers(0, 5),
    ),
    max_size=12,
    unique_by=lambda claimant: claimant.name,
)


@given(units=st.integers(0, 200), claimants=_claimants)
def test_no_more_than_there_is_and_none_of_it_in_vain(units: int, claimants) -> None:
    given_units = divide(units, claimants)

    wanted = sum(claimant.wants for claimant in claimants)
    assert given_units.keys() == {claimant.name for claimant in claimants}
    assert all(part >= 0 for part in given_units.values())
    assert sum(given_units.values()) <= units
    if wanted >= units:
        assert sum(given_units.values()) == units
    else:
        assert all(given_units[one.name] >= one.wants for one in claimants)
        assert all(given_units[one.name] == 0 for one in claimants if not one.wants)


@given(units=st.integers(0, 200), claimants=_claimants)
def test_nobody_lacks_for_the_sake_of_one_who_has_more_for_their_weight(units, claimants) -> None:
    """Max-min fairness, within the unit that does not divide."""
    given_units = divide(units, claimants)

    lacking = [one for one in claimants if given_units[one.name] < one.wants]
    for poor in lacking:
        for rich in claimants:
            if given_units[rich.name]:
                have = (given_units[rich.name] - 1) / rich.weight
                assert have <= (given_units[poor.name] + 1) / poor.weight


def test_a_unit_that_does_not_divide_goes_to_who_has_it_then_to_who_waited_longest() -> None:
    def want(name: str, since: int, *, is_protected: bool = False) -> Claimant:
        return Claimant(name=name, wants=1, waiting_since=since, is_protected=is_protected)

    claimants = [want("a", 9), want("b", 3), want("c", 5, is_protected=True)]

    assert divide(1, claimants) == {"a": 0, "b": 0, "c": 1}
    assert divide(2, claimants) == {"a": 0, "b": 1, "c": 1}
