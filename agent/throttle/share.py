"""
Share: how the processes of one agent divide a connection limit that all of them want more of.

The theory is max-min fairness in whole connections:

1. A process that holds `held` connections asks for those, and for one more if it waits.
2. Everybody gets what he asks for, as far as an even level reaches. What is left below the next
   level is one connection each for some: first for those that have waited longer than
   `HOLD_SECONDS`, then for those that hold it already, so that a scarce connection goes round but
   not at every message.
3. A process may open a connection if its share has room for it, and closes what is above its share.

A limit that nobody waits for is not divided: whoever comes first may use all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: A connection above the even level stays with its process for so long while others wait for it.
HOLD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What one process holds and wants of a limit."""

    held: int
    #: For how long it has waited for one more, in seconds; None: it does not.
    waited: float | None = None

    @property
    def asked(self) -> int:
        """How many connections it could use now."""
        return self.held + (self.waited is not None)


def fair_shares(claims: Sequence[Claim], most: int) -> list[int]:
    """
    How many of *most* connections each may have.

    >>> fair_shares([Claim(30, 0.0), Claim(1, 0.0), Claim(1)], 32)
    [29, 2, 1]
    """
    level = _level(claims, most)
    shares = [min(claim.asked, level) for claim in claims]
    left = most - sum(shares)
    above = [number for number, claim in enumerate(claims) if claim.asked > level]
    above.sort(key=lambda number: _rank(claims[number], level))
    for number in above[: max(0, left)]:
        shares[number] += 1
    return shares


def may_open(claims: Sequence[Claim], me: int, most: int) -> bool:
    """Whether process *me*, whose claim says that it waits, may open one more now."""
    if sum(claim.held for claim in claims) >= most:
        return False
    if all(claim.waited is None for number, claim in enumerate(claims) if number != me):
        return True
    return fair_shares(claims, most)[me] > claims[me].held


def surplus_of(claims: Sequence[Claim], me: int, most: int) -> int:
    """How many connections process *me* is to close, so that the limit and the shares hold."""
    if sum(claim.asked for claim in claims) <= most:
        return 0
    return max(0, claims[me].held - fair_shares(claims, most)[me])


def _level(claims: Sequence[Claim], most: int) -> int:
    """The highest level up to which everybody can have what he asks for."""
    left, waiting = most, len(claims)
    for asked in sorted(claim.asked for claim in claims):
        if asked * waiting > left:
            return left // waiting
        left -= asked
        waiting -= 1
    return most


def _rank(claim: Claim, level: int) -> tuple[int, float]:
    waited = claim.waited or 0.0
    if claim.held > level:
        return (1, -waited)
    return (0 if waited >= HOLD_SECONDS else 2, -waited)
