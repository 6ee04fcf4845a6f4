"""
MX resolution: which hosts take mail for a domain, and for how long that answer holds.

Answers, negative ones too, are kept for their TTL within bounds; questions asked at the same
time are one query. What a site is made of is decided in `policy_server.rules.site`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from policy_server.errors import DnsUnavailable, DomainNotFound
from policy_server.rules.site import MxHost, read_address_literal
from policy_server.settings import split_address

_SHORTEST = 5.0
_LONGEST = 86400.0
# RFC 2308 section 5: a negative answer is not to be kept for long.
_LONGEST_NEGATIVE = 300.0
# RFC 2308 section 7.1: a failure may be kept, shortly, so that a dead server is not hammered.
_FAILURE = 2.0
_MAX_ANSWERS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MxAnswer:
    """The MX hosts of a domain that exists; the host "." alone is a null MX (RFC 7505)."""

    hosts: tuple[MxHost, ...]
    #: How long the answer still holds.
    ttl: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    #: None: there is no such domain, or `failure` says why nothing is known.
    hosts: tuple[MxHost, ...] | None
    failure: str
    #: By the monotonic clock.
    expires: float


class MxResolver:
    """Looks up MX hosts through *nameservers* ("host:port"; none: the system's resolvers)."""

    def __init__(
        self,
        *,
        nameservers: Sequence[str] = (),
        timeout: timedelta = timedelta(seconds=5),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolver = _build_resolver(nameservers, timeout.total_seconds())
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Kept]] = {}

    async def mx(self, domain: str) -> MxAnswer:
        """
        Find the MX hosts of *domain* (normalised); the domain itself where it has no MX record.

        Raises `DomainNotFound` where the domain does not exist, `DnsUnavailable` where nobody
        answers.
        """
        literal = read_address_literal(domain)
        if literal is not None:
            host = MxHost(host=literal, preference=0)
            return MxAnswer(hosts=(host,), ttl=timedelta(seconds=_LONGEST))
        kept = self._kept.get(domain)
        if kept is None or kept.expires <= self._clock():
            kept = await self._ask_once(domain)
        if kept.failure:
            raise DnsUnavailable(f'MX of "{domain}": {kept.failure}')
        if kept.hosts is None:
            raise DomainNotFound(f'the domain "{domain}" does not exist')
        left = max(0.0, kept.expires - self._clock())
        return MxAnswer(hosts=kept.hosts, ttl=timedelta(seconds=left))

    async def close(self) -> None:
        """Cancel the queries under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_once(self, domain: str) -> _Kept:
        task = self._asking.get(domain)
        if task is None:
            task = asyncio.create_task(self._ask(domain))
            self._asking[domain] = task
            task.add_done_callback(lambda _done: self._asking.pop(domain, None))
        # Shielded: a caller that gives up must not take the others' answer away.
        return await asyncio.shield(task)

    async def _ask(self, domain: str) -> _Kept:
        hosts, failure, ttl = await self._query(domain)
        kept = _Kept(hosts=hosts, failure=failure, expires=self._clock() + ttl)
        self._kept[domain] = kept
        self._kept.move_to_end(domain)
        while len(self._kept) > _MAX_ANSWERS:
            self._kept.popitem(last=False)
        return kept

    async def _query(self, domain: str) -> tuple[tuple[MxHost, ...] | None, str, float]:
        try:
            answer = await self._resolver.resolve(
                domain, dns.rdatatype.MX, raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN:
            return None, "", _LONGEST_NEGATIVE
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return None, _describe(error), _FAILURE
        ttl = float(answer.chaining_result.minimum_ttl)
        if answer.rrset is None:
            # RFC 5321 section 5.1: without MX records the domain is its own host.
            return (MxHost(host=domain, preference=0),), "", _bound(ttl, _LONGEST_NEGATIVE)
        hosts = tuple(
            sorted(
                (
                    MxHost(host=_host_name(record.exchange.to_text()), preference=record.preference)
                    for record in answer.rrset
                ),
                key=lambda host: (host.preference, host.host),
            )
        )
        return hosts, "", _bound(ttl, _LONGEST)


def _build_resolver(nameservers: Sequence[str], timeout: float) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration:
        # A host without resolv.conf still answers questions that bring their MX hosts.
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
    if nameservers:
        resolver.nameservers = [
            dns.nameserver.Do53Nameserver(host, port)
            for host, port in (split_address(text) for text in nameservers)
        ]
    resolver.lifetime = timeout
    # One lost packet must leave time to ask again.
    resolver.timeout = timeout / 2.5
    return resolver


def _bound(ttl: float, longest: float) -> float:
    return min(max(ttl, _SHORTEST), longest)


def _host_name(text: str) -> str:
    return text.lower().rstrip(".") or "."


def _describe(error: Exception) -> str:
    match error:
        case dns.resolver.LifetimeTimeout():
            return "no answer in time"
        case dns.resolver.NoNameservers():
            return "every nameserver failed to answer"
    return str(error) or type(error).__name__
