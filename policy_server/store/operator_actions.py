"""
What operators do to the ledger: actions of their own, extended and pinned ones.

Taking an action back stands in `actions`, beside what keeps it taken back.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, insert, select, update

from policy_server.automation.actions import (
    LIVE_STATES,
    OPERATOR,
    ActionInForce,
    ActionKind,
    ActionScope,
    ActionState,
)
from policy_server.automation.adjust import end_at
from policy_server.errors import InvalidRequest, NotInForce
from policy_server.store.action_rows import read_adjustment
from policy_server.store.actions import read_action
from policy_server.store.database import Database
from policy_server.store.locks import Lock, take_lock
from policy_server.store.revisions import one_revision
from policy_server.store.rows import insert_row
from policy_server.store.tables import automation_actions

_actions = automation_actions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAction:
    """An action of an operator's, ready to be put in force."""

    #: Stable name of the request: the same one is carried out once.
    key: str
    kind: ActionKind
    scope: ActionScope
    option: str = ""
    old_value: Any = None
    new_value: Any = None
    #: When it ends by itself; of a pinned one, when it would have.
    expire_time: datetime
    is_pinned: bool = False
    reason: str = ""


class OperatorActionStore:
    """The ledger as operators change it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: str) -> ActionInForce | None:
        """Find the newest action that a request of this key made."""
        return await self._database.read(partial(find_action, key=key))

    async def create(self, new: NewAction, by: str, now: datetime) -> ActionInForce:
        """Put an operator's action in force; the one of the same key, if it was made before."""
        return await self._database.write(partial(create_action, new=new, by=by, now=now))

    async def extend(
        self, action_id: int, until: datetime, by: str, now: datetime
    ) -> ActionInForce:
        """
        Set when an action ends by itself.

        Errors: `NotFound`, `NotInForce`, `InvalidRequest` for a time that is over.
        """
        return await self._database.write(
            partial(extend_action, action_id=action_id, until=until, by=by, now=now)
        )

    async def pin(self, action_id: int, by: str, now: datetime) -> ActionInForce:
        """Keep an action in force until further notice. Errors: `NotFound`, `NotInForce`."""
        return await self._database.write(partial(pin_action, action_id=action_id, by=by, now=now))


def create_action(
    connection: Connection, *, new: NewAction, by: str, now: datetime
) -> ActionInForce:
    """Put an operator's action in force; the one of the same key, if it was made before."""
    # Two requests of one key must not both find that there is none.
    take_lock(connection, Lock.REVISIONS)
    known = find_action(connection, key=new.key)
    if known is not None:
        return known
    with one_revision(connection, author=by, summary=f"{new.kind} by hand"):
        action_id = insert_row(
            connection,
            insert(automation_actions).values(
                kind=new.kind,
                state=ActionState.PINNED if new.is_pinned else ActionState.IN_FORCE,
                path_name="",
                routing_domain=new.scope.routing_domain,
                site_name=new.scope.site_name,
                egress_source=new.scope.egress_source,
                tenant=new.scope.tenant,
                campaign=new.scope.campaign,
                option=new.option,
                old_value=new.old_value,
                new_value=new.new_value,
                rule_key=new.key,
                rule_layer=OPERATOR,
                rule_block="",
                rule_position=0,
                rule_regexes=[],
                match_count=0,
                first_match_time=now,
                last_match_time=now,
                expire_time=new.expire_time,
                changed_by=by,
                reason=new.reason,
            ),
        )
    return read_action(connection, action_id=action_id)


def find_action(connection: Connection, *, key: str) -> ActionInForce | None:
    """Find the newest action that a request of this key made."""
    statement = select(_actions.id).where(_actions.rule_key == key).order_by(_actions.id.desc())
    found = connection.execute(statement.limit(1)).scalar()
    return None if found is None else read_action(connection, action_id=found)


def extend_action(
    connection: Connection, *, action_id: int, until: datetime, by: str, now: datetime
) -> ActionInForce:
    """
    Set when an action ends by itself, sooner or later; a pinned one is pinned no more.

    An adjustment recovers so that it is at its ruled value then. Errors: `NotFound`,
    `NotInForce`, `InvalidRequest` for a time that is over.
    """
    if until <= now:
        text = f"{until.isoformat()} is over; to end the action now, cancel it"
        raise InvalidRequest(text, field="until")
    action = _read_live(connection, action_id, now)
    values: dict[str, Any] = {"state": ActionState.IN_FORCE, "expire_time": until}
    read = read_adjustment(action) if action.kind is ActionKind.ADJUST_CONFIG else None
    if read is not None:
        rule, ruled, present = read
        values["next_step_time"] = end_at(rule, ruled, present, until).next_step_time
    return _change(connection, action, values, by=by, summary=f"extend action {action_id}")


def pin_action(connection: Connection, *, action_id: int, by: str, now: datetime) -> ActionInForce:
    """
    Keep an action in force until somebody extends or cancels it.

    Errors: `NotFound`, `NotInForce`.
    """
    action = _read_live(connection, action_id, now)
    if action.state is ActionState.PINNED:
        return action
    values = {"state": ActionState.PINNED}
    return _change(connection, action, values, by=by, summary=f"pin action {action_id}")


def _read_live(connection: Connection, action_id: int, now: datetime) -> ActionInForce:
    # Nobody else changes it until this transaction is over.
    take_lock(connection, Lock.REVISIONS)
    action = read_action(connection, action_id=action_id)
    if action.is_live(now):
        return action
    why = "has ended" if action.state in LIVE_STATES else f"is {action.state}"
    raise NotInForce(f"action {action_id} {why}: it is not in force; create another one")


def _change(
    connection: Connection,
    action: ActionInForce,
    values: dict[str, Any],
    *,
    by: str,
    summary: str,
) -> ActionInForce:
    with one_revision(connection, author=by, summary=summary):
        connection.execute(
            update(automation_actions)
            .where(_actions.id == action.id)
            .values(changed_by=by, **values)
        )
    return read_action(connection, action_id=action.id)
