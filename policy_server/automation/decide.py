"""
Decide: which actions follow from new matches.

For each (rule, path) the new matches are judged together with the known ones (`threshold`); what
fires asks for each of the rule's actions, until the newest firing match + the rule's duration.
The table `_PLANNERS` says what each kind of action holds for: a new kind is a new row in it.
Nothing here knows which actions exist already: the store puts a plan in force, or extends what is.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from policy_server.automation.actions import (
    EVIDENCE_KEPT,
    ActionKind,
    ActionScope,
    Evidence,
)
from policy_server.automation.outcomes import Outcome, remove_local_parts, reply_text
from policy_server.automation.threshold import Firing, assess, keep_until
from policy_server.rules.layers import (
    Action,
    AutomationRule,
    Immediate,
    Scope,
    SetConfig,
    Suspend,
)
from policy_server.rules.values import format_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One outcome that one rule matched."""

    rule: AutomationRule
    outcome: Outcome
    #: Ruled values of the options that the rule's actions override, as JSON.
    ruled_values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counted_under(self) -> tuple[str, str]:
        """The rule and the path that thresholds count it under."""
        return (self.rule.key, self.outcome.counted_path)

    @property
    def keep_until(self) -> datetime:
        """From when on no decision can need it."""
        return keep_until(self.rule, self.outcome.event_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAction:
    """An action to put in force, or to extend where it is in force already."""

    rule: AutomationRule
    kind: ActionKind
    scope: ActionScope
    path_name: str
    option: str
    old_value: Any
    new_value: Any
    #: Matches it rests on if it is new, and how many of them were not known before.
    count: int
    added: int
    first_match_time: datetime
    last_match_time: datetime
    #: The newest match that fires.
    fired_time: datetime
    expire_time: datetime
    evidence: tuple[Evidence, ...]

    @property
    def identity(self) -> tuple[str, ActionKind, ActionScope, str]:
        """What makes two plans the same action."""
        return (self.rule.key, self.kind, self.scope, self.option)


def is_settled(match: Match, now: datetime) -> bool:
    """Whether *match* comes too late to change anything."""
    return match.keep_until <= now


def group_matches(matches: Iterable[Match]) -> list[tuple[Match, ...]]:
    """Group *matches* by what thresholds count under, each group by event time."""
    groups: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.counted_under].append(match)
    return [
        tuple(sorted(group, key=lambda match: (match.outcome.event_time, match.outcome.event_id)))
        for group in groups.values()
    ]


def decide(
    new: Sequence[Match], known: Sequence[datetime], now: datetime
) -> tuple[PlannedAction, ...]:
    """
    Decide what follows from *new* matches of one (rule, path), beside the *known* ones.

    *known* are event times in ascending order, as `threshold.history_spans` asks for; an
    immediate rule needs none. What would have ended by *now* does nothing.
    """
    rule = new[0].rule
    plans = []
    for action in rule.actions:
        for scope, matches in _by_scope(action, new).items():
            # A threshold counts over the path, whoever the mail was from.
            counted = matches if isinstance(rule.trigger, Immediate) else new
            before = assess(known, rule.trigger, alive_after=now - rule.duration)
            after = assess(
                sorted([*known, *(match.outcome.event_time for match in counted)]),
                rule.trigger,
                alive_after=now - rule.duration,
            )
            if after is not None and _changes(before, after):
                plans.append(_plan(action, scope, matches, before=before, after=after))
    return tuple(plans)


def _changes(before: Firing | None, after: Firing) -> bool:
    return before is None or (after.last, after.count) != (before.last, before.count)


def _plan(
    action: Action,
    scope: ActionScope,
    matches: Sequence[Match],
    *,
    before: Firing | None,
    after: Firing,
) -> PlannedAction:
    newest = matches[-1]
    planner = _PLANNERS[type(action)]
    option, value = planner.override_of(action)
    return PlannedAction(
        rule=newest.rule,
        kind=planner.kind,
        scope=scope,
        path_name=newest.outcome.counted_path,
        option=option,
        old_value=newest.ruled_values.get(option),
        new_value=value,
        count=after.count,
        added=after.count - (before.count if before else 0),
        first_match_time=after.first_support,
        last_match_time=after.last_support,
        fired_time=after.last,
        expire_time=after.last + newest.rule.duration,
        evidence=tuple(_evidence(match.outcome) for match in matches[-EVIDENCE_KEPT:]),
    )


def _by_scope(action: Action, matches: Sequence[Match]) -> dict[ActionScope, list[Match]]:
    scopes: dict[ActionScope, list[Match]] = defaultdict(list)
    scope_of = _PLANNERS[type(action)].scope_of
    for match in matches:
        scope = scope_of(match.rule, match.outcome)
        if scope is not None:
            scopes[scope].append(match)
    return scopes


def _evidence(outcome: Outcome) -> Evidence:
    return Evidence(
        event_id=outcome.event_id,
        event_time=outcome.event_time,
        reply=remove_local_parts(reply_text(outcome.reply)),
    )


def _path_scope(rule: AutomationRule, outcome: Outcome) -> ActionScope | None:
    # Without a source, or at a null MX, there is no path that could be acted on.
    if not outcome.egress_source or not outcome.site_name:
        return None
    is_for_domain = rule.scope is Scope.DOMAIN and not rule.mx_rollup
    return ActionScope(
        egress_source=outcome.egress_source,
        site_name=outcome.site_name,
        routing_domain=outcome.routing_domain if is_for_domain else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planner:
    """What one kind of action holds for, and what it overrides."""

    kind: ActionKind
    #: None: the outcome gives nothing to act on.
    scope_of: Callable[[AutomationRule, Outcome], ActionScope | None]
    #: Name and value, as JSON, of the overridden option.
    override_of: Callable[[Any], tuple[str, Any]]


_PLANNERS: Mapping[type[Action], _Planner] = {
    Suspend: _Planner(
        kind=ActionKind.SUSPEND, scope_of=_path_scope, override_of=lambda action: ("", None)
    ),
    SetConfig: _Planner(
        kind=ActionKind.SET_CONFIG,
        scope_of=_path_scope,
        override_of=lambda action: (action.name, format_value(action.value)),
    ),
}
