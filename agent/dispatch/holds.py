"""
Holds: what keeps mail from going, or makes it bounce, whoever said so: the policy server's actions
and the operator's orders to this agent. Of several suspensions the one that ends last counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from agent.dispatch.sources import Fault, SourceHealth
from agent.orders.order import Order, QueueScope, scope_of_queue
from agent.orders.order_set import OrderSet
from agent.policy.answer import PathPolicy, PolicySource, Scope, Suspension
from agent.queue.names import QueueName


class HoldKind(StrEnum):
    """How much of the mail is held."""

    PATH = "path"
    DOMAIN = "domain"
    TENANT = "tenant"
    CAMPAIGN = "campaign"
    ALL = "all"


def hold_kind(scope: Scope | QueueScope) -> HoldKind:
    """
    Say what is held, by the narrowest part of *scope*; one queue is as narrow as a campaign.

    >>> hold_kind(Scope(tenant="acme")).value
    'tenant'
    """
    parts = {name for name, part in scope._asdict().items() if part}
    if parts & {"campaign", "queue_name"}:
        return HoldKind.CAMPAIGN
    if "tenant" in parts:
        return HoldKind.TENANT
    if parts & {"egress_source", "site_name", "path_name"}:
        return HoldKind.PATH
    return HoldKind.DOMAIN if parts else HoldKind.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class MailHold:
    """Mail is held until a time."""

    #: Seconds since the epoch; infinity: until somebody ends it.
    until: float
    reason: str
    #: Of the policy server; 0: it is none of them.
    action_id: int = 0
    #: Of an operator; 0: it is none of them.
    order_id: int = 0
    #: What is held.
    kind: HoldKind = HoldKind.ALL
    #: Whether another way may be free of it.
    is_of_way: bool = False
    #: The action itself.
    action: Suspension | None = None
    #: The source itself fails; nobody has ordered it.
    is_fault: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceOrder:
    """Mail is to bounce."""

    reason: str
    #: Of an operator; 0: the policy server's.
    order_id: int = 0
    #: It makes no record.
    is_silent: bool = False


class Holds:
    """What is in force for some mail now."""

    def __init__(
        self,
        policies: PolicySource,
        orders: OrderSet,
        sources: SourceHealth,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._policies = policies
        self._sources = sources
        self._orders = orders
        self._clock = clock
        #: Mail that is being moved to another queue, and must not go meanwhile.
        self._moving: QueueScope | None = None

    def of_queue(self, queue: QueueName) -> MailHold | None:
        """What holds the queue's mail whichever way it takes."""
        held = self._policies.suspension_of_queue(queue)
        return self._later(held, lambda: scope_of_queue(queue))

    def of_way(self, policy: PathPolicy, queue: QueueName) -> MailHold | None:
        """What holds the queue's mail on one path."""
        if fault := self._sources.fault_of(policy.egress_source):
            return _hold_of_fault(fault)
        held = self._policies.suspension_of(policy, queue.tenant, queue.campaign)
        return self._later(
            held,
            lambda: scope_of_queue(queue, source=policy.egress_source, path_name=policy.path_name),
        )

    def of_path(self, policy: PathPolicy) -> MailHold | None:
        """What holds all mail of a path."""
        if fault := self._sources.fault_of(policy.egress_source):
            return _hold_of_fault(fault)
        held = self._policies.suspension_of_path(policy)
        return self._later(
            held,
            lambda: QueueScope(
                routing_domain=policy.path_scope.routing_domain,
                egress_source=policy.egress_source,
                path_name=policy.path_name,
            ),
        )

    def is_in_force(self, hold: MailHold) -> bool:
        """Whether *hold* holds what it held, until the same time."""
        if hold.action is not None:
            return self._policies.is_in_force(hold.action)
        return bool(hold.order_id) and self._orders.get(hold.order_id) is not None

    def bounce_of(self, queue: QueueName) -> BounceOrder | None:
        """What bounces the queue's mail."""
        if bounce := self._policies.bounce_of(queue):
            return BounceOrder(reason=bounce.reason)
        if not len(self._orders):
            return None
        order = self._orders.bounce_of(scope_of_queue(queue), self._clock())
        if order is None:
            return None
        return BounceOrder(reason=order.reason, order_id=order.order_id, is_silent=order.is_silent)

    @property
    def bounces_begun(self) -> int:
        """Grows whenever a bounce comes into force: mail that waits may bounce then."""
        return self._policies.bounces_begun + self._orders.bounces_begun

    def count_bounced(self, bounce: BounceOrder, entries: int) -> None:
        """Note that so many entries were bounced."""
        if bounce.order_id:
            self._orders.count_bounced(bounce.order_id, entries)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever anything here may have changed, or a path's policy has."""
        self._policies.subscribe(listener)
        self._orders.subscribe(listener)
        self._sources.subscribe(listener)

    def hold_moving(self, scope: QueueScope | None) -> None:
        """Hold mail that is being moved to another queue; None: no more."""
        self._moving = scope

    def _later(self, held: Suspension | None, mail: Callable[[], QueueScope]) -> MailHold | None:
        """Of what the server and what an operator holds, that which ends last."""
        if held is None and self._moving is None and not len(self._orders):
            return None
        order = None
        if len(self._orders) or self._moving is not None:
            scope, now = mail(), self._clock()
            if self._moving is not None and self._moving.covers(scope):
                return MailHold(until=float("inf"), reason="it is being moved to another queue")
            order = self._orders.suspension_of(scope, now)
        if order is not None and (held is None or order.expire_time > held.expire_time):
            return _hold_of_order(order)
        if held is None:
            return None
        return MailHold(
            until=held.expire_time,
            reason=held.reason,
            action_id=held.action_id,
            kind=hold_kind(held.scope),
            is_of_way=bool(held.egress_source or held.site_name),
            action=held,
        )


def _hold_of_order(order: Order) -> MailHold:
    return MailHold(
        until=order.expire_time,
        reason=order.reason,
        order_id=order.order_id,
        kind=hold_kind(order.scope),
        is_of_way=order.scope.needs_path,
    )


def _hold_of_fault(fault: Fault) -> MailHold:
    return MailHold(
        until=fault.until, reason=fault.reason, kind=HoldKind.PATH, is_of_way=True, is_fault=True
    )
