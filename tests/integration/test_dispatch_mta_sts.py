"""MTA-STS on outgoing connections: DNS, HTTPS and SMTP peers on loopback, all real."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.rdatatype
import pytest
import trustme

from agent.delivery.record import RecordType
from agent.dns import Resolver
from agent.mta_sts.disk import PolicyDisk
from agent.mta_sts.fetch import PolicyFetcher
from agent.mta_sts.policies import MtaStsPolicies
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import StarttlsPeer, starttls_peer
from tests.integration.dispatch_world import make_config, world
from tests.integration.mta_sts_host import ENFORCE, policy_host
from tests.integration.test_dispatch_tls_matrix import server_context, trust

TLS, CLEAR, NOT_SENT = "TLS", "clear", "not sent"

# policy mode, enable_tls, the peer's certificate, what becomes of the mail, failures counted
CASES = [
    ("enforce", "OPPORTUNISTIC_INSECURE", "good", TLS, 0),
    ("enforce", "DISABLED", "good", TLS, 0),
    ("enforce", "REQUIRED_INSECURE", "untrusted", NOT_SENT, 1),
    ("enforce", "OPPORTUNISTIC_INSECURE", "wrong name", NOT_SENT, 1),
    ("enforce", "DISABLED", "none", NOT_SENT, 1),
    ("testing", "OPPORTUNISTIC", "good", TLS, 0),
    ("testing", "OPPORTUNISTIC", "none", CLEAR, 1),
    ("testing", "DISABLED", "good", CLEAR, 1),
    ("testing", "REQUIRED_INSECURE", "untrusted", TLS, 0),
    # Mode `testing` never relaxes what the path asks.
    ("testing", "REQUIRED", "untrusted", NOT_SENT, 1),
    ("testing", "REQUIRED", "none", NOT_SENT, 1),
    ("none", "OPPORTUNISTIC", "none", CLEAR, 0),
]


@pytest.mark.parametrize(("mode", "enable_tls", "certificate", "becomes", "failures"), CASES)
async def test_the_policy_decides(
    tmp_path: Path, mode: str, enable_tls: str, certificate: str, becomes: str, failures: int
) -> None:
    async with _sts_world(tmp_path, mode, certificate) as (here, peer):
        here.policies.change(
            make_config(here.port_of_peer, enable_tls=getattr(pb, f"ENABLE_TLS_{enable_tls}"))
        )

        assert await _send_one(here, peer) == becomes
        counted = here.dispatcher.tls_demands.failures
        assert counted.get(f"mta-sts {mode}", 0) == failures


async def test_a_path_may_leave_policies_aside(tmp_path: Path) -> None:
    async with _sts_world(tmp_path, "enforce", "none") as (here, peer):
        here.policies.change(make_config(here.port_of_peer, enable_mta_sts=False))

        assert await _send_one(here, peer) == CLEAR
        assert not [name for name, _ in here.dns.queries if name.startswith("_mta-sts")]


async def test_mail_waits_where_the_policy_names_none_of_the_hosts(tmp_path: Path) -> None:
    async with _sts_world(tmp_path, "enforce", "good", mx="*.other.example") as (here, peer):
        here.policies.change(make_config(here.port_of_peer))

        assert await _send_one(here, peer) == NOT_SENT
        response = here.log.records[0].response
        assert (response.code, response.enhanced_code) == (451, (4, 4, 4))
        text = "MTA-STS enforce policy for big.example permits none of its MX hosts"
        assert response.content == text
        assert peer.connections == 0


async def test_a_host_that_is_not_named_is_left_out(tmp_path: Path) -> None:
    """The first host by preference would take the mail, but the policy does not name it."""
    zone = {
        "mx": {"big.example": [[10, "fake.big.example"], [20, "mx.big.example"]]},
        "a": {"fake.big.example": ["127.0.0.2"]},
    }
    async with _sts_world(tmp_path, "enforce", "good", zone=zone) as (here, peer):
        fake = StarttlsPeer(answer=b"")
        async with starttls_peer(fake, host="127.0.0.2", port=here.port_of_peer):
            here.policies.change(make_config(here.port_of_peer))

            assert await _send_one(here, peer) == TLS
            assert fake.connections == 0


async def test_a_domain_with_a_policy_does_not_ride_on_anothers_clear_connection(
    tmp_path: Path,
) -> None:
    async with _sts_world(tmp_path, "enforce", "good") as (here, peer):
        here.policies.change(make_config(here.port_of_peer, connection_limit=1))
        await here.send(1, domain="other.example")
        await here.until_records(RecordType.DELIVERY, 1)
        await here.send(1, domain="big.example")
        await here.until_records(RecordType.DELIVERY, 2)
        await here.send(1, domain="other.example")
        await here.until_records(RecordType.DELIVERY, 3)

        # The last one may use what is better than it needs.
        assert peer.taken == [False, True, True]
        assert peer.connections == 2


async def test_usable_tlsa_records_go_before_the_policy(tmp_path: Path) -> None:
    """The certificate is good for MTA-STS, but not the one that the records name."""
    zone = {"secure": ["big.example"]}
    async with _sts_world(tmp_path, "enforce", "good", zone=zone) as (here, peer):
        name = f"_{here.port_of_peer}._tcp.mx.big.example"
        records = {(name, dns.rdatatype.TLSA): ("3 1 1 " + "00" * 32,)}
        here.dns.zone = replace(here.dns.zone, records={**here.dns.zone.records, **records})
        here.policies.change(make_config(here.port_of_peer, enable_dane=True))

        assert await _send_one(here, peer) == NOT_SENT
        assert "DANE" in here.log.records[0].response.content


async def test_no_policy_to_be_had_is_no_reason_to_wait(tmp_path: Path) -> None:
    async with _sts_world(tmp_path, "enforce", "none") as (here, peer):
        here.policy_host.status = 500
        here.policies.change(make_config(here.port_of_peer))

        assert await _send_one(here, peer) == CLEAR


async def _send_one(here: Any, peer: StarttlsPeer) -> str:
    await here.send(1)
    await here.until(lambda: bool(here.log.records))
    if here.log.records[0].type is not RecordType.DELIVERY:
        assert peer.taken == []
        return NOT_SENT
    return TLS if peer.taken[0] else CLEAR


@asynccontextmanager
async def _sts_world(
    tmp_path: Path,
    mode: str,
    certificate: str,
    *,
    mx: str = "mx.big.example",
    zone: dict[str, Any] | None = None,
) -> AsyncIterator[tuple[Any, StarttlsPeer]]:
    authority = trustme.CA()
    records: dict[str, Any] = {
        "txt": {"_mta-sts.big.example": ["v=STSv1; id=1;"]},
        "a": {"mta-sts.big.example": ["127.0.0.1"], **(zone or {}).pop("a", {})},
        **(zone or {}),
    }
    peer = StarttlsPeer(context=_context(certificate, authority), answer=_answer(certificate))
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(policy_host(authority, "mta-sts.big.example"))
        host.body = ENFORCE.replace("enforce", mode).replace("mx.big.example", mx)
        port = await stack.enter_async_context(starttls_peer(peer))
        here: Any = await stack.enter_async_context(world(tmp_path, records=records))

        async def open_mta_sts(resolver: Resolver) -> MtaStsPolicies:
            fetcher = PolicyFetcher(resolver, trusted=trust(authority), port=host.port)
            policies = MtaStsPolicies(resolver, fetcher, PolicyDisk(tmp_path / "mta_sts.db"))
            await policies.open()
            return policies

        await here.stop()
        await here.start(trusted=trust(authority), open_mta_sts=open_mta_sts)
        here.port_of_peer, here.policy_host = port, host
        yield here, peer


def _answer(certificate: str) -> bytes:
    return b"" if certificate == "none" else b"220 2.0.0 go on"


def _context(certificate: str, authority: trustme.CA) -> ssl.SSLContext | None:
    match certificate:
        case "none":
            return None
        case "untrusted":
            return server_context(trustme.CA(), "mx.big.example")
        case "wrong name":
            return server_context(authority, "mx.other.example")
        case _:
            return server_context(authority, "mx.big.example")
