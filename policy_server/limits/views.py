"""
Views: limits and who has them, to be looked at.
"""

from dataclasses import dataclass

from policy_server.limits.book import LeaseBook
from policy_server.limits.spec import LimitSpec
from policy_server.limits.state import Limit, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderView:
    """One agent that has or wants units; spans are in nanoseconds, None where there are none."""

    agent: str
    units: int
    booked: int
    floor: int
    in_use: int
    wants: int
    held_for: int | None
    waiting_for: int | None
    silent_for: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """One limit."""

    key: str
    spec: LimitSpec
    #: Units that may be in use.
    booked: int
    in_use: int
    wanted: int
    #: Agents that have none and want some.
    waiting: int
    holder_count: int
    #: What a predecessor may have promised to agents that have not spoken yet.
    unclaimed: int
    #: Those with most units first; only where they were asked for.
    holders: tuple[HolderView, ...] = ()


def view_limit(book: LeaseBook, key: str, now: int, *, most_holders: int = 0) -> LimitView | None:
    """View a limit and up to *most_holders* of its holders; None if it is not lent."""
    limit = book.limit(key)
    if limit is None:
        return None
    shares = limit.shares.values()
    return LimitView(
        key=key,
        spec=limit.spec,
        booked=limit.out,
        in_use=sum(share.in_use for share in shares),
        wanted=sum(share.wants for share in shares),
        waiting=sum(_is_waiting(share) for share in shares),
        holder_count=len(limit.shares),
        unclaimed=limit.unclaimed + sum(share.occupied for share in shares if share.is_restored),
        holders=_view_holders(book, limit, now, most_holders),
    )


def _is_waiting(share: Share) -> bool:
    return share.wants > share.granted == 0


def _view_holders(book: LeaseBook, limit: Limit, now: int, most: int) -> tuple[HolderView, ...]:
    order = sorted(limit.shares, key=lambda agent: (-limit.shares[agent].occupied, agent))
    return tuple(_view_holder(book, agent, limit.shares[agent], now) for agent in order[:most])


def _view_holder(book: LeaseBook, agent: str, share: Share, now: int) -> HolderView:
    session = book.session(agent)
    has_spoken = session is not None and session.speaks_until > 0
    return HolderView(
        agent=agent,
        units=share.granted,
        booked=share.booked,
        floor=share.floor,
        in_use=share.in_use,
        wants=share.wants,
        held_for=max(0, now - share.held_since) if share.granted else None,
        waiting_for=max(0, now - share.waiting_since) if _is_waiting(share) else None,
        silent_for=max(0, now - session.heard_at) if session and has_spoken else None,
    )
