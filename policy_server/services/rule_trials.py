"""
Trials of rules on a running server, one at a time and in a thread of its own.

What is tried, and on which outcomes, is what `AutomationService.TestRules` is asked.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from penstock.v1 import automation_service_pb2 as pb
from policy_server.automation.outcome_filter import list_rules
from policy_server.automation.outcomes import Outcome
from policy_server.automation.trial import TrialResult
from policy_server.conversions.outcomes import read_outcomes as read_reported
from policy_server.conversions.rules import refuse
from policy_server.conversions.trials import read_format, read_span, to_response
from policy_server.errors import InvalidRequest, RulesNotLoaded, Unavailable
from policy_server.importing.checks import check_drafts, warn_of_traps
from policy_server.policy import Policy
from policy_server.rule_files.reader import read_content
from policy_server.rules.layers import Issue, Severity
from policy_server.rules.parse import parse_layer
from policy_server.rules.site import Site
from policy_server.rules.snapshot import Snapshot, compile_snapshot
from policy_server.services.rule_trial import RuleTrial
from policy_server.store.database import Database
from policy_server.store.outcomes import read_outcomes
from policy_server.store.scratch import open_scratch
from policy_server.store.sites import load_sites
from policy_server.trials.sites import TrialSites, TriedRules

#: Most outcomes that a call gives.
MAX_OUTCOMES = 10_000
#: Outcomes that are run over at a time; in between a trial may be given up.
PAGE = 500
#: The layer that the content of a request makes.
_LAYER = "test"


class TrialStopped(Exception):
    """Nobody waits for the trial any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What is to be tried."""

    snapshot: Snapshot
    sites: dict[str, Site]
    issues: tuple[Issue, ...]


class RuleTrials:
    """Tries rules on outcomes that are given or stored; nothing is put in force."""

    def __init__(self, policy: Policy, database: Database) -> None:
        self._policy = policy
        self._database = database
        self._running = asyncio.Lock()

    async def test(self, request: pb.TestRulesRequest) -> pb.TestRulesResponse:
        """Try the rules of a request. Errors: `InvalidRequest`, `Unavailable`."""
        if not self._policy.is_loaded:
            raise RulesNotLoaded
        if len(request.outcomes) > MAX_OUTCOMES:
            message = f"a call takes at most {MAX_OUTCOMES} outcomes; store them, or split them"
            raise InvalidRequest(message, field="outcomes")
        start, end = read_span(request)
        if self._running.locked():
            # A second one at the same time would take twice as long.
            raise Unavailable(
                "rules are being tried already; try again", retry_delay=timedelta(seconds=5)
            )
        async with self._running:
            given = read_reported(request.outcomes)
            stop = threading.Event()
            work = asyncio.ensure_future(
                asyncio.to_thread(self._test, request, given, (start, end), stop)
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                stop.set()
                # The next trial may begin once this one has let go.
                await asyncio.wait([work])
                raise

    def _test(
        self,
        request: pb.TestRulesRequest,
        given: Sequence[Outcome],
        span: tuple[datetime, datetime],
        stop: threading.Event,
    ) -> pb.TestRulesResponse:
        tried = self._read_rules(request)
        pages = _part(given) if given else read_stored(self._database, *span)
        result = asyncio.run(self._run(tried, pages, stop))
        return to_response(result, tried.issues)

    async def _run(
        self, tried: _Tried, pages: Iterator[Sequence[Outcome]], stop: threading.Event
    ) -> TrialResult:
        sites = TrialSites(by_domain=tried.sites, known_hosts=self._policy.known_hosts)
        with open_scratch() as connection:
            trial = RuleTrial(TriedRules(tried.snapshot, sites), connection)
            for page in pages:
                if stop.is_set():
                    raise TrialStopped
                await trial.take(page)
            return trial.finish()

    def _read_rules(self, request: pb.TestRulesRequest) -> _Tried:
        if not request.content:
            snapshot = self._policy.snapshot
            rules = {rule.key: rule for rule in list_rules(snapshot)}.values()
            return _Tried(snapshot=snapshot, sites={}, issues=warn_of_traps(rules))
        format = read_format(request.format)
        draft, found = read_content(
            request.content.encode(), name=_LAYER, file=_LAYER, format=format
        )
        issues = (*found, *check_drafts([draft]))
        errors = [issue for issue in issues if issue.severity is Severity.ERROR]
        if errors:
            raise refuse(errors, field="content", what="nothing was tried")
        stored = self._database.read_now(load_sites)
        sites = {domain: item.site for domain, item in stored.items()}
        snapshot = compile_snapshot([parse_layer(draft)[0]], sites=sites, revision=0)
        return _Tried(snapshot=snapshot, sites=sites, issues=issues)


def read_stored(database: Database, start: datetime, end: datetime) -> Iterator[Sequence[Outcome]]:
    """Read the stored outcomes from *start* on and before *end*, page by page."""
    after_id = ""
    while page := database.read_now(
        partial(read_outcomes, start=start, end=end, after_id=after_id, limit=PAGE)
    ):
        yield page
        start, after_id = page[-1].event_time, page[-1].event_id


def _part(outcomes: Sequence[Outcome]) -> Iterator[Sequence[Outcome]]:
    ordered = sorted(outcomes, key=lambda outcome: outcome.event_time)
    return (ordered[place : place + PAGE] for place in range(0, len(ordered), PAGE))
