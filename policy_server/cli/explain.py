"""
penstock-server explain: what an egress path is allowed, and which rule says so.

It works straight on the database, with the actions in force, and asks the DNS only for sites that
are not known.
"""

import json

import click
from rich.table import Table

from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.session import (
    Session,
    config_option,
    json_option,
    open_database,
    run_async,
)
from policy_server.dns import MxResolver
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.explain import explain_json, explain_rows
from policy_server.rules.resolve import Question, Resolution
from policy_server.rules.site import MxHost
from policy_server.settings import Settings
from policy_server.store.actions import ActionStore
from policy_server.store.database import Database


@click.command()
@click.argument("domain")
@click.option("--source", required=True, help="Egress source.")
@click.option("--site-name", default="", help="Site name; default: made from the MX hosts.")
@click.option("--mx", "hosts", multiple=True, metavar="HOST[:PREF]", help="MX host; repeatable.")
@json_option
@config_option
@click.pass_obj
def explain(
    session: Session,
    domain: str,
    source: str,
    *,
    site_name: str,
    hosts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain what mail to DOMAIN from a source is allowed, option by option."""
    settings = session.settings()
    mx_hosts = tuple(map(_read_host, hosts))
    with open_database(settings) as database:
        asked = _explain(settings, database, (domain, source, site_name, mx_hosts))
        question, resolution, revision, etag = run_async(asked)
    if as_json:
        document = explain_json(resolution, question, revision=revision, etag=etag)
        click.echo(json.dumps(document, indent=1))
    else:
        _print_tables(resolution, question, revision=revision)


async def _explain(
    settings: Settings,
    database: Database,
    asked: tuple[str, str, str, tuple[MxHost, ...]],
) -> tuple[Question, Resolution, int, str]:
    resolver = MxResolver(nameservers=settings.dns.nameservers, timeout=settings.dns.timeout)
    policy = Policy(
        database, actions=ActionStore(database), resolver=resolver, metrics=ServerMetrics()
    )
    try:
        await policy.load_once()
        question = await policy.question(*asked)
        answer = policy.answer(question)
        return question, policy.resolve(question), answer.revision, answer.etag
    finally:
        await policy.close()


def _read_host(text: str) -> MxHost:
    host, colon, preference = text.partition(":")
    if colon and not (preference.isdecimal() and int(preference) <= 65535):
        raise click.BadParameter(f'"{text}" is not HOST or HOST:PREF', param_hint="--mx")
    return MxHost(host, int(preference or 0))


def _print_tables(resolution: Resolution, question: Question, *, revision: int) -> None:
    console = open_console()
    head = Table.grid(padding=(0, 2))
    for name, value in (
        ("routing domain", question.routing_domain),
        ("egress source", question.egress_source),
        ("site name", resolution.site_name),
        ("path name", resolution.path_name),
        ("providers", ", ".join(resolution.provider_names)),
        ("revision", str(revision)),
    ):
        head.add_row(name, plain(value))
    console.print(head)
    ruled = build_table("option", "value", "set by", "instead of", whole=("option",))
    built_in = build_table("left at the default", "value", whole=("left at the default",))
    for row in explain_rows(resolution):
        if row.set_by:
            ruled.add_row(*map(plain, (row.option, row.value, row.set_by, row.overrode)))
        else:
            built_in.add_row(row.option, plain(row.value))
    for table in (ruled, built_in):
        if table.row_count:
            console.print(table)
