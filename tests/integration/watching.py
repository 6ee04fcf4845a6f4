"""A policy server under test, and a client that watches it as an agent does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from penstock.v1 import outcome_pb2
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.automation_service_pb2_grpc import AutomationServiceStub
from penstock.v1.feedback_service_pb2 import ReportOutcomesRequest
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from penstock.v1.fleet_service_pb2_grpc import FleetServiceStub
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.server import Server
from policy_server.settings import load_settings
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade

SITE = "(mta5|mta6).am0.yahoodns.net"
HOSTS = (
    pb.MxHost(host="mta5.am0.yahoodns.net", preference=1),
    pb.MxHost(host="mta6.am0.yahoodns.net", preference=1),
)


def automation(regex: str, *actions, **changes) -> AutomationDraft:
    """A rule as written."""
    values: dict[str, Any] = {"duration": "1 hour"} | changes
    return AutomationDraft(regexes=(regex,), actions=actions, **values)


def yahoo(*rules: AutomationDraft, **options) -> LayerDraft:
    """A layer with one provider that has these rules."""
    block = BlockDraft(
        scope=Scope.PROVIDER,
        name="yahoo",
        options=options,
        matches=(("mx_suffix", ".yahoodns.net"),),
        automation=rules,
    )
    return LayerDraft(name="base", blocks=(block,))


def write_rules(url: str, *drafts: LayerDraft) -> None:
    """Import layers, as the command does."""
    database = Database(url)
    try:
        upgrade(database)
        database.write_now(lambda connection: import_layers(connection, drafts, author="test"))
    finally:
        database.close()


def run_sql(url: str, statement: str) -> None:
    """Change a row by hand."""
    database = Database(url)
    try:
        database.write_now(lambda connection: connection.execute(text(statement)))
    finally:
        database.close()


@contextlib.asynccontextmanager
async def serving(url: str, **overrides: str) -> AsyncIterator["Client"]:
    """Run a server on this database, with settings as the environment has them; give a client."""
    settings = {
        "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        "PENSTOCK_DATABASE_URL": url,
        # Nothing answers at port 9, so that no test depends on a name server.
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
        "PENSTOCK_DNS_TIMEOUT": "0.2s",
    }
    server = Server(load_settings(None, settings | overrides))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            client = Client(channel, server)
            # As agents do before they send: from then on the server knows the site's hosts.
            await client.policy.GetEgressPathConfig(
                pb.GetEgressPathConfigRequest(
                    routing_domain="yahoo.com", egress_source="ip-1", mx_hosts=HOSTS
                )
            )
            yield client
    finally:
        await server.stop()


class Client:
    """Calls of one agent."""

    def __init__(self, channel: grpc.aio.Channel, server: Server | None = None) -> None:
        """*server* is left out where it runs in another process."""
        self._server = server
        self.policy = PolicyServiceStub(channel)
        self.feedback = FeedbackServiceStub(channel)
        self.automation = AutomationServiceStub(channel)
        self.fleet = FleetServiceStub(channel)

    @property
    def server(self) -> Server:
        """The server, which runs in this process."""
        assert self._server is not None
        return self._server

    async def report(self, *outcomes: outcome_pb2.DeliveryOutcome):
        """Report outcomes."""
        return await self.feedback.ReportOutcomes(
            ReportOutcomesRequest(outcomes=outcomes), timeout=20
        )

    def watch(
        self,
        *names: str,
        token: bytes = b"",
        known=None,
        acknowledge=True,
        info: pb.AgentInfo | None = None,
        metadata=(),
    ) -> "Watch":
        """Watch suspensions and the paths of these domains."""
        start = pb.WatchStart(
            resume_token=token,
            known=known,
            subscribe=list(map(subscription, names)),
            agent_info=info,
        )
        call = self.policy.WatchPolicy(metadata=metadata)
        return Watch(call, start, acknowledge=acknowledge)

    def metric(self, name: str, **labels: str) -> float:
        """Read one of the server's metrics."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0


def subscription(name: str) -> pb.PathSubscription:
    """A subscription to the path of a domain at Yahoo."""
    return pb.PathSubscription(name=name, routing_domain=name, egress_source="ip-1", mx_hosts=HOSTS)


def outcome(event_id: str, content: str = "[TS04] deferred", at: datetime | None = None, **changes):
    """An outcome of Yahoo's."""
    time = Timestamp()
    time.FromDatetime(at or datetime.now(UTC))
    values: dict[str, Any] = {
        "event_id": event_id,
        "event_time": time,
        "type": outcome_pb2.OUTCOME_TYPE_TRANSIENT_FAILURE,
        "recipient_domain": "yahoo.com",
        "site_name": SITE,
        "path_name": f"ip-1->{SITE}",
        "egress_source": "ip-1",
        "response": outcome_pb2.SmtpResponse(
            code=421,
            enhanced_code=outcome_pb2.EnhancedStatusCode(**{"class": 4, "subject": 7, "detail": 0}),
            content=content,
        ),
    }
    return outcome_pb2.DeliveryOutcome(**(values | changes))


class Watch:
    """One stream, with what it has been told."""

    def __init__(self, call, start: pb.WatchStart, *, acknowledge: bool) -> None:
        self.call = call
        self._start = start
        self._acknowledge = acknowledge
        self.suspensions: dict[str, pb.Suspension] = {}
        self.bounces: dict[str, pb.Bounce] = {}
        self.newest_nonce = ""
        self.paths: dict[str, pb.GetEgressPathConfigResponse] = {}
        self.removed: list[tuple[str, int]] = []
        #: As of which revision each name was last said to be gone.
        self.gone_as_of: dict[str, int] = {}
        self.kinds: list[int] = []
        self.invalidations = 0
        #: Snapshots whose end has come.
        self.ends = 0
        self.token = b""
        self.reconnect_after: Any = None

    async def __aenter__(self) -> "Watch":
        await self.call.write(pb.WatchPolicyRequest(start=self._start))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

    def stop_acknowledging(self) -> None:
        """Write no more by itself: a write to a stream that has ended would hide why it did."""
        self._acknowledge = False

    async def send(self, **request) -> None:
        """Send one request."""
        await self.call.write(pb.WatchPolicyRequest(**request))

    async def read(self) -> pb.WatchPolicyResponse | None:
        """Take in one response; None at the end of the stream."""
        received: Any = await self.call.read()
        if received is grpc.aio.EOF:
            return None
        response: pb.WatchPolicyResponse = received
        self.kinds.append(response.kind)
        self.invalidations += len(response.invalidate)
        self.ends += response.snapshot_end
        for resource in response.resources:
            if resource.type == pb.RESOURCE_TYPE_SUSPENSION:
                self.suspensions[resource.name] = resource.suspension
            elif resource.type == pb.RESOURCE_TYPE_BOUNCE:
                self.bounces[resource.name] = resource.bounce
            else:
                self.paths[resource.name] = resource.egress_path
        for gone in response.removed:
            self.removed.append((gone.name, gone.type))
            self.gone_as_of[gone.name] = gone.revision
            if gone.type == pb.RESOURCE_TYPE_SUSPENSION:
                self.suspensions.pop(gone.name, None)
            if gone.type == pb.RESOURCE_TYPE_BOUNCE:
                self.bounces.pop(gone.name, None)
        if response.token:
            self.token = response.token
        if response.HasField("reconnect_after"):
            self.reconnect_after = response.reconnect_after
        self.newest_nonce = response.nonce or self.newest_nonce
        if response.nonce and self._acknowledge:
            # A stream that has ended says why at the next read.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.send(ack=pb.WatchAck(nonce=response.nonce, token=response.token))
        return response

    async def until(self, condition, seconds: float = 10) -> None:
        """Read until *condition* holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                if await self.read() is None:
                    raise AssertionError("the stream ended")
