"""
The deal: who of those that are heard has how much of one limit from now on.

Grants are lowered first, which frees nothing yet, and raised as far as units are free. What lies
idle is left where it is, unless it is much or others need it.
"""

from collections.abc import Mapping

from policy_server.limits.shares import Claimant, divide
from policy_server.limits.state import Limit, Share

#: A grant is lowered without need only if that much of the limit lies idle in it.
_IDLE_PART = 10
#: Floors may take this part of a limit; all of it, where one agent alone has it.
_FLOOR_NUMERATOR, _FLOOR_DENOMINATOR = 1, 2


def deal_out(
    limit: Limit, live: Mapping[str, Share], *, now: int, hold: int
) -> tuple[set[str], dict[str, int]]:
    """
    Change the grants of *live* shares, of which none is taken before it was held for *hold*;
    return whose grants are new, and the events that come with those that grew, in parts.
    """
    elsewhere = limit.unclaimed + sum(
        share.occupied for agent, share in limit.shares.items() if agent not in live
    )
    targets = _divide(limit, live, max(0, limit.spec.units - elsewhere), now, hold)
    changed = _shrink(limit, live, targets, now)
    # Whoever has not heard of it is told that the limit itself has changed.
    changed |= {agent for agent, share in live.items() if limit.is_outdated(share)}
    fills = _grow(limit, live, targets, now)
    changed |= fills.keys()
    _set_floors(limit, live, changed)
    return changed, fills


def _divide(
    limit: Limit, live: Mapping[str, Share], units: int, now: int, hold: int
) -> dict[str, int]:
    if len(live) == len(limit.shares) == 1:
        (agent, share), *_ = live.items()
        return {agent: units if share.wants else 0}
    return divide(
        units,
        [
            Claimant(
                name=agent,
                wants=share.wants,
                weight=share.weight,
                is_protected=share.granted > 0 and now < share.held_since + hold,
                # Who has some takes turns after those who have none.
                waiting_since=now if share.granted else share.waiting_since,
            )
            for agent, share in live.items()
        ],
    )


def _shrink(
    limit: Limit, live: Mapping[str, Share], targets: Mapping[str, int], now: int
) -> set[str]:
    """Lower the grants that others need, or in which much lies idle."""
    wanted = sum(max(0, targets[agent] - share.granted) for agent, share in live.items())
    is_short = wanted > limit.free or limit.out > limit.spec.units
    idle = max(1, limit.spec.units // _IDLE_PART)
    changed = set()
    for agent, share in live.items():
        surplus = share.granted - targets[agent]
        if surplus > 0 and (is_short or surplus > idle or targets[agent] == 0):
            share.granted = targets[agent]
            if not share.granted:
                share.waiting_since = now
            changed.add(agent)
    return changed


def _grow(
    limit: Limit, live: Mapping[str, Share], targets: Mapping[str, int], now: int
) -> dict[str, int]:
    """Raise grants as far as units are free, whoever has waited longest first."""
    fills: dict[str, int] = {}
    turns = sorted(live, key=lambda agent: (live[agent].waiting_since, agent))
    for agent in turns:
        share = live[agent]
        free = limit.free
        # Where more is out than there is, some of it was given back or is not there: whose, is not
        # known yet.
        most = min(targets[agent], share.occupied + limit.spec.units - limit.out)
        if most <= share.granted:
            continue
        if share.granted == 0:
            share.held_since = now
        share.granted = most
        taken = limit.book(share, booked=max(share.booked, most))
        fills[agent] = limit.pool * taken // free if taken else 0
        limit.pool -= fills[agent]
    return fills


def _set_floors(limit: Limit, live: Mapping[str, Share], changed: set[str]) -> None:
    is_alone = len(limit.shares) == 1
    for agent, share in live.items():
        floor = share.granted
        if not is_alone:
            floor = share.granted * _FLOOR_NUMERATOR // _FLOOR_DENOMINATOR
        if agent in changed or share.floor_granted > floor:
            share.floor_granted = floor
            limit.book(share, floor=max(share.floor, floor))
            changed.add(agent)
