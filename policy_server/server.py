"""
The policy server: builds the object graph, once, and runs it until told to stop.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from datetime import timedelta

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from penstock.v1 import (
    automation_service_pb2,
    automation_service_pb2_grpc,
    feedback_service_pb2,
    feedback_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    limit_service_pb2,
    limit_service_pb2_grpc,
    rule_service_pb2,
    rule_service_pb2_grpc,
)
from policy_server.dns import MxResolver
from policy_server.errors import CannotListen, PolicyServerError, RulesNotLoaded, WrongSchema
from policy_server.history_keeper import keep_history
from policy_server.http import HttpServer
from policy_server.lending.embedded import EmbeddedLimitStore
from policy_server.lending.keeper import BookKeeper, name_owner
from policy_server.lending.port import LimitStore
from policy_server.lending.shared import build_shared_store
from policy_server.limits.spec import LeaseTiming
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.services import policy_service
from policy_server.services.agent_directory import AgentDirectory
from policy_server.services.automation_service import AutomationService
from policy_server.services.canary import CanaryShare
from policy_server.services.feedback_service import FeedbackService
from policy_server.services.fleet_service import FleetService
from policy_server.services.limit_names import LimitNames
from policy_server.services.limit_service import LimitService
from policy_server.services.policy_service import PolicyService, add_policy_service
from policy_server.services.rule_service import RuleService
from policy_server.services.rule_trials import RuleTrials
from policy_server.services.supervised_server import SupervisedServer
from policy_server.services.watch import WatchHub
from policy_server.settings import (
    EMBEDDED,
    LimitSettings,
    ServerSettings,
    Settings,
    split_address,
)
from policy_server.store.actions import ActionStore
from policy_server.store.agents import AgentStore
from policy_server.store.database import Database
from policy_server.store.datastore import read_datastore_id
from policy_server.store.operator_actions import OperatorActionStore
from policy_server.store.outcomes import OutcomeBounds
from policy_server.store.reports import ReportStore
from policy_server.store.schema import check_schema, upgrade
from policy_server.supervisor import end, keep_running

logger = logging.getLogger(__name__)

_GRACE = timedelta(seconds=5)
_SERVICES = (
    policy_service.SERVICE_NAME,
    feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name,
    automation_service_pb2.DESCRIPTOR.services_by_name["AutomationService"].full_name,
    rule_service_pb2.DESCRIPTOR.services_by_name["RuleService"].full_name,
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
    limit_service_pb2.DESCRIPTOR.services_by_name["LimitService"].full_name,
)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_CHANNEL_OPTIONS = (
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The default of five minutes answers an agent's keepalive with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
)
#: Every agent has three streams.
_MAX_CALLS = 10_000
_RETRY_SECONDS = 1.0


class Server:
    """One policy server; `start` it, then `stop` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.metrics = ServerMetrics()
        self.database = Database(settings.database.url)
        self.actions = ActionStore(self.database)
        self.policy = Policy(
            self.database,
            actions=self.actions,
            resolver=MxResolver(nameservers=settings.dns.nameservers, timeout=settings.dns.timeout),
            metrics=self.metrics,
        )
        self._health = health.aio.HealthServicer()
        self._http = HttpServer(self.metrics, self._why_not_ready)
        self._grpc: grpc.aio.Server | None = None
        self._hub: WatchHub | None = None
        self._feedback: FeedbackService | None = None
        self._bounds = OutcomeBounds(
            age=settings.feedback.keep_outcomes, rows=settings.feedback.max_outcomes
        )
        self._is_stopping = False
        self._readiness = asyncio.Event()
        self._directory: AgentDirectory | None = None
        self._limits: LimitService | None = None
        self._limit_store: LimitStore | None = None
        self._limit_names: LimitNames | None = None
        #: On PostgreSQL the lease book has connections of its own: no import holds it up.
        self._lease_database = (
            self.database if self.database.is_sqlite else Database(settings.database.url)
        )
        self._keepers: list[asyncio.Task[None]] = []
        #: Why there is nothing to answer from; empty once there is.
        self._reason = "the rules are not loaded"
        #: Why no call is served: until the schema is known to fit, there may not even be tables.
        self._refusal: PolicyServerError | None = RulesNotLoaded()
        #: The ports listened on, once started.
        self.grpc_port = 0
        self.http_port = 0

    async def start(self) -> None:
        """Listen, then be ready; a database elsewhere may take its time, and is waited for."""
        if self.database.is_sqlite:
            await asyncio.to_thread(upgrade, self.database)
        # First, as processes that share the other port are told apart by this one.
        self.http_port = await self._http.start(self._settings.server.http_listen)
        self._grpc = self._build_grpc()
        await self._set_health(_NOT_SERVING)
        await self._grpc.start()
        if self.database.is_sqlite:
            # What is wrong with a file here does not get better by waiting.
            await self._become_ready()
        else:
            await self._try_to_become_ready()
        self._keepers = [
            asyncio.create_task(keep_running(work), name=work.__name__)
            for work in (self._keep_database, self._keep_agents, self._keep_limits)
        ]

    async def stop(self, grace: timedelta = _GRACE) -> None:
        """Refuse new work, tell the streams, let calls end within *grace*, close everything."""
        self._is_stopping = True
        await self._set_health(_NOT_SERVING)
        if self._hub is not None:
            self._hub.drain()
        if self._feedback is not None:
            self._feedback.drain()
        if self._limits is not None:
            self._limits.drain()
        if self._grpc is not None:
            await self._grpc.stop(grace.total_seconds())
        await self._http.stop()
        await end(self._keepers)
        if self._limit_names is not None:
            self._limit_names.close()
        if self._limit_store is not None:
            await self._limit_store.close()
        if self._directory is not None and self._readiness.is_set():
            # That nobody watches here any more; a database that is away is told by time.
            with contextlib.suppress(PolicyServerError):
                await self._directory.write()
        await self.policy.close()
        if self._lease_database is not self.database:
            await self._lease_database.aclose()
        await self.database.aclose()
        logger.info("server stopped")

    async def _keep_agents(self) -> None:
        assert self._directory is not None
        await self._readiness.wait()
        await self._directory.run()

    async def _keep_limits(self) -> None:
        assert self._limit_names is not None
        await self._readiness.wait()
        await self._limit_names.run()

    async def _keep_database(self) -> None:
        while True:
            if await self._try_to_become_ready():
                await keep_history(self.database, outcome_bounds=self._bounds)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _try_to_become_ready(self) -> bool:
        try:
            await self._become_ready()
        except PolicyServerError as error:
            if self._reason != str(error):
                self._reason = str(error)
                logger.warning("not ready, waiting for the database", extra={"why": self._reason})
            return False
        return True

    async def _become_ready(self) -> None:
        if not self._reason or self._hub is None:
            return
        await self._check_schema()
        self._hub.use_datastore(await read_datastore_id(self.database))
        await self.policy.start()
        if self._limit_store is not None:
            await self._limit_store.start()
        self._reason = ""
        self._readiness.set()
        await self._set_health(_SERVING)
        ports = {"grpc_port": self.grpc_port, "http_port": self.http_port}
        logger.info("server ready", extra=ports)

    async def _check_schema(self) -> None:
        try:
            await self.database.read(check_schema)
        except WrongSchema as error:
            self._refusal = error
            raise
        self._refusal = None

    def _check_calls(self) -> None:
        if self._refusal is not None:
            # Without the traces of those who were told before.
            raise self._refusal.with_traceback(None)

    def _build_grpc(self) -> grpc.aio.Server:
        settings = self._settings.server
        # A second process must fail to start, and not take its part unseen, unless it is told to.
        sharing = ("grpc.so_reuseport", int(settings.share_port))
        listening = grpc.aio.server(
            options=(*_CHANNEL_OPTIONS, sharing), maximum_concurrent_rpcs=_MAX_CALLS
        )
        self.grpc_port = _listen(listening, settings)
        server = SupervisedServer(listening, self.metrics, self._check_calls)
        agents = AgentStore(self.database)
        self._directory = AgentDirectory(
            agents,
            server=self._name(),
            metrics=self.metrics,
            revision=self._revision,
        )
        watch = self._settings.watch
        self._hub = WatchHub(
            self.policy,
            self.actions,
            directory=self._directory,
            metrics=self.metrics,
            canaries=CanaryShare(share=watch.canary_share, wait=watch.canary_wait),
        )
        add_policy_service(server, PolicyService(self.policy, self._hub), self._hub)
        reports = ReportStore(self.database, bounds=self._bounds)
        self._feedback = FeedbackService(self.policy, reports, metrics=self.metrics)
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(self._feedback, server)
        automation = AutomationService(
            self.policy,
            self.actions,
            OperatorActionStore(self.database),
            trials=RuleTrials(self.policy, self.database),
        )
        automation_service_pb2_grpc.add_AutomationServiceServicer_to_server(automation, server)
        fleet = FleetService(self.policy, agents)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server)
        rules = RuleService(self.policy, self.database)
        rule_service_pb2_grpc.add_RuleServiceServicer_to_server(rules, server)
        self._limits = self._build_limits()
        limit_service_pb2_grpc.add_LimitServiceServicer_to_server(self._limits, server)
        # Whoever asks for its health is answered whatever the database is like.
        health_pb2_grpc.add_HealthServicer_to_server(
            self._health, SupervisedServer(listening, self.metrics)
        )
        names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        # It looks at what the server is, and would take this one for one without an event loop.
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), listening)
        return listening

    def _build_limits(self) -> LimitService:
        self._limit_store = self._build_limit_store()
        self._limit_names = LimitNames(self.policy, self._limit_store)
        return LimitService(self._limit_store, self._limit_names, metrics=self.metrics)

    def _build_limit_store(self) -> LimitStore:
        server = self._name()
        limits = self._settings.limits
        timing = _lease_timing(limits)
        host, _ = split_address(self._settings.server.grpc_listen)
        # Dialled as it stands.
        address = f"[{host}]:{self.grpc_port}" if ":" in host else f"{host}:{self.grpc_port}"
        if limits.state != EMBEDDED:
            return build_shared_store(
                limits.state,
                self._lease_database,
                server=server,
                address=address,
                timing=timing,
                metrics=self.metrics,
            )
        keeper = BookKeeper(
            self._lease_database,
            owner=name_owner(socket.gethostname(), address),
            address=address,
        )
        return EmbeddedLimitStore(
            self._lease_database, keeper, server=server, timing=timing, metrics=self.metrics
        )

    def _name(self) -> str:
        """Name this process: the same after a restart, and another for each server of a host."""
        name = f"{socket.gethostname()}:{self.grpc_port}"
        return f"{name}/{self.http_port}" if self._settings.server.share_port else name

    def _revision(self) -> int:
        return self.policy.revision if self.policy.is_loaded else 0

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *_SERVICES):
            await self._health.set(service, status)

    def _why_not_ready(self) -> str:
        if self._is_stopping:
            return "the server is stopping"
        return self._reason


def _lease_timing(limits: LimitSettings) -> LeaseTiming:
    return LeaseTiming(
        session=_nanoseconds(limits.session_ttl),
        grace=_nanoseconds(limits.grace),
        drain=_nanoseconds(limits.drain_time),
        floor=_nanoseconds(limits.floor_ttl),
    )


def _nanoseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1) * 1000


def _listen(server: grpc.aio.Server, settings: ServerSettings) -> int:
    address = settings.grpc_listen
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        hint = ", unless all who do so have server.share_port = true" if settings.share_port else ""
        raise CannotListen(f"server.grpc_listen: {address} can't be listened on{hint}") from error


async def run_server(settings: Settings, *, announce: Callable[[str, str], None]) -> None:
    """Run a server until SIGTERM or SIGINT; a second signal ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server = Server(settings)
    try:
        await server.start()
        grpc_host, _ = split_address(settings.server.grpc_listen)
        http_host, _ = split_address(settings.server.http_listen)
        announce(f"{grpc_host}:{server.grpc_port}", f"{http_host}:{server.http_port}")
        await stopping.wait()
    finally:
        await server.stop()
