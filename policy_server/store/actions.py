"""
The ledger of actions, and the matches that thresholds count.

Everything that one report leads to is one transaction: matches, actions and evidence are there
together or not at all, and `count_and_act` returns after the commit. What follows from matches is
decided in `policy_server.automation.decide`, and put in force in `store.plans`.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    or_,
    select,
    update,
)

from policy_server.automation.actions import (
    LIVE_STATES,
    ActionInForce,
    ActionKind,
    ActionState,
    Evidence,
)
from policy_server.automation.adjust import end_time, recover
from policy_server.automation.decide import (
    Match,
    PlannedAction,
    decide,
    group_matches,
    is_settled,
)
from policy_server.errors import NotFound, StoreRefused
from policy_server.rules.values import format_value
from policy_server.store.action_rows import (
    UNREADABLE,
    read_adjustment,
    read_readable,
    select_actions,
    to_action,
)
from policy_server.store.database import Database
from policy_server.store.evidence import read_evidence
from policy_server.store.known_matches import Known, keep_matches, read_known, sweep_matches
from policy_server.store.locks import Lock, take_lock
from policy_server.store.plans import Ledger
from policy_server.store.revisions import is_known_since, one_revision, read_stamp
from policy_server.store.tables import (
    automation_actions,
    change_log,
)

logger = logging.getLogger(__name__)

#: More rows than are added are swept with each report, so that the table can't outgrow its use.
_SWEPT_BESIDE = 100
_AUTHOR = "automation"

_actions = automation_actions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one report led to."""

    #: Matches that were not known before.
    new_matches: int
    #: Actions put in force or extended, ascending.
    action_ids: tuple[int, ...]
    #: Those of them that are new.
    begun_ids: frozenset[int]
    #: Whether what is in force may have changed.
    has_changed: bool
    #: (rule key, event id) of each new match.
    new_events: frozenset[tuple[str, str]] = frozenset()
    #: (rule key, path name, action id) of what the matches of a rule and path led to.
    effects: frozenset[tuple[str, str, int]] = frozenset()


#: What a report without matches leads to.
NOTHING_COUNTED = Counted(new_matches=0, action_ids=(), begun_ids=frozenset(), has_changed=False)


class ActionStore:
    """The ledger in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def in_force(self, now: datetime) -> tuple[ActionInForce, ...]:
        """List the actions that have an effect at *now*, oldest first."""
        return await self._database.read(partial(read_in_force, now=now))

    async def expire(self, now: datetime) -> bool:
        """
        Mark the actions whose time is over, and let adjustments recover by the steps that are
        due; say whether there was anything to do.
        """
        # Asked without the writer first: most calls find nothing to do.
        if not await self._database.read(partial(_is_anything_due, now=now)):
            return False
        return await self._database.write(partial(expire_actions, now=now))

    async def list(
        self,
        states: Collection[ActionState],
        limit: int,
        before_id: int | None = None,
    ) -> tuple[ActionInForce, ...]:
        """List up to *limit* actions in these states, newest first, older than *before_id*."""
        return await self._database.read(
            partial(read_actions, states=states, limit=limit, before_id=before_id)
        )

    async def get(self, action_id: int) -> ActionInForce:
        """Find one action. Errors: `NotFound`."""
        return await self._database.read(partial(read_action, action_id=action_id))

    async def evidence(self, action_id: int) -> tuple[Evidence, ...]:
        """List the newest replies that led to an action, newest first."""
        return await self._database.read(partial(read_evidence, action_id=action_id))

    async def cancel(self, action_id: int, by: str, now: datetime) -> ActionInForce:
        """End an action now; one that has ended stays as it is. Errors: `NotFound`."""
        return await self._database.write(
            partial(cancel_action, action_id=action_id, by=by, now=now)
        )

    async def count_and_act(self, matches: Sequence[Match], now: datetime) -> Counted:
        """Count each event once per rule and put in force what follows, durably."""
        return await self._database.write(partial(count_and_act, matches=matches, now=now))

    async def touched_since(
        self, revision: int, stamp: str, limit: int
    ) -> dict[int, ActionKind | None] | None:
        """
        List the actions changed after *revision*, with their kinds as far as they are known; None
        if there are more than *limit*, or if so old a revision's changes are forgotten.
        """
        return await self._database.read(
            partial(_touched_since, revision=revision, stamp=stamp, limit=limit)
        )


def read_in_force(connection: Connection, *, now: datetime) -> tuple[ActionInForce, ...]:
    """Read the actions that have an effect at *now*, oldest first."""
    statement = (
        select_actions(connection)
        .where(
            or_(
                and_(_actions.state == ActionState.IN_FORCE, _actions.expire_time > now),
                _actions.state == ActionState.PINNED,
            )
        )
        .order_by(_actions.id)
    )
    return read_readable(connection.execute(statement))


def read_actions(
    connection: Connection,
    *,
    states: Collection[ActionState],
    limit: int,
    before_id: int | None = None,
) -> tuple[ActionInForce, ...]:
    """Read up to *limit* actions in these states, newest first, older than *before_id*."""
    statement = select_actions(connection).where(_actions.state.in_(sorted(states)))
    if before_id is not None:
        statement = statement.where(_actions.id < before_id)
    rows = connection.execute(statement.order_by(_actions.id.desc()).limit(limit))
    return read_readable(rows)


def read_action(connection: Connection, *, action_id: int) -> ActionInForce:
    """Read one action. Errors: `NotFound`, `StoreRefused` for one that can't be read."""
    row = connection.execute(select_actions(connection).where(_actions.id == action_id)).first()
    if row is None:
        raise NotFound(f"there is no action {action_id}")
    try:
        return to_action(row)
    except UNREADABLE as error:
        raise StoreRefused(f"action {action_id} can't be read: {error}") from error


def cancel_action(
    connection: Connection, *, action_id: int, by: str, now: datetime
) -> ActionInForce:
    """End an action now; one that has ended stays as it is. Errors: `NotFound`."""
    # Nobody else changes an action meanwhile: what is read here is what is ended.
    take_lock(connection, Lock.REVISIONS)
    action = read_action(connection, action_id=action_id)
    if action.state not in LIVE_STATES:
        return action
    with one_revision(connection, author=by, summary=f"cancel action {action_id}"):
        connection.execute(
            update(automation_actions)
            .where(_actions.id == action_id)
            .values(
                state=ActionState.CANCELLED,
                changed_by=by,
                # Matches up to this time can't bring it back (see `_cancelled_time`).
                expire_time=now,
            )
        )
    return read_action(connection, action_id=action_id)


def count_and_act(connection: Connection, *, matches: Iterable[Match], now: datetime) -> Counted:
    """Count each event once per rule and put in force what follows."""
    take_lock(connection, Lock.COUNTING)
    timely = {match.counted_once: match for match in matches if not is_settled(match, now)}
    groups = group_matches(timely.values())
    known = read_known(connection, groups)
    new = keep_matches(connection, timely.values())
    due = bool(_due_ids(connection, now=now))
    plans = _decide(groups, known, new, now)
    begun: frozenset[int] = frozenset()
    effects: set[tuple[str, str, int]] = set()
    if plans or due:
        with one_revision(connection, author=_AUTHOR, summary=_summary(plans)):
            # What has ended must not be extended.
            _mark_expired(connection, now=now)
            begun = _put_in_force(connection, plans, effects, new=new, now=now)
    if new:
        sweep_matches(connection, now=now, limit=2 * len(new) + _SWEPT_BESIDE)
    changed = {action_id for _, _, action_id in effects}
    return Counted(
        new_matches=len(new),
        action_ids=tuple(sorted(changed)),
        begun_ids=begun,
        has_changed=bool(changed) or due,
        new_events=new,
        effects=frozenset(effects),
    )


def _decide(
    groups: Sequence[Sequence[Match]],
    known: Sequence[Known],
    new: Collection[tuple[str, str]],
    now: datetime,
) -> list[PlannedAction]:
    plans: list[PlannedAction] = []
    for group, before in zip(groups, known, strict=True):
        added = [match for match in group if match.counted_once in new]
        if added:
            plans += decide(added, before.times, now, known_mail=before.mail)
    return plans


def _put_in_force(
    connection: Connection,
    plans: Sequence[PlannedAction],
    effects: set[tuple[str, str, int]],
    *,
    new: Collection[tuple[str, str]],
    now: datetime,
) -> frozenset[int]:
    """Put *plans* in force; add what each led to to *effects*, and return what began."""
    ledger = Ledger(connection, plans, new=new, now=now)
    for plan in plans:
        action_id = ledger.put(plan)
        if action_id is not None:
            effects.add((plan.rule.key, plan.path_name, action_id))
    ledger.write()
    return frozenset(ledger.begun)


def _summary(plans: Sequence[PlannedAction]) -> str:
    if not plans:
        return "actions end"
    first = plans[0]
    more = f" and {len(plans) - 1} more" if len(plans) > 1 else ""
    return f"{first.kind} {first.path_name} by {first.rule.layer}{more}"


def _due_ids(connection: Connection, *, now: datetime) -> list[int]:
    statement = select(_actions.id).where(*_is_due(now)).limit(1)
    return list(connection.execute(statement).scalars())


def _is_due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (_actions.state == ActionState.IN_FORCE, _actions.expire_time <= now)


def _is_step_due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (_actions.state == ActionState.IN_FORCE, _actions.next_step_time <= now)


def _is_anything_due(connection: Connection, *, now: datetime) -> bool:
    steps = select(_actions.id).where(*_is_step_due(now)).limit(1)
    return bool(_due_ids(connection, now=now)) or connection.execute(steps).first() is not None


def expire_actions(connection: Connection, *, now: datetime) -> bool:
    """Mark what is over, and make the steps that are due; say whether there was anything."""
    take_lock(connection, Lock.REVISIONS)
    if not _is_anything_due(connection, now=now):
        # Another server was quicker.
        return False
    with one_revision(connection, author=_AUTHOR, summary=_summary(())):
        # First: where the ruled value is reached the action is over.
        has_expired = _mark_expired(connection, now=now)
        return _make_steps(connection, now=now) or has_expired


def _make_steps(connection: Connection, *, now: datetime) -> bool:
    """Let adjustments recover by the steps that are due by *now*."""
    rows = connection.execute(select_actions(connection).where(*_is_step_due(now))).all()
    has_stepped = False
    for action in read_readable(rows):
        step = _step(action, now)
        if step is None:
            # It ends at its time all the same.
            facts = {"action_id": action.id}
            logger.warning("adjustment can't be read, it recovers at its end", extra=facts)
        done = connection.execute(
            update(automation_actions)
            # Each step is made once, whoever else makes steps on this database.
            .where(
                _actions.id == action.id,
                _actions.state == ActionState.IN_FORCE,
                _actions.next_step_time == action.next_step_time,
            )
            .values(step or {"next_step_time": None})
        )
        has_stepped = has_stepped or done.rowcount > 0
    return has_stepped


def _step(action: ActionInForce, now: datetime) -> dict[str, Any] | None:
    read = read_adjustment(action)
    if read is None:
        return None
    rule, ruled, present = read
    recovered = recover(rule, ruled, present, until=now)
    if recovered is None:
        return {"state": ActionState.EXPIRED, "expire_time": min(action.expire_time, now)}
    return {
        "new_value": format_value(recovered.value),
        "next_step_time": recovered.next_step_time,
        "expire_time": end_time(rule, ruled, recovered),
    }


def _mark_expired(connection: Connection, *, now: datetime) -> bool:
    done = connection.execute(
        update(automation_actions).where(*_is_due(now)).values(state=ActionState.EXPIRED)
    )
    return done.rowcount > 0


def _touched_since(
    connection: Connection, *, revision: int, stamp: str, limit: int
) -> dict[int, ActionKind | None] | None:
    if not is_known_since(connection, revision) or read_stamp(connection, revision) != stamp:
        return None
    rows = connection.execute(
        select(change_log.c.row_id, _actions.kind)
        .select_from(change_log.outerjoin(automation_actions, _actions.id == change_log.c.row_id))
        .where(
            change_log.c.revision > revision,
            change_log.c.table_name == automation_actions.name,
        )
        .distinct()
        .limit(limit + 1)
    )
    kinds = set(ActionKind)
    touched = {int(row_id): ActionKind(kind) if kind in kinds else None for row_id, kind in rows}
    return touched if len(touched) <= limit else None
