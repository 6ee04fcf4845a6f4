"""
State: everything that answers depend on, built anew from its parts whenever one of them changes.

Building decides which actions are in force at a time; nothing here reads or waits.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from policy_server.automation.actions import OPERATOR, OVERRIDES, ActionInForce, ActionKind
from policy_server.in_force.rule_keeper import KeptRules
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.layers import Layer
from policy_server.rules.resolve import Override, Question
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.validity import next_change as next_layer_change
from policy_server.rules.values import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Rules, sites and actions in force at one time."""

    rules: KeptRules
    snapshot: Snapshot
    actions: tuple[ActionInForce, ...]
    #: Overridden options by (egress source, site or domain, whether that is a domain).
    overrides: Mapping[tuple[str, str, bool], tuple[Override, ...]]
    revision: int
    #: What tells it from a revision of the same number of another past.
    stamp: str = ""
    #: When a layer begins or ends, an action expires or an adjustment recovers by a step.
    next_change: datetime | None

    def overrides_of(self, question: Question) -> tuple[Override, ...]:
        """Find the overrides that apply to a question, oldest action first."""
        source = question.egress_source
        of_site = self.overrides.get((source, question.site_name, False), ())
        of_domain = self.overrides.get((source, question.routing_domain, True), ())
        if not of_site and not of_domain:
            return ()
        return tuple(sorted(of_site + of_domain, key=lambda override: override.action_id))


def build_state(
    rules: KeptRules,
    actions: Iterable[ActionInForce],
    *,
    snapshot: Snapshot,
    revision: int,
    stamp: str = "",
    now: datetime,
) -> State:
    """Build the state at *now*, for which *snapshot* was made."""
    live = tuple(action for action in actions if action.is_live(now))
    return State(
        rules=rules,
        snapshot=snapshot,
        actions=live,
        overrides=index_overrides(live),
        revision=revision,
        stamp=stamp,
        next_change=_next_change(rules.layers, live, now),
    )


def index_overrides(
    actions: Iterable[ActionInForce],
) -> dict[tuple[str, str, bool], tuple[Override, ...]]:
    """Index what actions override, so that an answer does not look at the others."""
    index: dict[tuple[str, str, bool], tuple[Override, ...]] = defaultdict(tuple)
    for action in actions:
        override = to_override(action)
        if override is not None:
            is_domain = bool(override.routing_domain)
            place = override.routing_domain or override.site_name
            index[override.egress_source, place, is_domain] += (override,)
    return dict(index)


def to_override(action: ActionInForce) -> Override | None:
    """Read what an action overrides; None if it overrides nothing that this version knows."""
    option = build_catalogue().options.get(action.option)
    if action.kind not in OVERRIDES or option is None:
        return None
    try:
        value = option.parse(action.new_value)
    except InvalidValueError:
        return None
    return Override(
        action_id=action.id,
        routing_domain=action.routing_domain,
        site_name=action.site_name,
        egress_source=action.egress_source,
        option=action.option,
        value=value,
        expire_time=action.end,
        lowers=action.kind is ActionKind.ADJUST_CONFIG,
        layer=OPERATOR if action.is_by_hand else "automation",
    )


def _next_change(
    layers: Iterable[Layer], actions: Iterable[ActionInForce], now: datetime
) -> datetime | None:
    times = [
        time for action in actions for time in (action.end, action.step_time) if time is not None
    ]
    layer_change = next_layer_change(layers, now)
    return min(times if layer_change is None else [*times, layer_change], default=None)
