"""The orders that a process of an agent of several begins with."""

import time
from pathlib import Path

import pytest

from agent.errors import OrdersUnavailable
from agent.orders.book import OrderBook
from agent.orders.inheritance import inherit_orders
from agent.orders.order import NewOrder, OrderKind, QueueScope


async def orders_at(path: Path, *tenants: str) -> list[str]:
    """Open the file, give an order for each tenant, and return the tenants of all orders."""
    book = OrderBook(path, clock=time.time)
    await book.open()
    try:
        for tenant in tenants:
            now = time.time()
            await book.give(
                NewOrder(
                    kind=OrderKind.SUSPEND,
                    scope=QueueScope(tenant=tenant),
                    reason="",
                    create_time=now,
                    expire_time=now + 600,
                )
            )
        return [order.scope.tenant for order in book.in_force.orders()]
    finally:
        await book.close()


async def test_a_new_process_begins_with_the_orders_of_the_first(tmp_path: Path) -> None:
    await orders_at(tmp_path / "orders.db", "a", "b")

    inherit_orders(tmp_path / "orders.db", tmp_path / "worker-1" / "orders.db")

    assert await orders_at(tmp_path / "worker-1" / "orders.db", "c") == ["a", "b", "c"]
    assert await orders_at(tmp_path / "orders.db") == ["a", "b"]


async def test_orders_that_were_ended_while_a_process_was_away_do_not_come_back(
    tmp_path: Path,
) -> None:
    own = tmp_path / "worker-1" / "orders.db"
    own.parent.mkdir()
    await orders_at(own, "ended")
    await orders_at(tmp_path / "orders.db", "a")

    inherit_orders(tmp_path / "orders.db", own)

    assert await orders_at(own) == ["a"]


async def test_orders_are_inherited_while_the_first_process_runs(tmp_path: Path) -> None:
    book = OrderBook(tmp_path / "orders.db", clock=time.time)
    await book.open()
    now = time.time()
    await book.give(
        NewOrder(
            kind=OrderKind.BOUNCE,
            scope=QueueScope(),
            reason="",
            create_time=now,
            expire_time=now + 600,
        )
    )
    inherit_orders(tmp_path / "orders.db", tmp_path / "worker-1" / "orders.db")
    await book.close()

    assert await orders_at(tmp_path / "worker-1" / "orders.db") == [""]


async def test_without_a_first_process_orders_stay(tmp_path: Path) -> None:
    await orders_at(tmp_path / "own.db", "a")

    inherit_orders(tmp_path / "orders.db", tmp_path / "own.db")

    assert await orders_at(tmp_path / "own.db") == ["a"]


async def test_orders_that_can_not_be_copied_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "orders.db").write_bytes(b"no database" * 1000)
    await orders_at(tmp_path / "own.db", "a")

    with pytest.raises(OrdersUnavailable, match="can't be copied"):
        inherit_orders(tmp_path / "orders.db", tmp_path / "own.db")

    assert await orders_at(tmp_path / "own.db") == ["a"]
