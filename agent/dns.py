"""
DNS: where the mail of a domain goes, at which addresses those hosts are, and what they publish
about TLS.

Answers are cached by their TTL in a bounded cache; equal questions in flight share one query.
Failures are cached for moments, so that a broken zone is not asked once a message.

Whether an answer is secure (DNSSEC) is the resolver's word, its AD bit. It counts where the way to
the resolver can be trusted alone: `trust_ad`, by default where every nameserver is on loopback.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.nameserver
import dns.rdatatype
import dns.resolver
import idna

from agent.background import end
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer."""

    #: Addresses or texts; none: the name has no such record.
    values: tuple[str, ...] = ()
    #: The resolver vouches for all of it, the absence of records included (RFC 4035).
    is_secure: bool = False
    #: The name that the records stand at, at the end of its aliases.
    canonical: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMx:
    """The MX hosts of a domain."""

    hosts: tuple[MxHost, ...]
    is_secure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTlsa:
    """The data of TLSA records, in wire form."""

    records: tuple[bytes, ...] = ()
    is_secure: bool = False


_Answer = Found | FoundMx | FoundTlsa
_A = TypeVar("_A", Found, FoundMx, FoundTlsa)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a question led to: an answer or an error."""

    value: _Answer | AgentError
    until: float


_FAMILIES: dict[IpLookupStrategy, tuple[tuple[str, ...], ...]] = {
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6: (("A", "AAAA"),),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_ONLY: (("A",),),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV6_ONLY: (("AAAA",),),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_THEN_IPV6: (("A",), ("AAAA",)),
    IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV6_THEN_IPV4: (("AAAA",), ("A",)),
}


class Resolver:
    """Looks up names. One event loop, no threads."""

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout: float = 5.0,
        trust_ad: bool | None = None,
        cache_size: int = _CACHE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*trust_ad*: whether the AD bit counts; None: where every nameserver is on loopback."""
        self._resolver = _make_resolver(nameservers, timeout)
        self.trusts_ad = _is_local(self._resolver) if trust_ad is None else trust_ad
        if self.trusts_ad:
            # RFC 6840 section 5.7: asks for the bit without asking for signatures.
            self._resolver.set_flags(dns.flags.RD | dns.flags.AD)
        self._cache: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._in_flight: dict[tuple[str, str], asyncio.Task[_Kept]] = {}
        self._cache_size = cache_size
        self._clock = clock

    def known_mx(self, domain: str) -> tuple[MxHost, ...] | None:
        """The MX hosts of *domain* if they are in the cache; asks nothing."""
        found = self.known_mx_answer(domain)
        return found.hosts if found is not None else None

    def known_mx_answer(self, domain: str) -> FoundMx | None:
        """As `known_mx`, and whether they are secure."""
        if literal := _literal(domain):
            return FoundMx(hosts=(MxHost(host=literal, preference=0),))
        kept = self._cache.get(("MX", domain))
        if kept is None or kept.until <= self._clock() or not isinstance(kept.value, FoundMx):
            return None
        return kept.value

    async def mx(self, domain: str) -> tuple[MxHost, ...]:
        """
        The MX hosts of *domain*, by preference; the domain itself where it has none; one host "."
        for a null MX; the bare address for an address literal. Errors: `DomainNotFound`,
        `DnsUnavailable`.
        """
        return (await self.mx_answer(domain)).hosts

    async def mx_answer(self, domain: str) -> FoundMx:
        """As `mx`, and whether they are secure."""
        if literal := _literal(domain):
            return FoundMx(hosts=(MxHost(host=literal, preference=0),))
        return await self._ask("MX", domain, FoundMx)

    async def addresses(
        self,
        host: str,
        strategy: IpLookupStrategy = IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6,
    ) -> tuple[str, ...]:
        """
        The addresses of *host*; of the second family of the strategy only where the first has
        none. Empty where the name has none at all. Errors: `DnsUnavailable`.
        """
        return (await self.address_answer(host, strategy)).values

    async def address_answer(
        self,
        host: str,
        strategy: IpLookupStrategy = IpLookupStrategy.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6,
    ) -> Found:
        """As `addresses`, and whether they are secure; of two families, both."""
        if literal := _address(host):
            return Found(values=(literal,))
        for kinds in _FAMILIES.get(strategy, (("A", "AAAA"),)):
            found = await self._addresses_of(host, kinds)
            if found.values:
                return found
        return Found()

    async def texts(self, name: str) -> tuple[str, ...]:
        """
        The TXT records of *name*, the strings of each joined. Errors: `DomainNotFound`,
        `DnsUnavailable`.
        """
        return (await self._ask("TXT", name, Found)).values

    async def alias(self, name: str) -> Found:
        """
        The name that *name* is an alias of, if it is one. Errors: `DomainNotFound`,
        `DnsUnavailable`.
        """
        return await self._ask("CNAME", name, Found)

    async def tlsa(self, host: str, port: int) -> FoundTlsa:
        """
        The TLSA records of a port of *host*. Errors: `DnsUnavailable`, also where the signatures
        are wrong.
        """
        try:
            return await self._ask("TLSA", f"_{port}._tcp.{host}", FoundTlsa)
        except DomainNotFound:
            return FoundTlsa()

    async def _addresses_of(self, host: str, kinds: tuple[str, ...]) -> Found:
        answers = await asyncio.gather(
            *(self._ask(kind, host, Found) for kind in kinds), return_exceptions=True
        )
        found: list[Found] = []
        failure: BaseException | None = None
        for answer in answers:
            if isinstance(answer, DomainNotFound):
                continue
            if isinstance(answer, BaseException):
                failure = answer
            else:
                found.append(answer)
        values = tuple(value for answer in found for value in answer.values)
        if failure is not None and not values:
            raise failure
        return Found(
            values=values,
            is_secure=bool(found) and all(answer.is_secure for answer in found),
            canonical=next((answer.canonical for answer in found if answer.values), ""),
        )

    async def _ask(self, kind: str, name: str, expected: type[_A]) -> _A:
        key = (kind, name)
        kept = self._cache.get(key)
        if kept is None or kept.until <= self._clock():
            kept = await self._share(key)
        else:
            self._cache.move_to_end(key)
        if isinstance(kept.value, AgentError):
            raise type(kept.value)(str(kept.value))
        assert isinstance(kept.value, expected)
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
        value: _Answer | AgentError
        try:
            answer = await _resolve(self._resolver, name, kind)
            is_secure = self.trusts_ad and bool(answer.response.flags & dns.flags.AD)
            value = _READERS[kind](answer, name, is_secure)
            lifetime = _NEGATIVE if answer.rrset is None else float(answer.rrset.ttl)
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
        await end(self._in_flight.values())


def _read_mx(answer: dns.resolver.Answer, domain: str, is_secure: bool) -> FoundMx:
    if answer.rrset is None:
        # RFC 5321 section 5.1: no MX record, so the domain itself is the host.
        return FoundMx(hosts=(MxHost(host=domain, preference=0),), is_secure=is_secure)
    hosts = sorted((record.preference, _host_name(record.exchange)) for record in answer.rrset)
    return FoundMx(
        hosts=tuple(MxHost(host=host, preference=preference) for preference, host in hosts),
        is_secure=is_secure,
    )


def _read_addresses(answer: dns.resolver.Answer, host: str, is_secure: bool) -> Found:
    return Found(
        values=tuple(record.address for record in answer.rrset or ()),
        is_secure=is_secure,
        canonical=_host_name(answer.canonical_name),
    )


def _read_texts(answer: dns.resolver.Answer, name: str, is_secure: bool) -> Found:
    return Found(
        values=tuple(
            b"".join(record.strings).decode("utf-8", "replace") for record in answer.rrset or ()
        ),
        is_secure=is_secure,
    )


def _read_alias(answer: dns.resolver.Answer, name: str, is_secure: bool) -> Found:
    return Found(
        values=tuple(_host_name(record.target) for record in answer.rrset or ()),
        is_secure=is_secure,
    )


def _read_tlsa(answer: dns.resolver.Answer, name: str, is_secure: bool) -> FoundTlsa:
    return FoundTlsa(
        records=tuple(
            bytes((record.usage, record.selector, record.mtype)) + record.cert
            for record in answer.rrset or ()
        ),
        is_secure=is_secure,
    )


_READERS: dict[str, Callable[[dns.resolver.Answer, str, bool], _Answer]] = {
    "MX": _read_mx,
    "A": _read_addresses,
    "AAAA": _read_addresses,
    "TXT": _read_texts,
    "CNAME": _read_alias,
    "TLSA": _read_tlsa,
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


def _is_local(resolver: dns.asyncresolver.Resolver) -> bool:
    """Whether every nameserver is on this host, so that nobody can change what it says."""
    addresses = [
        each if isinstance(each, str) else each.answer_nameserver() for each in resolver.nameservers
    ]
    try:
        return bool(addresses) and all(ip_address(each).is_loopback for each in addresses)
    except ValueError:
        # One that is asked over HTTPS, by name.
        return False


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
