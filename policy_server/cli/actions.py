"""
penstock-server actions: what automation and operators put in force, and changing it.
"""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import click
from rich.table import Table

from policy_server.automation.actions import LIVE_STATES, ActionInForce, ActionKind, ActionState
from policy_server.automation.actions import Evidence as Reply
from policy_server.automation.requests import ActionRequest
from policy_server.cli.author import read_author
from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.session import (
    Session,
    config_option,
    json_option,
    open_database,
    run_async,
)
from policy_server.conversions.actions import spell_value
from policy_server.dns import MxResolver
from policy_server.errors import InvalidRequest
from policy_server.metrics import ServerMetrics
from policy_server.operator_actions import create_by_hand
from policy_server.policy import Policy
from policy_server.rules.values import InvalidValueError, parse_duration
from policy_server.store.actions import ActionStore
from policy_server.store.database import Database
from policy_server.store.operator_actions import OperatorActionStore

_LARGEST_ID = 2**63 - 1
#: Kinds that a command may ask for, spelt as in rule files.
_KINDS = tuple(str(kind) for kind in ActionKind if kind is not ActionKind.ADJUST_CONFIG)
#: Options of `create` by the field of a request that they fill in.
_OPTIONS = {
    "kind": "KIND",
    "egress_source": "--source",
    "site_name": "--site-name",
    "routing_domain": "--domain",
    "tenant": "--tenant",
    "campaign": "--campaign",
    "option": "--option",
    "value": "--value",
    "duration": "--duration",
    "reason": "--reason",
    "request_id": "--request-id",
}
#: A nameless user's changes are a command's.
_NOBODY = "command"

id_argument = click.argument("action_id", metavar="ID", type=click.IntRange(1, _LARGEST_ID))


@click.group()
def actions() -> None:
    """Show actions of automation, change them, and put your own in force."""


@actions.command("list")
@click.option("--all", "with_ended", is_flag=True, help="Those that have ended, too.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@json_option
@config_option
@click.pass_obj
def list_command(session: Session, with_ended: bool, limit: int, as_json: bool) -> None:
    """List actions in force, newest first."""
    states = tuple(ActionState) if with_ended else tuple(LIVE_STATES)
    with open_database(session.settings()) as database:
        found = run_async(ActionStore(database).list(states, limit + 1, None))
    if not with_ended:
        # Expiry is marked by the running server; one that is over shows as over without it too.
        now = datetime.now(UTC)
        found = tuple(action for action in found if action.is_live(now))
    shown = found[:limit]
    if as_json:
        click.echo(json.dumps({"actions": [describe_action(action) for action in shown]}, indent=1))
    else:
        _print_table(shown)
    if len(found) > limit:
        click.echo(f"the newest {limit} are shown, there are more: --limit", err=True)


@actions.command("show")
@id_argument
@json_option
@config_option
@click.pass_obj
def show_command(session: Session, action_id: int, as_json: bool) -> None:
    """Show an action and the newest replies that led to it."""
    with open_database(session.settings()) as database:
        store = ActionStore(database)
        action = run_async(store.get(action_id))
        evidence = run_async(store.evidence(action_id))
    if as_json:
        click.echo(json.dumps(describe_whole_action(action, evidence), indent=1))
    else:
        _print_action(action, evidence)


@actions.command("cancel")
@id_argument
@json_option
@config_option
@click.pass_obj
def cancel_command(session: Session, action_id: int, as_json: bool) -> None:
    """End an action now; every agent hears of it."""

    def cancel(database: Database) -> Awaitable[ActionInForce]:
        return ActionStore(database).cancel(action_id, _person(), datetime.now(UTC))

    _change(session, cancel, as_json=as_json)


@actions.command("extend")
@id_argument
@click.argument("until", metavar="UNTIL")
@json_option
@config_option
@click.pass_obj
def extend_command(session: Session, action_id: int, until: str, as_json: bool) -> None:
    """
    Set when an action ends by itself.

    UNTIL is a duration from now on, such as "2 hours", or a time such as 2026-08-01T12:00 (UTC
    unless it names a zone); sooner than the present end will do as well. A pinned action is pinned
    no more. An adjustment recovers so that it has its ruled value again at that time.
    """
    now = datetime.now(UTC)
    end = _read_until(until, now)

    def extend(database: Database) -> Awaitable[ActionInForce]:
        return OperatorActionStore(database).extend(action_id, end, _person(), now)

    _change(session, extend, as_json=as_json)


@actions.command("pin")
@id_argument
@json_option
@config_option
@click.pass_obj
def pin_command(session: Session, action_id: int, as_json: bool) -> None:
    """Keep an action in force until somebody extends or cancels it."""

    def pin(database: Database) -> Awaitable[ActionInForce]:
        return OperatorActionStore(database).pin(action_id, _person(), datetime.now(UTC))

    _change(session, pin, as_json=as_json)


@actions.command("create")
@click.argument("kind", metavar="KIND", type=click.Choice(_KINDS))
@click.option("--source", "egress_source", default="", help="Egress source it holds for.")
@click.option("--site-name", default="", help="Site; default: the domain's, where one is needed.")
@click.option("--domain", "routing_domain", default="", help="Routing domain it holds for.")
@click.option("--tenant", default="", help="Tenant it holds for.")
@click.option("--campaign", default="", help="Campaign it holds for.")
@click.option("--option", default="", help="Option to override.")
@click.option("--value", default="", help="Its value, as rule files spell it; lists as JSON.")
@click.option("--duration", default="", metavar="DURATION", help='How long, such as "2 hours".')
@click.option("--pinned", "is_pinned", is_flag=True, help="Until somebody extends or cancels it.")
@click.option("--reason", default="", help="Why, for people.")
@click.option("--request-id", default="", help="A name; the same one again changes nothing.")
@json_option
@config_option
@click.pass_obj
def create_command(
    session: Session, /, kind: str, duration: str, as_json: bool, **fields: Any
) -> None:
    """
    Put an action of your own in force; every agent hears of it.

    KIND is Suspend (some of source, site and domain), SuspendTenant, SuspendCampaign, Bounce,
    BounceTenant, BounceCampaign (of a domain), SetConfig (an option, for a source and a site) or
    SetDomainConfig (for a source and a domain alone).
    """
    request = ActionRequest(
        kind=ActionKind(kind),
        duration=_read_duration(duration, "--duration") if duration else None,
        **fields,
    )

    async def create(database: Database) -> ActionInForce:
        dns = session.settings().dns
        policy = Policy(
            database,
            actions=ActionStore(database),
            resolver=MxResolver(nameservers=dns.nameservers, timeout=dns.timeout),
            metrics=ServerMetrics(),
        )
        try:
            await policy.reload()
            return await create_by_hand(
                request,
                policy=policy,
                store=OperatorActionStore(database),
                by=_person(),
                fresh_key=uuid4().hex,
                now=datetime.now(UTC),
            )
        except InvalidRequest as error:
            lines = [
                f"{_OPTIONS.get(name, name)} {_name_options(text)}"
                for name, text in error.violations
            ]
            raise InvalidRequest("\n".join(lines), violations=error.violations) from error
        finally:
            await policy.close()

    _change(session, create, as_json=as_json)


def _name_options(text: str) -> str:
    """Name options in the place of a request's fields."""
    for field, option in _OPTIONS.items():
        # Others are plain words as well.
        if "_" in field:
            text = text.replace(field, option)
    return text


def describe_action(action: ActionInForce) -> dict[str, Any]:
    """Describe an action as JSON answers do."""
    has_matches = action.match_count > 0
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
        # An operator's own action rests on no match; a pinned one has no end.
        "first_match_time": action.first_match_time.isoformat() if has_matches else None,
        "last_match_time": action.last_match_time.isoformat() if has_matches else None,
        "expire_time": _spell_time(action.end),
        "next_step_time": _spell_time(action.step_time),
        "changed_by": action.changed_by,
        "reason": action.given_reason,
    }


def describe_whole_action(action: ActionInForce, evidence: tuple[Reply, ...]) -> dict[str, Any]:
    """Describe an action and what it rests on as JSON answers do."""
    return {
        **describe_action(action),
        "evidence": [
            {
                "event_id": item.event_id,
                "event_time": item.event_time.isoformat(),
                "reply": item.reply,
            }
            for item in evidence
        ],
    }


def _change(
    session: Session, change: Callable[[Database], Awaitable[ActionInForce]], *, as_json: bool
) -> None:
    async def run(database: Database) -> ActionInForce:
        return await change(database)

    with open_database(session.settings()) as database:
        action = run_async(run(database))
    if as_json:
        click.echo(json.dumps(describe_action(action), indent=1))
    else:
        until = f" until {_show_time(action.end)}" if action.state is ActionState.IN_FORCE else ""
        click.echo(f"action {action.id} ({_describe_change(action)}) is {action.state}{until}")


def _read_until(text: str, now: datetime) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return now + _read_duration(text, "UNTIL")
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise click.BadParameter(f'"{text}" is out of range', param_hint="UNTIL") from None


def _read_duration(text: str, hint: str) -> timedelta:
    try:
        return parse_duration(text)
    except InvalidValueError as error:
        example = 'write "2 hours"'
        if hint == "UNTIL":
            example += ", or a time such as 2026-08-01T12:00"
        raise click.BadParameter(f'"{text}": {error}; {example}', param_hint=hint) from None


def _print_table(found: tuple[ActionInForce, ...]) -> None:
    table = build_table(
        "id", "action", "state", "on", "rule", "count", "until (UTC)", whole=("id", "state")
    )
    for action in found:
        cells = (
            str(action.id),
            _describe_change(action),
            str(action.state),
            _describe_scope(action),
            _describe_rule(action),
            str(action.match_count),
            _show_time(action.end),
        )
        table.add_row(*map(plain, cells))
    open_console().print(table)


def _print_action(action: ActionInForce, evidence: tuple[Reply, ...]) -> None:
    console = open_console()
    head = Table.grid(padding=(0, 2))
    has_matches = action.match_count > 0
    rows = (
        ("id", str(action.id)),
        ("action", _describe_change(action)),
        ("state", str(action.state)),
        ("on", _describe_scope(action)),
        ("path", action.path_name),
        ("rule", _describe_rule(action)),
        ("regexes", " | ".join(action.rule_regexes)),
        ("count", str(action.match_count)),
        ("first match (UTC)", _show_time(action.first_match_time) if has_matches else ""),
        ("last match (UTC)", _show_time(action.last_match_time) if has_matches else ""),
        ("until (UTC)", _show_time(action.end)),
        ("next step (UTC)", _show_time(action.step_time) if action.step_time else ""),
        ("changed by", action.changed_by),
        ("reason", action.given_reason),
    )
    for name, value in rows:
        if value:
            head.add_row(name, plain(value))
    console.print(head)
    if evidence:
        table = build_table("time (UTC)", "event", "reply", whole=("time (UTC)",))
        for item in evidence:
            table.add_row(_show_time(item.event_time), plain(item.event_id), plain(item.reply))
        console.print(table)


def _describe_change(action: ActionInForce) -> str:
    if not action.option:
        return str(action.kind)
    new = spell_value(action.new_value)
    if action.old_value is None and action.is_by_hand:
        # It may be unset, or the site's hosts were not known.
        return f"{action.kind} {action.option}: {new}"
    old = "unset" if action.old_value is None else spell_value(action.old_value)
    return f"{action.kind} {action.option}: {old} → {new}"


def _describe_scope(action: ActionInForce) -> str:
    """Say which mail an action holds for, in the words of a path name."""
    source, site = action.egress_source, action.site_name
    parts = [f"{source or 'every source'}->{site or 'every site'}"] if source or site else []
    for name in ("routing_domain", "tenant", "campaign"):
        value = getattr(action, name)
        if value:
            parts.append(f"{name.removeprefix('routing_')} {value}")
    return ", ".join(parts)


def _describe_rule(action: ActionInForce) -> str:
    if action.is_by_hand:
        return "by hand"
    return f"{action.rule_layer}: {action.rule_block}"


def _show_time(time: datetime | None) -> str:
    return "" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _spell_time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _person() -> str:
    return read_author() or _NOBODY
