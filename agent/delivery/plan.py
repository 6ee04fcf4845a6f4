"""
Plan: in which order the addresses of a domain's MX hosts are tried, or why none may be.

Preferences ascend; inside one preference the addresses of all its hosts are mixed, so that the
load spreads (RFC 5321 section 5.1). Names and addresses are looked up elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from agent.delivery import internal
from agent.delivery.record import Response

Networks = Sequence[IPv4Network | IPv6Network]
#: Puts a list in random order, in place.
Shuffle = Callable[[list["Candidate"]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One MX host with its addresses; none where the lookup failed."""

    name: str
    preference: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One address to connect to, and the host name that its certificate must bear."""

    host: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoWay:
    """Why there is nothing to connect to; whether for good is told by the response's class."""

    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFilter:
    """Which addresses are forbidden, left out or out of reach."""

    prohibited: Networks = ()
    skipped: Networks = ()
    #: The bound address of the source; empty: any family can be reached.
    source_address: str = ""


def parse_networks(cidrs: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read addresses and networks such as "127.0.0.0/8" or "::1"; what is neither is left out."""
    networks: list[IPv4Network | IPv6Network] = []
    for text in cidrs:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            continue
    return tuple(networks)


def make_plan(
    hosts: Sequence[Host], host_filter: HostFilter, shuffle: Shuffle
) -> tuple[Candidate, ...] | NoWay:
    """Order the addresses of *hosts*, or say why mail can't go there."""
    if is_null_mx(tuple(host.name for host in hosts)):
        return NoWay(response=internal.NULL_MX)
    candidates = _ordered(hosts, shuffle)
    # Prohibited comes before skipped: such a domain is wrong, not merely out of favour.
    for candidate in candidates:
        if _is_in(candidate.address, host_filter.prohibited):
            return NoWay(response=internal.prohibited(candidate.address))
    candidates = [each for each in candidates if _is_reachable(each, host_filter.source_address)]
    if not candidates:
        return NoWay(response=internal.NO_ADDRESSES)
    kept = tuple(each for each in candidates if not _is_in(each.address, host_filter.skipped))
    return kept or NoWay(response=internal.ONLY_SKIPPED)


def is_null_mx(names: Sequence[str]) -> bool:
    """Whether the domain says that it takes no mail (RFC 7505)."""
    return len(names) > 0 and all(name in (".", "") for name in names)


def _ordered(hosts: Sequence[Host], shuffle: Shuffle) -> list[Candidate]:
    by_preference: dict[int, dict[str, Candidate]] = {}
    for host in hosts:
        mixed = by_preference.setdefault(host.preference, {})
        for address in host.addresses:
            mixed.setdefault(address, Candidate(host=host.name, address=address))
    ordered: list[Candidate] = []
    for preference in sorted(by_preference):
        group = list(by_preference[preference].values())
        shuffle(group)
        ordered += group
    return ordered


def _is_in(address: str, networks: Networks) -> bool:
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any(parsed in network or (mapped and mapped in network) for network in networks)


def _is_reachable(candidate: Candidate, source_address: str) -> bool:
    if not source_address:
        return True
    return ip_address(candidate.address).version == ip_address(source_address).version
