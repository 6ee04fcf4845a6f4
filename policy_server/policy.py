"""
The policy that is in force: rules, sites and actions as one state, and answers made from it.

It reads the database when the revision has grown, and then only the kind of thing that changed;
it looks up the sites that rules name ahead of any question; it lets layers begin and end, and
actions expire, at their time. What the answer is, is decided in `policy_server.rules`.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from policy_server.answers import Answer, build_answer
from policy_server.automation.actions import ActionInForce
from policy_server.dns import MxResolver
from policy_server.errors import DnsUnavailable, PolicyServerError, RulesNotLoaded
from policy_server.metrics import ServerMetrics
from policy_server.questions import check_domain, check_source, make_question
from policy_server.rule_loader import LoadedRules, RuleLoader, read_everything
from policy_server.rules.layers import AutomationRule, Severity
from policy_server.rules.resolve import Question, consulted_rules
from policy_server.rules.site import MxHost
from policy_server.rules.snapshot import Snapshot
from policy_server.site_keeper import SiteFailure, SiteSchedule, find_site, find_sites
from policy_server.state import State, build_state, find_collisions
from policy_server.store.actions import ActionStore
from policy_server.store.database import Database
from policy_server.store.revisions import changed_tables, one_revision, read_revision
from policy_server.store.rules import replace_rule_errors
from policy_server.store.sites import StoredSite, load_sites, save_sites

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_MAX_ANSWERS = 20_000
_MAX_SITES = 20_000
#: No timer sleeps longer, so that a clock set by hand is noticed.
_LONGEST_SLEEP = timedelta(minutes=1)
_RULE_TABLES = frozenset(
    {"rule_layers", "rule_blocks", "rule_options", "provider_matches", "automation_rules"}
)


class Policy:
    """Answers questions from rules and actions in force; `start` it, then `close` it."""

    def __init__(
        self,
        database: Database,
        *,
        actions: ActionStore,
        resolver: MxResolver,
        metrics: ServerMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._action_store = actions
        self._resolver = resolver
        self._metrics = metrics
        self._clock = clock
        self._loader = RuleLoader()
        self._state: State | None = None
        self._answers: OrderedDict[Question, Answer] = OrderedDict()
        #: Host sets of sites that clients asked about, for outcomes, which name the site alone.
        self._seen_hosts: OrderedDict[str, tuple[MxHost, ...]] = OrderedDict()
        self._listeners: list[Callable[[], None]] = []
        self._reloading = asyncio.Lock()
        self._rules_changed = asyncio.Event()
        self._time_changed = asyncio.Event()
        self._schedule = SiteSchedule()
        self._tasks: list[asyncio.Task[None]] = []
        #: What is wrong is written down by the server alone, which has the last good versions.
        self._records_errors = False

    async def start(self) -> None:
        """Load the rules, then keep them current in the background."""
        self._records_errors = True
        await self._action_store.expire(self._clock())
        await self.reload()
        supervised = (self._poll, self._keep_sites, self._keep_time)
        self._tasks = [asyncio.create_task(_supervise(loop)) for loop in supervised]

    async def load_once(self) -> State:
        """Load the rules and look up, for this once, the sites that are not known."""
        await self.reload()
        state = self._loaded()
        domains, sites = state.snapshot.rolled_up_domains, dict(state.rules.sites)
        due = self._schedule.due(domains, sites, self._clock())
        async with contextlib.aclosing(find_sites(self._resolver, due)) as batches:
            async for batch in batches:
                sites |= {item.site.domain: item for item in batch if isinstance(item, StoredSite)}
        self._state = build_state(
            replace(state.rules, sites=sites),
            state.actions,
            revision=state.revision,
            now=self._clock(),
        )
        return self._state

    async def close(self) -> None:
        """Stop keeping the policy current."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resolver.close()

    @property
    def is_loaded(self) -> bool:
        """Whether there are rules to answer from."""
        return self._state is not None

    @property
    def revision(self) -> int:
        """Revision of rules and actions that answers are made from."""
        return self._loaded().revision

    @property
    def snapshot(self) -> Snapshot:
        """The rules in force now."""
        return self._loaded().snapshot

    def actions(self) -> tuple[ActionInForce, ...]:
        """List the actions in force."""
        return self._loaded().actions

    def consulted_rules(self, question: Question) -> tuple[AutomationRule, ...]:
        """List the automation rules that an outcome on this path concerns."""
        return consulted_rules(self._loaded().snapshot, question)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* after rules or actions changed; return what ends that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def answer(self, question: Question) -> Answer:
        """Answer a question, from the cache where nothing changed since."""
        known = self._answers.get(question)
        if known is not None:
            self._answers.move_to_end(question)
            return known
        state = self._loaded()
        overrides = state.overrides_of(question)
        answer = build_answer(state.snapshot, question, overrides, revision=state.revision)
        self._metrics.answers_made.inc()
        self._answers[question] = answer
        if len(self._answers) > _MAX_ANSWERS:
            self._answers.popitem(last=False)
        return answer

    async def question(
        self,
        routing_domain: str,
        egress_source: str,
        site_name: str = "",
        mx_hosts: Sequence[MxHost] = (),
    ) -> Question:
        """
        Make the question that a request asks; the DNS is asked only where the request leaves
        the site open.

        Raises `InvalidRequest`, `DnsUnavailable` or `DomainNotFound`.
        """
        if mx_hosts:
            question = make_question(routing_domain, egress_source, site_name, tuple(mx_hosts))
            self._remember_hosts(question)
            return question
        domain, source = check_domain(routing_domain), check_source(egress_source)
        if site_name:
            hosts = await self._hosts_of_site(site_name, domain)
        else:
            found = await self._site_of_domain(domain)
            site_name, hosts = found.site.site_name, found.site.mx_hosts
        question = Question(
            routing_domain=domain, egress_source=source, site_name=site_name, mx_hosts=hosts
        )
        self._remember_hosts(question)
        return question

    def _remember_hosts(self, question: Question) -> None:
        if question.mx_hosts:
            self._seen_hosts[question.site_name] = question.mx_hosts
            self._seen_hosts.move_to_end(question.site_name)
            if len(self._seen_hosts) > _MAX_SITES:
                self._seen_hosts.popitem(last=False)

    async def reload(self) -> None:
        """Read what is newer in SQL, at once."""
        async with self._reloading:
            await self._read_changes()

    async def _read_changes(self) -> None:
        state = self._state
        since = -1 if state is None else state.revision
        revision, tables = await self._database.read(lambda connection: _look(connection, since))
        if revision == since:
            return
        if state is None or tables & _RULE_TABLES:
            rules = await self._read_rules()
        elif "sites" in tables:
            sites = await self._database.read(load_sites)
            rules = replace(state.rules, sites=sites)
        else:
            rules = state.rules
        actions = tuple(await self._action_store.in_force(self._clock()))
        # Read after the revision was: what is newer still is read again at the next turn.
        await self._put_in_force(rules, actions, revision=revision)

    async def _read_rules(self) -> LoadedRules:
        stored, sites = await self._database.read(read_everything)
        rules = await asyncio.to_thread(self._loader.load, stored, sites)
        for issue in rules.issues:
            if issue.severity is Severity.ERROR:
                facts = {"block_id": issue.block_id, "option": issue.option, "why": issue.message}
                logger.warning("rule refused", extra=facts)
        return rules

    async def _put_in_force(
        self, rules: LoadedRules, actions: tuple[ActionInForce, ...], *, revision: int
    ) -> None:
        previous = self._state
        state = await asyncio.to_thread(
            build_state, rules, actions, revision=revision, now=self._clock(), previous=previous
        )
        self._state = state
        self._answers.clear()
        self._metrics.revision.set(revision)
        self._metrics.actions.set(len(state.actions))
        self._time_changed.set()
        for listener in tuple(self._listeners):
            listener()
        if previous is None or previous.rules is not rules:
            self._rules_changed.set()
            if self._records_errors:
                await self._record_errors(state)
            logger.info("rules in force", extra={"revision": revision})

    async def _record_errors(self, state: State) -> None:
        issues = [*state.rules.issues, *await asyncio.to_thread(find_collisions, state)]
        for severity in Severity:
            count = sum(issue.severity is severity for issue in issues)
            self._metrics.rule_errors.labels(severity.value).set(count)
        revision = state.revision
        # The rules are in force whether or not this can be written down now.
        with contextlib.suppress(PolicyServerError):
            await self._database.write(
                lambda connection: replace_rule_errors(connection, issues, revision=revision)
            )

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await self.reload()
            except PolicyServerError as error:
                self._metrics.reload_failures.inc()
                facts = {"why": str(error)}
                logger.warning("rules can't be read, the present ones stay", extra=facts)

    async def _keep_time(self) -> None:
        """Let layers begin and end, and actions expire, when their time comes."""
        while True:
            self._time_changed.clear()
            await self._wait(self._time_changed, self._loaded().next_change)
            next_change = self._loaded().next_change
            if next_change is None or self._clock() < next_change:
                continue
            async with self._reloading:
                state = self._loaded()
                await self._put_in_force(state.rules, state.actions, revision=state.revision)
            if await self._action_store.expire(self._clock()):
                await self.reload()

    async def _keep_sites(self) -> None:
        """Keep the sites of rolled-up rule domains known."""
        while True:
            self._rules_changed.clear()
            state = self._loaded()
            domains, known = state.snapshot.rolled_up_domains, state.rules.sites
            due = self._schedule.due(domains, known, self._clock())
            if due:
                await self._refresh_sites(due)
            else:
                await self._wait(self._rules_changed, self._schedule.next_time(domains, known))

    async def _refresh_sites(self, domains: Sequence[str]) -> None:
        async with contextlib.aclosing(find_sites(self._resolver, domains)) as batches:
            async for batch in batches:
                self._note_failures([item for item in batch if isinstance(item, SiteFailure)])
                await self._keep_found([item for item in batch if isinstance(item, StoredSite)])

    def _note_failures(self, failures: Sequence[SiteFailure]) -> None:
        for failure in failures:
            self._schedule.note_failure(failure.domain, self._clock())
            self._metrics.site_failures.inc()
            facts = {"domain": failure.domain, "why": failure.reason}
            logger.info("site not found, the last known one stays", extra=facts)

    async def _keep_found(self, found: Sequence[StoredSite]) -> None:
        if not found:
            return
        known = self._loaded().rules.sites
        changed = [item for item in found if _has_changed(item, known.get(item.site.domain))]
        await self._database.write(lambda connection: _save(connection, found, changed))
        async with self._reloading:
            # An expiry alone makes no revision, so it would not be read again.
            state = self._loaded()
            renewed = {item.site.domain: item for item in found if item not in changed}
            rules = replace(state.rules, sites=state.rules.sites | renewed)
            self._state = replace(state, rules=rules)
        if changed:
            await self.reload()

    async def _hosts_of_site(self, site: str, domain: str) -> tuple[MxHost, ...]:
        known = self._loaded().site_hosts.get(site) or self._seen_hosts.get(site)
        if known is not None:
            return known
        # Without hosts the MX patterns match nothing; that is no reason not to answer.
        with contextlib.suppress(PolicyServerError):
            return (await find_site(self._resolver, domain)).site.mx_hosts
        return ()

    async def _site_of_domain(self, domain: str) -> StoredSite:
        try:
            return await find_site(self._resolver, domain)
        except DnsUnavailable:
            known = self._loaded().rules.sites.get(domain)
            if known is None:
                raise
            return known

    def _loaded(self) -> State:
        if self._state is None:
            raise RulesNotLoaded
        return self._state

    async def _wait(self, event: asyncio.Event, until: datetime | None) -> None:
        left = _LONGEST_SLEEP if until is None else until - self._clock()
        seconds = min(max(left, timedelta(milliseconds=10)), _LONGEST_SLEEP).total_seconds()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)


async def _supervise(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a background loop for ever; one unforeseen error must not end it."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("background work failed, starting it again")
            await asyncio.sleep(1)


def _look(connection: Connection, since: int) -> tuple[int, frozenset[str]]:
    revision = read_revision(connection)
    if revision == since:
        return revision, frozenset()
    if revision < since:
        # Another database was put in the place of the one we knew.
        return revision, _RULE_TABLES
    return revision, changed_tables(connection, since)


def _has_changed(item: StoredSite, known: StoredSite | None) -> bool:
    return known is None or known.site != item.site


def _save(
    connection: Connection, found: Sequence[StoredSite], changed: Sequence[StoredSite]
) -> None:
    if not changed:
        save_sites(connection, found)
        return
    names = ", ".join(item.site.domain for item in changed[:5])
    with one_revision(connection, author="server", summary=f"sites changed: {names}"):
        save_sites(connection, found)
