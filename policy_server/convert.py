"""
Conversions between what goes over the wire and what the server decides with.

The only module that knows both, apart from the answers of `EgressPathConfig`, which is the
server's own value. It is pure: bad messages become violations, all of them at once.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.v1 import (
    automation_service_pb2,
    feedback_service_pb2,
    fleet_service_pb2,
    outcome_pb2,
    policy_service_pb2,
)
from policy_server.automation.actions import (
    LIVE_STATES,
    ActionInForce,
    ActionKind,
    ActionState,
    Evidence,
)
from policy_server.automation.outcome_filter import OutcomeFilter
from policy_server.automation.outcomes import Outcome, OutcomeType, Reply
from policy_server.automation.requests import ActionRequest
from policy_server.errors import InvalidRequest
from policy_server.known_agents import KnownAgent
from policy_server.rules.explain import explain_json
from policy_server.rules.resolve import Question, Resolution
from policy_server.rules.site import MxHost, normalise_domain
from policy_server.rules.values import MAX_SPAN, InvalidValueError

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
_KINDS: Mapping[ActionKind, automation_service_pb2.ActionKind] = {
    ActionKind.SUSPEND: automation_service_pb2.ACTION_KIND_SUSPEND,
    ActionKind.SUSPEND_TENANT: automation_service_pb2.ACTION_KIND_SUSPEND_TENANT,
    ActionKind.SUSPEND_CAMPAIGN: automation_service_pb2.ACTION_KIND_SUSPEND_CAMPAIGN,
    ActionKind.BOUNCE: automation_service_pb2.ACTION_KIND_BOUNCE,
    ActionKind.BOUNCE_TENANT: automation_service_pb2.ACTION_KIND_BOUNCE_TENANT,
    ActionKind.BOUNCE_CAMPAIGN: automation_service_pb2.ACTION_KIND_BOUNCE_CAMPAIGN,
    ActionKind.SET_CONFIG: automation_service_pb2.ACTION_KIND_SET_CONFIG,
    ActionKind.SET_DOMAIN_CONFIG: automation_service_pb2.ACTION_KIND_SET_DOMAIN_CONFIG,
    ActionKind.ADJUST_CONFIG: automation_service_pb2.ACTION_KIND_ADJUST_CONFIG,
}
_KINDS_BY_NUMBER = {number: kind for kind, number in _KINDS.items()}
_STATES: Mapping[ActionState, automation_service_pb2.ActionState] = {
    ActionState.IN_FORCE: automation_service_pb2.ACTION_STATE_IN_FORCE,
    ActionState.EXPIRED: automation_service_pb2.ACTION_STATE_EXPIRED,
    ActionState.CANCELLED: automation_service_pb2.ACTION_STATE_CANCELLED,
    ActionState.OBSERVED: automation_service_pb2.ACTION_STATE_OBSERVED,
    ActionState.PINNED: automation_service_pb2.ACTION_STATE_PINNED,
}
_STATES_BY_NUMBER = {number: state for state, number in _STATES.items()}

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
        more = f", and {len(violations) - 1} more mistakes" if len(violations) > 1 else ""
        raise InvalidRequest(f"{field} {text}{more}", field=field, violations=violations)
    return tuple(map(from_outcome, messages))


def find_violations(message: outcome_pb2.DeliveryOutcome) -> list[Violation]:
    """List what is wrong with one outcome: (field, what it must be)."""
    found: list[Violation] = []
    if not 0 < len(message.event_id) <= MAX_EVENT_ID:
        found.append(("event_id", f"must have 1 to {MAX_EVENT_ID} characters"))
    elif "\x00" in message.event_id:
        found.append(("event_id", "must not contain NUL"))
    if not message.HasField("event_time"):
        found.append(("event_time", "is required"))
    elif _read_time(message.event_time) is None:
        found.append(("event_time", "must be a time between the years 1 and 9999"))
    if message.type not in _OUTCOME_TYPES:
        found.append(("type", "must be one of the known types"))
    if not message.recipient_domain:
        found.append(("recipient_domain", "is required"))
    for name in _NAMES:
        text = getattr(message, name)
        if len(text) > MAX_NAME:
            found.append((name, f"must have at most {MAX_NAME} characters"))
        elif "\x00" in text:
            # PostgreSQL has no place for it.
            found.append((name, "must not contain NUL"))
    return found


def from_outcome(message: outcome_pb2.DeliveryOutcome) -> Outcome:
    """Read an outcome that has no violations."""
    recipient_domain = _read_domain(message.recipient_domain)
    return Outcome(
        event_id=message.event_id,
        event_time=message.event_time.ToDatetime(UTC),
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
        event_time=_write_time(outcome.event_time),
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


def to_action(action: ActionInForce) -> automation_service_pb2.AutomationAction:
    """Write one entry of the ledger."""
    has_matches = action.match_count > 0
    return automation_service_pb2.AutomationAction(
        id=action.id,
        kind=_KINDS[action.kind],
        state=_STATES[action.state],
        path_name=action.path_name,
        routing_domain=action.routing_domain,
        site_name=action.site_name,
        egress_source=action.egress_source,
        tenant=action.tenant,
        campaign=action.campaign,
        option=action.option,
        old_value=spell_value(action.old_value),
        new_value=spell_value(action.new_value),
        rule=automation_service_pb2.AutomationRuleRef(
            layer=action.rule_layer,
            block=action.rule_block,
            position=action.rule_position,
            regexes=action.rule_regexes,
        ),
        count=action.match_count,
        first_match_time=_write_time(action.first_match_time) if has_matches else None,
        last_match_time=_write_time(action.last_match_time) if has_matches else None,
        expire_time=_write_end(action.end),
        changed_by=action.changed_by,
        reason=action.given_reason,
        next_step_time=_write_end(action.step_time),
    )


def to_evidence(evidence: Evidence) -> automation_service_pb2.ActionEvidence:
    """Write one reply that led to an action."""
    return automation_service_pb2.ActionEvidence(
        event_id=evidence.event_id,
        event_time=_write_time(evidence.event_time),
        reply=evidence.reply,
    )


def to_agent(agent: KnownAgent, now: datetime) -> fleet_service_pb2.Agent:
    """Write what is known of an agent."""
    refused = agent.reject_time
    return fleet_service_pb2.Agent(
        name=agent.name,
        version=agent.version,
        egress_sources=agent.egress_sources,
        connected=agent.is_connected(now),
        server=agent.server,
        connect_time=_write_time(agent.connect_time),
        seen_time=_write_time(agent.seen_time),
        applied_revision=agent.applied_revision,
        subscribed_paths=agent.subscribed_paths,
        reject_time=None if refused is None else _write_time(refused),
        reject_reason=agent.reject_reason,
    )


def to_suspension(action: ActionInForce) -> policy_service_pb2.Suspension:
    """Write an action that holds mail as agents watch it."""
    return policy_service_pb2.Suspension(
        action_id=action.id,
        egress_source=action.egress_source,
        site_name=action.site_name,
        routing_domain=action.routing_domain,
        tenant=action.tenant,
        campaign=action.campaign,
        reason=action.reason,
        expire_time=_write_end(action.end),
    )


def to_bounce(action: ActionInForce) -> policy_service_pb2.Bounce:
    """Write an action that bounces mail as agents watch it."""
    return policy_service_pb2.Bounce(
        action_id=action.id,
        routing_domain=action.routing_domain,
        tenant=action.tenant,
        campaign=action.campaign,
        reason=action.reason,
        expire_time=_write_end(action.end),
    )


def read_request(request: automation_service_pb2.CreateActionRequest) -> ActionRequest:
    """Read an operator's request for an action. Errors: `InvalidRequest` for spans of no size."""
    duration = None
    if request.HasField("duration"):
        duration = read_duration(request.duration)
    return ActionRequest(
        kind=_KINDS_BY_NUMBER.get(request.kind),
        egress_source=request.egress_source,
        site_name=request.site_name,
        routing_domain=request.routing_domain,
        tenant=request.tenant,
        campaign=request.campaign,
        option=request.option,
        value=request.value,
        duration=duration,
        is_pinned=request.pinned,
        reason=request.reason,
        request_id=request.request_id,
    )


def read_until(request: automation_service_pb2.ExtendActionRequest, now: datetime) -> datetime:
    """Read until when an action is to last. Errors: `InvalidRequest`."""
    match request.WhichOneof("until"):
        case "expire_time":
            until = _read_time(request.expire_time)
            if until is None:
                field = "expire_time"
                raise InvalidRequest("expire_time is no time of the calendar", field=field)
            return until
        case "duration":
            return now + read_duration(request.duration)
        case _:
            raise InvalidRequest("until is required: expire_time or duration", field="until")


def read_duration(message: Duration) -> timedelta:
    """Read a span; one beyond what is taken for a meant one is as good as that."""
    try:
        return max(min(message.ToTimedelta(), MAX_SPAN), -MAX_SPAN)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"duration: {error}", field="duration") from error


def to_explained(
    resolution: Resolution, question: Question, *, revision: int, etag: str
) -> policy_service_pb2.ExplainEgressPathConfigResponse:
    """Write an answer with the origin of every value, as `explain --json` prints it."""
    explained = explain_json(resolution, question, revision=revision, etag=etag)
    options = explained.pop("options")
    return policy_service_pb2.ExplainEgressPathConfigResponse(
        **explained, options=[_write_option(name, told) for name, told in options.items()]
    )


def read_states(numbers: Iterable[int]) -> frozenset[ActionState]:
    """Read the states to list; none: those with an effect. Errors: `InvalidRequest`."""
    found = set()
    for index, number in enumerate(numbers):
        if number not in _STATES_BY_NUMBER:
            field = f"states[{index}]"
            raise InvalidRequest(f"{field} must be one of the known states", field=field)
        found.add(_STATES_BY_NUMBER[number])  # type: ignore[index]  # an enum's number
    return frozenset(found) or LIVE_STATES


def read_hosts(messages: Iterable[policy_service_pb2.MxHost]) -> tuple[MxHost, ...]:
    """Read a client's MX answer."""
    return tuple([MxHost(message.host, message.preference) for message in messages])


def spell_value(value: Any) -> str:
    """
    Spell an option's value as text: lists and tables as JSON, nothing as the empty text.

    >>> spell_value("10/m"), spell_value(True), spell_value(["a"]), spell_value(None)
    ('10/m', 'true', '["a"]', '')
    """
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _write_option(name: str, told: Mapping[str, Any]) -> policy_service_pb2.ExplainedOption:
    option = policy_service_pb2.ExplainedOption(name=name, value=_write_value(told["value"]))
    if told["set_by"] is not None:
        option.set_by.CopyFrom(_write_origin(told["set_by"]))
    for beaten in told["overrode"]:
        option.overrode.add(value=_write_value(beaten["value"]), origin=_write_origin(beaten))
    for key, origin in told.get("entries", {}).items():
        option.entries[key].CopyFrom(_write_origin(origin))
    return option


def _write_origin(origin: Mapping[str, Any]) -> policy_service_pb2.RuleOrigin:
    names = policy_service_pb2.RuleOrigin.DESCRIPTOR.fields_by_name
    return policy_service_pb2.RuleOrigin(**{name: origin[name] for name in names})


def _write_value(value: Any) -> Value:
    return ParseDict(value, Value())


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


def _read_time(message: Timestamp) -> datetime | None:
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None


def _write_end(time: datetime | None) -> Timestamp | None:
    return None if time is None else _write_time(time)


def _write_time(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
