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
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from policy_server.answering.answers import Answer
from policy_server.answering.known_answers import KnownAnswers
from policy_server.answering.questions import (
    check_domain,
    check_site,
    check_source,
    make_question,
)
from policy_server.automation.actions import ActionInForce, ActionKind
from policy_server.dns import MxResolver
from policy_server.errors import DnsUnavailable, PolicyServerError, RulesNotLoaded
from policy_server.in_force.rule_keeper import RuleKeeper
from policy_server.in_force.site_keeper import SiteFailure, SiteSchedule, find_site, find_sites
from policy_server.in_force.state import State, build_state
from policy_server.metrics import ServerMetrics
from policy_server.rules.book import RulesChange
from policy_server.rules.checks import find_collisions
from policy_server.rules.layers import AutomationRule, Issue, Severity
from policy_server.rules.resolve import Question, Resolution, consulted_rules, resolve
from policy_server.rules.site import MxHost, possible_hosts
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.values import OptionValue
from policy_server.store.actions import ActionStore, read_in_force
from policy_server.store.changes import Changes
from policy_server.store.database import Database
from policy_server.store.listener import RevisionListener
from policy_server.store.revisions import (
    one_revision,
)
from policy_server.store.rules import replace_rule_errors
from policy_server.store.sites import StoredSite, save_sites
from policy_server.supervisor import end, keep_running

logger = logging.getLogger(__name__)

#: Between two looks at the revision, where hints may come and where none can.
_POLL_SECONDS_WITH_HINTS = 0.5
_POLL_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_MAX_SITES = 20_000
#: No timer sleeps longer, so that a clock set by hand is noticed.
_LONGEST_SLEEP = timedelta(minutes=1)
#: Refused rows that are logged one by one.
_MOST_LOGGED = 50


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
        listener: RevisionListener | None = None,
    ) -> None:
        self._database = database
        self._action_store = actions
        self._resolver = resolver
        self._metrics = metrics
        self._clock = clock
        self._listener = listener or RevisionListener(database)
        self._keeper = RuleKeeper()
        self._state: State | None = None
        self._answers = KnownAnswers(metrics)
        #: Host sets of sites that clients asked about, for outcomes, which name the site alone.
        self._seen_hosts: OrderedDict[str, tuple[MxHost, ...]] = OrderedDict()
        self._listeners: list[Callable[[], None]] = []
        self._reloading = asyncio.Lock()
        #: The newest look at the database, and whether it has begun.
        self._look: asyncio.Task[None] | None = None
        self._has_begun = False
        self._sites_changed = asyncio.Event()
        self._time_changed = asyncio.Event()
        self._schedule = SiteSchedule()
        self._tasks: list[asyncio.Task[None]] = []
        #: Grows when the database turns out to have another past than what was read of it before.
        self.past = 0
        #: How the rules last became what they are, and which questions that can concern.
        self.last_change: RulesChange | None = None
        self._recorded: tuple[Issue, ...] | None = None
        #: What is wrong is written down by the server alone, which has the last good versions.
        self._records_errors = False

    async def start(self) -> None:
        """Load the rules, then keep them current in the background."""
        self._records_errors = True
        await self._action_store.expire(self._clock())
        await self.reload()
        supervised = (self._poll, self._listener.run, self._keep_sites, self._keep_time)
        self._tasks = [asyncio.create_task(keep_running(loop)) for loop in supervised]

    async def load_once(self) -> State:
        """Load the rules and look up, for this once, the sites that are not known."""
        await self.reload()
        state = self._loaded()
        due = self._schedule.due(state.snapshot.rolled_up_domains, state.rules.sites, self._clock())
        found: dict[str, StoredSite] = {}
        async with contextlib.aclosing(find_sites(self._resolver, due)) as batches:
            async for batch in batches:
                found |= {item.site.domain: item for item in batch if isinstance(item, StoredSite)}
        self._keeper.update_sites(found)
        await self._put_in_force(state.actions, revision=state.revision, stamp=state.stamp)
        return self._loaded()

    async def close(self) -> None:
        """Stop keeping the policy current."""
        await end(self._tasks)
        if self._look is not None:
            # Nobody may wait for it any more, but the database is closed after this.
            await asyncio.gather(self._look, return_exceptions=True)
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
    def stamp(self) -> str:
        """What tells that revision from one of the same number before a backup was put back."""
        return self._loaded().stamp

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
        return self._answers.answer(self._loaded(), question)

    def ruled_value(self, question: Question, option: str) -> OptionValue | None:
        """Find the value that the rules give an option, whatever actions are in force."""
        entry = resolve(self._loaded().snapshot, question, ()).options.get(option)
        return None if entry is None else entry.value

    def known_hosts(self, site_name: str) -> tuple[MxHost, ...]:
        """List the hosts of a site; none if they are not known."""
        return (
            self._loaded().rules.site_hosts.get(site_name) or self._seen_hosts.get(site_name) or ()
        )

    def resolve(self, question: Question) -> Resolution:
        """Resolve a question anew, with the origin of every value."""
        state = self._loaded()
        return resolve(state.snapshot, question, state.overrides_of(question))

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
            question = make_question(routing_domain, egress_source, site_name, mx_hosts)
            self.note_hosts(question)
            return question
        domain, source = check_domain(routing_domain), check_source(egress_source)
        if site_name:
            hosts = await self._hosts_of_site(check_site(site_name), domain)
        else:
            found = await self._site_of_domain(domain)
            site_name, hosts = found.site.site_name, found.site.mx_hosts
            self._remember_hosts(site_name, hosts)
        return Question(
            routing_domain=domain, egress_source=source, site_name=site_name, mx_hosts=hosts
        )

    def note_hosts(self, question: Question) -> None:
        """Keep the hosts of a question in mind, for outcomes, which name its site alone."""
        self._remember_hosts(question.site_name, question.mx_hosts)

    def _remember_hosts(self, site_name: str, hosts: tuple[MxHost, ...]) -> None:
        if hosts:
            self._seen_hosts[site_name] = hosts
            self._seen_hosts.move_to_end(site_name)
            if len(self._seen_hosts) > _MAX_SITES:
                self._seen_hosts.popitem(last=False)

    async def reload(self) -> None:
        """
        Read what is newer in SQL, at once: in one look for all who ask before it begins.

        It goes on if whoever asked is cancelled, as what was read must not be put in force by half.
        """
        if self._look is None or self._look.done() or self._has_begun:
            self._has_begun = False
            self._look = asyncio.create_task(self._look_once())
        await asyncio.shield(self._look)

    async def _look_once(self) -> None:
        async with self._reloading:
            # Who asks from now on may have to know of what is committed after it.
            self._has_begun = True
            await self._read_changes()

    async def _read_changes(self) -> None:
        present = (-1, None) if self._state is None else self._present()
        now = self._clock()

        def read(connection: Connection) -> tuple[Changes, tuple[ActionInForce, ...] | None]:
            changes = self._keeper.catch_up(connection, *present)
            is_same = (changes.revision, changes.stamp) == present
            return changes, None if is_same else read_in_force(connection, now=now)

        # In one view: were actions newer than the revision, a client that resumes at the revision
        # would not be told of them, and the next turn would find no difference to tell of.
        changes, actions = await self._database.read(read)
        if changes.is_other_past:
            self.past += 1
            facts = {"revision": changes.revision, "before": present[0]}
            logger.warning("the database has another past, a backup was put back", extra=facts)
        if actions is not None:
            await self._put_in_force(actions, revision=changes.revision, stamp=changes.stamp)

    def _present(self) -> tuple[int, str]:
        state = self._loaded()
        return state.revision, state.stamp

    async def _put_in_force(
        self, actions: tuple[ActionInForce, ...], *, revision: int, stamp: str
    ) -> None:
        previous = self._state
        state, change = await asyncio.to_thread(self._build, actions, revision, stamp)
        self._state = state
        if previous is None or change.after is not previous.snapshot:
            self.last_change = change
        self._answers.note_change()
        self._metrics.revision.set(revision)
        for kind in ActionKind:
            count = sum(action.kind is kind for action in state.actions)
            self._metrics.actions.labels(kind.value).set(count)
        self._time_changed.set()
        for listener in tuple(self._listeners):
            listener()
        if (
            previous is None
            or previous.snapshot.rolled_up_domains is not state.snapshot.rolled_up_domains
            or previous.rules.sites is not state.rules.sites
        ):
            self._sites_changed.set()
        if previous is None or change.after is not previous.snapshot:
            logger.info("rules in force", extra={"revision": revision})
        _log_refused(state.rules.issues, previous.rules.issues if previous else ())
        if self._records_errors and (
            previous is None
            or previous.snapshot is not state.snapshot
            or previous.rules.issues != state.rules.issues
        ):
            await self._record_errors(state)

    def _build(
        self, actions: tuple[ActionInForce, ...], revision: int, stamp: str
    ) -> tuple[State, RulesChange]:
        now = self._clock()
        change = self._keeper.compile(revision=revision, now=now)
        rules, snapshot = self._keeper.rules, change.after
        state = build_state(
            rules, actions, snapshot=snapshot, revision=revision, stamp=stamp, now=now
        )
        return state, change

    async def _record_errors(self, state: State) -> None:
        """Write down what is wrong, if it is not what was written last."""
        collisions = await asyncio.to_thread(find_collisions, state.snapshot)
        issues = (*state.rules.issues, *collisions)
        if issues == self._recorded:
            return
        for severity in Severity:
            count = sum(issue.severity is severity for issue in issues)
            self._metrics.rule_errors.labels(severity.value).set(count)
        revision = state.revision
        # The rules are in force whether or not this can be written down now.
        with contextlib.suppress(PolicyServerError):
            await self._database.write(
                lambda connection: replace_rule_errors(connection, issues, revision=revision)
            )
            self._recorded = issues

    async def _poll(self) -> None:
        failure = ""
        while True:
            has_hints = self._listener.is_listening
            await self._listener.wait(_POLL_SECONDS_WITH_HINTS if has_hints else _POLL_SECONDS)
            try:
                await self.reload()
                failure = ""
            except PolicyServerError as error:
                self._metrics.reload_failures.inc()
                if str(error) != failure:
                    # Once, not several times a second for as long as the database is away.
                    failure = str(error)
                    facts = {"why": failure}
                    logger.warning("rules can't be read, the present ones stay", extra=facts)

    async def _keep_time(self) -> None:
        """Let layers begin and end, actions expire and adjustments recover, at their time."""
        while True:
            self._time_changed.clear()
            await self._wait(self._time_changed, self._loaded().next_change)
            next_change = self._loaded().next_change
            if next_change is None or self._clock() < next_change:
                continue
            async with self._reloading:
                state = self._loaded()
                await self._put_in_force(state.actions, revision=state.revision, stamp=state.stamp)
            await self._expire()

    async def _expire(self) -> None:
        """Write down which actions are over and how far adjustments have recovered."""
        try:
            await self._action_store.expire(self._clock())
            # Where another server was quicker, what it wrote is read.
            await self.reload()
        except PolicyServerError as error:
            # Agents keep to the ends by themselves; a step is made when the database is back.
            logger.warning("actions can't be brought up to date", extra={"why": str(error)})
            await asyncio.sleep(_RETRY_SECONDS)

    async def _keep_sites(self) -> None:
        """Keep the sites of rolled-up rule domains known."""
        while True:
            self._sites_changed.clear()
            state = self._loaded()
            domains, known = state.snapshot.rolled_up_domains, state.rules.sites
            # Off the event loop, as there may be very many.
            due = await asyncio.to_thread(self._schedule.due, domains, known, self._clock())
            if due:
                await self._refresh_sites(due)
            else:
                next_time = await asyncio.to_thread(self._schedule.next_time, domains, known)
                await self._wait(self._sites_changed, next_time)

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
            self._keeper.renew_sites(
                {item.site.domain: item for item in found if item not in changed}
            )
            self._state = replace(state, rules=self._keeper.rules)
        if changed:
            await self.reload()

    async def _hosts_of_site(self, site: str, domain: str) -> tuple[MxHost, ...]:
        known = self._loaded().rules.site_hosts.get(site) or self._seen_hosts.get(site)
        if known is not None:
            self._remember_hosts(site, known)
            return known
        try:
            hosts = (await find_site(self._resolver, domain)).site.mx_hosts
        except PolicyServerError:
            # The name tells them nearly as well. Without any the MX patterns would match nothing,
            # and what they should have counted would be lost.
            return tuple(MxHost(host) for host in possible_hosts(site))
        self._remember_hosts(site, hosts)
        return hosts

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
            # Not wait_for, which before Python 3.12 may lose a cancellation.
            async with asyncio.timeout(seconds):
                await event.wait()


def _log_refused(issues: Sequence[Issue], known: Sequence[Issue]) -> None:
    if issues == known:
        return
    seen = {(issue.block_id, issue.message) for issue in known}
    errors = [
        issue
        for issue in issues
        if issue.severity is Severity.ERROR and (issue.block_id, issue.message) not in seen
    ]
    for issue in errors[:_MOST_LOGGED]:
        facts = {"block_id": issue.block_id, "option": issue.option, "why": issue.message}
        logger.warning("rule refused", extra=facts)
    if len(errors) > _MOST_LOGGED:
        logger.warning("rules refused, see rule_errors", extra={"count": len(errors)})


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
