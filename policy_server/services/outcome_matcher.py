"""
Outcomes brought together with the rules they concern, under one snapshot of the rules.

Matching is decided in `policy_server.automation.matching`; which rules a path concerns, in
`policy_server.rules`. The DNS is asked at most for sites that nobody knows.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

import msgspec.structs

from policy_server.automation.decide import Match
from policy_server.automation.matching import (
    CompiledRules,
    CompiledSets,
    Effort,
    compile_rules,
    match_outcome,
)
from policy_server.automation.outcomes import Outcome
from policy_server.errors import PolicyServerError
from policy_server.metrics import ServerMetrics
from policy_server.rules.layers import AdjustConfig, AutomationRule, OptionAction
from policy_server.rules.resolve import Question, consulted_rules, resolve
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.values import format_value

logger = logging.getLogger(__name__)

_PATHS_KEPT = 10_000
_LOOKUPS_AT_ONCE = 32
#: Hosts of a site that nobody knew are asked for again after this time.
_UNKNOWN_SITE_KEPT = timedelta(seconds=30)

#: Recipient domain, routing domain, egress source, site name.
_PathKey = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """The rules that outcomes of one path concern."""

    #: None: nothing can match.
    question: Question | None
    compiled: CompiledRules
    #: When the hosts of its site are to be looked for again.
    stale_time: datetime | None = None


_Hit = tuple[Outcome, _Path, AutomationRule]


class Rules(Protocol):
    """The rules that outcomes are matched with: those in force, or those that are tried."""

    @property
    def snapshot(self) -> Snapshot:
        """The rules as they are now."""

    async def question(
        self, routing_domain: str, egress_source: str, site_name: str = ""
    ) -> Question:
        """Make the question of a path. Errors: `PolicyServerError`."""


class OutcomeMatcher:
    """Finds the matches of outcomes."""

    def __init__(
        self, policy: Rules, *, metrics: ServerMetrics, clock: Callable[[], datetime]
    ) -> None:
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._sets = CompiledSets()
        self._compiling = asyncio.Lock()
        #: Made under the rules in `_snapshot`; oldest first.
        self._paths: OrderedDict[_PathKey, _Path] = OrderedDict()
        self._snapshot: Snapshot | None = None
        self._nothing = _Path(question=None, compiled=compile_rules(()))

    async def match(self, outcomes: Sequence[Outcome], snapshot: Snapshot) -> list[Match]:
        """Find which rules of *snapshot*, and of no other, *outcomes* match."""
        keys = [_key(outcome) for outcome in outcomes]
        paths = await self._find_paths(dict.fromkeys(keys), snapshot)
        concerned = [
            (outcome, path)
            for outcome, key in zip(outcomes, keys, strict=True)
            if (path := paths[key]).compiled.rules
        ]
        if not concerned:
            return []
        effort = Effort(clock=time.monotonic)
        if any(path.compiled.backtracking for _, path in concerned):
            # Only patterns beyond RE2 can take long: they run beside the event loop.
            hits = await asyncio.to_thread(_match_all, concerned, effort)
        else:
            hits = _match_all(concerned, effort)
        for pattern, timeouts in effort.timeouts.items():
            self._metrics.pattern_timeouts.inc(timeouts)
            facts = {"pattern": pattern, "timeouts": timeouts}
            logger.warning("pattern took too long and was given up", extra=facts)
        if effort.left_out:
            facts = {"tries": effort.left_out}
            logger.warning(
                "time for patterns beyond RE2 was spent, the rest was left out", extra=facts
            )
        return _with_ruled_values(hits, snapshot, self._metrics)

    async def _find_paths(
        self, keys: Iterable[_PathKey], snapshot: Snapshot
    ) -> dict[_PathKey, _Path]:
        if self._snapshot is not snapshot and self._policy.snapshot is snapshot:
            self._paths.clear()
            self._snapshot = snapshot
        known = self._paths if self._snapshot is snapshot else {}
        now = self._clock()
        found: dict[_PathKey, _Path] = {}
        missing = []
        for key in keys:
            path = known.get(key)
            if path is None or (path.stale_time is not None and path.stale_time <= now):
                missing.append(key)
                continue
            self._paths.move_to_end(key)
            found[key] = path
        for start in range(0, len(missing), _LOOKUPS_AT_ONCE):
            batch = missing[start : start + _LOOKUPS_AT_ONCE]
            finding = map(partial(self._find_path, snapshot=snapshot), batch)
            found.update(zip(batch, await asyncio.gather(*finding), strict=True))
        if snapshot is self._snapshot:
            self._paths.update((key, found[key]) for key in missing)
            while len(self._paths) > _PATHS_KEPT:
                self._paths.popitem(last=False)
        return found

    async def _find_path(self, key: _PathKey, snapshot: Snapshot) -> _Path:
        recipient_domain, routing_domain, egress_source, site_name = key
        # Without a site no path was in use, so there is nothing that could be acted on.
        if not site_name or not egress_source:
            return self._nothing
        try:
            question = await self._policy.question(routing_domain, egress_source, site_name)
        except PolicyServerError:
            return self._nothing
        # Which rules are consulted goes by the recipient's domain, at the site in use.
        consulted = msgspec.structs.replace(question, routing_domain=recipient_domain)
        return _Path(
            question=question,
            compiled=await self._compile(consulted_rules(snapshot, consulted)),
            stale_time=None if question.mx_hosts else self._clock() + _UNKNOWN_SITE_KEPT,
        )

    async def _compile(self, rules: Sequence[AutomationRule]) -> CompiledRules:
        if not rules:
            return self._nothing.compiled
        async with self._compiling:
            found = self._sets.find(rules)
            if found is None:
                # Large patterns take long: they are compiled beside the event loop.
                found = self._sets.keep(await asyncio.to_thread(compile_rules, rules))
            return found


def _key(outcome: Outcome) -> _PathKey:
    return (
        outcome.recipient_domain,
        outcome.routing_domain,
        outcome.egress_source,
        outcome.site_name,
    )


def _match_all(concerned: Sequence[tuple[Outcome, _Path]], effort: Effort) -> list[_Hit]:
    return [
        (outcome, path, rule)
        for outcome, path in concerned
        for rule in match_outcome(path.compiled, outcome, effort)
    ]


def _with_ruled_values(
    hits: Sequence[_Hit], snapshot: Snapshot, metrics: ServerMetrics
) -> list[Match]:
    known: dict[int, Mapping[str, Any]] = {}
    matches = []
    for outcome, path, rule in hits:
        options = [action.name for action in rule.actions if isinstance(action, OptionAction)]
        if not options:
            matches.append(Match(rule=rule, outcome=outcome))
            continue
        if id(path) not in known and path.question is not None:
            resolved = resolve(snapshot, path.question, ()).options
            known[id(path)] = {name: format_value(entry.value) for name, entry in resolved.items()}
        ruled = known.get(id(path), {})
        values = {name: ruled[name] for name in options if name in ruled}
        if any(isinstance(one, AdjustConfig) and one.name not in ruled for one in rule.actions):
            metrics.adjustments_skipped.inc()
        matches.append(Match(rule=rule, outcome=outcome, ruled_values=values))
    return matches
