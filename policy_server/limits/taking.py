"""
Taking: what an agent says of one limit, and what the book goes by from then on.
"""

from collections.abc import Callable

from policy_server.limits.messages import Demand
from policy_server.limits.state import Limit, Share


def take_demand(
    limit: Limit,
    share: Share,
    demand: Demand,
    is_proven: Callable[[], bool],
    next_version: Callable[[], int],
) -> None:
    """
    Take in what the agent of *share* says. *is_proven* tells whether a grant as the demand claims
    it was made for this agent, by whichever server; *next_version* makes a version.
    """
    share.weight = max(1, demand.weight)
    share.wants = max(0, min(demand.wants, limit.spec.units))
    share.in_use = demand.in_use
    if share.is_restored:
        _take_over(limit, share, demand, is_proven, next_version)
        return
    if demand.enforced > share.booked:
        _take_claim(limit, share, demand, is_proven, next_version)
    elif demand.version == share.version:
        _lower(limit, share, demand)
    share.is_behind = demand.version < share.version


def _take_over(
    limit: Limit,
    share: Share,
    demand: Demand,
    is_proven: Callable[[], bool],
    next_version: Callable[[], int],
) -> None:
    """An agent says for the first time what it has of what a predecessor lent it."""
    share.granted = max(0, min(demand.enforced, share.booked))
    if demand.enforced > share.booked:
        _take_claim(limit, share, demand, is_proven, next_version)
    # More may be under way to it from the predecessor. Once it names this version, nothing is; and
    # it may not have heard what the limit is now.
    share.is_restored, share.version, share.is_behind = False, next_version(), True


def _take_claim(
    limit: Limit,
    share: Share,
    demand: Demand,
    is_proven: Callable[[], bool],
    next_version: Callable[[], int],
) -> None:
    """An agent has more than we know of."""
    has_confirmed = 0 < share.version == demand.version
    if not has_confirmed and not limit.unclaimed:
        # It was lent no more, so this was said before it gave something back, or it took what
        # nobody lent it. If it says so once it has confirmed a grant of ours, it has.
        share.version = share.version or next_version()
        return
    grown = limit.book(share, booked=demand.enforced)
    if demand.version >= share.version and is_proven():
        share.version, share.fill = demand.version, 0
        share.granted = min(demand.granted, demand.enforced)
    # Whose claim shows nothing is told what it has.
    share.version = share.version or next_version()
    limit.unclaimed = max(0, limit.unclaimed - max(0, grown))


def _lower(limit: Limit, share: Share, demand: Demand) -> None:
    booked = max(0, demand.enforced)
    share.granted = min(share.granted, booked)
    freed = -limit.book(share, booked=booked, floor=share.floor_granted)
    if limit.spec.is_rate and freed > 0:
        limit.add_events(max(0, min(demand.returned, freed * limit.spec.event_parts)))
