"""
penstock-server rules test: what rules would have done, on outcomes of a log or on those stored.

Nothing is put in force or written down, and the server need not run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from sqlalchemy import Connection

from penstock.v1.outcome_pb2 import DeliveryOutcome
from policy_server.automation.actions import ActionInForce, ActionState, Evidence, block_title
from policy_server.automation.outcomes import Outcome
from policy_server.automation.trial import TrialResult, describe_warnings, name_rule
from policy_server.automation.unmatched import UnmatchedReplies
from policy_server.cli.actions import describe_whole_action
from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.rule_files import errors_of, read_files, report_issues, warnings_of
from policy_server.cli.session import (
    Session,
    config_option,
    database_exists,
    json_option,
    open_database,
    run_async,
)
from policy_server.conversions.outcomes import from_outcome, to_outcome
from policy_server.conversions.trials import spell_enhanced
from policy_server.dns import MxResolver
from policy_server.errors import PolicyServerError
from policy_server.importing.preview import KnownRules, put_in_place, read_known
from policy_server.in_force.known_sites import KnownSites
from policy_server.in_force.site_keeper import find_sites
from policy_server.rules.issues import issue_json
from policy_server.rules.layers import AutomationRule, Issue, Layer, LayerDraft, Severity
from policy_server.rules.parse import parse_layer
from policy_server.rules.site import MxHost, Site
from policy_server.rules.snapshot import Snapshot, compile_snapshot, find_rolled_up_domains
from policy_server.rules.validity import layers_in_force
from policy_server.services.rule_trial import RuleTrial
from policy_server.services.rule_trials import PAGE, read_stored
from policy_server.settings import Settings
from policy_server.store.database import Database
from policy_server.store.evidence import read_evidence
from policy_server.store.scratch import keep_waiting, open_scratch, read_waiting
from policy_server.store.sites import StoredSite, load_sites
from policy_server.trials.outcome_files import OutcomeFiles
from policy_server.trials.sites import TrialSites, TriedRules

#: Rows of a table for people; --json has all.
_MOST_ROWS = 40
_LONGEST_PATTERN = 60
_ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_NO_RULES = KnownRules(revision=0, layers=(), sites={})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the command was told."""

    replies: tuple[str, ...]
    hosts: tuple[MxHost, ...]
    #: Of stored outcomes.
    span: tuple[datetime, datetime]
    use_dns: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is to be told."""

    #: None: nothing was run.
    result: TrialResult | None
    #: Replies that led to each action, by its number.
    evidence: Mapping[int, tuple[Evidence, ...]]
    issues: Sequence[Issue]
    passed_over: int = 0


def _read_hosts(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[MxHost, ...]:
    hosts = []
    for text in values:
        host, colon, preference = text.partition(":")
        if not host or (colon and not (preference.isdecimal() and int(preference) <= 65535)):
            raise click.BadParameter(f'"{text}" is not HOST or HOST:PREF')
        hosts.append(MxHost(host, int(preference or 0)))
    return tuple(hosts)


def _read_time(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f'"{value}" is no time, such as 2026-08-01T12:00') from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@click.command()
@click.argument("files", nargs=-1)
@click.option(
    "--replies",
    multiple=True,
    metavar="FILE",
    help="Outcomes: a delivery log or replies, one JSON object a line, may be .gz; "
    '"-" is standard input; repeatable. Default: the outcomes that the database keeps.',
)
@click.option(
    "--with-rules", is_flag=True, help="Try the files on top of the rules in the database."
)
@click.option("--builtin", is_flag=True, help="Try the rules that come with this program.")
@click.option(
    "--mx",
    "hosts",
    multiple=True,
    metavar="HOST[:PREF]",
    callback=_read_hosts,
    help="MX host of the replies that leave the site open; repeatable.",
)
@click.option("--dns", "use_dns", is_flag=True, help="Look up sites that are not known.")
@click.option("--since", metavar="TIME", callback=_read_time, help="Stored outcomes from then on.")
@click.option("--until", metavar="TIME", callback=_read_time, help="Stored outcomes before then.")
@json_option
@config_option
@click.pass_context
def test(
    context: click.Context,
    files: tuple[str, ...],
    *,
    replies: tuple[str, ...],
    with_rules: bool,
    builtin: bool,
    hosts: tuple[MxHost, ...],
    use_dns: bool,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """
    Say what the automation rules of FILES would have done, and change nothing.

    A line of replies is one of a delivery log, or {"reply": "421 4.7.0 [TS01] ...",
    "domain": "yahoo.com", "source": "ip-1"}, with "time", "mx", "site_name", "tenant" and
    "campaign" where wanted.
    """
    if replies and (since or until):
        raise click.UsageError("--since and --until choose among the stored outcomes")
    settings = context.ensure_object(Session).settings()
    drafts: list[LayerDraft] = []
    issues: list[Issue] = []
    if files or builtin or not with_rules:
        drafts, issues = read_files(files, builtin=builtin)
    asked = _Asked(
        replies=replies,
        hosts=hosts,
        span=(since or _ALWAYS[0], until or _ALWAYS[1]),
        use_dns=use_dns,
    )
    answer = _Answer(result=None, evidence={}, issues=issues)
    if not errors_of(issues):
        with ExitStack() as stack:
            database, known = _open_known(stack, settings, is_needed=with_rules or not replies)
            layers = _choose_layers(known.layers if with_rules else (), drafts)
            ran = run_async(_run(settings, database, layers, known.sites, asked))
        answer = _Answer(
            result=ran.result,
            evidence=ran.evidence,
            issues=[*issues, *ran.issues],
            passed_over=ran.passed_over,
        )
    if as_json:
        click.echo(json.dumps(_describe(answer), indent=1))
    else:
        report_issues(answer.issues)
        _print(answer)
    if errors_of(answer.issues):
        context.exit(1)


def _open_known(
    stack: ExitStack, settings: Settings, *, is_needed: bool
) -> tuple[Database | None, KnownRules]:
    """Open the database, where there is one, and read what it knows."""
    if not is_needed and not database_exists(settings):
        return None, _NO_RULES
    try:
        database = stack.enter_context(open_database(settings))
        if is_needed:
            return database, database.read_now(read_known)
        stored = database.read_now(load_sites)
    except PolicyServerError as error:
        if is_needed:
            raise
        click.echo(f"sites are not known, the database can't be read: {error}", err=True)
        return None, _NO_RULES
    sites = {domain: item.site for domain, item in stored.items()}
    return database, KnownRules(revision=0, layers=(), sites=sites)


def _choose_layers(
    present: Sequence[LayerDraft], drafts: Sequence[LayerDraft]
) -> tuple[Layer, ...]:
    layers = (parse_layer(draft)[0] for draft in put_in_place(present, drafts))
    return layers_in_force(layers, datetime.now(UTC))


async def _run(
    settings: Settings,
    database: Database | None,
    layers: Sequence[Layer],
    by_domain: Mapping[str, Site],
    asked: _Asked,
) -> _Answer:
    resolver = None
    if asked.use_dns:
        resolver = MxResolver(nameservers=settings.dns.nameservers, timeout=settings.dns.timeout)
    try:
        if resolver is not None:
            unknown = find_rolled_up_domains(layers) - by_domain.keys()
            by_domain = {**by_domain, **await _look_up(resolver, unknown)}
        snapshot = compile_snapshot(layers, sites=by_domain, revision=0)
        sites = TrialSites(
            by_domain=by_domain,
            known_hosts=_index_hosts(by_domain).get,
            given=asked.hosts,
            resolver=resolver,
        )
        with open_scratch() as connection:
            return await _try(connection, database, snapshot, sites, asked)
    finally:
        if resolver is not None:
            await resolver.close()


async def _try(
    connection: Connection,
    database: Database | None,
    snapshot: Snapshot,
    sites: TrialSites,
    asked: _Asked,
) -> _Answer:
    files = OutcomeFiles(asked.replies, time=datetime.now(UTC))
    if asked.replies:
        await _keep_lines(connection, files, sites)
        if files.issues:
            return _Answer(result=None, evidence={}, issues=files.issues)
    trial = RuleTrial(TriedRules(snapshot, sites), connection)
    pages = _read_kept(connection)
    if not asked.replies:
        pages = iter(()) if database is None else read_stored(database, *asked.span)
    for page in pages:
        await trial.take(page)
    result = trial.finish()
    return _Answer(
        result=result,
        evidence={
            action.id: read_evidence(connection, action_id=action.id) for action in result.actions
        },
        issues=[*map(_warn, describe_warnings(result)), *_warn_of_sites(sites)],
        passed_over=files.passed_over,
    )


async def _keep_lines(connection: Connection, files: OutcomeFiles, sites: TrialSites) -> None:
    kept: list[tuple[datetime, bytes]] = []
    for line in files.read():
        outcome = await sites.place(line)
        kept.append((outcome.event_time, to_outcome(outcome).SerializeToString()))
        if len(kept) >= PAGE:
            keep_waiting(connection, kept)
            kept.clear()
    keep_waiting(connection, kept)


def _read_kept(connection: Connection) -> Iterator[Sequence[Outcome]]:
    for page in read_waiting(connection):
        yield [from_outcome(DeliveryOutcome.FromString(kept)) for kept in page]


async def _look_up(resolver: MxResolver, domains: set[str]) -> dict[str, Site]:
    found = [item async for batch in find_sites(resolver, sorted(domains)) for item in batch]
    return {item.site.domain: item.site for item in found if isinstance(item, StoredSite)}


def _index_hosts(by_domain: Mapping[str, Site]) -> Mapping[str, tuple[MxHost, ...]]:
    known = KnownSites()
    known.update(
        {domain: StoredSite(site=site, expires_at=_ALWAYS[1]) for domain, site in by_domain.items()}
    )
    return known.hosts


def _warn(text: str) -> Issue:
    return Issue(code="trial", message=text, severity=Severity.WARNING)


def _warn_of_sites(sites: TrialSites) -> Iterator[Issue]:
    if sites.unknown:
        yield _warn(
            f"the site of {sites.unknown} replies is not known, so rules for providers and sites "
            'don\'t concern them: give the hosts as "mx" in the line or with --mx, or allow --dns'
        )


def _describe(answer: _Answer) -> dict[str, Any]:
    result = answer.result
    document: dict[str, Any] = {"passed_over": answer.passed_over}
    if result is not None:
        document |= {
            "actions": [
                describe_whole_action(action, answer.evidence[action.id])
                for action in result.actions
            ],
            "action_count": result.action_count,
            "rules": [
                {
                    "layer": tried.rule.layer,
                    "block": block_title(tried.rule),
                    "position": tried.rule.position,
                    "regexes": list(tried.rule.regexes),
                    "match_count": tried.match_count,
                    "action_count": tried.action_count,
                }
                for tried in result.rules
            ],
            "outcome_count": result.outcome_count,
            "unmatched_count": result.unmatched_count,
            "unmatched_delivery_count": result.unmatched_delivery_count,
            "unmatched_replies": [_describe_unmatched(replies) for replies in result.unmatched],
            "start_time": _spell(result.start_time),
            "end_time": _spell(result.end_time),
        }
    return document | {
        "warnings": [issue_json(issue) for issue in warnings_of(answer.issues)],
        "errors": [issue_json(issue) for issue in errors_of(answer.issues)],
    }


def _describe_unmatched(replies: UnmatchedReplies) -> dict[str, Any]:
    return {
        "code": replies.code,
        "enhanced_code": spell_enhanced(replies.enhanced_code),
        "text": replies.text,
        "internal": replies.internal,
        "count": replies.count,
        "site_name": replies.site_name,
    }


def _spell(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _print(answer: _Answer) -> None:
    result = answer.result
    if result is None:
        click.echo("nothing was run", err=True)
        return
    console = open_console()
    _print_actions(console, result)
    _print_rules(console, result)
    _print_unmatched(console, result)
    missed = result.unmatched_count - result.unmatched_delivery_count
    click.echo(
        f"{result.outcome_count} outcomes: {result.outcome_count - result.unmatched_count} matched"
        f" a rule, {result.unmatched_delivery_count} were deliveries, {missed} others matched none"
    )
    if result.start_time is not None and result.end_time is not None:
        click.echo(f"from {_show(result.start_time)} to {_show(result.end_time)} UTC")
    click.echo(f"{result.action_count} actions would have begun; nothing is in force")


def _print_actions(console: Console, result: TrialResult) -> None:
    table = build_table(
        "from (UTC)", "until", "action", "on", "count", "rule", whole=("from (UTC)", "until")
    )
    for action in result.actions[:_MOST_ROWS]:
        cells = (
            _show(action.first_match_time),
            _show(action.expire_time),
            _show_effect(action),
            _show_scope(action),
            str(action.match_count),
            f"{action.rule_layer}: {action.rule_block} {action.rule_position}",
        )
        table.add_row(*map(plain, cells))
    if table.row_count:
        console.print(table)
    _tell_more(result.action_count, "actions")


def _print_rules(console: Console, result: TrialResult) -> None:
    matched = [tried for tried in result.rules if tried.match_count]
    idle = [tried for tried in result.rules if not tried.match_count]
    table = build_table("rule", "pattern", "matches", "actions")
    for tried in sorted(matched, key=lambda one: -one.match_count)[:_MOST_ROWS]:
        cells = (
            name_rule(tried.rule),
            _show_patterns(tried.rule),
            str(tried.match_count),
            str(tried.action_count),
        )
        table.add_row(*map(plain, cells))
    if table.row_count:
        console.print(table)
    _tell_more(len(matched), "rules that matched")
    table = build_table("rules that matched nothing", "pattern")
    for tried in idle[:_MOST_ROWS]:
        table.add_row(plain(name_rule(tried.rule)), plain(_show_patterns(tried.rule)))
    if table.row_count:
        console.print(table)
    _tell_more(len(idle), "rules that matched nothing")


def _print_unmatched(console: Console, result: TrialResult) -> None:
    table = build_table("count", "code", "replies that no rule matched", whole=("count", "code"))
    for replies in result.unmatched:
        code = f"{replies.code or ''} {spell_enhanced(replies.enhanced_code)}".strip()
        text = f"{replies.text} (internal)" if replies.internal else replies.text
        table.add_row(str(replies.count), code, plain(text))
    if table.row_count:
        console.print(table)


def _tell_more(count: int, what: str) -> None:
    if count > _MOST_ROWS:
        click.echo(f"… of {count} {what}; --json lists more\n")


def _show_effect(action: ActionInForce) -> str:
    effect = str(action.kind)
    if action.option:
        old = "unset" if action.old_value is None else action.old_value
        effect = f"{effect} {action.option}: {old} → {action.new_value}"
    return f"{effect} (observed)" if action.state is ActionState.OBSERVED else effect


def _show_scope(action: ActionInForce) -> str:
    path = f"{action.egress_source}->{action.site_name}" if action.site_name else ""
    parts = (path, action.routing_domain, action.tenant, action.campaign)
    return " ".join(part for part in parts if part)


def _show_patterns(rule: AutomationRule) -> str:
    text = " | ".join(rule.regexes)
    return text if len(text) <= _LONGEST_PATTERN else f"{text[: _LONGEST_PATTERN - 1]}…"


def _show(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%m-%d %H:%M:%S")
