"""An agent's dispatch with its QueueService over gRPC, for tests of administration."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from agent.administration.queue_service import QueueService
from agent.orders.book import OrderBook
from penstock.v1.queue_service_pb2_grpc import (
    QueueServiceStub,
    add_QueueServiceServicer_to_server,
)
from tests.integration.dispatch_world import World, world


@asynccontextmanager
async def served(here: World, orders: OrderBook) -> AsyncIterator[Any]:
    """Serve the queues of *here*; gives a stub."""
    service = QueueService(
        here.settings, here.spool, here.dispatcher, orders, clock=time.time, unread=lambda: 0
    )
    server = grpc.aio.server()
    add_QueueServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield QueueServiceStub(channel)
    finally:
        await service.close()
        await server.stop(None)


@asynccontextmanager
async def queue_world(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[World, Any]]:
    """The world of `dispatch_world`, and a stub of its QueueService."""
    async with world(tmp_path, **options) as here:
        await here.stop()
        orders = OrderBook(tmp_path / "orders.db", clock=time.time)
        await orders.open()
        await here.start(orders=orders.in_force)
        try:
            async with served(here, orders) as stub:
                yield here, stub
        finally:
            await orders.close()
