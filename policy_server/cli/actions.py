"""
penstock-server actions: what automation put in force, and taking it back.
"""

import getpass
import json
from datetime import UTC, datetime
from typing import Any

import click

from policy_server.automation.actions import ActionInForce, ActionState
from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.session import (
    Session,
    config_option,
    json_option,
    open_database,
    run_async,
)
from policy_server.store.actions import ActionStore

_LIVE = (ActionState.IN_FORCE, ActionState.PINNED)


@click.group()
def actions() -> None:
    """List and cancel actions of automation."""


@actions.command("list")
@click.option("--all", "with_ended", is_flag=True, help="Those that have ended, too.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@config_option
@click.pass_obj
def list_command(session: Session, with_ended: bool, limit: int, as_json: bool) -> None:
    """List actions, newest first."""
    states = tuple(ActionState) if with_ended else _LIVE
    with open_database(session.settings()) as database:
        found = run_async(ActionStore(database).list(states, limit, None))
    if not with_ended:
        # Expiry is marked by the running server; one that is over shows as over without it too.
        now = datetime.now(UTC)
        found = tuple(action for action in found if action.is_live(now))
    if as_json:
        click.echo(json.dumps({"actions": [describe_action(action) for action in found]}, indent=1))
    else:
        _print_table(found)


@actions.command("cancel")
@click.argument("action_id", metavar="ID", type=int)
@json_option
@config_option
@click.pass_obj
def cancel_command(session: Session, action_id: int, as_json: bool) -> None:
    """End an action now; every agent hears of it."""
    with open_database(session.settings()) as database:
        store = ActionStore(database)
        action = run_async(store.cancel(action_id, _person(), datetime.now(UTC)))
    if as_json:
        click.echo(json.dumps(describe_action(action), indent=1))
    else:
        click.echo(f"action {action.id} is {action.state}")


def describe_action(action: ActionInForce) -> dict[str, Any]:
    """Describe an action as JSON answers do."""
    return {
        "id": action.id,
        "kind": str(action.kind),
        "state": str(action.state),
        "path_name": action.path_name,
        "routing_domain": action.routing_domain,
        "site_name": action.site_name,
        "egress_source": action.egress_source,
        "tenant": action.tenant,
        "campaign": action.campaign,
        "option": action.option,
        "old_value": action.old_value,
        "new_value": action.new_value,
        "rule": {
            "layer": action.rule_layer,
            "block": action.rule_block,
            "position": action.rule_position,
            "regexes": list(action.rule_regexes),
        },
        "count": action.match_count,
        "first_match_time": action.first_match_time.isoformat(),
        "last_match_time": action.last_match_time.isoformat(),
        "expire_time": action.expire_time.isoformat(),
    }


def _print_table(found: tuple[ActionInForce, ...]) -> None:
    table = build_table(
        "id", "action", "state", "path", "rule", "count", "until (UTC)", whole=("id", "state")
    )
    for action in found:
        cells = (
            str(action.id),
            _describe_change(action),
            str(action.state),
            action.path_name,
            f"{action.rule_layer}: {action.rule_block}",
            str(action.match_count),
            action.expire_time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        )
        table.add_row(*map(plain, cells))
    open_console().print(table)


def _describe_change(action: ActionInForce) -> str:
    if not action.option:
        return str(action.kind)
    old = "unset" if action.old_value is None else action.old_value
    return f"{action.kind} {action.option}: {old} → {action.new_value}"


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return "command"
