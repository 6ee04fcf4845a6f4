"""
The ledger of actions, and the matches that thresholds count.

Everything that one report leads to is one transaction: matches, actions and evidence are there
together or not at all, and `count_and_act` returns after the commit. What follows from matches is
decided in `policy_server.automation.decide`; here it is put in force.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from policy_server.automation.actions import (
    EVIDENCE_KEPT,
    LIVE_STATES,
    ActionInForce,
    ActionKind,
    ActionState,
    Evidence,
    block_title,
)
from policy_server.automation.adjust import Adjustment, end_time, recover
from policy_server.automation.decide import (
    Mail,
    Match,
    PlannedAction,
    decide,
    group_matches,
    is_settled,
    plan_adjustment,
    read_ruled,
)
from policy_server.automation.threshold import history_spans
from policy_server.errors import NotFound, StoreRefused
from policy_server.rules.automation_rules import parse_adjustment
from policy_server.rules.layers import AdjustConfig, Threshold
from policy_server.rules.values import InvalidValueError, Limit, Rate, format_value
from policy_server.store.database import Database
from policy_server.store.locks import Lock, take_lock
from policy_server.store.revisions import is_known_since, one_revision, read_stamp
from policy_server.store.rows import insert_or, plain_columns, read_json, read_time, storable
from policy_server.store.tables import (
    automation_actions,
    automation_evidence,
    automation_matches,
    change_log,
)

logger = logging.getLogger(__name__)

#: More rows than are added are swept with each report, so that the table can't outgrow its use.
_SWEPT_BESIDE = 100
#: SQLite allows 32,766 values in one statement.
_ROWS_PER_STATEMENT = 2000
_AUTHOR = "automation"
#: What reading a value that a person spelt wrongly raises.
_UNREADABLE = (ValueError, TypeError)

_actions = automation_actions.c
_matches = automation_matches.c
_evidence = automation_evidence.c
#: Built once: it is asked for every rule and path of a report.
_KNOWN_MATCHES = (
    select(
        _matches.event_id,
        _matches.event_time,
        _matches.routing_domain,
        _matches.tenant,
        _matches.campaign,
    )
    .where(
        _matches.rule_key == bindparam("of_rule"),
        _matches.path_name == bindparam("of_path"),
        _matches.event_time > bindparam("after", type_=_matches.event_time.type),
        _matches.event_time <= bindparam("until", type_=_matches.event_time.type),
    )
    .order_by(_matches.event_time.desc())
    .limit(bindparam("most", type_=Integer()))
)


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
        _select_actions(connection)
        .where(
            or_(
                and_(_actions.state == ActionState.IN_FORCE, _actions.expire_time > now),
                _actions.state == ActionState.PINNED,
            )
        )
        .order_by(_actions.id)
    )
    return _read_readable(connection.execute(statement))


def read_actions(
    connection: Connection,
    *,
    states: Collection[ActionState],
    limit: int,
    before_id: int | None = None,
) -> tuple[ActionInForce, ...]:
    """Read up to *limit* actions in these states, newest first, older than *before_id*."""
    statement = _select_actions(connection).where(_actions.state.in_(sorted(states)))
    if before_id is not None:
        statement = statement.where(_actions.id < before_id)
    rows = connection.execute(statement.order_by(_actions.id.desc()).limit(limit))
    return _read_readable(rows)


def read_action(connection: Connection, *, action_id: int) -> ActionInForce:
    """Read one action. Errors: `NotFound`, `StoreRefused` for one that can't be read."""
    row = connection.execute(_select_actions(connection).where(_actions.id == action_id)).first()
    if row is None:
        raise NotFound(f"there is no action {action_id}")
    try:
        return _to_action(row)
    except _UNREADABLE as error:
        raise StoreRefused(f"action {action_id} can't be read: {error}") from error


def read_evidence(connection: Connection, *, action_id: int) -> tuple[Evidence, ...]:
    """Read the newest replies that led to an action, newest first."""
    rows = connection.execute(
        select(automation_evidence)
        .where(_evidence.action_id == action_id)
        .order_by(_evidence.event_time.desc(), _evidence.event_id.desc())
    )
    return tuple(
        Evidence(event_id=row.event_id, event_time=row.event_time, reply=row.reply) for row in rows
    )


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
    new = _count(connection, [match for match in matches if not is_settled(match, now)])
    due = bool(_due_ids(connection, now=now))
    plans = [plan for group in group_matches(new) for plan in _decide(connection, group, now)]
    changed: set[int] = set()
    begun: set[int] = set()
    effects: set[tuple[str, str, int]] = set()
    if plans or due:
        with one_revision(connection, author=_AUTHOR, summary=_summary(plans)):
            # What has ended must not be extended.
            _mark_expired(connection, now=now)
            for plan in plans:
                action_id = _put_in_force(connection, plan, now=now, begun=begun)
                if action_id is not None:
                    changed.add(action_id)
                    effects.add((plan.rule.key, plan.path_name, action_id))
    if new:
        _sweep(connection, now=now, limit=2 * len(new) + _SWEPT_BESIDE)
    return Counted(
        new_matches=len(new),
        action_ids=tuple(sorted(changed)),
        begun_ids=frozenset(begun),
        has_changed=bool(changed) or due,
        new_events=frozenset((match.rule.key, match.outcome.event_id) for match in new),
        effects=frozenset(effects),
    )


def _summary(plans: Sequence[PlannedAction]) -> str:
    if not plans:
        return "actions end"
    first = plans[0]
    more = f" and {len(plans) - 1} more" if len(plans) > 1 else ""
    return f"{first.kind} {first.path_name} by {first.rule.layer}{more}"


def _count(connection: Connection, matches: Sequence[Match]) -> list[Match]:
    """Keep *matches* and return those that were not known."""
    by_key = {(match.rule.key, match.outcome.event_id): match for match in matches}
    rows = [
        {
            "rule_key": rule_key,
            "event_id": event_id,
            "path_name": match.outcome.counted_path,
            "event_time": match.outcome.event_time,
            "keep_until": match.keep_until,
            "routing_domain": match.outcome.routing_domain,
            "tenant": match.outcome.tenant,
            "campaign": match.outcome.campaign,
        }
        for (rule_key, event_id), match in by_key.items()
    ]
    new: list[Match] = []
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        # One statement decides what is new, so that two reports of an event can't both count.
        statement = insert_or(connection, automation_matches).on_conflict_do_nothing()
        statement = statement.returning(_matches.rule_key, _matches.event_id)
        added = connection.execute(statement, rows[start : start + _ROWS_PER_STATEMENT])
        new.extend(by_key[rule_key, event_id] for rule_key, event_id in added)
    return new


def _decide(
    connection: Connection, group: Sequence[Match], now: datetime
) -> tuple[PlannedAction, ...]:
    known = _read_known(connection, group)
    times = [time for time, _ in known]
    return decide(group, times, now, known_mail=[mail for _, mail in known])


def _read_known(connection: Connection, group: Sequence[Match]) -> list[tuple[datetime, Mail]]:
    """Read the matches known before, by time, as far as *group* is judged with them."""
    rule = group[0].rule
    if not isinstance(rule.trigger, Threshold):
        return []
    times = [match.outcome.event_time for match in group]
    new_ids = {match.outcome.event_id for match in group}
    known: list[tuple[datetime, Mail]] = []
    for span in history_spans(times, rule.trigger):
        rows = connection.execute(
            _KNOWN_MATCHES,
            {
                "of_rule": rule.key,
                "of_path": group[0].outcome.counted_path,
                "after": span.after,
                "until": span.until,
                "most": span.limit + len(group),
            },
        ).all()
        known.extend(
            (row.event_time, Mail(routing_domain=domain, tenant=tenant, campaign=campaign))
            for row in rows
            if row.event_id not in new_ids
            for domain, tenant, campaign in (row[2:],)
        )
    return sorted(known, key=lambda entry: entry[0])


def _put_in_force(
    connection: Connection,
    plan: PlannedAction,
    *,
    now: datetime,
    begun: set[int],
) -> int | None:
    """Put *plan* in force and return its action; None where something stands in the way."""
    live = connection.execute(_select_actions(connection).where(*_live(plan, now=now))).first()
    if live is not None:
        readable = _read_readable([live])
        # Until it is repaired or removed it stands in the way of its like, but of no other.
        if not readable or not _extend(connection, readable[0], plan, now=now):
            return None
        action_id = int(live.id)
    else:
        cancelled = _cancelled_time(connection, plan)
        if cancelled is not None and plan.fired_time <= cancelled:
            return None
        if plan.adjust is not None:
            # What was cancelled lowers nothing any more.
            adjusted = plan_adjustment(plan, None, now=now, after=cancelled)
            if adjusted is None:
                return None
            plan = adjusted
        action_id = _begin(connection, plan)
        begun.add(action_id)
    _keep_evidence(connection, action_id, plan.evidence)
    return action_id


def _extend(
    connection: Connection, action: ActionInForce, plan: PlannedAction, *, now: datetime
) -> bool:
    """Extend an action by what *plan* adds; say whether it is still there to be extended."""
    values: dict[str, Any] = {
        "match_count": action.match_count + plan.added,
        "first_match_time": min(action.first_match_time, plan.first_match_time),
        "last_match_time": max(action.last_match_time, plan.last_match_time),
    }
    if plan.adjust is None:
        values["expire_time"] = max(action.expire_time, plan.expire_time)
    elif action.state is not ActionState.PINNED:
        values |= _adjust_further(action, plan, now)
    done = connection.execute(
        update(automation_actions)
        # A person may have taken it back in SQL since it was read.
        .where(_actions.id == action.id, _actions.state == action.state)
        .values(values)
    )
    return done.rowcount > 0


def _adjust_further(action: ActionInForce, plan: PlannedAction, now: datetime) -> dict[str, Any]:
    read = read_adjustment(action)
    if read is None:
        return {}
    _, _, present = read
    # The ruled value is the one that it recovers to.
    further = plan_adjustment(replace(plan, old_value=action.old_value), present, now=now)
    if further is None:
        return {}
    return {"new_value": further.new_value, **_adjust_times(further)}


def _adjust_times(plan: PlannedAction) -> dict[str, Any]:
    if plan.adjustment is None:
        return {"expire_time": plan.expire_time}
    return {
        "expire_time": plan.expire_time,
        "lowered_time": plan.adjustment.lowered_time,
        "next_step_time": plan.adjustment.next_step_time,
    }


def _begin(connection: Connection, plan: PlannedAction) -> int:
    rule = plan.rule
    made = connection.execute(
        insert(automation_actions).values(
            kind=plan.kind,
            state=ActionState.OBSERVED if rule.observe else ActionState.IN_FORCE,
            path_name=plan.path_name,
            routing_domain=plan.scope.routing_domain,
            site_name=plan.scope.site_name,
            egress_source=plan.scope.egress_source,
            tenant=plan.scope.tenant,
            campaign=plan.scope.campaign,
            option=plan.option,
            old_value=plan.old_value,
            new_value=plan.new_value,
            rule_key=rule.key,
            rule_layer=rule.layer,
            rule_block=block_title(rule),
            rule_position=rule.position,
            rule_regexes=list(rule.regexes),
            match_count=plan.count,
            first_match_time=plan.first_match_time,
            last_match_time=plan.last_match_time,
            adjust=None if plan.adjust is None else _spell_adjust(plan.adjust),
            **_adjust_times(plan),
        )
    )
    return int(made.inserted_primary_key[0])  # type: ignore[index]  # given after one row


def _spell_adjust(rule: AdjustConfig) -> dict[str, Any]:
    """Spell an adjustment as rule files do: it outlives its rule."""
    return {
        "name": rule.name,
        "factor": rule.factor,
        "floor": format_value(rule.floor),
        "recover_step": rule.recover_step,
        "recover_every": format_value(rule.recover_every),
    }


def _same_action(plan: PlannedAction) -> list[ColumnElement[bool]]:
    return [
        _actions.rule_key == plan.rule.key,
        _actions.kind == plan.kind,
        _actions.egress_source == plan.scope.egress_source,
        _actions.site_name == plan.scope.site_name,
        _actions.routing_domain == plan.scope.routing_domain,
        _actions.tenant == plan.scope.tenant,
        _actions.campaign == plan.scope.campaign,
        _actions.option == plan.option,
    ]


def _live(plan: PlannedAction, *, now: datetime) -> list[ColumnElement[bool]]:
    if plan.rule.observe:
        # No index holds these to one; who counts is alone.
        return [
            *_same_action(plan),
            _actions.state == ActionState.OBSERVED,
            _actions.expire_time > now,
        ]
    return [*_same_action(plan), _actions.state.in_(sorted(LIVE_STATES))]


def _cancelled_time(connection: Connection, plan: PlannedAction) -> datetime | None:
    """Say when somebody last took the action back: matches up to then can't bring it back."""
    statement = (
        select(_actions.expire_time)
        .where(*_same_action(plan), _actions.state == ActionState.CANCELLED)
        .order_by(_actions.expire_time.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar()


def _keep_evidence(connection: Connection, action_id: int, evidence: Sequence[Evidence]) -> None:
    if not evidence:
        return
    connection.execute(
        insert(automation_evidence),
        [
            {
                "action_id": action_id,
                "event_id": item.event_id,
                "event_time": item.event_time,
                "reply": storable(item.reply),
            }
            for item in evidence
        ],
    )
    newest = (
        select(_evidence.id)
        .where(_evidence.action_id == action_id)
        .order_by(_evidence.event_time.desc(), _evidence.event_id.desc())
        .limit(EVIDENCE_KEPT)
    )
    connection.execute(
        delete(automation_evidence).where(
            _evidence.action_id == action_id, _evidence.id.not_in(newest)
        )
    )


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
    rows = connection.execute(_select_actions(connection).where(*_is_step_due(now))).all()
    has_stepped = False
    for action in _read_readable(rows):
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


def _mark_expired(connection: Connection, *, now: datetime) -> bool:
    done = connection.execute(
        update(automation_actions).where(*_is_due(now)).values(state=ActionState.EXPIRED)
    )
    return done.rowcount > 0


def _sweep(connection: Connection, *, now: datetime, limit: int) -> None:
    key = tuple_(_matches.rule_key, _matches.event_id)
    old = (
        select(_matches.rule_key, _matches.event_id).where(_matches.keep_until <= now).limit(limit)
    )
    connection.execute(delete(automation_matches).where(key.in_(old)))


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


def _select_actions(connection: Connection) -> Select[Any]:
    # As plain values: one that a person spelt wrongly must not take the other rows with it.
    return select(*plain_columns(connection, automation_actions))


def _read_readable(rows: Iterable[Any]) -> tuple[ActionInForce, ...]:
    """Read the rows that make sense; the others are logged and have no effect."""
    actions = []
    for row in rows:
        try:
            actions.append(_to_action(row))
        except _UNREADABLE as error:
            facts = {"action_id": row.id, "why": str(error)}
            logger.warning("action can't be read, it is left out", extra=facts)
    return tuple(actions)


def _to_action(row: Any) -> ActionInForce:
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


def _read_time(value: Any) -> datetime:
    time = read_time(value)
    if time is None:
        raise ValueError("a time is missing")
    return time
