"""
Conversions between messages that are about actions and the actions that the server decides on.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from penstock.v1 import automation_service_pb2, policy_service_pb2
from policy_server.automation.actions import (
    LIVE_STATES,
    ActionInForce,
    ActionKind,
    ActionState,
    Evidence,
)
from policy_server.automation.requests import ActionRequest
from policy_server.conversions.times import read_time, write_bound, write_time
from policy_server.errors import InvalidRequest
from policy_server.rules.values import MAX_SPAN

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
        first_match_time=write_time(action.first_match_time) if has_matches else None,
        last_match_time=write_time(action.last_match_time) if has_matches else None,
        expire_time=write_bound(action.end),
        changed_by=action.changed_by,
        reason=action.given_reason,
        next_step_time=write_bound(action.step_time),
    )


def to_evidence(evidence: Evidence) -> automation_service_pb2.ActionEvidence:
    """Write one reply that led to an action."""
    return automation_service_pb2.ActionEvidence(
        event_id=evidence.event_id,
        event_time=write_time(evidence.event_time),
        reply=evidence.reply,
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
        expire_time=write_bound(action.end),
    )


def to_bounce(action: ActionInForce) -> policy_service_pb2.Bounce:
    """Write an action that bounces mail as agents watch it."""
    return policy_service_pb2.Bounce(
        action_id=action.id,
        routing_domain=action.routing_domain,
        tenant=action.tenant,
        campaign=action.campaign,
        reason=action.reason,
        expire_time=write_bound(action.end),
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
            until = read_time(request.expire_time)
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


def read_states(numbers: Iterable[int]) -> frozenset[ActionState]:
    """Read the states to list; none: those with an effect. Errors: `InvalidRequest`."""
    found = set()
    for index, number in enumerate(numbers):
        if number not in _STATES_BY_NUMBER:
            field = f"states[{index}]"
            raise InvalidRequest(f"{field} must be one of the known states", field=field)
        found.add(_STATES_BY_NUMBER[number])  # type: ignore[index]  # an enum's number
    return frozenset(found) or LIVE_STATES


def spell_value(value: Any) -> str:
    """
    Spell an option's value as text: lists and tables as JSON, nothing as the empty text.

    >>> spell_value("10/m"), spell_value(True), spell_value(["a"]), spell_value(None)
    ('10/m', 'true', '["a"]', '')
    """
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
