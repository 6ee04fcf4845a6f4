"""
What limits are at this moment: workers name paths, and their answers say the rest.

An answer that changes, by rules or by an action, changes the limits that are lent within a moment,
whether or not an agent has heard of it yet. Memory is proportional to the paths that are named; a
worker that has not been seen for as long as its floors last is forgotten with what it named, and of
one that names very many the path that it has not named for longest: it names that again when it is
told that a limit is unknown.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from penstock.v1 import limit_service_pb2 as pb
from policy_server.automation.actions import ActionInForce, ActionScope
from policy_server.conversions.paths import read_hosts
from policy_server.errors import PolicyServerError, Unavailable
from policy_server.lending.port import LimitStore
from policy_server.limits.naming import NamedLimits
from policy_server.limits.spec import LimitSpec
from policy_server.policy import Policy
from policy_server.rules.resolve import Question
from policy_server.services.action_changes import compare_actions

logger = logging.getLogger(__name__)

#: Most paths of one worker that are followed.
MOST_PATHS = 100_000
#: Paths of one worker, before another one has its turn.
_TURN = 1000
#: For so long a report waits for what it names; well within the time of a lease.
_NAMING_SECONDS = 1.0
#: Paths whose hosts are looked up at a time.
_MOST_LOOKING = 100
#: So many answers are looked at before others have a turn.
_SLICE = 20
_FORGET_SECONDS = 1800.0
_GATHER_SECONDS = 0.02


class LimitNames:
    """Keeps the limits that are lent as the policy has them; let `run` run beside."""

    def __init__(
        self,
        policy: Policy,
        store: LimitStore,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._store = store
        self._clock = clock
        self._names = NamedLimits()
        #: When each worker was last there, in seconds of the loop's clock.
        self._seen: dict[str, float] = {}
        #: What each worker has named, and is to be looked at.
        self._pending: dict[str, _Pending] = {}
        self._naming: asyncio.Task[None] | None = None
        #: Paths whose hosts are looked up.
        self._looking: dict[bytes, asyncio.Task[None]] = {}
        self._touched = _Touched()
        self._actions: dict[int, ActionInForce] = {}
        self._rules: object = None
        self._news = asyncio.Event()
        self._unsubscribe = policy.subscribe(self._hear_change)

    def close(self) -> None:
        """Follow the policy no more."""
        self._unsubscribe()
        for task in tuple(self._looking.values()):
            task.cancel()
        if self._naming is not None:
            self._naming.cancel()

    async def name(self, holder: str, paths: Sequence[pb.LimitPath]) -> None:
        """
        Note that a worker names *paths*. After a start very many do so at once: what takes longer
        than a moment goes on meanwhile, so that reports are answered and leases hold.
        """
        waiting = self._pending.setdefault(holder, _Pending())
        waiting.add(paths)
        if self._naming is None:
            self._naming = asyncio.create_task(self._name_pending(), name="limit-names")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NAMING_SECONDS):
                await waiting.is_done.wait()

    async def _name_pending(self) -> None:
        """Name what is pending, who came first first: so some are done, not all nearly."""
        try:
            while self._pending:
                for holder, waiting in list(self._pending.items()):
                    for number in range(min(_TURN, len(waiting.paths))):
                        await self._name_one(holder, waiting.take())
                        if number % _SLICE == _SLICE - 1:
                            await asyncio.sleep(0)
                    if not waiting.paths:
                        del self._pending[holder]
                        waiting.is_done.set()
                    await asyncio.sleep(0)
        finally:
            self._naming = None

    async def _name_one(self, holder: str, path: pb.LimitPath) -> None:
        if self._is_known(path):
            with contextlib.suppress(PolicyServerError):
                question = await self._ask(path)
                # What it has named is followed: that it says so again changes no limit.
                if not self._names.name_again(holder, question):
                    self._put(holder, question)
        elif len(self._looking) < _MOST_LOOKING:
            self._look_up(holder, path)

    def _is_known(self, path: pb.LimitPath) -> bool:
        """Whether the DNS need not be asked: a worker's leases must not wait for that."""
        if path.mx_hosts:
            return True
        return self._policy.is_loaded and bool(self._policy.known_hosts(path.site_name))

    def _look_up(self, holder: str, path: pb.LimitPath) -> None:
        """Find a path's hosts meanwhile; the worker will name it again, as its key is unknown."""
        key = path.SerializeToString(deterministic=True)
        if key not in self._looking:
            task = asyncio.create_task(self._name_later(holder, path))
            self._looking[key] = task
            task.add_done_callback(lambda _: self._looking.pop(key, None))

    async def _name_later(self, holder: str, path: pb.LimitPath) -> None:
        with contextlib.suppress(PolicyServerError):
            self._put(holder, await self._ask(path))

    async def _ask(self, path: pb.LimitPath) -> Question:
        hosts = read_hosts(path.mx_hosts)
        return await self._policy.question(
            path.routing_domain, path.egress_source, path.site_name, hosts
        )

    def _put(self, holder: str, question: Question) -> None:
        # Without its hosts the answer is another one, whose limits may be higher.
        if question.mx_hosts and holder in self._seen:
            if self._names.has_named(holder) >= MOST_PATHS:
                self._names.forget_oldest(holder)
            self._names.name(holder, question, self._policy.answer(question).limits)

    def note_seen(self, holder: str) -> None:
        """A worker is there."""
        self._seen[holder] = asyncio.get_running_loop().time()

    def has_seen(self, holder: str) -> bool:
        """Whether a worker has been there since its leases must be over, floors included."""
        return holder in self._seen

    def forget(self, holder: str) -> None:
        """A worker has gone in good order."""
        self._seen.pop(holder, None)
        self._names.forget(holder)

    def specs(self, keys: Iterable[str]) -> dict[str, LimitSpec]:
        """Return those of the limits that paths name, as they are now."""
        return {key: spec for key in keys if (spec := self._names.spec(key)) is not None}

    def disagreeing(self, key: str) -> int:
        """Count the other values that paths name for a limit."""
        return self._names.disagreeing(key)

    async def run(self) -> None:
        """Follow the policy, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FORGET_SECONDS / 10):
                    await self._news.wait()
            self._forget_gone(loop.time())
            if self._news.is_set():
                # What comes at the same time is looked at once.
                await asyncio.sleep(_GATHER_SECONDS)
                self._news.clear()
                touched, self._touched = self._touched, _Touched()
                await self._look_at(touched)

    async def _look_at(self, touched: "_Touched") -> None:
        changed: dict[str, LimitSpec] = {}
        for number, path in enumerate(self._names.paths()):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            if isinstance(path, Question) and touched.concerns(path):
                changed |= self._names.update(path, self._policy.answer(path).limits)
        # Others may have changed it again meanwhile.
        specs = self.specs(changed)
        if specs:
            # Without a book the limits are set when it is there, and somebody asks.
            with contextlib.suppress(Unavailable):
                await self._store.configure(specs)
            logger.info("limits changed", extra={"limits": len(specs), "one": next(iter(specs))})

    def _forget_gone(self, now: float) -> None:
        for holder in [one for one, at in self._seen.items() if now - at > _FORGET_SECONDS]:
            self.forget(holder)

    def _hear_change(self) -> None:
        actions = {action.id: action for action in self._policy.actions()}
        changes = compare_actions(self._actions, actions, self._clock())
        self._actions = actions
        self._touched.add_scopes(changes.scopes)
        if self._policy.snapshot is not self._rules:
            change = self._policy.last_change if self._rules is not None else None
            self._rules = self._policy.snapshot
            if change is None or change.is_wide:
                self._touched.is_wide = True
            else:
                self._touched.sites |= change.sites
                self._touched.domains |= change.domains
        self._news.set()


class _Pending:
    """What one worker has named, and is to be looked at."""

    def __init__(self) -> None:
        #: By what they say: who waits says the same again, and again.
        self.paths: OrderedDict[bytes, pb.LimitPath] = OrderedDict()
        self.is_done = asyncio.Event()

    def add(self, paths: Iterable[pb.LimitPath]) -> None:
        """Have *paths* looked at too, as far as there are not too many."""
        for path in paths:
            if len(self.paths) < MOST_PATHS:
                self.paths.setdefault(path.SerializeToString(deterministic=True), path)

    def take(self) -> pb.LimitPath:
        """Take out the path that has waited longest."""
        _, path = self.paths.popitem(last=False)
        return path


class _Touched:
    """Which questions may have another answer than before."""

    def __init__(self) -> None:
        self.is_wide = False
        self.sites: set[str] = set()
        self.domains: set[str] = set()

    def add_scopes(self, scopes: Iterable[ActionScope]) -> None:
        """Add what actions hold for."""
        for scope in scopes:
            if scope.routing_domain:
                self.domains.add(scope.routing_domain)
            else:
                self.sites.add(scope.site_name)

    def concerns(self, question: Question) -> bool:
        """Whether the answer to *question* may have changed."""
        return (
            self.is_wide
            or question.site_name in self.sites
            or question.routing_domain in self.domains
        )
