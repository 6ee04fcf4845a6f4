"""
Actions: what automation put in force, on what and until when.

Here are the shapes of the ledger's entries. What leads to an action is decided in `decide`; how
it is kept stands in `policy_server.store.actions`.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from policy_server.rules.layers import AutomationRule, Scope

#: An action rests on many replies; this many of the newest are kept as evidence.
EVIDENCE_KEPT = 20


class ActionKind(StrEnum):
    """What an action does, spelt as in rule files and in SQL."""

    SUSPEND = "Suspend"
    SUSPEND_TENANT = "SuspendTenant"
    SUSPEND_CAMPAIGN = "SuspendCampaign"
    BOUNCE = "Bounce"
    BOUNCE_TENANT = "BounceTenant"
    BOUNCE_CAMPAIGN = "BounceCampaign"
    SET_CONFIG = "SetConfig"
    SET_DOMAIN_CONFIG = "SetDomainConfig"
    ADJUST_CONFIG = "AdjustConfig"


#: Kinds that hold mail.
SUSPENSIONS = frozenset(
    {ActionKind.SUSPEND, ActionKind.SUSPEND_TENANT, ActionKind.SUSPEND_CAMPAIGN}
)
#: Kinds that bounce mail.
BOUNCES = frozenset({ActionKind.BOUNCE, ActionKind.BOUNCE_TENANT, ActionKind.BOUNCE_CAMPAIGN})
#: Kinds that override an option.
OVERRIDES = frozenset(
    {ActionKind.SET_CONFIG, ActionKind.SET_DOMAIN_CONFIG, ActionKind.ADJUST_CONFIG}
)


class ActionState(StrEnum):
    """Where an action stands, spelt as in SQL."""

    IN_FORCE = "in_force"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    PINNED = "pinned"
    OBSERVED = "observed"


#: Layer of the actions that an operator put in force by hand.
OPERATOR = "operator"
#: States in which an action has an effect.
LIVE_STATES = frozenset({ActionState.IN_FORCE, ActionState.PINNED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScope:
    """The mail that an action holds for."""

    #: Empty: every source.
    egress_source: str = ""
    #: Empty: every site.
    site_name: str = ""
    #: Empty: the whole site.
    routing_domain: str = ""
    #: Empty: every tenant.
    tenant: str = ""
    #: Empty: every campaign.
    campaign: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One reply that led to an action, without the recipients' local parts."""

    event_id: str
    event_time: datetime
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionInForce:
    """One entry of the ledger."""

    id: int
    kind: ActionKind
    state: ActionState
    #: The path whose outcomes led to it.
    path_name: str
    #: Empty: the whole site.
    routing_domain: str
    site_name: str
    egress_source: str
    tenant: str = ""
    campaign: str = ""
    #: The option that is overridden; empty unless the kind overrides one.
    option: str = ""
    #: The ruled value when the action began, as JSON in the rule files' spelling; None: none.
    old_value: Any = None
    #: The value in force, spelt likewise.
    new_value: Any = None
    rule_key: str
    rule_layer: str
    #: The block as rule files write it.
    rule_block: str
    rule_position: int
    rule_regexes: tuple[str, ...]
    match_count: int
    first_match_time: datetime
    last_match_time: datetime
    expire_time: datetime
    #: Who changed it last: "automation" or a person.
    changed_by: str = "automation"
    #: As an operator gave it; empty for actions of rules.
    given_reason: str = ""
    #: How an adjustment lowers and recovers, spelt as in rule files; None for other kinds.
    adjust: Any = None
    #: When an adjustment was lowered last, and when it recovers by a step.
    lowered_time: datetime | None = None
    next_step_time: datetime | None = None

    @property
    def is_by_hand(self) -> bool:
        """Whether an operator put it in force, not a rule."""
        return not self.rule_block and self.rule_layer == OPERATOR

    @property
    def end(self) -> datetime | None:
        """When it ends by itself; None if it is pinned."""
        return None if self.state is ActionState.PINNED else self.expire_time

    @property
    def step_time(self) -> datetime | None:
        """When it recovers by a step; None if it is no adjustment, or does not step now."""
        return self.next_step_time if self.state is ActionState.IN_FORCE else None

    @property
    def scope(self) -> ActionScope:
        """The mail that it holds for."""
        return ActionScope(
            egress_source=self.egress_source,
            site_name=self.site_name,
            routing_domain=self.routing_domain,
            tenant=self.tenant,
            campaign=self.campaign,
        )

    def is_live(self, now: datetime) -> bool:
        """Whether it has an effect at *now*; a pinned action has no end of its own."""
        if self.state is ActionState.PINNED:
            return True
        return self.state is ActionState.IN_FORCE and now < self.expire_time

    @property
    def reason(self) -> str:
        """Why it is in force, for people."""
        if self.is_by_hand:
            return self.given_reason or "put in force by an operator"
        patterns = " | ".join(self.rule_regexes)
        return f"{self.rule_layer}: {self.rule_block} automation {self.rule_position}: {patterns}"


def block_title(rule: AutomationRule) -> str:
    """
    Write a rule's block as rule files do.

    That is `default`, `provider."google"` or `foo.com`, with `.sources."ip-1"` where the block
    is for one source.
    """
    match rule.scope:
        case Scope.DEFAULT:
            title = "default"
        case Scope.PROVIDER:
            title = f'provider."{rule.name}"'
        case Scope.DOMAIN:
            title = rule.name
    return f'{title}.sources."{rule.source}"' if rule.source else title
