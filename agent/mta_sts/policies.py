"""
Policies: the MTA-STS policies of the domains that mail goes to.

1. The first mail for a domain waits a few seconds for its policy. Where none can be had in that
   time, mail goes on as without one (RFC 8461 section 5.1); a policy that comes later counts from
   then on.
2. From then on nobody waits: what is known is used until its max_age. Once in a while a use makes
   the record be asked for again, in the background; another id, or an age of a day or of half of
   max_age, has the policy fetched anew. So has the passing of time, without any use.
3. A failure to fetch ends nothing: the last policy counts until its max_age. The next try comes
   some minutes later.
4. A policy is never pushed out by domains that have none: these are kept apart.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

from agent.background import end
from agent.delivery.mta_sts import StsPolicy, read_record
from agent.dns import DnsUnavailable, DomainNotFound, Resolver
from agent.mta_sts.disk import FetchedPolicy, PolicyDisk
from agent.mta_sts.fetch import FetchFailed, PolicyFetcher

logger = logging.getLogger(__name__)

#: Policies kept, in memory and on disk.
_MOST_POLICIES = 10_000
#: Domains without a policy that are remembered.
_MOST_ABSENT = 20_000
#: How long the first mail of a domain waits, in seconds.
_FIRST_WAIT = 5.0
#: How long nothing is asked again about a domain, in seconds (RFC 8461 section 3.3: five minutes
#: or longer after a failure).
_CHECK_SECONDS = 300.0
_REFRESH_SECONDS = 86_400.0
#: How often policies are looked through for those to be fetched anew.
_ROUND_SECONDS = 600.0
#: A policy that no mail asked for in so long is not fetched anew.
_UNUSED_SECONDS = 30 * 86_400.0
#: Questions under way at one time, and how many may wait their turn.
_MOST_RUNNING, _MOST_WAITING = 32, 2000
_REFRESHED_TOGETHER = 8

#: What asking can lead to: the values of a metric's label.
RESULTS = ("fetched", "current", "absent", "dns", "unreachable", "refused", "invalid")


class _Kept:
    """A policy in memory."""

    __slots__ = ("asked", "fetched", "used")

    def __init__(self, fetched: FetchedPolicy, now: float) -> None:
        self.fetched = fetched
        #: When the domain's record was last asked for.
        self.asked = fetched.fetched
        self.used = now

    def is_stale(self, now: float) -> bool:
        """Whether it should be fetched anew although its id is the same."""
        lifetime = self.fetched.policy.max_age
        return now >= self.fetched.fetched + min(lifetime / 2, _REFRESH_SECONDS)


class MtaStsPolicies:
    """Policies by domain."""

    def __init__(
        self,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        disk: PolicyDisk,
        *,
        clock: Callable[[], float] = time.time,
        first_wait: float = _FIRST_WAIT,
        most_policies: int = _MOST_POLICIES,
    ) -> None:
        """*clock* gives seconds since the epoch; *first_wait* is in seconds."""
        self._resolver = resolver
        self._fetcher = fetcher
        self._disk = disk
        self._clock = clock
        self._first_wait = first_wait
        self._most_policies = most_policies
        #: The one used longest ago first.
        self._policies: OrderedDict[str, _Kept] = OrderedDict()
        #: Domains without one, and until when they are not asked again.
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_MOST_RUNNING)
        self._results: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self._rounds: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._policies)

    @property
    def results(self) -> Mapping[str, float]:
        """How often asking led to what."""
        return {name: float(count) for name, count in self._results.items()}

    @property
    def disk_failures(self) -> int:
        """Changes that could not be stored."""
        return self._disk.failures

    async def open(self) -> None:
        """Read what was known at the last stop, and begin to keep it current."""
        now = self._clock()
        for fetched in reversed(await self._disk.load(self._most_policies)):
            self._policies[fetched.domain] = _Kept(fetched, now)
        self._rounds = asyncio.create_task(self._keep_current(), name="mta-sts policies")

    async def close(self) -> None:
        """Give up what is being asked."""
        await end([*self._asking.values(), *([self._rounds] if self._rounds else [])])
        await self._fetcher.close()

    async def policy_for(self, domain: str) -> StsPolicy | None:
        """The policy of *domain*, in any mode; None: none is known."""
        is_known, policy = self.known_policy(domain)
        if is_known:
            return policy
        if (task := self._ask(domain)) is not None:
            await asyncio.wait([task], timeout=self._first_wait)
        return self._in_force(domain)

    def known_policy(self, domain: str) -> tuple[bool, StsPolicy | None]:
        """Whether it is known what `policy_for` answers, and that; waits for nothing."""
        now = self._clock()
        kept = self._policies.get(domain)
        if kept is not None and kept.fetched.expires > now:
            self._policies.move_to_end(domain)
            kept.used = now
            if now >= kept.asked + _CHECK_SECONDS or now < kept.asked:
                self._ask(domain)
            return True, kept.fetched.policy
        return self._absent.get(domain, 0.0) > now, None

    async def refresh(self) -> None:
        """Fetch anew what is old enough, and forget what has ended."""
        now = self._clock()
        ended = [name for name, kept in self._policies.items() if kept.fetched.expires <= now]
        for domain in ended:
            del self._policies[domain]
        if ended:
            await self._disk.drop(ended)
        due = [
            domain
            for domain, kept in self._policies.items()
            if kept.is_stale(now)
            and now >= kept.asked + _CHECK_SECONDS
            and now < kept.used + _UNUSED_SECONDS
        ]
        # A few at a time: mail that waits for its first policy must not wait behind them all.
        for start in range(0, len(due), _REFRESHED_TOGETHER):
            batch = due[start : start + _REFRESHED_TOGETHER]
            tasks = [task for domain in batch if (task := self._ask(domain)) is not None]
            if tasks:
                await asyncio.wait(tasks)

    async def _keep_current(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception:
                # Supervisor: policies must be kept current as long as the agent runs.
                logger.exception("mta-sts policies not refreshed")
            await asyncio.sleep(_ROUND_SECONDS)

    def _in_force(self, domain: str) -> StsPolicy | None:
        kept = self._policies.get(domain)
        if kept is None or kept.fetched.expires <= self._clock():
            return None
        return kept.fetched.policy

    def _ask(self, domain: str) -> asyncio.Task[None] | None:
        """Ask in the background, once however many want to know; None: too much is asked."""
        task = self._asking.get(domain)
        if task is None and len(self._asking) < _MOST_WAITING:
            task = asyncio.create_task(self._look_up(domain), name=f"mta-sts {domain}")
            self._asking[domain] = task
            task.add_done_callback(lambda done: self._asked(domain, done))
        return task

    def _asked(self, domain: str, task: asyncio.Task[None]) -> None:
        self._asking.pop(domain, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._remember_absence(domain)
            logger.error("mta-sts policy not found out", exc_info=error, extra={"domain": domain})

    async def _look_up(self, domain: str) -> None:
        async with self._turns:
            result = await self._find_out(domain)
        self._results[result] += 1
        if result not in ("fetched", "current") or self._in_force(domain) is None:
            self._remember_absence(domain)

    def _remember_absence(self, domain: str) -> None:
        """Nothing new is known: what was known stays in force; else there is no policy for now."""
        if (kept := self._policies.get(domain)) is not None:
            kept.asked = self._clock()
            if kept.fetched.expires > kept.asked:
                return
        self._absent[domain] = self._clock() + _CHECK_SECONDS
        self._absent.move_to_end(domain)
        while len(self._absent) > _MOST_ABSENT:
            self._absent.popitem(last=False)

    async def _find_out(self, domain: str) -> str:
        """Ask for the record and, if need be, for the policy; return what it led to."""
        try:
            record_id = read_record(await self._resolver.texts(f"_mta-sts.{domain}"))
        except DomainNotFound:
            record_id = None
        except DnsUnavailable:
            return "dns"
        if record_id is None:
            return "absent"
        now = self._clock()
        kept = self._policies.get(domain)
        if kept is not None and kept.fetched.record_id == record_id and not kept.is_stale(now):
            kept.asked = now
            return "current"
        try:
            policy = await self._fetcher.fetch(domain)
        except FetchFailed as error:
            logger.warning(
                "mta-sts policy not fetched", extra={"domain": domain, "reason": str(error)}
            )
            return error.result
        await self._adopt(
            FetchedPolicy(domain=domain, policy=policy, record_id=record_id, fetched=self._clock())
        )
        return "fetched"

    async def _adopt(self, fetched: FetchedPolicy) -> None:
        domain, before = fetched.domain, self._policies.get(fetched.domain)
        if before is None or before.fetched.policy != fetched.policy:
            facts = {"domain": domain, "mode": fetched.policy.mode.value}
            logger.info("mta-sts policy in force", extra=facts)
        kept = _Kept(fetched, self._clock())
        if before is not None:
            kept.used = before.used
        self._policies[domain] = kept
        self._policies.move_to_end(domain)
        self._absent.pop(domain, None)
        dropped = []
        while len(self._policies) > self._most_policies:
            dropped.append(self._policies.popitem(last=False)[0])
        if dropped:
            await self._disk.drop(dropped)
        await self._disk.put(fetched)
