"""
Conversions between what goes over the wire about limits and what the lease book decides with.

It is pure. On the wire events go in billionths, rounded down: what is lost so is never passed
twice.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from penstock.v1 import limit_service_pb2 as pb
from policy_server.answering.limit_refs import kind_of
from policy_server.conversions.holders import Holder
from policy_server.errors import InvalidRequest
from policy_server.lending.port import Taken
from policy_server.limits.messages import Demand, Grant
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.limits.views import HolderView, LimitView
from policy_server.rules.issues import and_more

#: Most demands of one report, and most paths of one demand.
MOST_DEMANDS = 1000
MOST_PATHS = 100
MAX_KEY_BYTES = 8192
#: More units than any limit has.
_MOST_UNITS = 1 << 40
_MOST_WEIGHT = 1_000_000
_NANO = 1_000_000_000
#: What a worker and a host may be named.
_NAME = re.compile(r"[A-Za-z0-9._-]{0,64}")


def check_report(report: pb.LimitReport) -> None:
    """Check what holds for every report. Errors: `InvalidRequest` with every violation."""
    found = _find_bad_names(report)
    if not report.incarnation:
        found.append(("incarnation", "must be at least 1"))
    if not report.sequence:
        found.append(("sequence", "must be at least 1"))
    if len(report.demands) > MOST_DEMANDS:
        found.append(("demands", f"must be at most {MOST_DEMANDS}, not {len(report.demands)}"))
    for index, demand in enumerate(report.demands):
        if len(demand.key) > MAX_KEY_BYTES:
            found.append((f"demands[{index}].key", f"must have at most {MAX_KEY_BYTES} bytes"))
        if len(demand.paths) > MOST_PATHS:
            found.append((f"demands[{index}].paths", f"must be at most {MOST_PATHS}"))
    if found:
        raise invalid_report(found)


def check_names(request: pb.ReleaseSessionRequest) -> None:
    """Check whose leases are to end. Errors: `InvalidRequest` with every violation."""
    if found := _find_bad_names(request):
        field, text = found[0]
        raise InvalidRequest(f"{field} {text}", field=field, violations=found)


def _find_bad_names(
    message: pb.LimitReport | pb.ReleaseSessionRequest,
) -> list[tuple[str, str]]:
    text = "must have at most 64 letters, digits, '.', '_' and '-'"
    names = {"worker": message.worker, "host": message.host}
    return [(field, text) for field, name in names.items() if not _NAME.fullmatch(name)]


def invalid_report(found: list[tuple[str, str]]) -> InvalidRequest:
    """Make the error of a report that has mistakes."""
    named = [(f"report.{field}", text) for field, text in found]
    field, text = named[0]
    message = f"{field} {text}{and_more(len(named) - 1)}"
    return InvalidRequest(message, field=field, violations=named)


def read_demand(message: pb.LimitDemand, key: str, spec: LimitSpec | None) -> Demand:
    """Read what a worker says of one limit; without *spec* the events that go back are lost."""
    parts = spec.event_parts if spec is not None else 0
    returned = min(message.returned_nano_events, _MOST_UNITS * _NANO)
    claim = message.claim
    return Demand(
        key=key,
        wants=min(message.wants, _MOST_UNITS),
        enforced=min(message.enforced, _MOST_UNITS),
        version=message.version,
        weight=min(message.weight or 1, _MOST_WEIGHT),
        returned=returned * parts // _NANO,
        in_use=min(message.in_use, _MOST_UNITS),
        granted=min(claim.units, _MOST_UNITS),
        floor=min(claim.floor, _MOST_UNITS),
        proof=claim.proof,
    )


def to_answer(
    taken: Taken, incarnation: int, handles: Mapping[str, int], *, unknown: Iterable[str] = ()
) -> pb.LimitAnswer:
    """Write what a worker is told; *handles* are those of its stream, by key."""
    return pb.LimitAnswer(
        epoch=taken.epoch,
        incarnation=incarnation,
        sequence=taken.sequence,
        grants=[_to_grant(grant, handles.get(grant.key, 0)) for grant in taken.grants],
        recovering=taken.is_recovering,
        unknown=unknown,
    )


def to_terms(timing: LeaseTiming) -> pb.LeaseTerms:
    """Write for how long leases hold."""
    return pb.LeaseTerms(
        session_ttl=_to_duration(timing.session),
        drain_time=_to_duration(timing.drain),
        floor_ttl=_to_duration(timing.floor),
        drift=timing.drift,
    )


def to_state(view: LimitView, *, disagreeing: int) -> pb.LimitState:
    """Write a limit as people look at it."""
    earning = view.spec.earning
    return pb.LimitState(
        key=view.key,
        kind=kind_of(view.key),
        limit=view.spec.units if earning is None else earning.count,
        period=None if earning is None else _to_duration(earning.period_ns),
        units=view.spec.units,
        booked=view.booked,
        in_use=view.in_use,
        wanted=view.wanted,
        waiting=view.waiting,
        holder_count=view.holder_count,
        unclaimed=view.unclaimed,
        disagreeing=disagreeing,
        holders=map(_to_holder, view.holders),
    )


def to_duration(span: timedelta) -> Duration:
    """Write a span."""
    message = Duration()
    message.FromTimedelta(span)
    return message


def _to_grant(grant: Grant, handle: int) -> pb.LimitGrant:
    spec, earning = grant.spec, grant.spec.earning
    message = pb.LimitGrant(
        handle=handle,
        key="" if handle else grant.key,
        version=grant.version,
        units=grant.units,
        floor=grant.floor,
        limit=spec.units,
        proof=grant.proof,
    )
    if earning is not None:
        message.fill_nano_events = grant.fill * _NANO // spec.event_parts
        message.rate_count = earning.count
        message.rate_period.CopyFrom(_to_duration(earning.period_ns))
    return message


def _to_holder(view: HolderView) -> pb.LimitHolder:
    holder = Holder.parse(view.agent)
    return pb.LimitHolder(
        **holder._asdict(),
        units=view.units,
        booked=view.booked,
        floor=view.floor,
        in_use=view.in_use,
        wants=view.wants,
        held_for=_to_span(view.held_for),
        waiting_for=_to_span(view.waiting_for),
        silent_for=_to_span(view.silent_for),
    )


def _to_span(nanoseconds: int | None) -> Duration | None:
    return None if nanoseconds is None else _to_duration(nanoseconds)


def _to_duration(nanoseconds: int) -> Duration:
    return Duration(seconds=nanoseconds // _NANO, nanos=nanoseconds % _NANO)
