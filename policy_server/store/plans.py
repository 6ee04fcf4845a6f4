"""
Plans: planned actions are put in force, or extend what is in force already.

A transaction may have hundreds, so what is there is read at once, and written at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from policy_server.automation.actions import (
    EVIDENCE_KEPT,
    ActionInForce,
    ActionState,
    Evidence,
    block_title,
)
from policy_server.automation.decide import PlannedAction, plan_adjustment
from policy_server.rules.layers import AdjustConfig
from policy_server.rules.values import format_value
from policy_server.store.action_rows import read_adjustment, read_readable, select_actions
from policy_server.store.evidence import add_evidence, read_evidence_ids
from policy_server.store.known_matches import find_events
from policy_server.store.outcomes import read_evidence_of
from policy_server.store.tables import automation_actions

#: SQLite allows 32,766 values in one statement.
_PLANS_PER_STATEMENT = 500

_actions = automation_actions.c
#: What makes two actions of one rule the same, beside whether it only observes.
_SAME = (
    _actions.rule_key, _actions.kind, _actions.egress_source, _actions.site_name,
    _actions.routing_domain, _actions.tenant, _actions.campaign, _actions.option,
)  # fmt: skip
# As it stands in the index of what is live: SQLite uses that only where it sees that it may.
_IS_LIVE: ColumnElement[bool] = literal_column("state IN ('in_force', 'pinned')")
_EXTEND = (
    update(automation_actions)
    .where(_actions.id == bindparam("of_id"))
    .values(
        match_count=bindparam("new_count"),
        first_match_time=bindparam("new_first"),
        last_match_time=bindparam("new_last"),
        expire_time=bindparam("new_expire"),
    )
)
_ADJUST = (
    update(automation_actions)
    .where(_actions.id == bindparam("of_id"))
    .values(
        new_value=bindparam("lowered_value"),
        lowered_time=bindparam("new_lowered"),
        next_step_time=bindparam("new_next_step"),
    )
)

#: Of `_SAME`, and whether it only observes.
_Place = tuple[tuple[str, ...], bool]


class Ledger:
    """What is in force of what is planned, and what of it is to be written; then `write` it."""

    def __init__(
        self,
        connection: Connection,
        plans: Sequence[PlannedAction],
        *,
        new: Collection[tuple[str, str]],
        now: datetime,
    ) -> None:
        """
        Read what is in force, and keep others from changing it until the transaction ends; *new*
        are rules and events of the matches that were not known before.
        """
        self._connection = connection
        self._new = new
        self._now = now
        #: Numbers of those that began here; None is a row that nobody can read.
        self._live: dict[_Place, ActionInForce | int | None] = _read_live(
            connection, plans, now=now
        )
        self._extended: dict[int, ActionInForce] = {}
        #: Those of them whose adjustment changed as well.
        self._adjusted: set[int] = set()
        self._evidence: list[tuple[int, Evidence]] = []
        #: Events of earlier reports that led to an action: (action, event id).
        self._earlier: list[tuple[int, str]] = []
        self.begun: set[int] = set()

    def put(self, plan: PlannedAction) -> int | None:
        """Put *plan* in force; return its action, or None where something stands in the way."""
        place = _place_of(plan)
        put = self._extend if place in self._live else self._begin
        action_id = put(place, plan)
        if action_id is not None:
            self._evidence += [(action_id, one) for one in plan.evidence]
            earlier = plan.earlier if action_id in self.begun else plan.joining
            room = EVIDENCE_KEPT - len(plan.evidence)
            if room and earlier.times:
                under = (plan.rule.key, plan.path_name)
                found = find_events(self._connection, under, earlier, new=self._new)
                self._earlier += [(action_id, event_id) for event_id in found[:room]]
        return action_id

    def write(self) -> None:
        """Write what was extended, and the evidence."""
        extended = list(map(_write_extended, self._extended.values()))
        adjusted = [_write_adjusted(self._extended[number]) for number in sorted(self._adjusted)]
        for statement, values in ((_EXTEND, extended), (_ADJUST, adjusted)):
            if values:
                self._connection.execute(statement, values)
        self._look_up_earlier()
        add_evidence(self._connection, self._evidence)

    def _look_up_earlier(self) -> None:
        """Add the replies of earlier reports, as far as their outcomes are kept."""
        if not self._earlier:
            return
        known = read_evidence_ids(
            self._connection, {action_id for action_id, _ in self._earlier} - self.begun
        )
        wanted = [pair for pair in self._earlier if pair not in known]
        found = read_evidence_of(self._connection, {event_id for _, event_id in wanted})
        for action_id, event_id in wanted:
            if event_id in found:
                self._evidence.append((action_id, found[event_id]))

    def _extend(self, place: _Place, plan: PlannedAction) -> int | None:
        action = self._live[place]
        if isinstance(action, int):
            action = self._read(action)
        if action is None:
            # Until it is repaired or removed it stands in the way of its like, but of no other.
            return None
        extended = _extend(action, plan, now=self._now)
        if _adjustment_of(extended) != _adjustment_of(action):
            self._adjusted.add(action.id)
        self._live[place] = self._extended[action.id] = extended
        return action.id

    def _begin(self, place: _Place, plan: PlannedAction) -> int | None:
        cancelled = _cancelled_time(self._connection, plan)
        if cancelled is not None and plan.fired_time <= cancelled:
            return None
        if plan.adjust is not None:
            # What was cancelled lowers nothing any more.
            adjusted = plan_adjustment(plan, None, now=self._now, after=cancelled)
            if adjusted is None:
                return None
            plan = adjusted
        action_id = _insert(self._connection, plan)
        self._live[place] = action_id
        self.begun.add(action_id)
        return action_id

    def _read(self, action_id: int) -> ActionInForce | None:
        statement = select_actions(self._connection).where(_actions.id == action_id)
        return next(iter(read_readable(self._connection.execute(statement))), None)


def _place_of(plan: PlannedAction) -> _Place:
    scope = plan.scope
    same = (
        plan.rule.key, str(plan.kind), scope.egress_source, scope.site_name, scope.routing_domain,
        scope.tenant, scope.campaign, plan.option,
    )  # fmt: skip
    return same, plan.rule.observe


def _read_live(
    connection: Connection, plans: Sequence[PlannedAction], *, now: datetime
) -> dict[_Place, ActionInForce | int | None]:
    # No index holds those that only observe to one; who counts is alone.
    is_observed = and_(_actions.state == ActionState.OBSERVED, _actions.expire_time > now)
    places = list(dict.fromkeys(map(_place_of, plans)))
    live: dict[_Place, ActionInForce | int | None] = {}
    for observes, condition in ((False, _IS_LIVE), (True, is_observed)):
        wanted = [same for same, is_for in places if is_for is observes]
        for start in range(0, len(wanted), _PLANS_PER_STATEMENT):
            some = wanted[start : start + _PLANS_PER_STATEMENT]
            statement = select_actions(connection).where(tuple_(*_SAME).in_(some), condition)
            # A person who takes one back in SQL meanwhile waits for us.
            for row in connection.execute(statement.order_by(_actions.id).with_for_update()):
                place = tuple(getattr(row, column.name) for column in _SAME), observes
                live.setdefault(place, next(iter(read_readable([row])), None))
    return live


def _extend(action: ActionInForce, plan: PlannedAction, *, now: datetime) -> ActionInForce:
    extended = replace(
        action,
        match_count=action.match_count + plan.added,
        first_match_time=min(action.first_match_time, plan.first_match_time),
        last_match_time=max(action.last_match_time, plan.last_match_time),
    )
    if plan.adjust is None:
        return replace(extended, expire_time=max(action.expire_time, plan.expire_time))
    if action.state is ActionState.PINNED:
        return extended
    return _adjust_further(extended, plan, now)


def _adjust_further(action: ActionInForce, plan: PlannedAction, now: datetime) -> ActionInForce:
    read = read_adjustment(action)
    if read is None:
        return action
    _, _, present = read
    # The ruled value is the one that it recovers to.
    further = plan_adjustment(replace(plan, old_value=action.old_value), present, now=now)
    if further is None:
        return action
    times: dict[str, Any] = _adjust_times(further)
    return replace(action, new_value=further.new_value, **times)


def _adjust_times(plan: PlannedAction) -> dict[str, datetime]:
    if plan.adjustment is None:
        return {"expire_time": plan.expire_time}
    return {
        "expire_time": plan.expire_time,
        "lowered_time": plan.adjustment.lowered_time,
        "next_step_time": plan.adjustment.next_step_time,
    }


def _adjustment_of(action: ActionInForce) -> tuple[Any, ...]:
    return action.new_value, action.lowered_time, action.next_step_time


def _write_extended(action: ActionInForce) -> dict[str, Any]:
    return {
        "of_id": action.id,
        "new_count": action.match_count,
        "new_first": action.first_match_time,
        "new_last": action.last_match_time,
        "new_expire": action.expire_time,
    }


def _write_adjusted(action: ActionInForce) -> dict[str, Any]:
    value, lowered, next_step = _adjustment_of(action)
    return {
        "of_id": action.id,
        "lowered_value": value,
        "new_lowered": lowered,
        "new_next_step": next_step,
    }


def _insert(connection: Connection, plan: PlannedAction) -> int:
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


def _cancelled_time(connection: Connection, plan: PlannedAction) -> datetime | None:
    """Say when somebody last took the action back: matches up to then can't bring it back."""
    same, _ = _place_of(plan)
    statement = (
        select(_actions.expire_time)
        .where(
            *(column == value for column, value in zip(_SAME, same, strict=True)),
            _actions.state == ActionState.CANCELLED,
        )
        .order_by(_actions.expire_time.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar()
