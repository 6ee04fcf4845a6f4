"""MTA-STS policies: fetched from a real HTTPS host, kept in memory and on disk."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent.delivery.mta_sts import Mode
from agent.dns import Resolver
from agent.mta_sts.disk import PolicyDisk
from agent.mta_sts.fetch import FetchFailed, PolicyFetcher
from agent.mta_sts.policies import MtaStsPolicies
from agent.sink.dns_server import DnsServer
from agent.sink.zone import Zone
from tests.integration.mta_sts_host import ENFORCE, PolicyHost, policy_host
from tests.integration.test_dispatch_tls_matrix import trust

DOMAIN = "big.example"
DAY = 86_400.0


class Around:
    """The policies, a clock, and the hosts they ask."""

    def __init__(self, host: PolicyHost, dns: DnsServer, directory: Path) -> None:
        self.host, self.dns, self.directory = host, dns, directory
        self.now = 1_000_000.0
        self.make_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
        self.policies: Any = None
        self.resolver: Any = None

    async def open(self, **options: Any) -> None:
        # Answers of the DNS are as old as the test's clock says.
        self.resolver = Resolver((self.dns.address,), timeout=1.0, clock=lambda: self.now)
        fetcher = PolicyFetcher(
            self.resolver, trusted=self.make_context, port=self.host.port, timeout=5.0
        )
        self.policies = MtaStsPolicies(
            self.resolver,
            fetcher,
            PolicyDisk(self.directory / "mta_sts.db"),
            clock=lambda: self.now,
            **options,
        )
        await self.policies.open()

    async def close(self) -> None:
        await self.policies.close()
        await self.resolver.close()

    def publish(self, record_id: str, *more: str) -> None:
        self.dns.zone = _zone([f"v=STSv1; id={record_id};"] if record_id else [], *more)

    async def mode(self, domain: str = DOMAIN) -> Mode | None:
        policy = await self.policies.policy_for(domain)
        return None if policy is None else policy.mode

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10.0):
            while not condition():  # noqa: ASYNC110  # counts have no event
                await asyncio.sleep(0.01)


def _zone(records: list[str], *domains: str) -> Zone:
    names = (DOMAIN, *domains)
    return Zone.from_mapping(
        {
            "txt": {f"_mta-sts.{name}": records for name in names},
            "a": {f"mta-sts.{name}": ["127.0.0.1"] for name in names},
            "ttl": 1,
        }
    )


@asynccontextmanager
async def _around(tmp_path: Path, *, trusted: bool = True, name: str = "") -> AsyncIterator[Around]:
    authority = trustme.CA()
    async with (
        policy_host(authority, name or "*.big.example", "mta-sts.more.example") as host,
        DnsServer(_zone(["v=STSv1; id=1;"], "more.example")) as dns,
    ):
        made = Around(host, dns, tmp_path)
        made.make_context = trust(authority if trusted else trustme.CA())
        await made.open()
        try:
            yield made
        finally:
            host.may_answer.set()
            await made.close()


async def test_a_policy_is_fetched_once_and_then_known(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        found = await asyncio.gather(*(here.mode() for _ in range(20)))
        again = await here.mode()

        assert set(found) == {again} == {Mode.ENFORCE}
        assert here.host.asked == [("mta-sts.big.example", "/.well-known/mta-sts.txt")]


FAILURES = [
    pytest.param({"status": 404}, "refused", "status 404", id="status"),
    pytest.param({"status": 301, "location": "/elsewhere"}, "refused", "status 301", id="moved"),
    pytest.param({"content_type": "text/html"}, "refused", "text/html: expected", id="kind"),
    pytest.param({"body": b"x" * 70_000}, "invalid", "more than 65536 bytes", id="size"),
    pytest.param({"body": "mode: enforce"}, "invalid", "version ''", id="no-policy"),
]


@pytest.mark.parametrize(("answer", "result", "told"), FAILURES)
async def test_what_is_no_policy_is_none(
    tmp_path: Path, answer: dict[str, Any], result: str, told: str, caplog: Any
) -> None:
    async with _around(tmp_path) as here:
        for name, value in answer.items():
            setattr(here.host, name, value)

        assert await here.mode() is None
        assert await here.mode() is None
        assert here.policies.results[result] == 1
        assert len(here.host.asked) == 1
    assert told in next(one.reason for one in caplog.records if "not fetched" in one.msg)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"trusted": False}, "certificate verify failed"),
        ({"name": "www.other.example"}, "Hostname mismatch"),
    ],
)
async def test_the_certificate_must_be_good(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    async with _around(tmp_path, **options) as here:
        assert await here.mode() is None
        assert here.host.asked == []

        fetcher = PolicyFetcher(here.resolver, trusted=here.make_context, port=here.host.port)
        with pytest.raises(FetchFailed, match=reason):
            await fetcher.fetch(DOMAIN)
        await fetcher.close()


async def test_a_domain_without_record_is_not_fetched_from(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        here.publish("")

        assert await here.mode() is None
        assert await here.mode() is None
        assert here.host.asked == []
        assert here.policies.results["absent"] == 1

        # Some minutes later it is asked again.
        here.publish("1")
        here.now += 301
        assert await here.mode() is Mode.ENFORCE


async def test_the_first_mail_waits_for_moments_only(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        await here.close()
        await here.open(first_wait=0.05)
        here.host.may_answer.clear()

        assert await here.mode() is None
        here.host.may_answer.set()
        await here.until(lambda: here.policies.results["fetched"] == 1)
        assert await here.mode() is Mode.ENFORCE


async def test_another_id_brings_another_policy_without_anybody_waiting(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        assert await here.mode() is Mode.ENFORCE
        here.host.body = ENFORCE.replace("enforce", "testing")
        here.publish("2")
        here.now += 299
        assert await here.mode() is Mode.ENFORCE
        here.now += 2
        here.host.may_answer.clear()
        assert await here.mode() is Mode.ENFORCE
        here.host.may_answer.set()
        await here.until(lambda: here.policies.results["fetched"] == 2)

        assert await here.mode() is Mode.TESTING


async def test_the_same_id_is_not_fetched_again_until_it_is_old(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        await here.mode()
        here.now += 400
        await here.mode()
        await here.until(lambda: here.policies.results["current"] == 1)
        assert len(here.host.asked) == 1

        # Without any use, by the passing of time: half of max_age.
        here.now += DAY / 2
        await here.policies.refresh()
        assert len(here.host.asked) == 2
        here.now += DAY * 0.9
        assert await here.mode() is Mode.ENFORCE


@pytest.mark.parametrize("failure", ["status", "record", "dns"])
async def test_a_policy_outlives_failures_until_its_max_age(tmp_path: Path, failure: str) -> None:
    async with _around(tmp_path) as here:
        await here.mode()
        if failure == "status":
            here.host.status = 500
        elif failure == "record":
            here.publish("")
        else:
            here.dns.zone = Zone.from_mapping({"faults": {f"_mta-sts.{DOMAIN}": "servfail"}})
        here.now += DAY * 0.99
        await here.policies.refresh()
        assert here.policies.results["fetched"] == 1
        assert await here.mode() is Mode.ENFORCE

        here.now += DAY * 0.02
        assert await here.mode() is None


async def test_policies_outlive_a_restart(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        await here.mode()
        await here.close()
        here.host.status = 500
        here.now += 1000
        await here.open()
        assert await here.mode() is Mode.ENFORCE

        # And end when they would have ended.
        await here.close()
        here.now += DAY
        await here.open()
        assert await here.mode() is None


async def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "mta_sts.db").write_bytes(b"no database" * 1000)
    async with _around(tmp_path) as here:
        assert await here.mode() is Mode.ENFORCE
    assert (tmp_path / "mta_sts.db.broken").exists()
    known = await PolicyDisk(tmp_path / "mta_sts.db").load(10)
    assert [one.domain for one in known] == [DOMAIN]


async def test_what_is_kept_has_a_bound(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        await here.close()
        await here.open(most_policies=1)
        assert await here.mode("more.example") is Mode.ENFORCE
        assert await here.mode(DOMAIN) is Mode.ENFORCE

        assert len(here.policies) == 1
        known = await PolicyDisk(tmp_path / "mta_sts.db").load(10)
        assert [one.domain for one in known] == [DOMAIN]


async def test_a_policy_that_ends_at_once_is_not_fetched_for_every_mail(tmp_path: Path) -> None:
    async with _around(tmp_path) as here:
        here.host.body = ENFORCE.replace("86400", "0")
        assert await here.mode() is None
        assert await here.mode() is None
        assert len(here.host.asked) == 1
