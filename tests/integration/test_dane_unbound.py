"""DANE with signed zones and a real validating resolver."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.delivery.record import RecordType
from agent.dns import DnsUnavailable, Resolver
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import starttls_peer
from tests.integration.dispatch_world import make_config, world
from tests.integration.signed_zones import UNBOUND, SignedZones, validating_resolver
from tests.integration.test_dispatch_dane import CLEAR, NOT_SENT, TLS, dane_peer, tlsa

pytestmark = pytest.mark.skipif(UNBOUND is None, reason="unbound is not installed")

SIGNED = """\
good     60 IN MX 10 mx
wrong    60 IN MX 10 wrong-mx
bogus    60 IN MX 10 bogus-mx
none     60 IN MX 10 none-mx
forged   60 IN MX 10 none-mx
alias    60 IN MX 10 alias-mx
itself   60 IN A 127.0.0.1
mx       60 IN A 127.0.0.1
wrong-mx 60 IN A 127.0.0.1
bogus-mx 60 IN A 127.0.0.1
none-mx  60 IN A 127.0.0.1
alias-mx 60 IN CNAME mx.unsigned.example.
_{port}._tcp.mx       60 IN TLSA {good}
_{port}._tcp.itself   60 IN TLSA {good}
_{port}._tcp.alias-mx 60 IN TLSA {good}
_{port}._tcp.wrong-mx 60 IN TLSA {wrong}
_{port}._tcp.bogus-mx 60 IN TLSA {wrong}
"""
UNSIGNED = """\
good 60 IN MX 10 wrong-mx.signed.example.
own  60 IN MX 10 mx
mx   60 IN A 127.0.0.1
_{port}._tcp.mx 60 IN TLSA {wrong}
"""


@pytest.mark.parametrize(
    ("domain", "becomes"),
    [
        ("good.signed.example", TLS),
        ("itself.signed.example", TLS),
        ("alias.signed.example", TLS),
        ("none.signed.example", CLEAR),
        ("wrong.signed.example", NOT_SENT),
        # The signature of the records is wrong.
        ("bogus.signed.example", NOT_SENT),
        # That of the MX answer is wrong.
        ("forged.signed.example", NOT_SENT),
        # The way to a signed host is not signed.
        ("good.unsigned.example", CLEAR),
        ("own.unsigned.example", CLEAR),
    ],
)
async def test_what_the_signatures_are_worth(tmp_path: Path, domain: str, becomes: str) -> None:
    peer = dane_peer("mx.signed.example")
    async with starttls_peer(peer) as port:
        zones = _zones(port, peer)
        async with (
            validating_resolver(zones, tmp_path) as address,
            world(tmp_path / "agent") as made,
        ):
            here: Any = made
            await here.stop()
            here.dns = SimpleNamespace(address=address)
            await here.start()
            here.policies.change(
                make_config(port, enable_tls=pb.ENABLE_TLS_DISABLED, enable_dane=True)
            )
            await here.send(1, domain=domain)
            await here.until(lambda: bool(here.log.records))

            is_sent = here.log.records[0].type is RecordType.DELIVERY
            assert (NOT_SENT if not is_sent else TLS if peer.taken[0] else CLEAR) == becomes
            assert is_sent or not peer.taken


async def test_the_resolver_tells_what_is_secure(tmp_path: Path) -> None:
    zones = _zones(25, dane_peer("mx.signed.example"))
    async with validating_resolver(zones, tmp_path) as address:
        resolver = Resolver((address,), timeout=5.0)
        deaf = Resolver((address,), timeout=5.0, trust_ad=False)

        assert resolver.trusts_ad
        assert (await resolver.mx_answer("good.signed.example")).is_secure
        assert not (await resolver.mx_answer("good.unsigned.example")).is_secure
        assert not (await deaf.mx_answer("good.signed.example")).is_secure
        alias = await resolver.address_answer("alias-mx.signed.example")
        assert (alias.is_secure, alias.canonical) == (False, "mx.unsigned.example")
        assert (await resolver.alias("alias-mx.signed.example")).is_secure
        assert len((await resolver.tlsa("mx.signed.example", 25)).records) == 1
        denied = await resolver.tlsa("none-mx.signed.example", 25)
        assert denied.records == ()
        with pytest.raises(DnsUnavailable):
            await resolver.tlsa("bogus-mx.signed.example", 25)


def _zones(port: int, peer: Any) -> SignedZones:
    good, wrong = tlsa(3, 1, peer.chain[0]), tlsa(3, 1, dane_peer("mx.signed.example").chain[0])
    values = {"port": port, "good": good, "wrong": wrong}
    zones = SignedZones(SIGNED.format(**values), UNSIGNED.format(**values))
    zones.tamper(f"_{port}._tcp.bogus-mx", "TLSA", good)
    zones.tamper("forged", "MX", "10 mx.signed.example.")
    return zones
