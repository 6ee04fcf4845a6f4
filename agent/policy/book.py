"""
The policy book: everything the agent knows of the policy, in memory, kept on disk.

The client (`client.py`) and the watch (`watch.py`) write into it what the server says; queues
read from it, without waiting. It belongs to the event loop. One timer wakes its listeners when a
suspension or an override ends, so that both end at their time without word from the server.
Where the system's time is set anew, suspensions move with it: none is cut short or drawn out.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from agent.policy.action_set import ActionSet
from agent.policy.answer import Bounce, MxHost, PathPolicy, Scope, Suspension
from agent.policy.cache import AnswerCache, CachedAnswer
from agent.policy.conservative import conservative_policy
from agent.policy.disk import PolicyDisk
from agent.policy.effective import PathKey, StoredAnswer, next_override_end, why_unusable
from agent.policy.staleness import FRESH_SECONDS
from agent.policy.word_order import WordOrder
from agent.queue.names import QueueName
from penstock.v1.egress_path_pb2 import REFRESH_STRATEGY_EPOCH
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse

logger = logging.getLogger(__name__)

#: An answer of an older revision is not taken over a newer one for so long after the newer was
#: given or confirmed: it is of another server that lags behind. After that an older revision means
#: that the server's database was put back.
_LAGGING_SECONDS = FRESH_SECONDS
#: How long an answer is used that does not say so itself.
DEFAULT_MAX_AGE_SECONDS = 60.0
#: Answers that age only when told are still confirmed this often.
TOLD_MAX_AGE_SECONDS = 3600.0
_LONGEST_TIMER_SECONDS = 3600.0
#: Clocks that are disciplined gently never differ so much from one look to the next.
_CLOCK_STEP_SECONDS = 2.0
#: How often it is written that the watch has confirmed what is in memory.
_CONFIRMED_SECONDS = 60.0


def _elapsed() -> float:
    """Seconds of a clock that nobody sets; it goes on while the host sleeps, where it can."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


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
        steady: Callable[[], float] = _elapsed,
        max_stale: float = 86_400.0,
        capacity: int = 20_000,
        max_actions: int = 100_000,
    ) -> None:
        """
        Keep at most *capacity* answers, and *max_actions* suspensions and as many bounces, in
        memory; *max_stale* is in seconds, *steady* a clock in seconds that is never set.
        """
        self._disk = disk
        self._clock = clock
        self._steady = steady
        self._clock_offset = clock() - steady()
        self._random = random
        self._max_stale = max_stale
        self._capacity = capacity
        self._answers = AnswerCache(capacity)
        self._suspensions = ActionSet[Suspension](max_actions)
        self._bounces = ActionSet[Bounce](max_actions)
        #: How many bounces came into force so far.
        self.bounces_begun = 0
        self._listeners: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        #: Revisions of answers taken since then, by the steady clock, can be compared.
        self._order_since = steady()
        self._words = WordOrder()
        #: From where the watch goes on, by the server's own reckoning; empty: anew.
        self.token = b""
        #: When the watch last confirmed everything in memory, seconds since the epoch; 0: never.
        self.confirmed = 0.0
        #: The same by the steady clock, in this run.
        self._confirmed_at = -math.inf
        self._confirmed_on_disk = 0.0
        #: When the newest answer was heard that an earlier run left.
        self._left_at = 0.0
        #: The revision of the answer that was stored last.
        self.revision = 0
        #: Called with a key when its answer is first held, or held for other MX hosts.
        self.on_held: Callable[[PathKey], None] = _ignore
        #: Called with a key that left memory.
        self.on_evicted: Callable[[PathKey], None] = _ignore

    async def open(self) -> None:
        """Load what was last known."""
        now = self._clock()
        known = await self._disk.open(self._capacity)
        # A clock that was set back must not make old answers new.
        self.confirmed = self._confirmed_on_disk = min(known.confirmed, now)
        self.token = known.token
        # Where more is on disk than fits in memory, the watch may not have looked after all of it.
        held_since = 0.0 if len(known.answers) < self._capacity else now
        for answer in reversed(known.answers):
            self._answers.put(answer, now=now, refresh_at=now, held_since=held_since)
        if known.answers:
            self._left_at = min(known.answers[0].heard, now)
            self.revision = known.answers[0].response.revision
        actions: list[Suspension | Bounce] = [*known.suspensions, *known.bounces]
        for action in actions:
            if action.expire_time > now:
                self._put_action(action)
            else:
                self._disk.forget_action(action.action_id)
        self._arm()

    async def close(self) -> None:
        """Stop the timer and write what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.confirmed:
            self._disk.save_confirmed(self.confirmed)
            for entry in self._answers.hottest_first():
                self._save_confirmed_of(entry)
        await self._disk.close()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever an answer or a suspension has changed."""
        self._listeners.append(listener)

    @property
    def last_word(self) -> float:
        """When the server was last heard, in seconds since the epoch; 0: never."""
        return max(self.confirmed, self._left_at)

    def note_confirmed(self) -> None:
        """The watch says that everything in memory is as the server has it now."""
        self.confirmed = now = self._clock()
        self._confirmed_at = self._steady()
        if abs(now - self._confirmed_on_disk) >= _CONFIRMED_SECONDS:
            self._confirmed_on_disk = now
            self._disk.save_confirmed(now)

    def keep_token(self, token: bytes) -> None:
        """
        Go on from *token*, after a restart too: all that came before it has been taken in. It is
        written no sooner than that.
        """
        if token != self.token:
            self.token = token
            self._disk.save_token(token)

    @property
    def elapsed(self) -> float:
        """Seconds of the clock that nobody sets, to say when something was asked."""
        return self._steady()

    def now(self) -> float:
        """Return the time, seconds since the epoch."""
        return self._clock()

    def find(self, routing_domain: str, egress_source: str, now: float) -> CachedAnswer | None:
        """Return the entry for a path that is in use."""
        return self._answers.get(routing_domain, egress_source, now)

    def peek(self, key: PathKey) -> StoredAnswer | None:
        """Return the answer without counting it as used."""
        entry = self._answers.peek(key)
        return entry.answer if entry else None

    def policy_of(self, entry: CachedAnswer, now: float) -> PathPolicy:
        """Return the policy of an entry, the conservative one if it is too stale."""
        if now - self._confirmed_of(entry) > self._max_stale:
            return conservative_policy(entry.policy)
        return entry.policy

    async def recall(self, key: PathKey) -> CachedAnswer | None:
        """Return the entry, bringing it back from disk if it had left memory."""
        entry = self._answers.peek(key)
        if entry is None:
            answer = await self._disk.find_answer(key)
            if answer is not None and self._answers.peek(key) is None:
                self._put(answer, refresh_at=self._clock())
                self.on_held(key)
        return self._answers.get(key.routing_domain, key.egress_source, self._clock())

    def hottest_first(self) -> list[StoredAnswer]:
        """Every answer in memory, the most recently used first."""
        return [entry.answer for entry in self._answers.hottest_first()]

    def apply_answer(
        self,
        key: PathKey,
        mx_hosts: tuple[MxHost, ...],
        response: GetEgressPathConfigResponse,
        *,
        asked_at: float = math.inf,
    ) -> Rejection | None:
        """
        Take an answer; say why if it can't be applied. *asked_at* is when it was asked for, by
        `elapsed`; what the watch pushes was not.
        """
        held = self._answers.peek(key)
        now = self._clock()
        if response.not_modified:
            if held is None:
                return Rejection(code=9, message="not_modified, but no answer is held")
            if response.etag in ("", held.answer.response.etag):
                self._confirm(held, now)
            else:
                # Another one has come in the meantime.
                held.refresh_at = now
            return None
        if reason := why_unusable(response):
            return Rejection(code=3, message=reason)
        if held is not None and self._is_overtaken(held, response, asked_at):
            return None
        answer = StoredAnswer(key=key, mx_hosts=mx_hosts, response=response, heard=now)
        refresh_at = now + self._lifetime(response)
        self._put(answer, refresh_at=refresh_at, taken_at=self._steady())
        self._disk.save_answer(answer)
        if held is None or held.answer.mx_hosts != mx_hosts:
            self.on_held(key)
        if held is None or held.answer.response.etag != response.etag:
            self._notify()
        return None

    def forget_order(self) -> None:
        """Take words of any revision from now on: the server's database may be another."""
        self._order_since = self._steady()
        self._words.forget()

    def is_late(self, action: Suspension | Bounce, revision: int) -> bool:
        """Whether *action* as of *revision* is older than what was heard of it since."""
        return self._words.is_late(action, revision, self._action(action.action_id))

    def apply_action(self, action: Suspension | Bounce, revision: int = 0) -> Rejection | None:
        """
        Take a suspension or a bounce as of *revision*, 0 where the server does not tell; say why
        if it can't be applied.
        """
        # Before it is in: its end is by the clock as it is now, and must not move with the others.
        self._follow_clock()
        held = self._action(action.action_id)
        if not self._put_action(action):
            return Rejection(code=8, message="too many suspensions or bounces")
        self._words.note(action.action_id, revision)
        if held != action:
            self._disk.save_action(action)
            self._arm(action.expire_time)
            self._notify()
        return None

    def is_late_removal(self, action_id: int, revision: int) -> bool:
        """Whether that an action is gone as of *revision* is older than what was heard of it."""
        return self._words.is_late_removal(action_id, revision)

    def lift_action(self, action_id: int, revision: int = 0) -> None:
        """End a suspension or a bounce now, as of *revision*; 0 where the server does not tell."""
        is_suspension = self._suspensions.remove(action_id)
        is_held = self._bounces.remove(action_id) or is_suspension
        if is_held or revision:
            # What was not held either: a server that lags may still believe it in force.
            self._words.note_lifted(action_id, revision)
        if is_held:
            self._disk.forget_action(action_id)
            self._notify()

    def lift_others(self, action_ids: set[int]) -> None:
        """End every suspension and every bounce but these."""
        held = [one.action_id for one in self._suspensions]
        held += [one.action_id for one in self._bounces]
        for action_id in held:
            if action_id not in action_ids:
                self.lift_action(action_id)

    def suspension_of(
        self, policy: PathPolicy, tenant: str = "", campaign: str = ""
    ) -> Suspension | None:
        """Return what holds such mail on this path now, the one that ends last."""
        if not len(self._suspensions):
            return None
        mail = policy.scope._replace(tenant=tenant, campaign=campaign)
        return self._suspensions.of(mail, self._follow_clock())

    def suspension_of_path(self, policy: PathPolicy) -> Suspension | None:
        """Return what holds all mail of this path now, the one that ends last."""
        if not len(self._suspensions):
            return None
        return self._suspensions.of(policy.path_scope, self._follow_clock())

    def suspension_of_queue(self, queue: QueueName) -> Suspension | None:
        """Return what holds the mail of this queue now, whichever path it takes."""
        if not len(self._suspensions):
            return None
        return self._suspensions.of(_scope_of(queue), self._follow_clock())

    def is_in_force(self, suspension: Suspension) -> bool:
        """Say whether *suspension* holds what it held, until the same time."""
        held = self._suspensions.get(suspension.action_id)
        return held == suspension and self._follow_clock() < suspension.expire_time

    def bounce_of(self, queue: QueueName) -> Bounce | None:
        """Return what bounces the mail of this queue now, the one that ends last."""
        if not len(self._bounces):
            return None
        return self._bounces.of(_scope_of(queue), self._follow_clock())

    def suspensions(self) -> list[Suspension]:
        """Every suspension in force now."""
        now = self._follow_clock()
        return [held for held in self._suspensions if held.expire_time > now]

    def bounces(self) -> list[Bounce]:
        """Every bounce in force now."""
        now = self._follow_clock()
        return [held for held in self._bounces if held.expire_time > now]

    def put_off_refresh(self, entry: CachedAnswer, seconds: float) -> None:
        """Do not ask again for *seconds*."""
        entry.refresh_at = self._clock() + seconds

    def __len__(self) -> int:
        return len(self._answers)

    def _is_overtaken(
        self, held: CachedAnswer, response: GetEgressPathConfigResponse, asked_at: float
    ) -> bool:
        """Say whether *response* is older than *held*, which came while it was on its way."""
        # By the steady clock: with the time set back, what is held would seem new for hours.
        revision, known = response.revision, held.answer.response.revision
        if revision > known or held.taken_at <= self._order_since:
            return False
        if held.taken_at >= asked_at:
            if response.etag == held.answer.response.etag:
                return False
            # Of one revision, either may be the newer: the server is asked again.
            held.refresh_at = self._clock()
            return True
        confirmed = self._confirmed_at if self.confirmed >= held.held_since else -math.inf
        newest = max(held.taken_at, confirmed)
        return revision < known and self._steady() - newest < _LAGGING_SECONDS

    def _confirm(self, held: CachedAnswer, now: float) -> None:
        held.answer = replace(held.answer, heard=now)
        held.taken_at = self._steady()
        held.refresh_at = now + self._lifetime(held.answer.response)
        self._disk.save_heard(held.answer)

    def _confirmed_of(self, entry: CachedAnswer) -> float:
        """When the server last gave or confirmed the answer, itself or by the watch."""
        heard = entry.answer.heard
        return max(heard, self.confirmed) if self.confirmed >= entry.held_since else heard

    def _save_confirmed_of(self, entry: CachedAnswer) -> None:
        """Keep on disk what the watch said of an answer that leaves memory."""
        confirmed = self._confirmed_of(entry)
        if confirmed > entry.answer.heard:
            self._disk.save_heard(replace(entry.answer, heard=confirmed))

    def _put(self, answer: StoredAnswer, *, refresh_at: float, taken_at: float = -math.inf) -> None:
        now = self._clock()
        for evicted in self._answers.put(answer, now=now, refresh_at=refresh_at, taken_at=taken_at):
            self._save_confirmed_of(evicted)
            self.on_evicted(evicted.answer.key)
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
            end = min(self._next_action_end(), self._answers.next_override_end(now))
        end = min(end, now + _LONGEST_TIMER_SECONDS)
        if self._timer is not None and self._timer_at <= end:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = end
        self._timer = asyncio.get_running_loop().call_later(max(0.0, end - now), self._on_timer)

    def _follow_clock(self) -> float:
        """Move the suspensions if the time was set since the last look; return the time."""
        now = self._clock()
        offset = now - self._steady()
        step, self._clock_offset = offset - self._clock_offset, offset
        if abs(step) < _CLOCK_STEP_SECONDS:
            return now
        held: list[Suspension | Bounce] = [*self._suspensions, *self._bounces]
        logger.warning("the time was set", extra={"seconds": round(step), "actions": len(held)})
        for action in held:
            moved = replace(action, expire_time=action.expire_time + step)
            self._put_action(moved)
            self._disk.save_action(moved)
        if held:
            self._arm(self._next_action_end())
            # Later, for whoever asked is in the midst of deciding.
            asyncio.get_running_loop().call_soon(self._notify)
        return now

    def _action(self, action_id: int) -> Suspension | Bounce | None:
        return self._suspensions.get(action_id) or self._bounces.get(action_id)

    def _put_action(self, action: Suspension | Bounce) -> bool:
        """One id is one action: in another database it may be one of the other kind."""
        if isinstance(action, Suspension):
            if not self._suspensions.put(action):
                return False
            self._bounces.remove(action.action_id)
            return True
        is_new = self._bounces.get(action.action_id) is None
        if not self._bounces.put(action):
            return False
        self._suspensions.remove(action.action_id)
        self.bounces_begun += is_new
        return True

    def _next_action_end(self) -> float:
        return min(self._suspensions.next_end(), self._bounces.next_end())

    def _on_timer(self) -> None:
        self._timer = None
        now, due = self._follow_clock(), self._timer_at
        ended = [one.action_id for one in self._suspensions.pop_ended(now)]
        ended += [one.action_id for one in self._bounces.pop_ended(now)]
        for action_id in ended:
            self._words.note_ended(action_id)
            self._disk.forget_action(action_id)
        if now >= due:
            self._notify()
        self._arm()


def _scope_of(queue: QueueName) -> Scope:
    """What is known of a queue's mail before it has a path."""
    return Scope(routing_domain=queue.next_domain, tenant=queue.tenant, campaign=queue.campaign)


def _ignore(key: PathKey) -> None:
    """Do nothing."""
