"""
Limits of the shared book and who has them, to be looked at. Pure: reads what the script answers.
"""

from collections.abc import Sequence
from typing import Any

from policy_server.limits.views import HolderView, LimitView
from policy_server.shared_book.calls import Reply, spec_from


def read_limit_views(reply: Reply) -> list[LimitView]:
    """Read limits without their holders."""
    return [_read_limit(facts) for facts in reply[1]]


def read_limit_view(reply: Reply) -> tuple[LimitView, ...]:
    """Read one limit with its holders; empty if it is not lent."""
    if len(reply) == 1:
        return ()
    return (_read_limit(reply[1], [_read_holder(facts) for facts in reply[2]]),)


def _read_limit(facts: Sequence[Any], holders: Sequence[HolderView] = ()) -> LimitView:
    key, units, count, period, booked, in_use, wanted, waiting, holder_count, unclaimed = facts
    return LimitView(
        key=key.decode(),
        spec=spec_from(units, count, period),
        booked=booked,
        in_use=in_use,
        wanted=wanted,
        waiting=waiting,
        holder_count=holder_count,
        unclaimed=unclaimed,
        holders=tuple(holders),
    )


def _read_holder(facts: Sequence[Any]) -> HolderView:
    agent, units, booked, floor, in_use, wants, *spans = facts
    held_for, waiting_for, silent_for = (span * 1000 if span >= 0 else None for span in spans)
    return HolderView(
        agent=agent.decode(),
        units=units,
        booked=booked,
        floor=floor,
        in_use=in_use,
        wants=wants,
        held_for=held_for,
        waiting_for=waiting_for,
        silent_for=silent_for,
    )
