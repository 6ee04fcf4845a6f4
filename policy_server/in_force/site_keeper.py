"""
The sites that rules name: looked up ahead of any question, and again when their MX answer ends.

A domain whose MX can't be found keeps its last known site and is tried again later.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from policy_server.dns import MxResolver
from policy_server.errors import DnsUnavailable, DomainNotFound
from policy_server.rules.site import Site, site_name
from policy_server.store.sites import StoredSite

logger = logging.getLogger(__name__)

_AT_ONCE = 32
# Results are handed on this often, so that one silent nameserver does not hold up the rest.
_GATHER_SECONDS = 0.1
_MOST_FOUND = 500
_RETRY = timedelta(seconds=30)
_NEVER_KNOWN = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFailure:
    """A domain whose MX could not be found, and why."""

    domain: str
    reason: str


class SiteSchedule:
    """When the site of each domain is to be looked up again."""

    def __init__(self) -> None:
        #: Bounded by the domains that rules name.
        self._retry: dict[str, datetime] = {}

    def due(
        self, domains: Iterable[str], known: Mapping[str, StoredSite], now: datetime
    ) -> list[str]:
        """List the domains to look up now."""
        wanted = frozenset(domains)
        for domain in self._retry.keys() - wanted:
            del self._retry[domain]
        return sorted(domain for domain in wanted if self._time(domain, known) <= now)

    def next_time(self, domains: Iterable[str], known: Mapping[str, StoredSite]) -> datetime | None:
        """Say when the next look-up is due."""
        return min((self._time(domain, known) for domain in domains), default=None)

    def note_failure(self, domain: str, now: datetime) -> None:
        """Leave a domain alone for a while."""
        self._retry[domain] = now + _RETRY

    def _time(self, domain: str, known: Mapping[str, StoredSite]) -> datetime:
        stored = known.get(domain)
        expiry = _NEVER_KNOWN if stored is None else stored.expires_at
        return max(expiry, self._retry.get(domain, expiry))


async def find_sites(
    resolver: MxResolver, domains: Iterable[str]
) -> AsyncGenerator[list[StoredSite | SiteFailure], None]:
    """Look up *domains*, yielding what is found in small batches as it comes."""
    waiting = iter(domains)
    now = asyncio.get_running_loop().time
    pending: set[asyncio.Task[StoredSite | SiteFailure]] = set()
    found: list[StoredSite | SiteFailure] = []
    due = now() + _GATHER_SECONDS
    try:
        # Few at a time: with a task for each of very many, each look at them would take long.
        while pending := _fill_up(pending, resolver, waiting):
            left = max(due - now(), 0)
            done, pending = await asyncio.wait(
                pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            found += [task.result() for task in done]
            if now() >= due or len(found) >= _MOST_FOUND:
                if found:
                    yield found
                found, due = [], now() + _GATHER_SECONDS
        if found:
            yield found
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _fill_up(
    pending: set[asyncio.Task[StoredSite | SiteFailure]],
    resolver: MxResolver,
    waiting: Iterator[str],
) -> set[asyncio.Task[StoredSite | SiteFailure]]:
    some = itertools.islice(waiting, _AT_ONCE - len(pending))
    return pending | {asyncio.create_task(_find(resolver, domain)) for domain in some}


async def find_site(resolver: MxResolver, domain: str) -> StoredSite:
    """Look up the site of one domain."""
    answer = await resolver.mx(domain)
    site = Site(domain=domain, site_name=site_name(domain, answer.hosts), mx_hosts=answer.hosts)
    return StoredSite(site=site, expires_at=datetime.now(UTC) + answer.ttl)


async def _find(resolver: MxResolver, domain: str) -> StoredSite | SiteFailure:
    try:
        return await find_site(resolver, domain)
    except (DnsUnavailable, DomainNotFound) as error:
        return SiteFailure(domain=domain, reason=str(error))
