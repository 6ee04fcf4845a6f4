"""
penstock-server agents: who watches, and how far each agent has followed the policy.
"""

import json
from datetime import UTC, datetime
from typing import Any

import click

from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.session import Session, config_option, json_option, open_database
from policy_server.known_agents import KnownAgent
from policy_server.store.agents import MOST_KEPT, read_agents
from policy_server.store.revisions import read_revision


@click.command()
@json_option
@config_option
@click.pass_obj
def agents(session: Session, as_json: bool) -> None:
    """List the agents that watch, or have watched, and which revision each has applied."""
    with open_database(session.settings()) as database:
        found = database.read_now(lambda connection: read_agents(connection, limit=MOST_KEPT))
        revision = database.read_now(read_revision)
    now = datetime.now(UTC)
    if as_json:
        described = [_describe(agent, now) for agent in found]
        click.echo(json.dumps({"agents": described, "revision": revision}, indent=1))
        return
    if not found:
        click.echo("no agent has watched yet", err=True)
        return
    table = build_table(
        "agent", "version", "state", "applied", "behind", "paths", "sources", "server",
        "seen (UTC)", "last refusal", whole=("agent", "state"),
    )  # fmt: skip
    for agent in found:
        cells = (
            agent.name,
            agent.version,
            "connected" if agent.is_connected(now) else "gone",
            str(agent.applied_revision),
            str(max(0, revision - agent.applied_revision)),
            str(agent.subscribed_paths),
            ", ".join(agent.egress_sources),
            agent.server,
            _spell(agent.seen_time),
            f"{_spell(agent.reject_time)} {agent.reject_reason}" if agent.reject_time else "",
        )
        table.add_row(*map(plain, cells))
    open_console().print(table)


def _spell(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _describe(agent: KnownAgent, now: datetime) -> dict[str, Any]:
    refused = agent.reject_time
    return {
        "name": agent.name,
        "version": agent.version,
        "connected": agent.is_connected(now),
        "applied_revision": agent.applied_revision,
        "egress_sources": list(agent.egress_sources),
        "server": agent.server,
        "connect_time": agent.connect_time.isoformat(),
        "seen_time": agent.seen_time.isoformat(),
        "subscribed_paths": agent.subscribed_paths,
        "reject_time": None if refused is None else refused.isoformat(),
        "reject_reason": agent.reject_reason,
    }
