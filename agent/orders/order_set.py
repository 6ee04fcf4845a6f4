"""
OrderSet: the orders in force, found by the mail that they are meant for.

It belongs to the event loop. It reads no clock: time is an argument.
"""

from collections.abc import Callable

from agent.orders.order import Order, OrderKind, QueueScope
from agent.policy.action_set import ActionSet

#: Most orders of one kind at one time.
MOST_ORDERS = 10_000


class OrderSet:
    """Orders in memory; whoever depends on them hears of changes."""

    def __init__(self) -> None:
        self._by_kind = {kind: ActionSet[Order](MOST_ORDERS) for kind in OrderKind}
        self._bounced: dict[int, int] = {}
        self._listeners: list[Callable[[], None]] = []
        self._count = 0
        #: How many orders to bounce came into force so far.
        self.bounces_begun = 0

    def __len__(self) -> int:
        return self._count

    def orders(self) -> list[Order]:
        """Every order that is held, oldest first."""
        held = [order for orders in self._by_kind.values() for order in orders]
        return sorted(held, key=lambda order: order.order_id)

    def get(self, order_id: int) -> Order | None:
        """The order, if it is held."""
        found = (orders.get(order_id) for orders in self._by_kind.values())
        return next((order for order in found if order is not None), None)

    def has_room(self, kind: OrderKind) -> bool:
        """Whether one more order of the kind can be taken."""
        return len(self._by_kind[kind]) < MOST_ORDERS

    def put(self, order: Order) -> None:
        """Put an order in force; there must be room."""
        self._by_kind[order.kind].put(order)
        self.bounces_begun += order.kind is OrderKind.BOUNCE
        self._notify()

    def remove(self, order_id: int) -> None:
        """End an order."""
        self._remove(order_id)
        self._notify()

    def pop_ended(self, now: float) -> list[Order]:
        """End and return the orders whose time is over."""
        ended = [one for orders in self._by_kind.values() for one in orders.pop_ended(now)]
        for order in ended:
            self._bounced.pop(order.order_id, None)
        if ended:
            self._notify()
        return ended

    def next_end(self) -> float:
        """When the next one ends, seconds since the epoch; else infinity."""
        return min(orders.next_end() for orders in self._by_kind.values())

    def suspension_of(self, mail: QueueScope, now: float) -> Order | None:
        """What holds *mail* at *now*, the order that ends last."""
        return self._of(OrderKind.SUSPEND, mail, now)

    def bounce_of(self, mail: QueueScope, now: float) -> Order | None:
        """What bounces *mail* at *now*, the order that ends last."""
        return self._of(OrderKind.BOUNCE, mail, now)

    def count_bounced(self, order_id: int, entries: int) -> None:
        """Note that an order bounced so many entries."""
        if self.get(order_id) is not None:
            self._bounced[order_id] = self.bounced(order_id) + entries

    def bounced(self, order_id: int) -> int:
        """How many entries an order bounced."""
        return self._bounced.get(order_id, 0)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever an order was given or has ended."""
        self._listeners.append(listener)

    def _of(self, kind: OrderKind, mail: QueueScope, now: float) -> Order | None:
        return self._by_kind[kind].of(mail, now) if len(self._by_kind[kind]) else None

    def _remove(self, order_id: int) -> None:
        for orders in self._by_kind.values():
            orders.remove(order_id)
        self._bounced.pop(order_id, None)

    def _notify(self) -> None:
        self._count = sum(map(len, self._by_kind.values()))
        for listener in self._listeners:
            listener()
