"""TLS and AUTH of outgoing connections."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent.delivery.record import RecordType
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import Handler, check_login, smtp_peer
from tests.integration.dispatch_world import make_config, world

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


async def test_an_insecure_opportunistic_path_falls_back_to_the_clear(tmp_path: Path) -> None:
    async with world(tmp_path, provider=_certificate(trustme.CA(), tmp_path)) as here:
        await here.stop()
        await here.start(trusted=_without_common_cipher)
        here.policies.change(
            make_config(here.port, enable_tls=pb.ENABLE_TLS_OPPORTUNISTIC_INSECURE)
        )
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert here.log.of(RecordType.DELIVERY)[0].tls_protocol_version == ""
        assert here.log.of(RecordType.TRANSIENT_FAILURE) == []


def _without_common_cipher() -> ssl.SSLContext:
    """A context that can't agree with a peer whose key is of an elliptic curve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    return context


async def test_a_path_that_now_requires_tls_uses_no_clear_connection_any_more(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    async with world(tmp_path, provider=_certificate(authority, tmp_path)) as here:
        await here.stop()
        await here.start(trusted=_trust(authority))
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        here.policies.change(
            make_config(here.port, connection_limit=1, enable_tls=pb.ENABLE_TLS_REQUIRED)
        )
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 2)

        versions = [one.tls_protocol_version for one in here.log.of(RecordType.DELIVERY)]
        assert versions[0] == ""
        assert versions[1].startswith("TLS")


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # in the clear is what is tested
@pytest.mark.parametrize(
    ("password", "in_clear", "is_taken"),
    [("secret", True, True), ("wrong", True, False), ("secret", False, False)],
)
async def test_auth_plain(tmp_path: Path, password: str, in_clear: bool, is_taken: bool) -> None:
    handler = Handler()
    peer = smtp_peer(handler, authenticator=check_login, auth_required=True, auth_require_tls=False)
    async with peer as port, world(tmp_path) as here:
        config = make_config(
            port, smtp_auth_plain_username="relay", allow_smtp_auth_plain_without_tls=in_clear
        )
        config.smtp_auth_plain_password.key_data = password
        here.policies.change(config)
        await here.send(1)
        expected = RecordType.DELIVERY if is_taken else RecordType.TRANSIENT_FAILURE
        await here.until_records(expected, 1)

        assert len(handler.taken) == int(is_taken)
        assert all(password not in str(record) for record in here.log.records)
        await here.stop()
        await here.start()


@pytest.mark.parametrize("has_certificate", [True, False])
async def test_a_peer_may_demand_a_certificate(tmp_path: Path, has_certificate: bool) -> None:
    authority, handler = trustme.CA(), Handler()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.big.example").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    peer = smtp_peer(handler, tls_context=context, require_starttls=True)
    async with peer as port, world(tmp_path) as here:
        await here.stop()
        await here.start(trusted=_trust(authority))
        config = make_config(port, enable_tls=pb.ENABLE_TLS_REQUIRED)
        if has_certificate:
            ours = authority.issue_cert("mta.sender.example")
            config.tls_certificate.key_data = ours.cert_chain_pems[0].bytes().decode()
            config.tls_private_key.key_data = ours.private_key_pem.bytes().decode()
        here.policies.change(config)
        await here.send(1)
        expected = RecordType.DELIVERY if has_certificate else RecordType.TRANSIENT_FAILURE
        await here.until_records(expected, 1)

        assert len(handler.taken) == int(has_certificate)
        await here.stop()
        await here.start()


async def test_tls_options_without_effect_are_told_once_a_path(tmp_path: Path, caplog: Any) -> None:
    async with world(tmp_path) as here:
        for name in ("NO_SUCH_THING", "NO_SUCH_OTHER_THING"):
            options = {"enable_tls": pb.ENABLE_TLS_OPPORTUNISTIC, "openssl_options": name}
            here.policies.change(make_config(here.port, **options))
            await here.send(2)
            await here.until(lambda: not any(here.dispatcher.queue_counts().values()))

    told = [one for one in caplog.records if one.msg == "tls options without effect"]
    assert [one.path for one in told] == ["default->mx.big.example"]
