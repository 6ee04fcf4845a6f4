"""
FeedbackService: takes outcomes, and answers once what follows from them is durable.

Matching is decided in `policy_server.automation`; counting and acting is one transaction of
`policy_server.store.actions`. Here outcomes are brought together with the rules they concern.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from policy_server.automation.decide import Match
from policy_server.automation.matching import (
    CompiledRules,
    CompiledSets,
    Effort,
    compile_rules,
    match_outcome,
)
from policy_server.automation.outcomes import Outcome
from policy_server.convert import read_outcomes
from policy_server.errors import InvalidRequest, PolicyServerError
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.layers import AdjustConfig, AutomationRule, OptionAction
from policy_server.rules.resolve import Question, resolve
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.values import format_value
from policy_server.store.actions import ActionStore

logger = logging.getLogger(__name__)

#: Most outcomes in one call.
MAX_OUTCOMES = 1000
_PATHS_KEPT = 10_000
_LOOKUPS_AT_ONCE = 32
#: Hosts of a site that nobody knew are asked for again after this time.
_UNKNOWN_SITE_KEPT = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PathKey:
    recipient_domain: str
    routing_domain: str
    egress_source: str
    site_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """The rules that outcomes of one path concern."""

    #: None: nothing can match.
    question: Question | None
    compiled: CompiledRules
    #: When the hosts of its site are to be looked for again.
    stale_time: datetime | None = None


class FeedbackService(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Counts outcomes and puts in force what automation rules ask for."""

    def __init__(
        self,
        policy: Policy,
        actions: ActionStore,
        *,
        metrics: ServerMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._actions = actions
        self._metrics = metrics
        self._clock = clock
        self._sets = CompiledSets()
        self._compiling = asyncio.Lock()
        #: Made under the rules in `_snapshot`; oldest first.
        self._paths: OrderedDict[_PathKey, _Path] = OrderedDict()
        self._snapshot: Snapshot | None = None
        self._nothing = compile_rules(())

    async def ReportOutcomes(
        self, request: feedback_service_pb2.ReportOutcomesRequest, context: Any
    ) -> feedback_service_pb2.ReportOutcomesResponse:
        """Count a batch; the answer says that it is counted durably."""
        if len(request.outcomes) > MAX_OUTCOMES:
            raise InvalidRequest(
                f"a call takes at most {MAX_OUTCOMES} outcomes, this one has "
                f"{len(request.outcomes)}",
                field="outcomes",
            )
        now = self._clock()
        # An agent whose clock runs ahead can't hold a path longer than one whose clock is right.
        outcomes = [
            replace(outcome, event_time=now) if outcome.event_time > now else outcome
            for outcome in read_outcomes(request.outcomes)
        ]
        for kind, count in Counter(outcome.type.value for outcome in outcomes).items():
            self._metrics.outcomes.labels(kind).inc(count)
        matches = await self._match(outcomes)
        if not matches:
            return feedback_service_pb2.ReportOutcomesResponse()
        counted = await self._actions.count_and_act(matches, now)
        self._metrics.matches.inc(counted.new_matches)
        self._metrics.actions_begun.inc(len(counted.begun_ids))
        if counted.has_changed:
            # Watchers hear of it before the agent does.
            await self._policy.reload()
        for action_id in sorted(counted.begun_ids):
            logger.info("action began", extra={"action_id": action_id})
        return feedback_service_pb2.ReportOutcomesResponse(
            match_count=counted.new_matches, action_ids=counted.action_ids
        )

    async def _match(self, outcomes: Sequence[Outcome]) -> list[Match]:
        paths = await self._find_paths({_key(outcome) for outcome in outcomes})
        concerned = [
            (outcome, paths[_key(outcome)])
            for outcome in outcomes
            if paths[_key(outcome)].compiled.rules
        ]
        effort = Effort()
        if any(path.compiled.backtracking for _, path in concerned):
            # Only patterns beyond RE2 can take long: they run beside the event loop.
            hits = await asyncio.to_thread(_match_all, concerned, effort)
        else:
            hits = _match_all(concerned, effort)
        for pattern, timeouts in effort.timeouts.items():
            self._metrics.pattern_timeouts.inc(timeouts)
            facts = {"pattern": pattern, "timeouts": timeouts}
            logger.warning("pattern took too long and was given up", extra=facts)
        return self._with_ruled_values(hits)

    def _with_ruled_values(
        self, hits: Sequence[tuple[Outcome, _Path, AutomationRule]]
    ) -> list[Match]:
        snapshot = self._policy.snapshot
        known: dict[int, Mapping[str, Any]] = {}
        matches = []
        for outcome, path, rule in hits:
            options = [action.name for action in rule.actions if isinstance(action, OptionAction)]
            if options and id(path) not in known and path.question is not None:
                resolved = resolve(snapshot, path.question, ()).options
                known[id(path)] = {
                    name: format_value(entry.value) for name, entry in resolved.items()
                }
            ruled = known.get(id(path), {})
            values = {name: ruled[name] for name in options if name in ruled}
            if any(isinstance(a, AdjustConfig) and a.name not in ruled for a in rule.actions):
                self._metrics.adjustments_skipped.inc()
            matches.append(Match(rule=rule, outcome=outcome, ruled_values=values))
        return matches

    async def _find_paths(self, keys: set[_PathKey]) -> dict[_PathKey, _Path]:
        """Find the rules of each path; the DNS is asked at most for sites nobody knows."""
        if self._policy.snapshot is not self._snapshot:
            self._paths.clear()
            self._snapshot = self._policy.snapshot
        snapshot, now = self._snapshot, self._clock()
        found: dict[_PathKey, _Path] = {}
        missing = []
        for key in keys:
            path = self._paths.get(key)
            if path is None or (path.stale_time is not None and path.stale_time <= now):
                missing.append(key)
                continue
            self._paths.move_to_end(key)
            found[key] = path
        for start in range(0, len(missing), _LOOKUPS_AT_ONCE):
            batch = missing[start : start + _LOOKUPS_AT_ONCE]
            found.update(
                zip(batch, await asyncio.gather(*map(self._find_path, batch)), strict=True)
            )
        if snapshot is self._snapshot is self._policy.snapshot:
            self._paths.update((key, found[key]) for key in missing)
            while len(self._paths) > _PATHS_KEPT:
                self._paths.popitem(last=False)
        return found

    async def _find_path(self, key: _PathKey) -> _Path:
        # Without a site no path was in use, so there is nothing that could be acted on.
        if not key.site_name or not key.egress_source:
            return _Path(question=None, compiled=self._nothing)
        try:
            question = await self._policy.question(
                key.routing_domain, key.egress_source, key.site_name
            )
        except PolicyServerError:
            return _Path(question=None, compiled=self._nothing)
        # Which rules are consulted goes by the recipient's domain, at the site in use.
        consulted = replace(question, routing_domain=key.recipient_domain)
        return _Path(
            question=question,
            compiled=await self._compile(self._policy.consulted_rules(consulted)),
            stale_time=None if question.mx_hosts else self._clock() + _UNKNOWN_SITE_KEPT,
        )

    async def _compile(self, rules: Sequence[AutomationRule]) -> CompiledRules:
        async with self._compiling:
            found = self._sets.find(rules)
            if found is None:
                # Large patterns take long: they are compiled beside the event loop.
                found = self._sets.keep(await asyncio.to_thread(compile_rules, rules))
            return found


def _key(outcome: Outcome) -> _PathKey:
    return _PathKey(
        recipient_domain=outcome.recipient_domain,
        routing_domain=outcome.routing_domain,
        egress_source=outcome.egress_source,
        site_name=outcome.site_name,
    )


def _match_all(
    concerned: Sequence[tuple[Outcome, _Path]], effort: Effort
) -> list[tuple[Outcome, _Path, AutomationRule]]:
    return [
        (outcome, path, rule)
        for outcome, path in concerned
        for rule in match_outcome(path.compiled, outcome, effort)
    ]
