"""The dispatcher against real SMTP peers, with a real spool and a real DNS server."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent.delivery.record import Record, RecordType
from agent.dispatch.dispatcher import Dispatcher
from agent.dns import Resolver
from agent.errors import PolicyUnavailable, SpoolUnavailable
from agent.policy.answer import MxHost, PathPolicy, Suspension
from agent.settings import Settings
from agent.sink.dns_server import DnsServer
from agent.sink.server import Sink
from agent.sink.settings import SinkSettings
from agent.spool.messages import Destination, NewMessage, Settlement, SpooledMessage
from agent.spool.sqlite import SqliteSpool
from penstock.v1 import egress_path_pb2 as pb

DOMAIN = "big.example"
BODY = b"Subject: hello\r\n\r\n.dots\r\n..and more\r\nend\r\n"


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
        self.suspensions: list[Suspension] = []
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
        )
        self.known[(routing_domain, egress_source)] = policy
        return policy

    def suspension_of(self, policy: PathPolicy) -> Suspension | None:
        held = [one for one in self.suspensions if one.holds(policy, time.time())]
        return max(held, key=lambda one: one.expire_time, default=None)

    def subscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

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

    async def start(self, **options: Any) -> None:
        self.spool = await SqliteSpool.open(self.directory)
        self.resolver = Resolver((self.dns.address,), timeout=2.0)
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
                sender="from@sender.example",
                destinations=(
                    Destination(
                        queue_name=more.get("queue", domain),
                        recipients=tuple(f"{name}@{domain}" for name in recipients),
                    ),
                ),
                body=f"Message-ID: <{now}.{number}>\r\n".encode() + more.get("body", BODY),
                created=now,
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
    tmp_path: Path, *, provider: dict[str, Any] | None = None, **queue: Any
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
    zone = {
        "mx": {
            DOMAIN: [[10, "mx.big.example"]],
            "other.example": [[10, "mx.big.example"]],
            "null.example": [[0, "."]],
        },
        "a": {"mx.big.example": ["127.0.0.1"]},
    }
    settings = Settings.model_validate({"queue": {"retry_interval": "1h", **queue}})
    async with sink, DnsServer(zone) as dns:
        made = World(settings, tmp_path, sink, dns)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


async def test_mail_is_delivered_over_few_reused_connections(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(50)
        await here.until_records(RecordType.DELIVERY, 50)

        assert here.seen.messages_accepted == 50
        assert here.seen.peak_connections <= 5
        assert here.seen.total_connections < 50
        kept = next(iter(here.sink.providers.values())).messages
        assert all(message.content.endswith(BODY) for message in kept)
        assert await here.spool.entries() == []


async def test_a_refused_recipient_bounces_and_the_others_are_delivered(tmp_path: Path) -> None:
    rules = [{"pattern": "^bad", "reply": "550 5.1.1 no such user"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        await here.send(1, recipients=("good", "bad"))
        await here.until_records(RecordType.BOUNCE, 1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert here.log.of(RecordType.BOUNCE)[0].recipients == ("bad@big.example",)
        assert here.log.of(RecordType.BOUNCE)[0].response.enhanced_code == (5, 1, 1)
        await here.until(
            lambda: here.dispatcher.queue_counts() == {"scheduled": 0, "due": 0, "ready": 0}
        )
        assert await here.spool.entries() == []


async def test_a_transient_failure_is_retried_with_doubling_delays(tmp_path: Path) -> None:
    rules = [{"pattern": "^slow", "reply": "451 4.7.1 later"}]
    async with world(tmp_path, provider={"recipient": rules}, retry_interval="100ms") as here:
        await here.send(1, recipients=("slow",))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 4)

        records = here.log.of(RecordType.TRANSIENT_FAILURE)[:4]
        gaps = [after.timestamp - before.timestamp for before, after in pairwise(records)]
        assert [record.num_attempts for record in records] == [0, 1, 2, 3]
        assert gaps[0] >= 0.095
        assert gaps[1] >= 0.19
        assert gaps[2] >= 0.38


async def test_mail_that_would_wait_beyond_its_age_expires(tmp_path: Path) -> None:
    rules = [{"pattern": "^slow", "reply": "451 4.7.1 later"}]
    async with world(
        tmp_path, provider={"recipient": rules}, retry_interval="1h", max_age="30m"
    ) as here:
        await here.send(1, recipients=("slow",))
        await here.until_records(RecordType.EXPIRATION, 1)

        assert here.log.of(RecordType.EXPIRATION)[0].response.code == 551
        assert len(here.log.of(RecordType.TRANSIENT_FAILURE)) == 1
        assert await here.spool.entries() == []


@pytest.mark.parametrize("limit", [1, 3])
async def test_never_more_connections_than_allowed(tmp_path: Path, limit: int) -> None:
    provider = {"limits": {"max_connections": limit}, "latency": ["1ms", "5ms"]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(
            make_config(here.port, connection_limit=limit, max_deliveries_per_connection=4)
        )
        await here.send(120)
        await here.until_records(RecordType.DELIVERY, 120)

        assert here.seen.exceeded() == []
        assert here.seen.peak_connections == limit
        assert here.seen.most_messages_per_connection == 4
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []


async def test_a_named_limit_is_shared_by_all_paths_that_name_it(tmp_path: Path) -> None:
    async with world(
        tmp_path, provider={"limits": {"max_connections": 2}, "latency": ["1ms", "3ms"]}
    ) as here:
        here.dns.zone = type(here.dns.zone).from_mapping(
            {
                "mx": {f"d{n}.example": [[10, f"mx.d{n}.example"]] for n in range(4)},
                "a": {f"mx.d{n}.example": ["127.0.0.1"] for n in range(4)},
            }
        )
        config = make_config(here.port, connection_limit=5, idle_timeout=0.05)
        config.additional_connection_limits["together"].value = 2
        here.policies.change(config)
        for number in range(4):
            await here.send(20, domain=f"d{number}.example")
        await here.until_records(RecordType.DELIVERY, 80)

        assert here.seen.exceeded() == []
        assert len(here.dispatcher.snapshot()) == 4


async def test_message_rate_is_kept_as_the_peer_counts_it(tmp_path: Path) -> None:
    async with world(
        tmp_path, provider={"limits": {"max_message_rate": "50/s,max_burst=6"}}
    ) as here:
        here.policies.change(
            make_config(here.port, connection_limit=5, max_message_rate=(50, 1, 5))
        )
        begin = time.monotonic()
        await here.send(60)
        await here.until_records(RecordType.DELIVERY, 60)

        assert time.monotonic() - begin >= (60 - 5) / 50
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        assert here.seen.exceeded() == []


async def test_connection_rate_is_kept(tmp_path: Path) -> None:
    async with world(
        tmp_path, provider={"limits": {"max_connection_rate": "10/s,max_burst=2"}}
    ) as here:
        here.policies.change(
            make_config(here.port, max_connection_rate=(10, 1, 1), max_deliveries_per_connection=2)
        )
        await here.send(20)
        await here.until_records(RecordType.DELIVERY, 20)

        assert here.seen.total_connections >= 10
        assert here.seen.exceeded() == []


async def test_a_slow_rate_opens_no_connections_in_vain(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(
            make_config(here.port, max_message_rate=(1, 3600, 1), idle_timeout=0.2)
        )
        await here.send(30)
        await here.until_records(RecordType.DELIVERY, 1)
        await here.until(lambda: here.seen.open_connections == 0)

        assert here.seen.total_connections <= 2
        assert here.dispatcher.queue_counts()["ready"] == 29

        here.policies.change(make_config(here.port, max_message_rate=(100000, 1, 100)))
        await here.until_records(RecordType.DELIVERY, 30)


async def test_421_ends_the_use_of_a_connection(tmp_path: Path) -> None:
    rules = [{"pattern": "^gone", "reply": "421 4.7.0 [TS01] deferred"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(1, recipients=("gone",))
        await here.send(2)
        await here.until_records(RecordType.DELIVERY, 2)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        record = here.log.of(RecordType.TRANSIENT_FAILURE)[0]
        assert (record.response.code, record.response.internal) == (421, False)
        assert record.peer_address is not None
        assert here.seen.total_connections == 2


async def test_a_suspension_holds_mail_without_an_attempt_and_releases_it_at_once(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        policy = here.policies.lookup(DOMAIN, "default")
        here.policies.suspensions = [
            Suspension(
                action_id=1,
                egress_source="default",
                site_name=policy.site_name,
                routing_domain="",
                reason="test",
                expire_time=time.time() + 3600,
            )
        ]
        here.policies.change()
        await here.until(lambda: here.seen.open_connections == 0)
        await here.send(10)
        await here.until(lambda: here.dispatcher.snapshot()[0].queued == 10)
        (state,) = here.dispatcher.snapshot()
        assert state.connections == 0
        assert state.suspended_until > time.time()

        here.policies.suspensions = []
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 11, seconds=3)

        assert {record.num_attempts for record in here.log.records} == {0}


async def test_suspended_mail_still_grows_old(tmp_path: Path) -> None:
    async with world(tmp_path, max_age="400ms") as here:
        policy = await here.policies.fetch(
            DOMAIN, "default", (MxHost(host="mx.big.example", preference=10),)
        )
        here.policies.suspensions = [
            Suspension(
                action_id=1,
                egress_source="default",
                site_name=policy.site_name,
                routing_domain="",
                reason="test",
                expire_time=time.time() + 3600,
            )
        ]
        await here.send(3)
        await here.until_records(RecordType.EXPIRATION, 3)

        assert here.seen.total_connections == 0


async def test_a_lowered_connection_limit_holds_for_open_connections(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.send(60)
        await here.until_records(RecordType.DELIVERY, 60)
        assert here.seen.open_connections > 1

        here.policies.change(make_config(here.port, connection_limit=1))
        await here.policies.fetch(
            DOMAIN, "default", (MxHost(host="mx.big.example", preference=10),)
        )
        here.policies.change()
        await here.until(lambda: here.seen.open_connections <= 1)
        await here.send(20)
        await here.until_records(RecordType.DELIVERY, 80)

        assert here.seen.open_connections == 1


async def test_mail_waits_while_no_policy_is_known(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.is_away = True
        await here.send(2)
        await here.until_records(RecordType.DELAYED, 2)
        here.policies.is_away = False
        here.policies.change()
        await here.until_records(RecordType.DELIVERY, 2)

        assert {record.num_attempts for record in here.log.records} == {0}


@pytest.mark.parametrize(
    ("domain", "code", "enhanced"),
    [("null.example", 556, (5, 1, 10)), ("nosuch.example", 550, (5, 1, 2))],
)
async def test_domains_that_take_no_mail_bounce(
    tmp_path: Path, domain: str, code: int, enhanced: tuple[int, int, int]
) -> None:
    async with world(tmp_path) as here:
        await here.send(3, domain=domain)
        await here.until_records(RecordType.BOUNCE, 3)

        response = here.log.of(RecordType.BOUNCE)[0].response
        assert (response.code, response.enhanced_code, response.internal) == (code, enhanced, True)
        assert await here.spool.entries() == []


async def test_a_full_ready_queue_delivers_everything_in_the_end(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, max_ready=5))
        await here.send(100)
        await here.until_records(RecordType.DELIVERY, 100)

        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []


async def test_a_restart_keeps_mail_attempts_and_due_times(tmp_path: Path) -> None:
    rules = [{"pattern": "^slow", "reply": "451 4.7.1 later"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        await here.send(2, recipients=("slow", "quick"))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 2)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 2)
        await here.stop(0.0)
        await here.start()

        entries = await here.spool.entries()
        assert [entry.attempts for entry in entries] == [1, 1]
        assert all(entry.due > time.time() + 3000 for entry in entries)
        message = await here.spool.load(entries[0].id)
        assert message.recipients == ("slow@big.example",)


async def test_too_many_recipients_are_sent_again_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, max_recipients_per_batch=4))
        await here.send(1, recipients=tuple(f"r{number}" for number in range(10)))
        await here.until(
            lambda: sum(len(record.recipients) for record in here.log.of(RecordType.DELIVERY)) == 10
        )

        assert here.seen.messages_accepted == 3
        assert here.seen.recipients_accepted == 10


async def test_an_unreachable_host_uses_one_attempt(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(1))
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        record = here.log.of(RecordType.TRANSIENT_FAILURE)[0]
        assert (record.response.code, record.response.internal) == (400, True)
        assert (await here.spool.entries())[0].attempts == 1


async def test_prohibited_hosts_bounce(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        config = make_config(here.port)
        config.prohibited_hosts.cidrs.append("127.0.0.0/8")
        here.policies.change(config)
        await here.send(1)
        await here.until_records(RecordType.BOUNCE, 1)

        assert here.log.of(RecordType.BOUNCE)[0].response.enhanced_code == (5, 4, 4)
        assert here.seen.total_connections == 0


@pytest.mark.parametrize("at", ["mail", "rcpt", "data", "data_end"])
async def test_a_connection_that_drops_loses_no_mail(tmp_path: Path, at: str) -> None:
    broken = [{"at": at, "action": "drop", "probability": 0.3}]
    provider = {"misbehave": broken}
    async with world(
        tmp_path, provider=provider, retry_interval="50ms", max_retry_interval="100ms"
    ) as here:
        await here.send(30)
        await here.until_records(RecordType.DELIVERY, 30)

        assert await here.spool.entries() == []


TLS_CASES = [
    # mode, certificate trusted, delivered over: "TLS", "clear", or "" where it is not
    ("OPPORTUNISTIC", True, "TLS"),
    ("OPPORTUNISTIC", False, ""),
    ("OPPORTUNISTIC_INSECURE", False, "TLS"),
    ("REQUIRED", True, "TLS"),
    ("REQUIRED", False, ""),
    ("REQUIRED_INSECURE", False, "TLS"),
    ("DISABLED", True, "clear"),
]


@pytest.mark.parametrize(("mode", "is_trusted", "way"), TLS_CASES)
async def test_starttls_as_the_mode_asks(
    tmp_path: Path, mode: str, is_trusted: bool, way: str
) -> None:
    authority = trustme.CA()
    async with world(tmp_path, provider=_certificate(authority, tmp_path)) as here:
        await here.stop()
        await here.start(trusted=_trust(authority if is_trusted else trustme.CA()))
        here.policies.change(make_config(here.port, enable_tls=getattr(pb, f"ENABLE_TLS_{mode}")))
        await here.send(1)
        if not way:
            await here.until_records(RecordType.TRANSIENT_FAILURE, 1)
            assert here.seen.messages_accepted == 0
            return
        await here.until_records(RecordType.DELIVERY, 1)

        version = here.log.of(RecordType.DELIVERY)[0].tls_protocol_version
        assert version.startswith("TLS") == (way == "TLS")


async def test_an_opportunistic_path_may_reconnect_in_the_clear(tmp_path: Path) -> None:
    async with world(tmp_path, provider=_certificate(trustme.CA(), tmp_path)) as here:
        await here.stop()
        await here.start(trusted=_trust(trustme.CA()))
        here.policies.change(
            make_config(
                here.port,
                connection_limit=1,
                enable_tls=pb.ENABLE_TLS_OPPORTUNISTIC,
                opportunistic_tls_reconnect_on_failed_handshake=True,
            )
        )
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert here.log.of(RecordType.DELIVERY)[0].tls_protocol_version == ""
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []
        assert here.seen.peak_connections == 1


@pytest.mark.parametrize("mode", ["REQUIRED", "REQUIRED_INSECURE"])
async def test_required_tls_is_never_given_up(tmp_path: Path, mode: str) -> None:
    async with world(tmp_path) as here:
        here.policies.change(make_config(here.port, enable_tls=getattr(pb, f"ENABLE_TLS_{mode}")))
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        assert here.seen.messages_accepted == 0


def _certificate(authority: trustme.CA, directory: Path) -> dict[str, Any]:
    certificate = authority.issue_cert("mx.big.example")
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return {"certificate": str(chain), "private_key": str(key)}


def _trust(authority: trustme.CA) -> Callable[[], ssl.SSLContext]:
    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return context

    return make


async def test_an_outcome_that_the_disk_does_not_take_is_held_and_nothing_is_sent_again(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        full = FullDisk(here.spool)
        here.dispatcher._results._spool = full
        full.is_full = True
        await here.send(20)
        await here.until(lambda: full.refused >= 3)
        accepted = here.seen.messages_accepted
        await here.until(lambda: here.seen.open_connections == 0)
        assert accepted <= 5

        full.is_full = False
        await here.until_records(RecordType.DELIVERY, 20)

        assert here.seen.messages_accepted == 20
        assert await here.spool.entries() == []


class FullDisk:
    """A spool on a disk that is full for a while."""

    def __init__(self, spool: SqliteSpool) -> None:
        self.is_full, self.refused, self._spool = False, 0, spool

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if self.is_full:
            self.refused += 1
            raise SpoolUnavailable
        await self._spool.settle(settlements)

    async def load(self, entry_id: int) -> SpooledMessage | None:
        return await self._spool.load(entry_id)


async def test_a_crash_in_the_middle_loses_nothing_and_repeats_little(tmp_path: Path) -> None:
    async with world(tmp_path, provider={"latency": ["1ms", "3ms"]}) as here:
        await here.send(200)
        await here.until(lambda: here.seen.messages_accepted >= 60)
        await here.stop(0.0)
        await here.start()
        await here.until(
            lambda: (
                here.dispatcher.queue_counts()["ready"] == 0
                and here.dispatcher.queue_counts()["due"] == 0
            )
        )

        provider = next(iter(here.sink.providers.values()))
        assert len(provider.identities.seen) == 200
        assert provider.identities.duplicates <= 5


async def test_the_next_host_is_tried_at_once_where_the_path_says_so(tmp_path: Path) -> None:
    provider = {
        "listen": ["127.0.0.1:0", "127.0.0.2:0"],
        "misbehave": [{"at": "mail", "action": "drop", "probability": 0.5}],
    }
    async with world(tmp_path, provider=provider) as here:
        here.dns.zone = type(here.dns.zone).from_mapping(
            {
                "mx": {DOMAIN: [[10, "mx.big.example"]]},
                "a": {"mx.big.example": ["127.0.0.1", "127.0.0.2"]},
            }
        )
        here.policies.change(make_config(here.port, try_next_host_on_transport_error=True))
        await here.send(10)
        await here.until(
            lambda: len(here.log.records) >= 10 and here.dispatcher.queue_counts()["ready"] == 0
        )

        assert here.log.of(RecordType.DELIVERY)
        firsts = [record for record in here.log.records if record.num_attempts == 0]
        assert len(firsts) >= 10
