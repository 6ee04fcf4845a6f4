"""
The TLS matrix: for every mode and every way a peer can behave, what becomes of a first message
and of one that comes after it. Each cell is sent to a real peer on loopback.
"""

import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme

from agent.delivery.record import RecordType
from penstock.v1 import egress_path_pb2 as pb
from tests.integration.dispatch_peers import StarttlsPeer, starttls_peer
from tests.integration.dispatch_world import make_config, world

MODES = (
    "OPPORTUNISTIC", "OPPORTUNISTIC_INSECURE", "REQUIRED", "REQUIRED_INSECURE", "DISABLED",
)  # fmt: skip
PEERS = (
    "good", "not offered", "no handshake", "untrusted", "wrong name", "refused 454", "refused 502",
)  # fmt: skip

# What becomes of the first message: T over TLS, c in the clear, - not sent; a column a mode, in
# the order of MODES.
FIRST = {
    "good":         "T T T T c",
    "not offered":  "c c - - c",
    "no handshake": "- c - - c",
    "untrusted":    "- T - T c",
    "wrong name":   "- T - T c",
    "refused 454":  "- - - - c",
    "refused 502":  "- - - - c",
}  # fmt: skip
# Of the first, where opportunistic_tls_reconnect_on_failed_handshake is set.
RECONNECTING = {
    **FIRST,
    "no handshake": "c c - - c",
    "untrusted":    "c T - T c",
    "wrong name":   "c T - T c",
}  # fmt: skip
# Of the second, where remember_broken_tls is set.
REMEMBERED = RECONNECTING

CELLS = [
    pytest.param(
        mode, peer, reconnects, remembers,
        (RECONNECTING if reconnects else FIRST)[peer].split()[column],
        # Where the first reconnected, that is remembered for a while by itself.
        (REMEMBERED if remembers or reconnects else FIRST)[peer].split()[column],
        id=f"{mode}-{peer}{'-reconnect' * reconnects}{'-remember' * remembers}",
    )
    for column, mode in enumerate(MODES)
    for peer in PEERS
    for reconnects in (False, True)
    for remembers in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("mode", "kind", "reconnects", "remembers", "first", "second"), CELLS)
async def test_every_cell(
    tmp_path: Path,
    mode: str,
    kind: str,
    reconnects: bool,
    remembers: bool,
    first: str,
    second: str,
) -> None:
    authority = trustme.CA()
    peer = _peer(kind, authority)
    async with starttls_peer(peer) as port, world(tmp_path) as here:
        await here.stop()
        await here.start(trusted=trust(authority))
        config = make_config(
            port,
            enable_tls=getattr(pb, f"ENABLE_TLS_{mode}"),
            opportunistic_tls_reconnect_on_failed_handshake=reconnects,
            max_deliveries_per_connection=1,
        )
        if remembers:
            config.remember_broken_tls.seconds = 600
        here.policies.change(config)

        assert await _send_one(here, peer) == first
        assert await _send_one(here, peer) == second


async def _send_one(here, peer: StarttlsPeer) -> str:
    """Send a message: T over TLS, c in the clear, - not at all."""
    settled = (RecordType.DELIVERY, RecordType.TRANSIENT_FAILURE)
    before, taken = len(here.log.records), len(peer.taken)
    await here.send(1)
    await here.until(lambda: len(here.log.records) > before)

    record = here.log.records[before]
    assert record.type in settled
    assert (record.type is RecordType.DELIVERY) == (len(peer.taken) == taken + 1)
    if record.type is not RecordType.DELIVERY:
        return "-"
    assert bool(record.tls_protocol_version) == peer.taken[-1]
    return "T" if peer.taken[-1] else "c"


async def test_a_broken_host_takes_no_other_host_of_the_plan_into_the_clear(tmp_path: Path) -> None:
    authority = trustme.CA()
    bad, good = _peer("untrusted", authority), _peer("good", authority)
    zone = {
        "mx": {"big.example": [[10, "bad.big.example"], [20, "mx.big.example"]]},
        "a": {"bad.big.example": ["127.0.0.2"]},
    }
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(starttls_peer(good))
        await stack.enter_async_context(starttls_peer(bad, host="127.0.0.2", port=port))
        here = await stack.enter_async_context(world(tmp_path, records=zone))
        await here.stop()
        await here.start(trusted=trust(authority))
        config = make_config(
            port, enable_tls=pb.ENABLE_TLS_OPPORTUNISTIC, max_deliveries_per_connection=1
        )
        config.remember_broken_tls.seconds = 600
        here.policies.change(config)
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)

        assert (bad.taken, good.taken) == ([], [True])


@pytest.mark.parametrize(("allowed", "is_taken"), [(False, False), (True, True)])
async def test_a_password_needs_a_good_certificate_unless_the_path_says_otherwise(
    tmp_path: Path, allowed: bool, is_taken: bool
) -> None:
    peer = _peer("untrusted", trustme.CA())
    async with starttls_peer(peer) as port, world(tmp_path) as here:
        await here.stop()
        await here.start(trusted=trust(trustme.CA()))
        config = make_config(
            port,
            enable_tls=pb.ENABLE_TLS_REQUIRED_INSECURE,
            smtp_auth_plain_username="relay",
            allow_smtp_auth_plain_without_valid_certificate=allowed,
        )
        config.smtp_auth_plain_password.key_data = "secret"
        here.policies.change(config)
        await here.send(1)
        await here.until(lambda: bool(here.log.records))

        assert bool(peer.taken) == is_taken
        assert bool(peer.passwords) == is_taken


def _peer(kind: str, authority: trustme.CA) -> StarttlsPeer:
    match kind:
        case "not offered":
            return StarttlsPeer(answer=b"")
        case "no handshake":
            return StarttlsPeer(context=None)
        case "untrusted":
            return StarttlsPeer(context=server_context(trustme.CA(), "mx.big.example"))
        case "wrong name":
            return StarttlsPeer(context=server_context(authority, "mx.other.example"))
        case "refused 454":
            return StarttlsPeer(answer=b"454 4.7.0 TLS not available")
        case "refused 502":
            return StarttlsPeer(answer=b"502 5.5.1 no such command")
        case _:
            return StarttlsPeer(
                context=server_context(authority, "mx.big.example", "bad.big.example")
            )


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trust(authority: trustme.CA) -> Callable[[], ssl.SSLContext]:
    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return context

    return make
