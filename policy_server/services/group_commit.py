"""
Group commit: reports that arrive while one transaction runs share the next.

So a flood of small reports costs few transactions, and a lone one waits for nobody. A report is
answered after its transaction and after this server has read what followed from it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from policy_server.automation.decide import Match
from policy_server.automation.outcomes import Outcome
from policy_server.errors import PolicyServerError, StoreRefused
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.store.actions import Counted
from policy_server.store.reports import ReportStore

logger = logging.getLogger(__name__)

#: Most outcomes of a transaction, so that nobody waits long for the writer.
_MOST_OUTCOMES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCounted:
    """What one report led to."""

    #: Matches that were not known before.
    match_count: int = 0
    #: Actions put in force or extended, ascending.
    action_ids: tuple[int, ...] = ()


Effects = Collection[tuple[str, str, int]]


@dataclass(frozen=True, slots=True, eq=False)
class _Report:
    """A report and who waits for it."""

    outcomes: Sequence[Outcome]
    matches: Sequence[Match]
    done: asyncio.Future[ReportCounted]

    def finish(self, new_events: set[tuple[str, str]], effects: Effects) -> None:
        """Tell who waits what came of it; take what is new in it out of *new_events*."""
        if self.done.done():
            return
        new = []
        for match in self.matches:
            key = (match.rule.key, match.outcome.event_id)
            if key in new_events:
                # Another report of the group may have it as well: it is new once.
                new_events.remove(key)
                new.append(match.counted_under)
        groups = set(new)
        ids = {number for rule, path, number in effects if (rule, path) in groups}
        self.done.set_result(ReportCounted(match_count=len(new), action_ids=tuple(sorted(ids))))

    def fail(self, error: Exception) -> None:
        """Tell who waits that nothing of it is counted."""
        if not self.done.done():
            self.done.set_exception(error)


class GroupCommit:
    """Takes reports, many in one transaction."""

    def __init__(
        self,
        policy: Policy,
        store: ReportStore,
        *,
        metrics: ServerMetrics,
        clock: Callable[[], datetime],
        most_outcomes: int = _MOST_OUTCOMES,
    ) -> None:
        self._policy = policy
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._most_outcomes = most_outcomes
        self._waiting: deque[_Report] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Task[None]] = set()

    async def take(self, outcomes: Sequence[Outcome], matches: Sequence[Match]) -> ReportCounted:
        """Keep and count a report; return once that is durable. Errors: those of the store."""
        done: asyncio.Future[ReportCounted] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Report(outcomes, matches, done))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name="outcome-commit")
        return await done

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next_group())
        finally:
            self._committing = None

    def _next_group(self) -> list[_Report]:
        group = [self._waiting.popleft()]
        size = len(group[0].outcomes)
        while self._waiting and size + len(self._waiting[0].outcomes) <= self._most_outcomes:
            group.append(self._waiting.popleft())
            size += len(group[-1].outcomes)
        return group

    async def _commit(self, group: Sequence[_Report]) -> None:
        outcomes = [outcome for report in group for outcome in report.outcomes]
        matches = [match for report in group for match in report.matches]
        try:
            counted = await self._store.take(outcomes, matches, self._clock())
        except StoreRefused as error:
            if len(group) == 1:
                group[0].fail(error)
                return
            # One of them is at fault; the others must not suffer for it.
            for report in group:
                await self._commit([report])
            return
        # The supervisor of reports: those who wait must hear of it, whatever it was.
        except Exception as error:
            for report in group:
                report.fail(error)
            return
        self._metrics.matches.inc(counted.new_matches)
        self._metrics.actions_begun.inc(len(counted.begun_ids))
        for action_id in sorted(counted.begun_ids):
            logger.info("action began", extra={"action_id": action_id})
        if not counted.has_changed:
            _finish(group, counted)
            return
        # The next transaction need not wait for what this one led to.
        task = asyncio.create_task(self._read_changes(group, counted))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read_changes(self, group: Sequence[_Report], counted: Counted) -> None:
        try:
            # Watchers hear of it before the agent does.
            await self._policy.reload()
        except PolicyServerError as error:
            # It is durable, and the policy reads it as soon as it can.
            logger.warning("actions not read yet", extra={"why": str(error)})
        finally:
            _finish(group, counted)


def _finish(group: Sequence[_Report], counted: Counted) -> None:
    new_events = set(counted.new_events)
    for report in group:
        report.finish(new_events, counted.effects)
