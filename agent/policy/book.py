"""
The policy book: everything the agent knows of the policy, in memory, kept on disk.

The client (`client.py`) and the watch (`watch.py`) write into it what the server says; queues
read from it, without waiting. It belongs to the event loop. One timer wakes its listeners when a
suspension or an override ends, so that both end at their time without word from the server.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from agent.policy.answer import MxHost, PathPolicy, Suspension
from agent.policy.cache import AnswerCache, CachedAnswer, SuspensionSet
from agent.policy.conservative import conservative_policy
from agent.policy.disk import PolicyDisk
from agent.policy.effective import PathKey, StoredAnswer, next_override_end, why_unusable
from penstock.v1.egress_path_pb2 import REFRESH_STRATEGY_EPOCH
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse

logger = logging.getLogger(__name__)

#: An answer of an older revision is not taken over a newer one for so long: the two crossed on
#: their way. After that an older revision means that the server's database was put back.
CROSSING_SECONDS = 5.0
#: How long an answer is used that does not say so itself.
DEFAULT_MAX_AGE_SECONDS = 60.0
#: Answers that age only when told are still confirmed this often.
TOLD_MAX_AGE_SECONDS = 3600.0
_LONGEST_TIMER_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why something the server said was not applied; the last good one stays."""

    #: Number of a google.rpc.Code.
    code: int
    message: str


class PolicyBook:
    """What is known of the policy."""

    def __init__(
        self,
        disk: PolicyDisk,
        *,
        clock: Callable[[], float],
        random: Random,
        max_stale: float = 86_400.0,
        capacity: int = 20_000,
        max_suspensions: int = 100_000,
    ) -> None:
        """Keep at most *capacity* answers in memory; *max_stale* is in seconds."""
        self._disk = disk
        self._clock = clock
        self._random = random
        self._max_stale = max_stale
        self._capacity = capacity
        self._answers = AnswerCache(capacity)
        self._suspensions = SuspensionSet(max_suspensions)
        self._listeners: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        #: Revisions of answers heard since then can be compared.
        self._order_since = clock()
        #: When the watch last confirmed everything in memory, seconds since the epoch.
        self.confirmed = 0.0
        #: The revision of the answer that was stored last.
        self.revision = 0
        #: Called with a key when its answer is first held, or held for other MX hosts.
        self.on_held: Callable[[PathKey], None] = _ignore
        #: Called with a key that left memory.
        self.on_evicted: Callable[[PathKey], None] = _ignore

    async def open(self) -> None:
        """Load what was last known."""
        now = self._clock()
        answers, suspensions = await self._disk.open(self._capacity)
        for answer in reversed(answers):
            self._answers.put(answer, now=now, refresh_at=now)
        for suspension in suspensions:
            if suspension.expire_time > now:
                self._suspensions.put(suspension)
            else:
                self._disk.forget_suspension(suspension.action_id)
        self._arm()

    async def close(self) -> None:
        """Stop the timer and write what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._disk.close()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever an answer or a suspension has changed."""
        self._listeners.append(listener)

    def find(self, routing_domain: str, egress_source: str) -> CachedAnswer | None:
        """Return the entry for a path that is in use."""
        return self._answers.get(routing_domain, egress_source, self._clock())

    def peek(self, key: PathKey) -> StoredAnswer | None:
        """Return the answer without counting it as used."""
        entry = self._answers.peek(key)
        return entry.answer if entry else None

    def policy_of(self, entry: CachedAnswer) -> PathPolicy:
        """Return the policy of an entry, the conservative one if it is too stale."""
        if self._clock() - max(entry.answer.heard, self.confirmed) > self._max_stale:
            return conservative_policy(entry.policy)
        return entry.policy

    async def recall(self, key: PathKey) -> CachedAnswer | None:
        """Return the entry, bringing it back from disk if it had left memory."""
        entry = self._answers.peek(key)
        if entry is None:
            answer = await self._disk.find_answer(key)
            if answer is not None and self._answers.peek(key) is None:
                self._put(answer, refresh_at=self._clock())
        return self._answers.get(key.routing_domain, key.egress_source, self._clock())

    def hottest_first(self) -> list[StoredAnswer]:
        """Every answer in memory, the most recently used first."""
        return [entry.answer for entry in self._answers.hottest_first()]

    def apply_answer(
        self, key: PathKey, mx_hosts: tuple[MxHost, ...], response: GetEgressPathConfigResponse
    ) -> Rejection | None:
        """Take an answer; say why if it can't be applied."""
        held = self._answers.peek(key)
        now = self._clock()
        if response.not_modified:
            if held is None:
                return Rejection(code=9, message="not_modified, but no answer is held")
            self._confirm(held, now)
            return None
        if reason := why_unusable(response):
            return Rejection(code=3, message=reason)
        if held is not None and self._has_crossed(held.answer, response, now):
            return None
        answer = StoredAnswer(key=key, mx_hosts=mx_hosts, response=response, heard=now)
        self._put(answer, refresh_at=now + self._lifetime(response))
        self._disk.save_answer(answer)
        if held is None or held.answer.mx_hosts != mx_hosts:
            self.on_held(key)
        if held is None or held.answer.response.etag != response.etag:
            self._notify()
        return None

    def forget_order(self) -> None:
        """Take answers of any revision from now on: the server's database may be another."""
        self._order_since = self._clock()

    def apply_suspension(self, suspension: Suspension) -> Rejection | None:
        """Take a suspension; say why if it can't be applied."""
        held = self._suspensions.get(suspension.action_id)
        if not self._suspensions.put(suspension):
            return Rejection(code=8, message="too many suspensions")
        if held != suspension:
            self._disk.save_suspension(suspension)
            self._arm(suspension.expire_time)
            self._notify()
        return None

    def lift_suspension(self, action_id: int) -> None:
        """End a suspension now."""
        if self._suspensions.remove(action_id):
            self._disk.forget_suspension(action_id)
            self._notify()

    def lift_others(self, action_ids: set[int]) -> None:
        """End every suspension but these."""
        for suspension in list(self._suspensions):
            if suspension.action_id not in action_ids:
                self.lift_suspension(suspension.action_id)

    def suspension_of(self, policy: PathPolicy) -> Suspension | None:
        """Return what holds this path now, the one that ends last."""
        return self._suspensions.of(policy, self._clock())

    def suspensions(self) -> list[Suspension]:
        """Every suspension in force now."""
        now = self._clock()
        return [held for held in self._suspensions if held.expire_time > now]

    def is_due(self, entry: CachedAnswer) -> bool:
        """Say whether the answer has aged so far that it is to be asked for again."""
        return self._clock() >= entry.refresh_at

    def put_off_refresh(self, entry: CachedAnswer, seconds: float) -> None:
        """Do not ask again for *seconds*."""
        entry.refresh_at = self._clock() + seconds

    def __len__(self) -> int:
        return len(self._answers)

    def _has_crossed(
        self, held: StoredAnswer, response: GetEgressPathConfigResponse, now: float
    ) -> bool:
        """Say whether *response* was on its way while the newer *held* came."""
        return (
            response.revision < held.response.revision
            and held.heard > self._order_since
            and now - held.heard < CROSSING_SECONDS
        )

    def _confirm(self, held: CachedAnswer, now: float) -> None:
        held.answer = replace(held.answer, heard=now)
        held.refresh_at = now + self._lifetime(held.answer.response)
        self._disk.save_heard(held.answer)

    def _put(self, answer: StoredAnswer, *, refresh_at: float) -> None:
        now = self._clock()
        for evicted in self._answers.put(answer, now=now, refresh_at=refresh_at):
            self.on_evicted(evicted)
        self.revision = answer.response.revision
        self._arm(next_override_end(answer, now))

    def _lifetime(self, response: GetEgressPathConfigResponse) -> float:
        """Seconds until the answer is asked for again; spread, so that answers part company."""
        if response.config.refresh_strategy == REFRESH_STRATEGY_EPOCH:
            longest = TOLD_MAX_AGE_SECONDS
        else:
            age = response.max_age.seconds + response.max_age.nanos / 1e9
            longest = max(age, 1.0) if response.HasField("max_age") else DEFAULT_MAX_AGE_SECONDS
        return longest * self._random.uniform(0.8, 1.0)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def _arm(self, end: float | None = None) -> None:
        """Set the timer for *end*, or for whatever ends next, unless it goes off sooner."""
        now = self._clock()
        if end is None:
            end = min(self._suspensions.next_end(), self._answers.next_override_end(now))
        end = min(end, now + _LONGEST_TIMER_SECONDS)
        if self._timer is not None and self._timer_at <= end:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = end
        self._timer = asyncio.get_running_loop().call_later(max(0.0, end - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        due, now = self._timer_at, self._clock()
        for action_id in self._suspensions.ended(now):
            self._suspensions.remove(action_id)
            self._disk.forget_suspension(action_id)
        if now >= due:
            self._notify()
        self._arm()


def _ignore(key: PathKey) -> None:
    """Do nothing."""
