"""
DANE on outgoing connections: real SMTP peers on loopback, and a DNS server that stands for a
validating resolver by setting the AD bit.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.delivery.record import RecordType
from agent.sink.zone import Zone
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import StarttlsPeer, starttls_peer
from tests.integration.dispatch_world import World, make_config, world

OWN, ITS_AUTHORITY, OTHER = "the peer's", "its authority's", "another's"
SIGNED = ["big.example", "hosts.example"]
TLS, CLEAR, NOT_SENT = "TLS", "clear", "not sent"

# what stands in the zone, what is signed, enable_tls, then what becomes of the mail
CASES = [
    pytest.param([(3, 1, OWN)], SIGNED, "OPPORTUNISTIC", TLS, "dane", id="ee"),
    pytest.param([(2, 0, ITS_AUTHORITY)], SIGNED, "OPPORTUNISTIC", TLS, "dane", id="ta"),
    pytest.param([(3, 1, OTHER), (3, 0, OWN)], SIGNED, "DISABLED", TLS, "dane", id="one-matches"),
    pytest.param([(3, 1, OTHER)], SIGNED, "OPPORTUNISTIC_INSECURE", NOT_SENT, "", id="mismatch"),
    pytest.param([(2, 0, OTHER)], SIGNED, "DISABLED", NOT_SENT, "", id="ta-mismatch"),
    pytest.param([(1, 1, OTHER)], SIGNED, "OPPORTUNISTIC", TLS, "dane unusable", id="unusable"),
    pytest.param([(1, 1, OTHER)], SIGNED, "REQUIRED", NOT_SENT, "", id="unusable-never-relaxes"),
    pytest.param([], SIGNED, "DISABLED", CLEAR, "", id="secure-denial"),
    pytest.param([(3, 1, OTHER)], [], "DISABLED", CLEAR, "", id="insecure"),
    pytest.param([(3, 1, OTHER)], ["hosts.example"], "DISABLED", CLEAR, "", id="insecure-mx"),
    pytest.param([(3, 1, OTHER)], ["big.example"], "DISABLED", CLEAR, "", id="insecure-address"),
    pytest.param("servfail", SIGNED, "DISABLED", NOT_SENT, "", id="bogus"),
]  # fmt: skip


@pytest.mark.parametrize(("records", "signed", "mode", "becomes", "counted"), CASES)
async def test_tlsa_records_decide(
    tmp_path: Path, records: Any, signed: list[str], mode: str, becomes: str, counted: str
) -> None:
    async with _dane_world(tmp_path, records, signed) as (here, peer):
        here.policies.change(_config(here, enable_tls=getattr(pb, f"ENABLE_TLS_{mode}")))

        assert await _send_one(here, peer) == becomes
        sessions = here.dispatcher.tls_demands.sessions
        assert {name for name, count in sessions.items() if count} == ({counted} - {""})


async def test_a_peer_without_starttls_gets_nothing_where_records_stand(tmp_path: Path) -> None:
    async with _dane_world(tmp_path, [(3, 1, OWN)], SIGNED, offers=False) as (here, peer):
        here.policies.change(_config(here))

        assert await _send_one(here, peer) == NOT_SENT
        failures = here.dispatcher.tls_demands.failures
        assert failures["dane"] == 1


async def test_without_enable_dane_records_are_not_asked_for(tmp_path: Path) -> None:
    async with _dane_world(tmp_path, [(3, 1, OTHER)], SIGNED) as (here, peer):
        here.policies.change(_config(here, enable_dane=False))

        assert await _send_one(here, peer) == CLEAR
        assert not [kind for _, kind in here.dns.queries if kind == "TLSA"]


@pytest.mark.parametrize(
    ("signed", "place", "becomes"),
    [
        # All signed: the records at the end of the alias come first.
        (["big.example", "hosts.example", "far.example"], "mx.far.example", TLS),
        (["big.example", "hosts.example", "far.example"], "mx.hosts.example", TLS),
        # The alias leads out of what is signed: the records at its beginning count.
        (["big.example", "hosts.example"], "mx.hosts.example", TLS),
        (["big.example", "hosts.example"], "mx.far.example", CLEAR),
    ],
)
async def test_records_of_a_host_that_is_an_alias(
    tmp_path: Path, signed: list[str], place: str, becomes: str
) -> None:
    async with _dane_world(tmp_path, [], signed) as (here, peer):
        zone = _zone([(3, 1, OWN)], peer, here.port_of_peer, signed, place=place)
        del zone["a"]["mx.hosts.example"]
        zone["cname"] = {"mx.hosts.example": ["mx.far.example"]}
        zone["a"]["mx.far.example"] = ["127.0.0.1"]
        here.dns.zone = Zone.from_mapping(zone)
        here.policies.change(_config(here))

        assert await _send_one(here, peer) == becomes


async def test_a_domain_without_secure_mx_does_not_ride_on_one_with(tmp_path: Path) -> None:
    """Two domains share hosts and a path; what one is owed the other's connection may not give."""
    async with _dane_world(tmp_path, [(3, 1, OTHER)], ["hosts.example", "signed.example"]) as made:
        here, peer = made
        here.policies.change(_config(here, connection_limit=1))
        await here.send(1, domain="big.example")
        await here.until_records(RecordType.DELIVERY, 1)
        await here.send(1, domain="signed.example")
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        assert peer.taken == [False]
        assert "DANE" in here.log.of(RecordType.TRANSIENT_FAILURE)[0].response.content


async def test_an_untrusted_ad_bit_counts_for_nothing(tmp_path: Path, caplog: Any) -> None:
    async with _dane_world(tmp_path, [(3, 1, OTHER)], SIGNED) as (here, peer):
        here.resolver.trusts_ad = False
        here.policies.change(_config(here))

        assert await _send_one(here, peer) == CLEAR
    assert [one.msg for one in caplog.records].count("dane without effect") == 1


def _config(here: Any, **options: Any) -> pb.EgressPathConfig:
    return make_config(here.port_of_peer, **{"enable_dane": True, **options})


async def _send_one(here: World, peer: StarttlsPeer) -> str:
    await here.send(1)
    await here.until(lambda: bool(here.log.records))
    if here.log.records[0].type is not RecordType.DELIVERY:
        assert peer.taken == []
        return NOT_SENT
    return TLS if peer.taken[0] else CLEAR


@asynccontextmanager
async def _dane_world(
    tmp_path: Path, records: Any, signed: list[str], *, offers: bool = True
) -> AsyncIterator[tuple[Any, StarttlsPeer]]:
    """Nobody trusts the peer's authority but the TLSA records."""
    peer = dane_peer("mx.hosts.example", "mx.far.example", offers=offers)
    async with (
        starttls_peer(peer) as port,
        world(tmp_path, records=_zone(records, peer, port, signed)) as made,
    ):
        here: Any = made
        here.port_of_peer = port
        yield here, peer


def dane_peer(*names: str, offers: bool = True) -> Any:
    """A peer with a chain of two, which is in `chain` (DER)."""
    authority = trustme.CA().create_child_ca()
    certificate = authority.issue_cert(*names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    peer: Any = StarttlsPeer(context=context, answer=b"220 2.0.0 go on" if offers else b"")
    peer.chain = [_der(blob.bytes()) for blob in certificate.cert_chain_pems]
    return peer


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def tlsa(usage: int, selector: int, der: bytes) -> str:
    """A record with a SHA-256 digest, as text."""
    selected = der
    if selector == 1:
        key = x509.load_der_x509_certificate(der).public_key()
        selected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{usage} {selector} 1 {sha256(selected).hexdigest()}"


def _zone(
    records: Any, peer: Any, port: int, signed: list[str], *, place: str = "mx.hosts.example"
) -> dict[str, Any]:
    mx = [[10, "mx.hosts.example"]]
    name = f"_{port}._tcp.{place}"
    zone: dict[str, Any] = {
        "mx": {"big.example": mx, "signed.example": mx},
        "a": {"mx.hosts.example": ["127.0.0.1"]},
        "secure": signed,
    }
    if records == "servfail":
        return {**zone, "faults": {name: "servfail"}}
    others = dane_peer("mx.hosts.example").chain
    ders = {OWN: peer.chain[0], ITS_AUTHORITY: peer.chain[1], OTHER: others[0]}
    if records:
        texts = [tlsa(usage, selector, ders[whose]) for usage, selector, whose in records]
        zone["tlsa"] = {name: texts}
    return zone
