"""
An operator's own actions: what a request leaves open is found in the policy, then it is written.

It serves the AutomationService and the commands alike. What is wrong with a request is found in
`policy_server.automation.requests`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from policy_server.automation.actions import OPERATOR, OVERRIDES, ActionInForce, ActionScope
from policy_server.automation.actions import ActionKind as Kind
from policy_server.automation.requests import (
    ActionRequest,
    CheckedRequest,
    Violation,
    check_request,
)
from policy_server.errors import DomainNotFound, InvalidRequest
from policy_server.policy import Policy
from policy_server.rules.resolve import Question
from policy_server.rules.values import format_value
from policy_server.store.operator_actions import NewAction, OperatorActionStore


async def create_by_hand(
    request: ActionRequest,
    *,
    policy: Policy,
    store: OperatorActionStore,
    by: str,
    fresh_key: str,
    now: datetime,
) -> ActionInForce:
    """
    Put in force what an operator asks for; a request that was carried out gives what it made.

    *fresh_key* names a request that has no name of its own. Errors: `InvalidRequest` with every
    violation; `DnsUnavailable` where a site has to be looked up.
    """
    checked = check_request(request)
    if not isinstance(checked, CheckedRequest):
        raise invalid(checked)
    key = f"{OPERATOR}-{request.request_id or fresh_key}"
    known = await store.find(key)
    if known is not None:
        return known
    new = await _complete(checked, policy=policy, key=key, now=now)
    return await store.create(new, by, now)


def invalid(violations: Sequence[Violation]) -> InvalidRequest:
    """Make the error that tells all that is wrong."""
    text = "; ".join(f"{field} {problem}" for field, problem in violations)
    return InvalidRequest(text, field=violations[0][0], violations=violations)


async def _complete(
    checked: CheckedRequest, *, policy: Policy, key: str, now: datetime
) -> NewAction:
    request = checked.request
    scope = ActionScope(
        egress_source=request.egress_source,
        site_name=request.site_name,
        routing_domain=checked.routing_domain,
        tenant=request.tenant,
        campaign=request.campaign,
    )
    old_value = None
    if checked.kind in OVERRIDES:
        question = await _make_question(checked, policy)
        # Without the site's hosts it is not known which providers it belongs to.
        if question.mx_hosts or not request.site_name:
            ruled = policy.ruled_value(question, request.option)
            old_value = None if ruled is None else format_value(ruled)
        is_for_domain = checked.kind is Kind.SET_DOMAIN_CONFIG
        scope = ActionScope(
            egress_source=request.egress_source,
            site_name=question.site_name,
            routing_domain=question.routing_domain if is_for_domain else "",
        )
    return NewAction(
        key=key,
        kind=checked.kind,
        scope=scope,
        option=request.option,
        old_value=old_value,
        new_value=checked.value,
        expire_time=now + (request.duration or timedelta()),
        is_pinned=request.is_pinned,
        reason=request.reason,
    )


async def _make_question(checked: CheckedRequest, policy: Policy) -> Question:
    request = checked.request
    if not checked.routing_domain:
        return Question(
            routing_domain="",
            egress_source=request.egress_source,
            site_name=request.site_name,
            mx_hosts=policy.known_hosts(request.site_name),
        )
    try:
        question = await policy.question(
            checked.routing_domain, request.egress_source, request.site_name
        )
    except DomainNotFound as error:
        raise invalid([("routing_domain", f"{error}; give a site_name")]) from error
    if not question.site_name:
        raise invalid([("routing_domain", "takes no mail (null MX), so it has no site")])
    return question
