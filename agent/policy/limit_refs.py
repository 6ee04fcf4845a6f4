"""
Limit references: which limits of an answer the fleet keeps together. Pure.

A kind that this agent does not know belongs to an option that it does not know either.
"""

from agent.limits.limit import FleetLimit, Kind, LimitPath, OnUnreachable
from penstock.v1 import limit_pb2 as pb
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse

_KINDS = {
    pb.LIMIT_KIND_CONNECTIONS: Kind.CONNECTIONS,
    pb.LIMIT_KIND_CONNECTION_RATE: Kind.CONNECTION_RATE,
    pb.LIMIT_KIND_MESSAGE_RATE: Kind.MESSAGE_RATE,
    pb.LIMIT_KIND_SELECTION_RATE: Kind.SELECTION_RATE,
}
#: Whatever else a server may say: the limit holds.
_ON_UNREACHABLE = {
    pb.ON_UNREACHABLE_STATIC: OnUnreachable.STATIC,
    pb.ON_UNREACHABLE_LOCAL: OnUnreachable.LOCAL,
}


def fleet_limits_of(
    response: GetEgressPathConfigResponse, path: LimitPath
) -> tuple[FleetLimit, ...]:
    """The limits of *path*'s answer that are lent; those that name no key are the agent's own."""
    return tuple(
        _limit_of(ref, path)
        for ref in response.limit_refs
        if ref.sharing == pb.LIMIT_SHARING_FLEET and ref.kind in _KINDS and ref.key
    )


def why_unusable(ref: pb.LimitRef) -> str:
    """Say why a reference can't be applied; empty if it can."""
    if ref.sharing != pb.LIMIT_SHARING_FLEET or ref.kind not in _KINDS:
        return ""
    if not ref.key:
        return f"limit_refs: {ref.option} {ref.name} has no key"
    is_rate = ref.kind != pb.LIMIT_KIND_CONNECTIONS
    if not ref.limit or is_rate != bool(_period_ns(ref)) or is_rate != bool(ref.burst):
        return f"limit_refs: {ref.key} is no limit: a count, and of a rate its period and burst"
    return ""


def _limit_of(ref: pb.LimitRef, path: LimitPath) -> FleetLimit:
    return FleetLimit(
        key=ref.key,
        kind=_KINDS[ref.kind],
        option=ref.option,
        name=ref.name,
        limit=ref.limit,
        period_ns=_period_ns(ref),
        burst=ref.burst,
        on_unreachable=_ON_UNREACHABLE.get(ref.on_unreachable, OnUnreachable.STOP),
        static_units=ref.static_units,
        path=path,
    )


def _period_ns(ref: pb.LimitRef) -> int:
    return ref.period.seconds * 1_000_000_000 + ref.period.nanos
