"""
What has to be durable before grants are sent, so that a server that comes back after a crash knows
of no less than is out.

1. Never more units are out than the ceiling says, or than the floors come to, whichever is more.
   So a limit that one agent has whole, floor and all, needs no ceiling beside.
2. A ceiling is raised by steps, so that not every grant needs one, and lowered lazily.
3. A limit of which nothing is durable has nothing out, and its units are full: a rate that was
   used goes on to have a ceiling until what was used has been earned again.
"""

from policy_server.limits.messages import Promise
from policy_server.limits.state import Limit

#: A ceiling is raised by this part of a limit, and at least by so many units.
_CEILING_PART, _CEILING_LEAST = 10, 8


def take_promise(key: str, limit: Limit) -> Promise | None:
    """Note what has to be durable for the limit as it is now; None: that is so already."""
    floors = {agent: share.floor for agent, share in limit.shares.items() if share.floor}
    changed = {
        agent: floors.get(agent, 0)
        for agent in floors.keys() | limit.durable_floors.keys()
        if floors.get(agent, 0) != limit.durable_floors.get(agent, 0)
    }
    ceiling = _choose_ceiling(limit, sum(floors.values()))
    spec = limit.spec if floors or ceiling else None
    if not changed and ceiling == limit.ceiling and spec == limit.durable_spec:
        return None
    limit.durable_floors, limit.ceiling, limit.durable_spec = floors, ceiling, spec
    return Promise(
        key=key,
        spec=limit.spec,
        ceiling=ceiling,
        floors=tuple(sorted(changed.items())),
        is_over=spec is None,
    )


def _choose_ceiling(limit: Limit, floors: int) -> int:
    out, present = limit.out, limit.ceiling
    if limit.is_idle:
        return 0
    step = max(_CEILING_LEAST, limit.spec.units // _CEILING_PART)
    roomy = max(out, min(out + step, limit.spec.units))
    if out > max(present, floors) or out + 2 * step < present:
        return roomy
    # Something has to be durable for as long as it is not idle.
    return max(present, 1) if not floors else present
