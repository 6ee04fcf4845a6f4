"""
Convert: from the agent's records to what the policy server is told, and back.

The only module that knows both. Pure.
"""

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from agent.delivery.record import Record, RecordType, Response
from agent.outcomes.outcome_filter import FilterPattern, OutcomeFilter
from penstock.v1 import feedback_service_pb2
from penstock.v1 import outcome_pb2 as pb

#: Most characters of a reply that are reported; patterns look at its beginning.
LONGEST_CONTENT = 2048

_TYPES = {
    RecordType.DELIVERY: pb.OUTCOME_TYPE_DELIVERY,
    RecordType.TRANSIENT_FAILURE: pb.OUTCOME_TYPE_TRANSIENT_FAILURE,
    RecordType.BOUNCE: pb.OUTCOME_TYPE_BOUNCE,
    RecordType.EXPIRATION: pb.OUTCOME_TYPE_EXPIRATION,
    RecordType.ADMIN_BOUNCE: pb.OUTCOME_TYPE_ADMIN_BOUNCE,
}
_NANOS = 1_000_000_000


def outcome_of(record: Record) -> pb.DeliveryOutcome:
    """
    Convert a record of a reported type. Recipients stay behind: only their domain is told.

    Errors: `ValueError` for a record that no server could take.
    """
    if record.type not in _TYPES:
        raise ValueError(f"{record.type} records are not reported")
    domain = record.recipient_domain or _domain_of(record.recipients)
    if not record.event_id or not domain:
        raise ValueError("a reported record needs an event_id and a recipient domain")
    return pb.DeliveryOutcome(
        event_id=record.event_id,
        event_time=timestamp(record.timestamp),
        type=_TYPES[record.type],
        recipient_domain=domain,
        routing_domain=record.routing_domain,
        site_name=record.site_name,
        path_name=record.site,
        egress_source=record.egress_source,
        egress_pool=record.egress_pool,
        tenant=_text(record.tenant),
        campaign=_text(record.campaign),
        response=response_message(record.response),
        internal=record.response.internal,
        num_attempts=record.num_attempts,
        provider_name=record.provider_name,
    )


def response_of(outcome: pb.DeliveryOutcome) -> Response:
    """Convert the reply back, as the rules of the server see it."""
    reply = outcome.response
    code = reply.enhanced_code
    has_code = reply.HasField("enhanced_code")
    return Response(
        code=reply.code,
        enhanced_code=(getattr(code, "class"), code.subject, code.detail) if has_code else None,
        content=reply.content,
        command=reply.command,
        internal=outcome.internal,
    )


def filter_of(message: feedback_service_pb2.OutcomeFilter) -> OutcomeFilter:
    """Read which outcomes could match a rule."""
    return OutcomeFilter(
        etag=message.etag,
        patterns=tuple(
            FilterPattern(
                regex=pattern.regex,
                match_internal=pattern.match_internal,
                is_backtracking=pattern.is_backtracking,
            )
            for pattern in message.patterns
        ),
        send_all=message.send_all,
    )


def skipped_of(counts: Mapping[RecordType, int]) -> list[feedback_service_pb2.SkippedOutcomes]:
    """Write how many outcomes were left out."""
    return [
        feedback_service_pb2.SkippedOutcomes(type=_TYPES[kind], count=count)
        for kind, count in counts.items()
        if kind in _TYPES
    ]


def response_message(response: Response) -> pb.SmtpResponse:
    """Write a reply; long ones are cut."""
    reply = pb.SmtpResponse(
        code=response.code,
        content=_text(response.content[:LONGEST_CONTENT]),
        command=_text(response.command[:LONGEST_CONTENT]),
    )
    if response.enhanced_code is not None:
        number, subject, detail = response.enhanced_code
        reply.enhanced_code.CopyFrom(
            pb.EnhancedStatusCode(**{"class": number, "subject": subject, "detail": detail})
        )
    return reply


def timestamp(seconds: float) -> Timestamp:
    """Write a time, in seconds since the epoch."""
    whole = int(seconds // 1)
    return Timestamp(seconds=whole, nanos=min(int((seconds - whole) * _NANOS), _NANOS - 1))


def _domain_of(recipients: tuple[str, ...]) -> str:
    return recipients[0].rpartition("@")[2].lower() if recipients else ""


def _text(text: str) -> str:
    """Replace what UTF-8 has no form for: a peer may reply with any bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")
