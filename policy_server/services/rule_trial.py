"""
A trial of automation rules: what would have happened to outcomes, had these rules been in force.

It runs what a server runs: the same matching, and the same counting and acting on a database of
its own, which is thrown away. Outcomes are run over by event time, each as if it had been reported
at once. Some that follow within a moment are counted together, as a server does; no action that
exists or could begin among them ends meanwhile, so that the result is the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from policy_server.automation.decide import Match
from policy_server.automation.outcome_filter import list_rules
from policy_server.automation.outcomes import Outcome, OutcomeType
from policy_server.automation.trial import TrialResult, TriedRule
from policy_server.automation.unmatched import UnmatchedCounter
from policy_server.metrics import ServerMetrics
from policy_server.rules.layers import (
    AdjustConfig,
    AutomationRule,
)
from policy_server.services.outcome_matcher import OutcomeMatcher
from policy_server.store.actions import count_and_act, expire_actions
from policy_server.store.scratch import count_actions, first_actions, next_end
from policy_server.trials.sites import TriedRules

#: Most actions that are listed.
MAX_ACTIONS = 1000
#: Most kinds of unmatched replies that are listed.
MAX_UNMATCHED = 20
#: Outcomes within so much time may be counted together.
MOMENT = timedelta(minutes=1)
# Sites that nobody knows are not looked for again, so any time will do.
_SOME_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class RuleTrial:
    """Runs rules over outcomes, batch after batch by event time; then `finish` it."""

    def __init__(
        self,
        rules: TriedRules,
        connection: Connection,
        *,
        moment: timedelta = MOMENT,
    ) -> None:
        self._rules = rules
        self._connection = connection
        self._now: datetime | None = None
        self._matcher = OutcomeMatcher(rules, metrics=ServerMetrics(), clock=lambda: _SOME_TIME)
        #: In the order in which they are consulted; those of several sites once.
        self._listed = {rule.key: rule for rule in list_rules(rules.snapshot)}
        # An action that begins among outcomes that are counted together must not end among them.
        self._moment = min([moment, *map(_shortest_action, self._listed.values())])
        self._unmatched = UnmatchedCounter()
        self._match_counts: Counter[str] = Counter()
        self._outcome_count = 0
        self._unmatched_counts: Counter[bool] = Counter()
        self._start_time: datetime | None = None

    async def take(self, outcomes: Sequence[Outcome]) -> None:
        """Run over a batch; none of its outcomes is older than one taken before."""
        if not outcomes:
            return
        self._start_time = self._start_time or outcomes[0].event_time
        self._outcome_count += len(outcomes)
        matches = await self._matcher.match(outcomes, self._rules.snapshot)
        self._match_counts.update(match.rule.key for match in matches)
        # By object: a repeated report has the event id of another outcome.
        matched = {id(match.outcome) for match in matches}
        for outcome in outcomes:
            if id(outcome) not in matched:
                self._unmatched.add(outcome)
                self._unmatched_counts[outcome.type is OutcomeType.DELIVERY] += 1
        for together in self._split(matches):
            now = together[-1].outcome.event_time
            count_and_act(self._connection, matches=together, now=now)
        self._connection.commit()
        self._now = outcomes[-1].event_time

    def finish(self) -> TrialResult:
        """Say what would have happened, and what became of each rule."""
        if self._now is not None:
            expire_actions(self._connection, now=self._now)
        begun = count_actions(self._connection)
        return TrialResult(
            actions=tuple(
                sorted(
                    first_actions(self._connection, MAX_ACTIONS),
                    key=lambda action: (action.first_match_time, action.id),
                )
            ),
            action_count=sum(begun.values()),
            rules=tuple(
                TriedRule(
                    rule=rule,
                    match_count=self._match_counts[rule.key],
                    action_count=begun.get(rule.key, 0),
                )
                for rule in self._listed.values()
            ),
            outcome_count=self._outcome_count,
            unmatched_count=self._unmatched_counts.total(),
            unmatched_delivery_count=self._unmatched_counts[True],
            unmatched=self._unmatched.most_frequent(MAX_UNMATCHED),
            start_time=self._start_time,
            end_time=self._now,
        )

    def _split(self, matches: Sequence[Match]) -> Iterable[Sequence[Match]]:
        """Part matches into those that can be counted together."""
        together: list[Match] = []
        end: datetime | None = None
        for match in matches:
            time = match.outcome.event_time
            if together and (
                time - together[0].outcome.event_time >= self._moment
                or (end is not None and time >= end)
            ):
                yield together
                together = []
            if not together:
                # Asked anew after each part: it may have begun actions, and put off ends.
                end = next_end(self._connection)
            together.append(match)
        if together:
            yield together


def _shortest_action(rule: AutomationRule) -> timedelta:
    steps = (one.recover_every for one in rule.actions if isinstance(one, AdjustConfig))
    return min([rule.duration, *steps])
