"""
A signed zone and one that is not, on a server of their own, and unbound in front of them as the
validating resolver: for tests.
"""

import asyncio
import shutil
import socket
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.node
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.versioned
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssectypes import Algorithm

#: Where it is installed, or None.
UNBOUND = shutil.which("unbound", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")

_HEAD = "@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n"


class SignedZones(asyncio.DatagramProtocol):
    """Answers for the zones, with signatures where there are any."""

    def __init__(self, signed: str, unsigned: str) -> None:
        """Texts of the zones `signed.example` and `unsigned.example`."""
        key = ec.generate_private_key(ec.SECP256R1())
        self.key = dns.dnssec.make_dnskey(key.public_key(), Algorithm.ECDSAP256SHA256, flags=257)
        zone = _zone(signed, "signed.example.")
        with zone.writer() as writer:
            dns.dnssec.sign_zone(
                zone, writer, keys=[(key, self.key)], dnskey_ttl=60, lifetime=86400
            )
        self.zones = [zone, _zone(unsigned, "unsigned.example.")]
        self._transport: asyncio.DatagramTransport | None = None

    def tamper(self, name: str, rdtype: str, text: str) -> None:
        """Change a record without signing it anew."""
        with self.zones[0].writer() as writer:
            writer.replace(
                dns.name.from_text(name, self.zones[0].origin),
                dns.rdataset.from_text("IN", rdtype, 60, text),
            )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        query = dns.message.from_wire(data)
        assert self._transport is not None
        self._transport.sendto(self._answer(query).to_wire(max_size=4096), addr)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        question = query.question[0]
        zone = next((one for one in self.zones if question.name.is_subdomain(one.origin)), None)
        if zone is None:
            response.set_rcode(dns.rcode.REFUSED)
            return response
        node = zone.get_node(question.name)
        for rdtype in (question.rdtype, dns.rdatatype.CNAME):
            if node is not None and _add(response.answer, question.name, node, rdtype):
                return response
        if node is None and not any(
            name.derelativize(zone.origin).is_subdomain(question.name) for name in zone.nodes
        ):
            response.set_rcode(dns.rcode.NXDOMAIN)
        _add(response.authority, zone.origin, zone[zone.origin], dns.rdatatype.SOA)
        for owner in _denying(zone, question.name):
            _add(response.authority, owner, zone[owner], dns.rdatatype.NSEC)
        return response


def _denying(zone: Any, name: dns.name.Name) -> set[dns.name.Name]:
    """
    Owners of the NSEC records (RFC 4035 section 3.1.3) that deny *name* and every wildcard for it.
    No more than that: resolvers look at a bounded number of signatures in an answer.
    """
    denied, parent = [name], name
    while parent != zone.origin:
        parent = parent.parent()
        denied.append(dns.name.from_text("*", parent))
    signed = [
        owner
        for owner, node in zone.nodes.items()
        if node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.NSEC) is not None
    ]
    return {max(owner for owner in signed if owner <= one) for one in denied} if signed else set()


def _zone(text: str, origin: str) -> Any:
    return dns.zone.from_text(
        _HEAD + textwrap.dedent(text),
        origin=origin,
        relativize=False,
        zone_factory=dns.versioned.Zone,
    )


def _add(section: list[dns.rrset.RRset], owner: Any, node: dns.node.Node, rdtype: Any) -> bool:
    """Add the records of one type and their signatures, if there are any."""
    found = node.get_rdataset(dns.rdataclass.IN, rdtype)
    if found is None:
        return False
    section.append(dns.rrset.from_rdata_list(owner, found.ttl, list(found)))
    signatures = node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.RRSIG, covers=rdtype)
    if signatures is not None:
        section.append(dns.rrset.from_rdata_list(owner, signatures.ttl, list(signatures)))
    return True


@asynccontextmanager
async def validating_resolver(zones: SignedZones, directory: Path) -> AsyncIterator[str]:
    """Run unbound before *zones*; gives its address as `host:port`."""
    assert UNBOUND is not None
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: zones, local_addr=("127.0.0.1", 0))
    port = _free_port()
    config = directory / "unbound.conf"
    config.write_text(_config(zones, port, transport.get_extra_info("sockname")[1], directory))
    process = await asyncio.create_subprocess_exec(
        UNBOUND, "-d", "-p", "-c", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.to_thread(_wait_until_it_answers, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
        transport.close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(port: int) -> None:
    # Answered by unbound itself; an answer of any kind will do.
    query = dns.message.make_query("localhost.", "A")
    for _ in range(50):
        try:
            dns.query.udp(query, "127.0.0.1", port=port, timeout=0.2)
        except (dns.exception.Timeout, OSError):
            continue
        return
    raise AssertionError("unbound does not answer")


def _config(zones: SignedZones, port: int, behind: int, directory: Path) -> str:
    stubs = "".join(
        f'stub-zone:\n  name: "{zone.origin}"\n  stub-addr: 127.0.0.1@{behind}\n'
        for zone in zones.zones
    )
    return f"""\
server:
  interface: 127.0.0.1
  port: {port}
  do-ip6: no
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "{directory}"
  pidfile: ""
  use-syslog: no
  logfile: "{directory}/unbound.log"
  do-not-query-localhost: no
  edns-buffer-size: 4096
  module-config: "validator iterator"
  trust-anchor: "signed.example. DNSKEY {zones.key.to_text()}"
remote-control:
  control-enable: no
{stubs}"""
