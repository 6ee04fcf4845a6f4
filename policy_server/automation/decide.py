"""
Decide: which actions follow from new matches.

For each (rule, path) the new matches are judged together with the known ones (`threshold`); what
fires asks for each of the rule's actions, until the newest firing match + the rule's duration.
Matches fire by what all of the path's amount to; each asks for actions on its own mail alone: its
tenant, its domain. The table `_PLANNERS` says what each kind of action holds for: a new kind is a
new row in it. How far an adjustment lowers, and when it ends, is decided in `adjust`.
Nothing here knows which actions exist already: the store puts a plan in force, or extends what is.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import Any

import msgspec

from policy_server.automation.actions import (
    EVIDENCE_KEPT,
    ActionKind,
    ActionScope,
    Evidence,
)
from policy_server.automation.adjust import Adjustment, apply_matches, end_time
from policy_server.automation.outcomes import Outcome, evidence_text
from policy_server.automation.threshold import Firing, alive_firing_times, keep_until, sum_up
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.layers import (
    Action,
    AdjustConfig,
    AutomationRule,
    Bounce,
    BounceCampaign,
    BounceTenant,
    OptionAction,
    Scope,
    SetConfig,
    SetDomainConfig,
    Suspend,
    SuspendCampaign,
    SuspendTenant,
)
from policy_server.rules.values import InvalidValueError, Limit, Rate, format_value


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """Whose mail an outcome was about, as far as actions hold for it."""

    routing_domain: str = ""
    tenant: str = ""
    campaign: str = ""


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome that one rule matched."""

    rule: AutomationRule
    outcome: Outcome
    #: Ruled values of the options that the rule's actions override, as JSON.
    ruled_values: Mapping[str, Any] = MappingProxyType({})

    @property
    def counted_once(self) -> tuple[str, str]:
        """The rule and the event: however often it is reported, it counts once."""
        return (self.rule.key, self.outcome.event_id)

    @property
    def counted_under(self) -> tuple[str, str]:
        """The rule and the path that thresholds count it under."""
        return (self.rule.key, self.outcome.counted_path)

    @property
    def keep_until(self) -> datetime:
        """From when on no decision can need it."""
        return keep_until(self.rule, self.outcome.event_time)

    @property
    def mail(self) -> Mail:
        """Whose mail it was about."""
        outcome = self.outcome
        return Mail(
            routing_domain=outcome.routing_domain,
            tenant=outcome.tenant,
            campaign=outcome.campaign,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSupport:
    """Known matches that an action rests on: its evidence, which is to be looked up."""

    #: Of each, the newest first.
    times: tuple[datetime, ...] = ()
    #: Whose mail they are about; None: anyone's.
    mail: frozenset[Mail] | None = None


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
    #: The newest known matches that it rests on as well, and those of them that supported nothing
    #: before.
    earlier: KnownSupport = KnownSupport()
    joining: KnownSupport = KnownSupport()
    #: How to adjust; None for other kinds. The values here are for an action that is new.
    adjust: AdjustConfig | None = None
    adjustment: Adjustment | None = None
    #: Of an adjustment: the firing matches that were not known to fire before, ascending.
    newly_fired: tuple[datetime, ...] = ()

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
    new: Sequence[Match],
    known: Sequence[datetime],
    now: datetime,
    *,
    known_mail: Sequence[Mail] = (),
) -> tuple[PlannedAction, ...]:
    """
    Decide what follows from *new* matches of one (rule, path), beside the *known* ones.

    *known* are event times in ascending order, as `threshold.history_spans` asks for; an
    immediate rule needs none. *known_mail* says whose mail each was about; it may be left out where
    that does not matter (`heeds_mail`). What would have ended by *now* does nothing.
    """
    rule = new[0].rule
    judged = _judge(new, known, known_mail, now)
    effects = _find_effects(new)
    for mail in judged.mail_fired_late:
        for effect in _effects_of(rule, _replace_mail(new[-1].outcome, mail)):
            effects.setdefault(effect, [])
    plans = (_plan(effect, matches, judged, now) for effect, matches in effects.items())
    return tuple(plan for plan in plans if plan is not None)


def heeds_mail(rule: AutomationRule) -> bool:
    """Whether it matters to *rule* whose mail the known matches of a path were about."""
    return _is_for_domain(rule) or not all(
        _PLANNERS[type(action)].is_for_path for action in rule.actions
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What all matches of one (rule, path) amount to, before the new ones and with them."""

    new: Sequence[Match]
    known: Sequence[datetime]
    #: Empty where it does not matter.
    known_mail: Sequence[Mail]
    fired_before: Sequence[datetime]
    fired_after: Sequence[datetime]

    @property
    def mail_fired_late(self) -> dict[Mail, None]:
        """Mail of known matches that fire now that late ones are known."""
        if not self.known_mail:
            return {}
        late = set(self.fired_after) - set(self.fired_before)
        whose = zip(self.known, self.known_mail, strict=True)
        return dict.fromkeys(mail for time, mail in whose if time in late)


def _judge(
    new: Sequence[Match], known: Sequence[datetime], known_mail: Sequence[Mail], now: datetime
) -> _Judged:
    rule = new[0].rule
    alive_after = now - rule.duration
    times = sorted([*known, *(match.outcome.event_time for match in new)])
    return _Judged(
        new=new,
        known=known,
        known_mail=known_mail,
        fired_before=alive_firing_times(known, rule.trigger, alive_after=alive_after),
        fired_after=alive_firing_times(times, rule.trigger, alive_after=alive_after),
    )


@dataclass(frozen=True, slots=True)
class _Effect:
    """What actions of a rule ask for, on what mail."""

    kind: ActionKind
    scope: ActionScope
    option: str
    #: The first action that asks for it.
    action: Action = field(compare=False)


def _find_effects(new: Sequence[Match]) -> dict[_Effect, list[Match]]:
    """Find what the rule's actions ask for, each with the matches that ask for it."""
    effects: dict[_Effect, list[Match]] = {}
    # Most matches of a rule and path ask for the same.
    asked: dict[tuple[str, str, Mail], list[list[Match]]] = {}
    for match in new:
        outcome = match.outcome
        about = (outcome.egress_source, outcome.site_name, match.mail)
        if about not in asked:
            wanted = _effects_of(match.rule, outcome)
            asked[about] = [effects.setdefault(effect, []) for effect in wanted]
        for matches in asked[about]:
            matches.append(match)
    return effects


def _effects_of(rule: AutomationRule, outcome: Outcome) -> dict[_Effect, None]:
    """
    List what the rule asks for at one outcome, each once.

    Several actions may ask for the same, as the one for a campaign does where there is none.
    """
    effects: dict[_Effect, None] = {}
    for action in rule.actions:
        planner = _PLANNERS[type(action)]
        scope = planner.scope_of(rule, outcome)
        if scope is not None:
            effect = _Effect(planner.kind_of(outcome), scope, _option_of(action), action)
            effects.setdefault(effect)
    return effects


def _plan(
    effect: _Effect, matches: Sequence[Match], judged: _Judged, now: datetime
) -> PlannedAction | None:
    newest = matches[-1] if matches else judged.new[-1]
    rule = newest.rule
    mail = _mail_asking(effect, newest, judged)
    known = _known_of(mail, judged)
    own = sorted([*known, *(match.outcome.event_time for match in matches)])
    before = _sum_up_own(known, judged.fired_before, rule)
    after = _sum_up_own(own, judged.fired_after, rule)
    if after is None or not _changes(before, after):
        return None
    support = set(after.support)
    plan = PlannedAction(
        rule=rule,
        kind=effect.kind,
        scope=effect.scope,
        path_name=newest.outcome.counted_path,
        option=effect.option,
        old_value=newest.ruled_values.get(effect.option),
        new_value=_value_of(effect.action),
        count=after.count,
        added=after.count - (before.count if before else 0),
        first_match_time=after.first_support,
        last_match_time=after.last_support,
        fired_time=after.last,
        expire_time=after.last + rule.duration,
        evidence=tuple(_evidence(match.outcome) for match in matches[-EVIDENCE_KEPT:]),
        earlier=KnownSupport(times=_newest(known, support), mail=mail),
        joining=KnownSupport(
            times=_newest(known, support.difference(before.support) if before else support),
            mail=mail,
        ),
    )
    if isinstance(effect.action, AdjustConfig):
        newly_fired = _find_new(before.fired if before else (), after.fired)
        plan = replace(plan, adjust=effect.action, newly_fired=newly_fired)
        return plan_adjustment(plan, None, now=now)
    return plan


def _sum_up_own(
    own: Sequence[datetime], fired: Sequence[datetime], rule: AutomationRule
) -> Firing | None:
    # Matches at one time fire together, whoever's mail they are about.
    times = set(fired)
    return sum_up(own, [time for time in own if time in times], rule.trigger)


def plan_adjustment(
    plan: PlannedAction,
    present: Adjustment | None,
    *,
    now: datetime,
    after: datetime | None = None,
) -> PlannedAction | None:
    """
    Work out the value and the end of an adjustment that is *present*, or new if that is None.

    Matches up to *after* are not heeded. None: nothing is lowered, as the option has no ruled
    value, is at its floor by its rule, or would have recovered by *now*.
    """
    rule = plan.adjust
    ruled = read_ruled(plan.option, plan.old_value)
    if rule is None or ruled is None:
        return None
    times = [time for time in plan.newly_fired if after is None or time > after]
    adjustment = apply_matches(rule, ruled, present, times=times, now=now)
    if adjustment is None:
        return None
    return replace(
        plan,
        new_value=format_value(adjustment.value),
        expire_time=end_time(rule, ruled, adjustment),
        adjustment=adjustment,
    )


def read_ruled(option: str, spelt: Any) -> Limit | Rate | None:
    """Read a value that can be adjusted; None if it is none."""
    try:
        value = build_catalogue().options[option].parse(spelt)
    except (InvalidValueError, KeyError):
        return None
    return value if isinstance(value, Limit | Rate) else None


def _mail_asking(effect: _Effect, newest: Match, judged: _Judged) -> frozenset[Mail] | None:
    """Find whose mail known matches are about that ask for *effect*, too; None: anyone's."""
    if not judged.known_mail:
        return None
    return frozenset(
        mail
        for mail in set(judged.known_mail)
        if effect in _effects_of(newest.rule, _replace_mail(newest.outcome, mail))
    )


def _known_of(mail: frozenset[Mail] | None, judged: _Judged) -> Sequence[datetime]:
    """List the known matches that are about *mail*."""
    if mail is None:
        return judged.known
    whose = zip(judged.known, judged.known_mail, strict=True)
    return [time for time, each in whose if each in mail]


def _newest(known: Sequence[datetime], times: Collection[datetime]) -> tuple[datetime, ...]:
    """List the newest of *known* that were at *times*, as many as are kept as evidence."""
    if not times:
        return ()
    return tuple(islice((time for time in reversed(known) if time in times), EVIDENCE_KEPT))


def _replace_mail(outcome: Outcome, mail: Mail) -> Outcome:
    """Return *outcome* as if it had been about other mail of the same path."""
    return msgspec.structs.replace(
        outcome,
        routing_domain=mail.routing_domain,
        tenant=mail.tenant,
        campaign=mail.campaign,
    )


def _find_new(before: Sequence[datetime], after: Sequence[datetime]) -> tuple[datetime, ...]:
    left = Counter(after)
    left.subtract(Counter(before))
    return tuple(sorted(left.elements()))


def _changes(before: Firing | None, after: Firing) -> bool:
    return before is None or (after.last, after.count) != (before.last, before.count)


def _option_of(action: Action) -> str:
    return action.name if isinstance(action, OptionAction) else ""


def _value_of(action: Action) -> Any:
    """Return the value that an action sets, as JSON; an adjustment's depends on what is."""
    return format_value(action.value) if isinstance(action, SetConfig | SetDomainConfig) else None


def _evidence(outcome: Outcome) -> Evidence:
    return Evidence(
        event_id=outcome.event_id,
        event_time=outcome.event_time,
        reply=evidence_text(outcome.reply),
    )


def _is_for_domain(rule: AutomationRule) -> bool:
    return rule.scope is Scope.DOMAIN and not rule.mx_rollup


def _path_scope(rule: AutomationRule, outcome: Outcome) -> ActionScope | None:
    # Without a source, or at a null MX, there is no path that could be acted on.
    if not outcome.egress_source or not outcome.site_name:
        return None
    return ActionScope(
        egress_source=outcome.egress_source,
        site_name=outcome.site_name,
        routing_domain=outcome.routing_domain if _is_for_domain(rule) else "",
    )


def _domain_path_scope(rule: AutomationRule, outcome: Outcome) -> ActionScope | None:
    scope = _path_scope(rule, outcome)
    return None if scope is None else replace(scope, routing_domain=outcome.routing_domain)


def _domain_scope(_rule: AutomationRule, outcome: Outcome) -> ActionScope:
    return ActionScope(routing_domain=outcome.routing_domain)


def _tenant_scope(_rule: AutomationRule, outcome: Outcome) -> ActionScope | None:
    if not outcome.tenant:
        return None
    return ActionScope(routing_domain=outcome.routing_domain, tenant=outcome.tenant)


def _campaign_scope(rule: AutomationRule, outcome: Outcome) -> ActionScope | None:
    scope = _tenant_scope(rule, outcome)
    return None if scope is None else replace(scope, campaign=outcome.campaign)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planner:
    """What one kind of action holds for."""

    kind: ActionKind
    #: None: the outcome gives nothing to act on.
    scope_of: Callable[[AutomationRule, Outcome], ActionScope | None]
    #: What it is where the mail is of no campaign.
    kind_without_campaign: ActionKind | None = None

    @property
    def is_for_path(self) -> bool:
        """Whether it holds for the path, whoever's mail it is."""
        return self.scope_of is _path_scope

    def kind_of(self, outcome: Outcome) -> ActionKind:
        """Say which kind the action is at this outcome."""
        return self.kind if outcome.campaign else self.kind_without_campaign or self.kind


_PLANNERS: Mapping[type[Action], _Planner] = MappingProxyType(
    {
        Suspend: _Planner(kind=ActionKind.SUSPEND, scope_of=_path_scope),
        SuspendTenant: _Planner(kind=ActionKind.SUSPEND_TENANT, scope_of=_tenant_scope),
        SuspendCampaign: _Planner(
            kind=ActionKind.SUSPEND_CAMPAIGN,
            scope_of=_campaign_scope,
            kind_without_campaign=ActionKind.SUSPEND_TENANT,
        ),
        Bounce: _Planner(kind=ActionKind.BOUNCE, scope_of=_domain_scope),
        BounceTenant: _Planner(kind=ActionKind.BOUNCE_TENANT, scope_of=_tenant_scope),
        BounceCampaign: _Planner(
            kind=ActionKind.BOUNCE_CAMPAIGN,
            scope_of=_campaign_scope,
            kind_without_campaign=ActionKind.BOUNCE_TENANT,
        ),
        SetConfig: _Planner(kind=ActionKind.SET_CONFIG, scope_of=_path_scope),
        SetDomainConfig: _Planner(kind=ActionKind.SET_DOMAIN_CONFIG, scope_of=_domain_path_scope),
        AdjustConfig: _Planner(kind=ActionKind.ADJUST_CONFIG, scope_of=_path_scope),
    }
)
