"""
What has to be durable before grants are sent, so that a server that comes back after a crash knows
of no less than is out.

1. No agent has more of a limit than its holding says, and none has a floor of which it says less.
2. Holdings are written once one of them says too little, or its floor or agent has changed. Then
   all of the limit are brought up to date: so they never come to more than is out.
3. A limit of which nothing is durable has nothing out, and its units are full: a rate that was
   used goes on to be remembered until what was used has been earned again.
4. So do events that are owed of units which a limit has no more. That they become less is not
   written down each time.
"""

from policy_server.limits.messages import NOTHING_HELD, Holding, Promise
from policy_server.limits.state import Limit, Share


def take_promise(key: str, limit: Limit) -> Promise | None:
    """Note what has to be durable for the limit as it is now; None: that is so already."""
    spec = None if limit.is_idle else limit.spec
    owed = _owed_to_keep(limit)
    durable = limit.durable_holdings
    outdated = [
        agent
        for agent, share in limit.shares.items()
        if _is_outdated(share, durable.get(agent, NOTHING_HELD))
    ]
    gone = [agent for agent in durable if agent not in limit.shares]
    is_needed = gone or any(
        _says_too_little(durable.get(agent, NOTHING_HELD), limit.shares[agent])
        for agent in outdated
    )
    if not is_needed and (spec, owed) == (limit.durable_spec, limit.durable_owed):
        return None
    changed = {agent: _hold(limit.shares[agent]) for agent in outdated}
    changed |= dict.fromkeys(gone, NOTHING_HELD)
    for agent, holding in changed.items():
        if holding is NOTHING_HELD:
            durable.pop(agent, None)
        else:
            durable[agent] = holding
    limit.durable_spec, limit.durable_owed = spec, owed
    return Promise(
        key=key,
        spec=limit.spec,
        ceiling=max(limit.out, limit.spec.units),
        owed=owed,
        holdings=tuple((agent, changed[agent]) for agent in sorted(changed)),
        is_whole=not limit.unclaimed,
        is_over=spec is None,
    )


def _owed_to_keep(limit: Limit) -> int:
    """Events that are to be durable as owed."""
    if not limit.owed:
        return 0
    events = -(-limit.owed // limit.spec.event_parts)
    return max(events, limit.durable_owed)


def _is_outdated(share: Share, holding: Holding) -> bool:
    return (
        holding.units != share.booked
        or holding.floor != share.floor
        or (holding.incarnation != share.incarnation and share.occupied > 0)
    )


def _says_too_little(holding: Holding, share: Share) -> bool:
    return (
        share.booked > holding.units
        or share.floor != holding.floor
        or (holding.incarnation != share.incarnation and share.occupied > 0)
    )


def _hold(share: Share) -> Holding:
    if not share.occupied:
        return NOTHING_HELD
    return Holding(units=share.booked, floor=share.floor, incarnation=share.incarnation)
