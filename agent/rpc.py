"""
RpcServer: the agent's gRPC port: mail in and administration, with `grpc.health.v1` and reflection.
"""

import contextlib
import os

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agent.ports import listening_on
from agent.settings import ListenSection
from agent.smtp.injection_service import InjectionService
from penstock.v1 import injection_service_pb2, queue_service_pb2
from penstock.v1.injection_service_pb2_grpc import add_InjectionServiceServicer_to_server
from penstock.v1.queue_service_pb2_grpc import (
    QueueServiceServicer,
    add_QueueServiceServicer_to_server,
)

_SERVICES = (
    injection_service_pb2.DESCRIPTOR.services_by_name["InjectionService"].full_name,
    queue_service_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name,
)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
#: Above the largest message by what the rest of a request takes.
_REQUEST_OVERHEAD = 1024 * 1024
#: Calls beyond the bound that are still told to try later; those beyond these gRPC turns away.
_SPARE_CALLS = 1024


class RpcServer:
    """Serves until it is stopped."""

    def __init__(
        self,
        listen: ListenSection,
        *,
        injection: InjectionService,
        queues: QueueServiceServicer,
        is_shared: bool = False,
    ) -> None:
        """*is_shared*: beside other processes of the agent on one port."""
        self._listen = listen
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                # Else two agents could share the port, and the system would deal calls to either.
                # For processes of one agent that is meant; their parent keeps others off the port.
                ("grpc.so_reuseport", int(is_shared)),
                ("grpc.max_receive_message_length", listen.max_message_size + _REQUEST_OVERHEAD),
            ],
            maximum_concurrent_rpcs=listen.max_connections + _SPARE_CALLS,
        )
        add_InjectionServiceServicer_to_server(injection, self._server)
        add_QueueServiceServicer_to_server(queues, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, _HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> int:
        """Listen; return the port. Errors: `PortUnavailable`."""
        with listening_on("listen.grpc", self._listen.grpc):
            port = self._server.add_insecure_port(str(self._listen.grpc))
        await self._server.start()
        for name in ("", *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, seconds: float) -> None:
        """Take no more calls; those under way may end within *seconds*."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds)


class PrivateRpcServer:
    """Serves the queues of one process to the others of its agent, on a Unix socket."""

    def __init__(self, path: str, queues: QueueServiceServicer) -> None:
        self._path = path
        self._server = grpc.aio.server()
        add_QueueServiceServicer_to_server(queues, self._server)

    async def start(self) -> None:
        """Listen, in place of a process that was here before. Errors: `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise OSError(f"{self._path}: can't be listened on") from error
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls; those under way may end within *seconds*."""
        await self._server.stop(seconds)
