"""
DNS: where the mail of a domain goes, and at which addresses those hosts are.

Answers are cached by their TTL in a bounded cache; equal questions in flight share one query.
Failures are cached for moments, so that a broken zone is not asked once a message.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver
import idna

from agent.errors import AgentError
from agent.policy.answer import MxHost
from penstock.v1.egress_path_pb2 import IpLookupStrategy

logger = logging.getLogger(__name__)

#: Answers kept.
_CACHE_SIZE = 20_000
#: Bounds of how long an answer is kept, in seconds, whatever its TTL.
_SHORTEST, _LONGEST = 1.0, 86_400.0
#: How long "no such name" and "no such record" are kept, in seconds.
_NEGATIVE = 60.0
#: How long a failed question is not asked again, in seconds.
_FAILURE = 5.0


class DomainNotFound(AgentError):
    """The name does not exist in the DNS, so mail can never go there."""


class DnsUnavailable(AgentError, ConnectionError):
    """The DNS gave no answer; try again later."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a question led to: an answer or an error."""

    value: tuple[str, ...] | tuple[MxHost, ...] | AgentError
    until: float


_FAMILIES: dict[IpLookupStrategy, tuple[tuple[str, ...], ...]] = {
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6: (("A", "AAAA"),),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_ONLY: (("A",),),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV6_ONLY: (("AAAA",),),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_THEN_IPV6: (("A",), ("AAAA",)),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV6_THEN_IPV4: (("AAAA",), ("A",)),
}


class Resolver:
    """Looks up MX hosts and addresses. One event loop, no threads."""

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout: float = 5.0,
        cache_size: int = _CACHE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = _make_resolver(nameservers, timeout)
        self._cache: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._in_flight: dict[tuple[str, str], asyncio.Task[_Kept]] = {}
        self._cache_size = cache_size
        self._clock = clock

    def known_mx(self, domain: str) -> tuple[MxHost, ...] | None:
        """The MX hosts of *domain* if they are in the cache; asks nothing."""
        if literal := _literal(domain):
            return (MxHost(host=literal, preference=0),)
        kept = self._cache.get(("MX", domain))
        if kept is None or kept.until <= self._clock() or isinstance(kept.value, AgentError):
            return None
        return kept.value  # type: ignore[return-value]  # the key says which kind it is

    async def mx(self, domain: str) -> tuple[MxHost, ...]:
        """
        The MX hosts of *domain*, by preference; the domain itself where it has none; one host "."
        for a null MX; the bare address for an address literal. Errors: `DomainNotFound`,
        `DnsUnavailable`.
        """
        if literal := _literal(domain):
            return (MxHost(host=literal, preference=0),)
        return await self._ask("MX", domain)  # type: ignore[return-value]  # MX gives hosts

    async def addresses(
        self,
        host: str,
        strategy: IpLookupStrategy = IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6,
    ) -> tuple[str, ...]:
        """
        The addresses of *host*; of the second family of the strategy only where the first has
        none. Empty where the name has none at all. Errors: `DnsUnavailable`.
        """
        if literal := _address(host):
            return (literal,)
        for kinds in _FAMILIES.get(strategy, (("A", "AAAA"),)):
            if found := await self._addresses_of(host, kinds):
                return found
        return ()

    async def _addresses_of(self, host: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
        answers = await asyncio.gather(
            *(self._ask(kind, host) for kind in kinds), return_exceptions=True
        )
        found: list[str] = []
        failure: BaseException | None = None
        for answer in answers:
            if isinstance(answer, DomainNotFound):
                continue
            if isinstance(answer, BaseException):
                failure = answer
            else:
                found += answer  # type: ignore[arg-type]  # A and AAAA give addresses
        if failure is not None and not found:
            raise failure
        return tuple(found)

    async def _ask(self, kind: str, name: str) -> tuple[str, ...] | tuple[MxHost, ...]:
        key = (kind, name)
        kept = self._cache.get(key)
        if kept is None or kept.until <= self._clock():
            kept = await self._share(key)
        else:
            self._cache.move_to_end(key)
        if isinstance(kept.value, AgentError):
            raise type(kept.value)(str(kept.value))
        return kept.value

    async def _share(self, key: tuple[str, str]) -> _Kept:
        """Ask once, however many want to know."""
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._query(key))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        # A caller that is cancelled must not take the others' answer away.
        return await asyncio.shield(task)

    async def _query(self, key: tuple[str, str]) -> _Kept:
        kind, name = key
        value: tuple[str, ...] | tuple[MxHost, ...] | AgentError
        try:
            value, lifetime = await _QUERIES[kind](self._resolver, name)
        except AgentError as error:
            value = error
            lifetime = _NEGATIVE if isinstance(error, DomainNotFound) else _FAILURE
        kept = _Kept(value, self._clock() + min(max(lifetime, _SHORTEST), _LONGEST))
        self._cache[key] = kept
        self._cache.move_to_end(key)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return kept

    async def close(self) -> None:
        """Give up the questions in flight."""
        tasks = list(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_Found = tuple[tuple[str, ...] | tuple[MxHost, ...], float]


async def _query_mx(resolver: dns.asyncresolver.Resolver, domain: str) -> _Found:
    answer = await _resolve(resolver, domain, "MX")
    if answer.rrset is None:
        # RFC 5321 section 5.1: no MX record, so the domain itself is the host.
        return (MxHost(host=domain, preference=0),), _NEGATIVE
    hosts = sorted((record.preference, _host_name(record.exchange)) for record in answer.rrset)
    found = tuple(MxHost(host=host, preference=preference) for preference, host in hosts)
    return found, float(answer.rrset.ttl)


async def _query_addresses(resolver: dns.asyncresolver.Resolver, host: str, kind: str) -> _Found:
    answer = await _resolve(resolver, host, kind)
    if answer.rrset is None:
        return (), _NEGATIVE
    return tuple(record.address for record in answer.rrset), float(answer.rrset.ttl)


async def _query_ipv4(resolver: dns.asyncresolver.Resolver, host: str) -> _Found:
    return await _query_addresses(resolver, host, "A")


async def _query_ipv6(resolver: dns.asyncresolver.Resolver, host: str) -> _Found:
    return await _query_addresses(resolver, host, "AAAA")


_QUERIES: dict[str, Callable[[dns.asyncresolver.Resolver, str], Awaitable[_Found]]] = {
    "MX": _query_mx,
    "A": _query_ipv4,
    "AAAA": _query_ipv6,
}


async def _resolve(
    resolver: dns.asyncresolver.Resolver, name: str, kind: str
) -> dns.resolver.Answer:
    try:
        wire_name = _wire_name(name)
    except (idna.IDNAError, UnicodeError) as error:
        raise DomainNotFound(f"{name} is no domain name") from error
    try:
        return await resolver.resolve(wire_name, kind, raise_on_no_answer=False, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN) as error:
        raise DomainNotFound(f"{name} does not exist") from error
    except (dns.name.LabelTooLong, dns.name.EmptyLabel, dns.name.NameTooLong) as error:
        raise DomainNotFound(f"{name} is no domain name") from error
    except (dns.exception.DNSException, OSError) as error:
        raise DnsUnavailable(f"{name} {kind}: {type(error).__name__}") from error


def _make_resolver(nameservers: Sequence[str], timeout: float) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    if nameservers:
        resolver.nameservers = [_nameserver(text) for text in nameservers]
    resolver.lifetime = timeout
    # A lost datagram is asked for again well within the lifetime.
    resolver.timeout = max(0.2, timeout / 3)
    resolver.cache = None
    return resolver


def _nameserver(text: str) -> dns.nameserver.Do53Nameserver:
    host, _, port = text.rpartition(":")
    if not host or (":" in host and not host.startswith("[")):
        return dns.nameserver.Do53Nameserver(text.strip("[]"), 53)
    return dns.nameserver.Do53Nameserver(host.strip("[]"), int(port))


def _host_name(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() or "."


def _wire_name(name: str) -> str:
    """The absolute name, as A-labels."""
    name = name.rstrip(".")
    return (name if name.isascii() else idna.encode(name, uts46=True).decode("ascii")) + "."


def _literal(domain: str) -> str:
    """The address in "[192.0.2.1]" or "[IPv6:2001:db8::1]"; empty if *domain* is a name."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return ""
    inner = domain[1:-1]
    return _address(inner[5:] if inner.lower().startswith("ipv6:") else inner)


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""
