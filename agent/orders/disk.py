"""
OrderDisk: orders in `orders.db` under the agent's data directory, durable before they hold.

Nobody else knows of them, so a file that can't be read is an error, not a reason to begin anew.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from agent.errors import OrdersUnavailable
from agent.orders.order import NewOrder, Order, OrderKind, QueueScope

T = TypeVar("T")

_VERSION = 1
# AUTOINCREMENT: an id is never given to another order, lest somebody end the wrong one.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
  order_id INTEGER PRIMARY KEY AUTOINCREMENT,
  request_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  queue_name TEXT NOT NULL, domain TEXT NOT NULL, routing_domain TEXT NOT NULL,
  tenant TEXT NOT NULL, campaign TEXT NOT NULL,
  egress_source TEXT NOT NULL, path_name TEXT NOT NULL,
  reason TEXT NOT NULL,
  create_time REAL NOT NULL, expire_time REAL NOT NULL,
  is_silent INTEGER NOT NULL
) STRICT;
"""
_ADD = f"INSERT INTO orders VALUES (NULL, ?, ?, {'?, ' * len(QueueScope._fields)}?, ?, ?, ?)"
_SCOPE_ENDS = 3 + len(QueueScope._fields)


class OrderDisk:
    """The database of orders, used by one thread."""

    def __init__(self, path: Path) -> None:
        """Keep the database at *path*; nothing is opened yet."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="orders")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> list[Order]:
        """Open, creating if need be; return every order. Errors: `OrdersUnavailable`."""
        return await self._run(self._open)

    async def add(self, order: NewOrder) -> Order:
        """Store an order; return it with its id. Errors: `OrdersUnavailable`."""

        def add(connection: sqlite3.Connection) -> int:
            row = (
                order.request_id,
                order.kind.value,
                *order.scope,
                order.reason,
                order.create_time,
                order.expire_time,
                int(order.is_silent),
            )
            return connection.execute(_ADD, row).lastrowid or 0

        order_id = await self._run(add)
        values = {field.name: getattr(order, field.name) for field in fields(NewOrder)}
        return Order(order_id=order_id, **values)

    async def forget(self, order_ids: list[int]) -> None:
        """Remove orders. Errors: `OrdersUnavailable`."""
        rows = [(order_id,) for order_id in order_ids]
        # One transaction, not one a row.
        statements = ("BEGIN IMMEDIATE", "COMMIT")

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute(statements[0])
            connection.executemany("DELETE FROM orders WHERE order_id = ?", rows)
            connection.execute(statements[1])

        await self._run(forget)

    async def close(self) -> None:
        """Close the database."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connect())
        except (sqlite3.Error, OSError) as error:
            # Opened anew the next time, with nothing half done.
            self._disconnect()
            raise OrdersUnavailable(
                f"{self._path}: {error}; without its orders mail that is held would be let go"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=5
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _open(connection: sqlite3.Connection) -> list[Order]:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {version}, this agent reads {_VERSION}")
        connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
        rows = connection.execute("SELECT * FROM orders ORDER BY order_id").fetchall()
        return [_order(row) for row in rows]


def _order(row: tuple[object, ...]) -> Order:
    order_id, request_id, kind = row[:3]
    reason, create_time, expire_time, is_silent = row[_SCOPE_ENDS:]
    return Order(
        order_id=int(str(order_id)),
        request_id=str(request_id),
        kind=OrderKind(str(kind)),
        scope=QueueScope(*map(str, row[3:_SCOPE_ENDS])),
        reason=str(reason),
        create_time=float(str(create_time)),
        expire_time=float(str(expire_time)),
        is_silent=bool(is_silent),
    )
