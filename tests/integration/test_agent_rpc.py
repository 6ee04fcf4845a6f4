"""The agent's gRPC port: what it serves, and how it starts and ends."""

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agent.errors import OrdersUnavailable
from agent.worker import open_agent
from penstock.v1 import queue_service_pb2 as pb
from penstock.v1.queue_service_pb2_grpc import QueueServiceStub
from tests.integration.test_worker_lifecycle import make_settings


async def test_the_port_tells_what_it_serves(tmp_path: Path) -> None:
    async with (
        open_agent(make_settings(tmp_path)) as ports,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="penstock.v1.QueueService")
        answer = await health.Check(request)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for said in stub.ServerReflectionInfo(iter([asked])):
            names = {service.name for service in said.list_services_response.service}

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert {"penstock.v1.InjectionService", "penstock.v1.QueueService"} < names


async def test_orders_hold_from_the_start_of_the_next_run_on(tmp_path: Path) -> None:
    for number in (1, 2):
        async with (
            open_agent(make_settings(tmp_path)) as ports,
            grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
        ):
            stub = QueueServiceStub(channel)
            selector = pb.QueueSelector(tenant=f"tenant{number}")
            await stub.SuspendQueue(pb.SuspendQueueRequest(selector=selector))
            listed = await stub.ListQueueOrders(pb.ListQueueOrdersRequest())

    assert [one.selector.tenant for one in listed.orders] == ["tenant1", "tenant2"]


async def test_orders_that_can_not_be_read_keep_the_agent_down(tmp_path: Path) -> None:
    """Nobody else knows of them: without, mail that is held would be let go."""
    (tmp_path / "orders.db").write_bytes(b"no database" * 1000)

    with pytest.raises(OrdersUnavailable, match=r"orders\.db: .* mail that is held"):
        async with open_agent(make_settings(tmp_path)):
            pass
