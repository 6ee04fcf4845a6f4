"""An agent's dispatch with a real spool, and real SMTP and DNS servers around it, for tests."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from agent.delivery.record import Record, RecordType
from agent.dispatch.dispatcher import Dispatcher
from agent.dns import Resolver
from agent.errors import PolicyUnavailable
from agent.limits.fleet import FleetLimits
from agent.limits.limit import FleetLimit
from agent.mta_sts.policies import MtaStsPolicies
from agent.policy.answer import Bounce, MxHost, PathPolicy, Scope, Suspension, covers
from agent.queue.names import QueueName
from agent.settings import Settings
from agent.sink.dns_server import DnsServer
from agent.sink.server import Sink
from agent.sink.settings import SinkSettings
from agent.spool.messages import Destination, NewMessage
from agent.spool.sqlite import SqliteSpool
from penstock.v1 import egress_path_pb2 as pb

DOMAIN = "big.example"
BODY = b"Subject: hello\r\n\r\n.dots\r\n..and more\r\nend\r\n"


def _scope_of(queue: QueueName) -> Scope:
    return Scope(routing_domain=queue.next_domain, tenant=queue.tenant, campaign=queue.campaign)


class Log:
    """Keeps the records and says when there is a new one."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, records: Sequence[Record]) -> None:
        self.records += records

    def of(self, type_: RecordType) -> list[Record]:
        return [record for record in self.records if record.type is type_]


class Policies:
    """A policy source that answers one configuration for each domain, changed by the test."""

    def __init__(self, config: pb.EgressPathConfig) -> None:
        self.config = config
        self.known: dict[tuple[str, str], PathPolicy] = {}
        #: What the fleet keeps of the limits, whatever the path.
        self.fleet_limits: tuple[FleetLimit, ...] = ()
        self.suspensions: list[Suspension] = []
        self.bounces: list[Bounce] = []
        #: Ids of bounces that were in force once.
        self.bounces_seen: set[int] = set()
        self.is_away = False
        self._listeners: list[Callable[[], None]] = []

    def lookup(self, routing_domain: str, egress_source: str) -> PathPolicy | None:
        return self.known.get((routing_domain, egress_source))

    async def fetch(
        self, routing_domain: str, egress_source: str, mx_hosts: tuple[MxHost, ...]
    ) -> PathPolicy:
        if self.is_away:
            raise PolicyUnavailable
        site = ",".join(host.host for host in mx_hosts)
        policy = PathPolicy(
            routing_domain=routing_domain,
            egress_source=egress_source,
            site_name=site,
            path_name=f"{egress_source}->{site}",
            provider_name="big",
            config=self.config,
            etag="1",
            revision=1,
            fleet_limits=self.fleet_limits,
        )
        self.known[(routing_domain, egress_source)] = policy
        return policy

    def suspension_of(
        self, policy: PathPolicy, tenant: str = "", campaign: str = ""
    ) -> Suspension | None:
        return self._held(policy.scope._replace(tenant=tenant, campaign=campaign))

    def suspension_of_path(self, policy: PathPolicy) -> Suspension | None:
        return self._held(policy.path_scope)

    def suspension_of_queue(self, queue: QueueName) -> Suspension | None:
        return self._held(_scope_of(queue))

    def is_in_force(self, suspension: Suspension) -> bool:
        return suspension in self.suspensions and time.time() < suspension.expire_time

    def bounce_of(self, queue: QueueName) -> Bounce | None:
        mail, now = _scope_of(queue), time.time()
        return next((one for one in self.bounces if covers(one, mail, now)), None)

    @property
    def bounces_begun(self) -> int:
        return len(self.bounces_seen | {one.action_id for one in self.bounces})

    def _held(self, mail: Scope) -> Suspension | None:
        now = time.time()
        held = [one for one in self.suspensions if covers(one, mail, now)]
        return max(held, key=lambda one: one.expire_time, default=None)

    def subscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def order_bounce(self, bounce: Bounce) -> None:
        self.bounces.append(bounce)
        self.bounces_seen.add(bounce.action_id)
        self.change()

    def change(self, config: pb.EgressPathConfig | None = None) -> None:
        if config is not None:
            self.config = config
            self.known.clear()
        for listener in self._listeners:
            listener()


def make_config(port: int, **options: Any) -> pb.EgressPathConfig:
    config = pb.EgressPathConfig(
        smtp_port=port, enable_tls=options.pop("enable_tls", pb.ENABLE_TLS_DISABLED)
    )
    config.connection_limit.value = options.pop("connection_limit", 5)
    for name in [name for name in options if name.endswith("timeout")]:
        getattr(config, name).FromTimedelta(timedelta(seconds=options.pop(name)))
    for name in [name for name in options if name.endswith("_rate")]:
        count, seconds, burst = options.pop(name)
        rate = getattr(config, name)
        rate.count, rate.max_burst = count, burst
        rate.period.FromTimedelta(timedelta(seconds=seconds))
    for name, value in options.items():
        setattr(config, name, value)
    config.skip_hosts.cidrs.extend([])
    return config


def suspend(policies: Policies, policy: PathPolicy, *, routing_domain: str = "") -> None:
    """Hold the site of *policy*, or one domain of it, for an hour."""
    policies.suspensions = [
        Suspension(
            action_id=1,
            egress_source=policy.egress_source,
            site_name=policy.site_name,
            routing_domain=routing_domain,
            reason="test",
            expire_time=time.time() + 3600,
        )
    ]


class World:
    """An agent's dispatch, and the peers around it."""

    def __init__(self, settings: Settings, directory: Path, sink: Sink, dns: DnsServer) -> None:
        self.settings, self.directory, self.sink, self.dns = settings, directory, sink, dns
        self.log = Log()
        port = next(iter(sink.listening.values()))[0][1]
        self.port = port
        self.policies = Policies(make_config(port))
        self.spool: SqliteSpool | None = None
        self.resolver: Resolver | None = None
        self.dispatcher: Dispatcher | None = None
        self.mta_sts: MtaStsPolicies | None = None

    async def start(self, **options: Any) -> None:
        self.spool = await SqliteSpool.open(self.directory)
        self.resolver = Resolver((self.dns.address,), timeout=2.0)
        if (open_mta_sts := options.pop("open_mta_sts", None)) is not None:
            options["mta_sts"] = self.mta_sts = await open_mta_sts(self.resolver)
        self.dispatcher = Dispatcher(
            self.settings, self.spool, self.policies, self.resolver, self.log, **options
        )
        self.dispatcher.accept(await self.spool.entries())
        self.dispatcher.start()

    async def stop(self, deadline: float | None = 5.0) -> None:
        assert self.dispatcher is not None
        assert self.spool is not None
        assert self.resolver is not None
        await self.dispatcher.stop(deadline)
        if self.mta_sts is not None:
            await self.mta_sts.close()
            self.mta_sts = None
        await self.resolver.close()
        await self.spool.close()

    async def send(
        self,
        count: int = 1,
        *,
        domain: str = DOMAIN,
        recipients: Sequence[str] = ("a",),
        **more: Any,
    ) -> None:
        assert self.dispatcher is not None
        assert self.spool is not None
        now = time.time()
        messages = [
            NewMessage(
                id=f"{domain}-{now}-{number}",
                sender=more.get("sender", "from@sender.example"),
                destinations=(
                    Destination(
                        queue_name=more.get("queue", domain),
                        recipients=tuple(f"{name}@{domain}" for name in recipients),
                    ),
                ),
                body=f"Message-ID: <{now}.{number}>\r\n".encode() + more.get("body", BODY),
                created=more.get("created", now),
                tenant=more.get("tenant", ""),
                campaign=more.get("campaign", ""),
            )
            for number in range(count)
        ]
        self.dispatcher.accept(await self.spool.add(messages))

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  # the peer's counts have no event
                await asyncio.sleep(0.01)

    async def until_records(self, type_: RecordType, count: int, seconds: float = 20.0) -> None:
        await self.until(lambda: len(self.log.of(type_)) >= count, seconds)

    @property
    def seen(self) -> Any:
        return next(iter(self.sink.providers.values())).total


@asynccontextmanager
async def world(
    tmp_path: Path,
    *,
    provider: dict[str, Any] | None = None,
    agent: dict[str, Any] | None = None,
    records: dict[str, Any] | None = None,
    fleet: FleetLimits | None = None,
    **queue: Any,
) -> AsyncIterator[World]:
    entry = {
        "name": "big",
        "listen": ["127.0.0.1:0"],
        "host_name": "mx.big.example",
        "keep_messages": 1000,
    }
    sink = Sink(
        SinkSettings.model_validate(
            {"sink": {"http_listen": ""}, "provider": [{**entry, **(provider or {})}]}
        )
    )
    zone: dict[str, Any] = {
        "mx": {
            DOMAIN: [[10, "mx.big.example"]],
            "other.example": [[10, "mx.big.example"]],
            "null.example": [[0, "."]],
            "sender.example": [[10, "mx.big.example"]],
        },
        "a": {"mx.big.example": ["127.0.0.1"]},
    }
    for kind, names in (records or {}).items():
        zone[kind] = {**zone.get(kind, {}), **names} if isinstance(names, dict) else names
    # Senders are told of nothing unless the test asks for it: it would be more mail to account for.
    settings = Settings.model_validate(
        {"queue": {"retry_interval": "1h", "dsn": False, **queue}, **(agent or {})}
    )
    async with sink, DnsServer(zone) as dns:
        made = World(settings, tmp_path, sink, dns)
        await made.start(fleet=fleet)
        try:
            yield made
        finally:
            await made.stop()
