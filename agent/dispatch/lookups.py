"""
Lookups: finds out what lanes need to know before their mail can go on, a bounded number at a time.

Domains whose last lookup failed have a small share of their own, so that dead zones hold up nobody
else.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Coroutine
from typing import Any, Protocol

from agent.delivery import internal
from agent.delivery.record import Response
from agent.dispatch.lanes import Lane, Lookup
from agent.dispatch.services import Services
from agent.dispatch.settling import Way
from agent.dns import DnsUnavailable, DomainNotFound
from agent.errors import PolicyUnavailable
from agent.policy.answer import MxHost

logger = logging.getLogger(__name__)

_AT_ONCE = 256
_DOUBTFUL_AT_ONCE = 32
#: Domains whose last lookup failed that are remembered.
_MOST_DOUBTFUL = 20_000
#: How long mail waits where nothing is known of its path, in seconds, before jitter.
_UNKNOWN_SECONDS = 3.0


class Lanes(Protocol):
    """Whoever has the lanes."""

    def go_on(self, lane: Lane) -> None:
        """What the lane needed was looked up, whatever came of it."""

    def end_all(self, lane: Lane, response: Response) -> None:
        """Settle the lane's mail, which can't go on."""

    def repeat_later(self, lane: Lane) -> None:
        """A lookup has failed unforeseen."""

    def way_of(self, lane: Lane) -> Way:
        """The way that the lane's mail takes, as far as it is known."""

    def has_fewer_lookups(self) -> None:
        """One lookup less waits for its turn."""


class _Share:
    """Lookups that run at one time, and those that wait for their turn."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._waiting: deque[tuple[Lane, Lookup]] = deque()
        self._wake = asyncio.Semaphore(0)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, lane: Lane, lookup: Lookup) -> None:
        self._waiting.append((lane, lookup))
        self._wake.release()

    async def get(self) -> tuple[Lane, Lookup]:
        await self._wake.acquire()
        return self._waiting.popleft()


class Lookups:
    """Lookups for lanes, under way and waiting."""

    def __init__(self, services: Services, lanes: Lanes) -> None:
        self._services, self._lanes = services, lanes
        self._usual = _Share(_AT_ONCE)
        self._unlikely = _Share(_DOUBTFUL_AT_ONCE)
        #: Domains whose last lookup failed.
        self._doubtful: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """How many wait for their turn, but for doubtful domains, which may wait for long."""
        return len(self._usual)

    def start(self, lane: Lane, lookup: Lookup) -> None:
        """Look up what *lane*, which is busy meanwhile, needs."""
        lane.is_busy = True
        is_doubtful = lookup.source is None and lane.queue.next_domain in self._doubtful
        (self._unlikely if is_doubtful else self._usual).put(lane, lookup)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What looks up, each of it for ever."""
        shares = self._usual, self._unlikely
        return [self._look_up(share) for share in shares for _ in range(share.at_once)]

    async def _look_up(self, share: _Share) -> None:
        while True:
            lane, lookup = await share.get()
            self._lanes.has_fewer_lookups()
            try:
                if lookup.source is None:
                    await self._look_up_mx(lane)
                else:
                    await self._look_up_policy(lane, lookup.source, lookup.mx_hosts)
            except Exception:
                # Supervisor: a lookup that fails unforeseen is repeated later.
                logger.exception("lookup failed", extra={"queue": lane.queue_name})
                lane.is_busy = False
                self._lanes.repeat_later(lane)

    async def _look_up_mx(self, lane: Lane) -> None:
        domain = lane.queue.next_domain
        try:
            await self._services.resolver.mx(domain)
        except DomainNotFound:
            self._lanes.end_all(lane, internal.no_such_domain(domain))
        except DnsUnavailable as error:
            self._remember_doubtful(domain)
            self._lanes.end_all(lane, internal.lookup_failed(domain, str(error)))
        else:
            self._doubtful.pop(domain, None)
        self._go_on(lane)

    def _remember_doubtful(self, domain: str) -> None:
        self._doubtful[domain] = None
        self._doubtful.move_to_end(domain)
        if len(self._doubtful) > _MOST_DOUBTFUL:
            self._doubtful.popitem(last=False)

    async def _look_up_policy(self, lane: Lane, source: str, mx_hosts: tuple[MxHost, ...]) -> None:
        domain = lane.queue.next_domain
        try:
            await self._services.policies.fetch(domain, source, mx_hosts)
        except PolicyUnavailable:
            seconds = _UNKNOWN_SECONDS * self._services.random.uniform(0.5, 1.5)
            lane.set_unknown(source, self._services.clock() + seconds)
            self._go_on(lane)
            # Afterwards: to log much mail takes long, and the policy may be there before.
            await self._log_delay_safely(lane, f"{domain} from {source}")
        else:
            lane.set_unknown(source, 0.0)
            if self._services.policies.lookup(domain, source) is None:
                # Fetched, but not to be used: never ask in a circle.
                lane.set_unknown(source, self._services.clock() + 1.0)
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        lane.is_busy = False
        self._lanes.go_on(lane)

    async def _log_delay_safely(self, lane: Lane, path: str) -> None:
        try:
            await self._log_delay(lane, path)
        except Exception:
            # Supervisor: the lane goes on already; only its log is poorer.
            logger.exception("delay can't be logged", extra={"queue": lane.queue_name})

    async def _log_delay(self, lane: Lane, path: str) -> None:
        """One Delayed record an entry and wait."""
        fresh = [entry for entry in lane.heap if entry.id > lane.logged_up_to]
        if not fresh:
            return
        lane.logged_up_to = max(entry.id for entry in fresh)
        response = internal.policy_unavailable(path)
        await self._services.results.delay(fresh, self._lanes.way_of(lane), response)
