"""
The outcome counter: from a report to what it durably led to; all RPCs that take outcomes share it.

A report is matched with the rules as they are when it is taken up, with one snapshot from
beginning to end. A report from which outcomes were left out says by which filter; unless that is
the filter of the very snapshot it is matched with, it is refused. What was left out could
therefore not have matched: the result is the same as if it had been sent.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec.structs import replace

from policy_server.automation.outcome_filter import OutcomeFilter
from policy_server.automation.outcomes import Outcome
from policy_server.errors import PolicyServerError
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.services.group_commit import GroupCommit, ReportCounted
from policy_server.services.outcome_filters import OutcomeFilters
from policy_server.services.outcome_matcher import OutcomeMatcher
from policy_server.store.reports import ReportStore


class StaleFilter(PolicyServerError):
    """Outcomes were left out by a filter that holds no more."""

    def __init__(self, current: OutcomeFilter) -> None:
        super().__init__()
        self.current = current


class OutcomeCounter:
    """Counts outcomes and puts in force what automation rules ask for."""

    def __init__(
        self,
        policy: Policy,
        store: ReportStore,
        *,
        filters: OutcomeFilters,
        metrics: ServerMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._policy = policy
        self._filters = filters
        self._metrics = metrics
        self._clock = clock
        self._matcher = OutcomeMatcher(policy, metrics=metrics, clock=clock)
        self._commits = GroupCommit(policy, store, metrics=metrics, clock=clock)

    async def count(self, outcomes: Sequence[Outcome], *, filter_etag: str = "") -> ReportCounted:
        """
        Count *outcomes*, of which others were left out by the filter *filter_etag*, if any; return
        once that is durable.

        Errors: `StaleFilter`, `Unavailable`; nothing is counted then, or it counts as known later.
        """
        # From here on the report is matched with these rules, whatever becomes of them meanwhile.
        snapshot = self._policy.snapshot
        if filter_etag:
            current = await self._filters.filter_of(snapshot)
            if current.etag != filter_etag:
                raise StaleFilter(current)
        if not outcomes:
            return ReportCounted()
        now = self._clock()
        # An agent whose clock runs ahead can't hold a path longer than one whose clock is right.
        timely = [
            replace(outcome, event_time=now) if outcome.event_time > now else outcome
            for outcome in outcomes
        ]
        for kind, count in Counter(outcome.type for outcome in timely).items():
            self._metrics.outcomes.labels(kind.value).inc(count)
        matches = await self._matcher.match(timely, snapshot)
        return await self._commits.take(timely, matches)
