"""
penstock-server check: whether `serve` would start, and what it would find odd.
"""

from collections.abc import Iterator, Sequence

import click

from policy_server.cli.session import (
    Session,
    config_option,
    database_exists,
    run_async,
)
from policy_server.dns import MxResolver
from policy_server.errors import DnsUnavailable, DomainNotFound
from policy_server.importing.checks import warn_of_traps
from policy_server.in_force.rule_loader import LoadedRules, RuleLoader, read_everything
from policy_server.in_force.site_keeper import SiteFailure, find_sites
from policy_server.rules.checks import check_layers
from policy_server.rules.issues import describe_issue
from policy_server.rules.layers import AutomationRule, Issue, Severity
from policy_server.rules.snapshot import find_rolled_up_domains
from policy_server.settings import Settings
from policy_server.store.database import Database
from policy_server.store.schema import check_schema
from policy_server.store.sites import StoredSite

# RFC 6761 section 6.4: every resolver knows that there is nothing under "invalid".
_NO_SUCH_NAME = "penstock-check.invalid"


@click.command()
@config_option
@click.pass_context
def check(context: click.Context) -> None:
    """Check configuration, database, rules and DNS; exit 0 if the server would run well."""
    session = context.find_object(Session) or Session()
    settings = session.settings()
    click.echo("configuration: ok")
    if not database_exists(settings):
        click.echo("database: none yet; serve creates it")
        run_async(_check_dns(settings, None))
        return
    database = Database(settings.database.url)
    try:
        database.read_now(check_schema)
        click.echo("database: ok")
        rules = RuleLoader().load(*database.read_now(read_everything))
    finally:
        database.close()
    issues = [
        *rules.issues,
        *warn_of_traps(_rules_of(rules)),
        *run_async(_check_dns(settings, rules)),
    ]
    _report(rules, issues)
    if any(issue.severity is Severity.ERROR for issue in issues):
        context.exit(1)


def _rules_of(rules: LoadedRules) -> Iterator[AutomationRule]:
    return (rule for layer in rules.layers for block in layer.blocks for rule in block.automation)


async def _check_dns(settings: Settings, rules: LoadedRules | None) -> Sequence[Issue]:
    """Ask the DNS at all, then for what rules name; return what only all layers together show."""
    resolver = MxResolver(nameservers=settings.dns.nameservers, timeout=settings.dns.timeout)
    try:
        await _probe(resolver, is_chosen=bool(settings.dns.nameservers))
        if rules is None:
            return ()
        domains = find_rolled_up_domains(rules.layers)
        found = [item async for batch in find_sites(resolver, domains) for item in batch]
    finally:
        await resolver.close()
    sites = {domain: stored.site for domain, stored in rules.sites.items()}
    sites |= {item.site.domain: item.site for item in found if isinstance(item, StoredSite)}
    failed = {item.domain for item in found if isinstance(item, SiteFailure)}
    return check_layers(rules.layers, sites, failed=failed)


async def _probe(resolver: MxResolver, *, is_chosen: bool) -> None:
    """Ask for a name that can't exist; chosen nameservers must answer."""
    try:
        await resolver.mx(_NO_SUCH_NAME)
    except DomainNotFound:
        click.echo("dns: ok")
    except DnsUnavailable as error:
        if is_chosen:
            raise
        click.echo(f"dns: {error}; clients that send their MX hosts need none", err=True)
    else:
        click.echo("dns: ok")


def _report(rules: LoadedRules, issues: Sequence[Issue]) -> None:
    for issue in issues:
        click.echo(f"{issue.severity}: {describe_issue(issue)}", err=True)
    blocks = sum(len(layer.blocks) for layer in rules.layers)
    errors = sum(issue.severity is Severity.ERROR for issue in issues)
    state = f"{errors} refused" if errors else "ok"
    click.echo(f"rules: {state}; {len(rules.layers)} layers, {blocks} blocks")
