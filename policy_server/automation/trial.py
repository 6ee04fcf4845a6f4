"""
Trial: what would have happened to outcomes, had some rules been in force.

Here is the shape of the result, and what is odd about it. How rules are tried stands in
`policy_server.services.rule_trial`.
"""

from dataclasses import dataclass
from datetime import datetime

from policy_server.automation.actions import ActionInForce, block_title
from policy_server.automation.unmatched import UnmatchedReplies
from policy_server.rules.layers import (
    AdjustConfig,
    AutomationRule,
    BounceCampaign,
    BounceTenant,
    SuspendCampaign,
    SuspendTenant,
    Threshold,
)
from policy_server.rules.values import format_value

_OF_TENANTS = (SuspendTenant, SuspendCampaign, BounceTenant, BounceCampaign)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedRule:
    """What became of one rule."""

    rule: AutomationRule
    #: Outcomes that it matched.
    match_count: int
    #: Actions that it would have put in force.
    action_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What would have happened."""

    #: By first match, as they are after the last outcome; the first ones that began.
    actions: tuple[ActionInForce, ...]
    action_count: int
    #: In order, those that matched nothing included.
    rules: tuple[TriedRule, ...]
    outcome_count: int
    #: Outcomes that no rule matched, and those of them that are deliveries.
    unmatched_count: int
    unmatched_delivery_count: int
    #: The most frequent kinds of replies among the others.
    unmatched: tuple[UnmatchedReplies, ...]
    #: Event times of the first and the last outcome.
    start_time: datetime | None
    end_time: datetime | None


def describe_warnings(result: TrialResult) -> tuple[str, ...]:
    """Say which rules matched and yet led to nothing, and why; and what is not told in full."""
    warnings = [
        f"{name_rule(tried.rule)}: matched {tried.match_count} outcomes and led to no action: "
        f"{_why_nothing(tried.rule)}"
        for tried in result.rules
        if tried.match_count and not tried.action_count
    ]
    if result.action_count > len(result.actions):
        warnings.append(f"only the first {len(result.actions)} actions are listed")
    return tuple(warnings)


def name_rule(rule: AutomationRule) -> str:
    """Name a rule for people."""
    return f"{rule.layer}: {block_title(rule)} automation {rule.position}"


def _why_nothing(rule: AutomationRule) -> str:
    reasons = []
    if isinstance(rule.trigger, Threshold):
        period = format_value(rule.trigger.period)
        reasons.append(f"no path had {rule.trigger.count} of them within {period} s")
    if any(isinstance(action, _OF_TENANTS) for action in rule.actions):
        reasons.append("the mail was no tenant's")
    if any(isinstance(action, AdjustConfig) for action in rule.actions):
        reasons.append("the option has no ruled value that could be lowered")
    return ", or ".join(reasons) or "they name no path that could be acted on"
