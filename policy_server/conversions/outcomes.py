"""
Conversions between reports of outcomes and the outcomes that the server decides with.

Bad messages become violations, all of them at once.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from penstock.v1 import feedback_service_pb2, outcome_pb2
from policy_server.automation.outcome_filter import OutcomeFilter
from policy_server.automation.outcomes import Outcome, OutcomeType, Reply
from policy_server.conversions.times import is_time, to_time, write_time
from policy_server.errors import InvalidRequest
from policy_server.rules.issues import and_more
from policy_server.rules.site import normalise_domain
from policy_server.rules.values import InvalidValueError

#: Longest identifier of an event, in characters.
MAX_EVENT_ID = 255
#: Longest other name; the site name of a large host set is long.
MAX_NAME = 8192
#: The same few domains are in very many outcomes.
_DOMAINS_KEPT = 4096
_NAMES = (
    "recipient_domain",
    "routing_domain",
    "site_name",
    "path_name",
    "egress_source",
    "egress_pool",
    "tenant",
    "campaign",
    "provider_name",
)
_read_names = attrgetter(*_NAMES)
_OUTCOME_TYPES: Mapping[int, OutcomeType] = {
    outcome_pb2.OUTCOME_TYPE_DELIVERY: OutcomeType.DELIVERY,
    outcome_pb2.OUTCOME_TYPE_TRANSIENT_FAILURE: OutcomeType.TRANSIENT_FAILURE,
    outcome_pb2.OUTCOME_TYPE_BOUNCE: OutcomeType.BOUNCE,
    outcome_pb2.OUTCOME_TYPE_EXPIRATION: OutcomeType.EXPIRATION,
    outcome_pb2.OUTCOME_TYPE_ADMIN_BOUNCE: OutcomeType.ADMIN_BOUNCE,
    outcome_pb2.OUTCOME_TYPE_OUT_OF_BAND: OutcomeType.OUT_OF_BAND,
    outcome_pb2.OUTCOME_TYPE_FEEDBACK_REPORT: OutcomeType.FEEDBACK_REPORT,
}
_OUTCOME_NUMBERS = {kind: number for number, kind in _OUTCOME_TYPES.items()}
Violation = tuple[str, str]


def read_outcomes(messages: Sequence[outcome_pb2.DeliveryOutcome]) -> tuple[Outcome, ...]:
    """Read a batch of outcomes. Errors: `InvalidRequest` with every violation of the batch."""
    violations = [
        (f"outcomes[{index}].{field}", text)
        for index, message in enumerate(messages)
        for field, text in find_violations(message)
    ]
    if violations:
        field, text = violations[0]
        message = f"{field} {text}{and_more(len(violations) - 1)}"
        raise InvalidRequest(message, field=field, violations=violations)
    return tuple(map(from_outcome, messages))


def find_violations(message: outcome_pb2.DeliveryOutcome) -> list[Violation]:
    """List what is wrong with one outcome: (field, what it must be)."""
    found: list[Violation] = []
    event_id = message.event_id
    if not 0 < len(event_id) <= MAX_EVENT_ID:
        found.append(("event_id", f"must have 1 to {MAX_EVENT_ID} characters"))
    elif "\x00" in event_id:
        found.append(("event_id", "must not contain NUL"))
    if not message.HasField("event_time"):
        found.append(("event_time", "is required"))
    elif not is_time(message.event_time):
        found.append(("event_time", "must be a time between the years 1 and 9999"))
    if message.type not in _OUTCOME_TYPES:
        found.append(("type", "must be one of the known types"))
    if not message.recipient_domain:
        found.append(("recipient_domain", "is required"))
    # All at once: hardly ever is one of them bad.
    together = "".join(_read_names(message))
    if len(together) > MAX_NAME or "\x00" in together:
        found += _find_bad_names(message)
    return found


def _find_bad_names(message: outcome_pb2.DeliveryOutcome) -> Iterator[Violation]:
    for name, text in zip(_NAMES, _read_names(message), strict=True):
        if len(text) > MAX_NAME:
            yield name, f"must have at most {MAX_NAME} characters"
        elif "\x00" in text:
            # PostgreSQL has no place for it.
            yield name, "must not contain NUL"


def from_outcome(message: outcome_pb2.DeliveryOutcome) -> Outcome:
    """Read an outcome that has no violations."""
    recipient_domain = _read_domain(message.recipient_domain)
    return Outcome(
        event_id=message.event_id,
        event_time=to_time(message.event_time),
        type=_OUTCOME_TYPES[message.type],
        recipient_domain=recipient_domain,
        routing_domain=_read_domain(message.routing_domain) or recipient_domain,
        site_name=message.site_name,
        path_name=message.path_name,
        egress_source=message.egress_source,
        egress_pool=message.egress_pool,
        tenant=message.tenant,
        campaign=message.campaign,
        reply=_read_reply(message.response),
        internal=message.internal,
        num_attempts=message.num_attempts,
        provider_name=message.provider_name,
    )


def to_outcome(outcome: Outcome) -> outcome_pb2.DeliveryOutcome:
    """Write an outcome as agents report it."""
    reply = outcome.reply
    message = outcome_pb2.DeliveryOutcome(
        event_id=outcome.event_id,
        event_time=write_time(outcome.event_time),
        type=_OUTCOME_NUMBERS[outcome.type],  # type: ignore[arg-type]  # an enum's number
        recipient_domain=outcome.recipient_domain,
        routing_domain=outcome.routing_domain,
        site_name=outcome.site_name,
        path_name=outcome.path_name,
        egress_source=outcome.egress_source,
        egress_pool=outcome.egress_pool,
        tenant=outcome.tenant,
        campaign=outcome.campaign,
        response=outcome_pb2.SmtpResponse(
            code=reply.code, content=reply.content, command=reply.command
        ),
        internal=outcome.internal,
        num_attempts=outcome.num_attempts,
        provider_name=outcome.provider_name,
    )
    if reply.enhanced_code is not None:
        code = message.response.enhanced_code
        # "class" is a word of Python.
        for name, number in zip(("class", "subject", "detail"), reply.enhanced_code, strict=True):
            setattr(code, name, number)
        code.SetInParent()
    return message


def read_skipped(messages: Iterable[feedback_service_pb2.SkippedOutcomes]) -> Counter[str]:
    """Read how many outcomes of each known type were left out."""
    counts: Counter[str] = Counter()
    for message in messages:
        kind = _OUTCOME_TYPES.get(message.type)
        if kind is not None:
            counts[kind.value] += message.count
    return counts


def to_filter(outcome_filter: OutcomeFilter) -> feedback_service_pb2.OutcomeFilter:
    """Write a filter as agents are told it."""
    return feedback_service_pb2.OutcomeFilter(
        etag=outcome_filter.etag,
        patterns=[
            feedback_service_pb2.OutcomePattern(
                regex=pattern.regex,
                match_internal=pattern.match_internal,
                is_backtracking=pattern.is_backtracking,
            )
            for pattern in outcome_filter.patterns
        ],
        send_all=outcome_filter.send_all,
    )


def _read_reply(message: outcome_pb2.SmtpResponse) -> Reply:
    enhanced = None
    if message.HasField("enhanced_code"):
        code = message.enhanced_code
        enhanced = (getattr(code, "class"), code.subject, code.detail)
    return Reply(
        code=message.code,
        enhanced_code=enhanced,
        content=message.content,
        command=message.command,
    )


@functools.lru_cache(maxsize=_DOMAINS_KEPT)
def _read_domain(text: str) -> str:
    try:
        return normalise_domain(text)
    except InvalidValueError:
        # No rule names such a domain; but an outcome that can't be refused is still counted, or
        # the agent would send it for ever.
        return text.strip().lower()
