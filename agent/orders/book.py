"""
OrderBook: gives and ends orders. One holds from when it is on disk until its time, over restarts;
times are those of the host's clock, as they were told.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from agent.errors import NotHere, OrdersUnavailable, TooManyOrders
from agent.orders.disk import OrderDisk
from agent.orders.order import NewOrder, Order
from agent.orders.order_set import MOST_ORDERS, OrderSet

logger = logging.getLogger(__name__)

#: The file of orders, under the data directory.
FILE_NAME = "orders.db"
#: The clock may be set: the next end is looked at anew so often, in seconds.
_LONGEST_TIMER = 60.0


class OrderBook:
    """The orders of one agent."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """Keep them at *path*; *clock* gives seconds since the epoch."""
        self._disk = OrderDisk(path)
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._forgetting: set[asyncio.Task[None]] = set()
        #: One change at a time, so that a request_id that comes twice makes one order.
        self._changing = asyncio.Lock()
        #: Those in force.
        self.in_force = OrderSet()

    async def open(self) -> None:
        """Put the orders that are on disk in force. Errors: `OrdersUnavailable`."""
        for order in await self._disk.open():
            self.in_force.put(order)
        self._on_timer()

    async def close(self) -> None:
        """Close; the orders stay on disk."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._forgetting:
            await asyncio.wait(self._forgetting)
        await self._disk.close()

    async def give(self, order: NewOrder) -> Order:
        """
        Put *order* in force; one with the same request_id that is in force already stays as it is
        and is returned. Errors: `TooManyOrders`, `OrdersUnavailable`.
        """
        async with self._changing:
            if (known := self._requested(order.request_id)) is not None:
                return known
            if not self.in_force.has_room(order.kind):
                raise TooManyOrders(f"{MOST_ORDERS} orders to {order.kind} are in force; end some")
            given = await self._disk.add(order)
            self.in_force.put(given)
        logger.info("order given", extra=_facts(given))
        self._arm()
        return given

    async def end(self, order_id: int) -> Order:
        """End an order now; return it. Errors: `NotHere`, `OrdersUnavailable`."""
        async with self._changing:
            order = self.in_force.get(order_id)
            if order is None:
                raise NotHere(f"no order {order_id} is in force")
            await self._disk.forget([order_id])
            self.in_force.remove(order_id)
        logger.info("order ended", extra=_facts(order))
        return order

    def _requested(self, request_id: str) -> Order | None:
        if not request_id:
            return None
        orders = self.in_force.orders()
        return next((order for order in orders if order.request_id == request_id), None)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        seconds = min(max(0.0, self.in_force.next_end() - self._clock()), _LONGEST_TIMER)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        if ended := self.in_force.pop_ended(self._clock()):
            for order in ended:
                logger.info("order ended by itself", extra=_facts(order))
            task = asyncio.create_task(self._forget([order.order_id for order in ended]))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)
        self._arm()

    async def _forget(self, order_ids: list[int]) -> None:
        try:
            await self._disk.forget(order_ids)
        except OrdersUnavailable as error:
            # They are over all the same, and are found to be at the next start.
            logger.warning("ended orders are still on disk", extra={"reason": str(error)})


def _facts(order: Order) -> dict[str, object]:
    scope = {name: part for name, part in order.scope._asdict().items() if part}
    return {"order": order.order_id, "kind": order.kind.value, "reason": order.reason, **scope}
