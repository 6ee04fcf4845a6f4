"""
Shares: who is to have how much of a limit.

Weighted max-min fairness in whole units: everybody gets what they want as far as that is no more
than their fair part of what is left; what they leave goes to the others by weight. Units that do
not divide go one each, first to those who are not to be disturbed yet, then to those who have
waited longest. What nobody wants is headroom, so that a rise in demand costs no round trip.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: Headroom: a fifth of what is wanted, and at least one unit.
_HEADROOM_PART = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """One who wants units."""

    name: str
    wants: int
    weight: int = 1
    #: Has units that are not to be taken for the sake of others yet.
    is_protected: bool = False
    #: Since when it has waited, in nanoseconds; the lower the sooner it is its turn.
    waiting_since: int = 0


def divide(units: int, claimants: Sequence[Claimant]) -> dict[str, int]:
    """
    Divide *units*; return what each is to have, by name.

    >>> def want(name, wants): return Claimant(name=name, wants=wants)
    >>> divide(10, [want("a", 2), want("b", 9), want("c", 9)])
    {'a': 2, 'b': 4, 'c': 4}
    >>> divide(100, [want("a", 10), want("b", 1)])
    {'a': 12, 'b': 2}
    """
    wanted = sum(claimant.wants for claimant in claimants)
    if wanted <= units:
        return _with_headroom(units - wanted, claimants)
    return _fair(units, claimants)


def _with_headroom(surplus: int, claimants: Sequence[Claimant]) -> dict[str, int]:
    extra = {
        claimant.name: max(1, claimant.wants // _HEADROOM_PART)
        for claimant in claimants
        if claimant.wants
    }
    if sum(extra.values()) > surplus:
        headless = [
            Claimant(
                name=claimant.name,
                wants=extra[claimant.name],
                weight=claimant.weight,
                waiting_since=claimant.waiting_since,
            )
            for claimant in claimants
            if claimant.wants
        ]
        extra = _fair(surplus, headless)
    return {claimant.name: claimant.wants + extra.get(claimant.name, 0) for claimant in claimants}


def _fair(units: int, claimants: Sequence[Claimant]) -> dict[str, int]:
    given: dict[str, int] = {}
    left = units
    weight = sum(claimant.weight for claimant in claimants)
    # Who wants least for their weight is satisfied first; from the first who can't be, nobody is.
    ordered = sorted(claimants, key=lambda one: (one.wants / one.weight, one.name))
    for place, claimant in enumerate(ordered):
        if claimant.wants * weight > left * claimant.weight:
            given |= _split(left, weight, ordered[place:])
            break
        given[claimant.name] = claimant.wants
        left -= claimant.wants
        weight -= claimant.weight
    return {claimant.name: given[claimant.name] for claimant in claimants}


def _split(units: int, weight: int, claimants: Sequence[Claimant]) -> dict[str, int]:
    """Split by weight among those who all want more than their part."""
    given = {one.name: units * one.weight // weight for one in claimants}
    rest = units - sum(given.values())
    turns = sorted(claimants, key=lambda one: (not one.is_protected, one.waiting_since, one.name))
    for claimant in turns:
        if not rest:
            break
        if given[claimant.name] < claimant.wants:
            given[claimant.name] += 1
            rest -= 1
    return given
