"""
Rows of actions, read without trust: a person may have written them by hand.
"""

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from policy_server.automation.actions import ActionInForce, ActionKind, ActionState
from policy_server.automation.adjust import Adjustment
from policy_server.automation.decide import read_ruled
from policy_server.rules.automation_rules import parse_adjustment
from policy_server.rules.layers import AdjustConfig
from policy_server.rules.values import InvalidValueError, Limit, Rate
from policy_server.store.rows import plain_columns, read_json, read_time
from policy_server.store.tables import automation_actions

logger = logging.getLogger(__name__)

#: What reading a value that a person spelt wrongly raises.
UNREADABLE = (ValueError, TypeError)


def select_actions(connection: Connection) -> Select[Any]:
    """Select actions as `read_readable` reads them."""
    # As plain values: one that a person spelt wrongly must not take the other rows with it.
    return select(*plain_columns(connection, automation_actions))


def read_readable(rows: Iterable[Any]) -> tuple[ActionInForce, ...]:
    """Read the rows that make sense; the others are logged and have no effect."""
    actions = []
    for row in rows:
        try:
            actions.append(to_action(row))
        except UNREADABLE as error:
            facts = {"action_id": row.id, "why": str(error)}
            logger.warning("action can't be read, it is left out", extra=facts)
    return tuple(actions)


def to_action(row: Any) -> ActionInForce:
    """Read one row. Errors: those of `UNREADABLE`."""
    return ActionInForce(
        id=row.id,
        kind=ActionKind(row.kind),
        state=ActionState(row.state),
        path_name=row.path_name,
        routing_domain=row.routing_domain,
        site_name=row.site_name,
        egress_source=row.egress_source,
        tenant=row.tenant,
        campaign=row.campaign,
        option=row.option,
        old_value=read_json(row.old_value),
        new_value=read_json(row.new_value),
        rule_key=row.rule_key,
        rule_layer=row.rule_layer,
        rule_block=row.rule_block,
        rule_position=row.rule_position,
        rule_regexes=tuple(read_json(row.rule_regexes)),
        match_count=row.match_count,
        first_match_time=_read_time(row.first_match_time),
        last_match_time=_read_time(row.last_match_time),
        expire_time=_read_time(row.expire_time),
        changed_by=row.changed_by,
        given_reason=row.reason,
        adjust=read_json(row.adjust),
        lowered_time=read_time(row.lowered_time),
        next_step_time=read_time(row.next_step_time),
    )


def read_adjustment(
    action: ActionInForce,
) -> tuple[AdjustConfig, Limit | Rate, Adjustment] | None:
    """Read how an action adjusts, what, and how far it is; None if it does not make sense."""
    ruled = read_ruled(action.option, action.old_value)
    value = read_ruled(action.option, action.new_value)
    if ruled is None or type(value) is not type(ruled) or not isinstance(action.adjust, dict):
        return None
    try:
        rule = parse_adjustment(action.adjust)
    except InvalidValueError:
        return None
    present = Adjustment(
        value=value,
        lowered_time=action.lowered_time or action.last_match_time,
        next_step_time=action.next_step_time or action.expire_time,
    )
    return rule, ruled, present


def _read_time(value: Any) -> datetime:
    time = read_time(value)
    if time is None:
        raise ValueError("a time is missing")
    return time
