"""The ledger in a real database: any order and repetition of reports ends in the same actions."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, select

from policy_server.automation.actions import EVIDENCE_KEPT, ActionState
from policy_server.automation.decide import Match
from policy_server.errors import NotFound
from policy_server.rules.layers import Immediate, Threshold
from policy_server.store.actions import (
    cancel_action,
    count_and_act,
    read_actions,
    read_evidence,
    read_in_force,
)
from policy_server.store.revisions import read_revision
from policy_server.store.tables import (
    automation_actions,
    automation_evidence,
    automation_matches,
)
from tests.unit.policy_server.automation.examples import START, make_outcome, make_rule

_NOW = START + timedelta(minutes=200)


def _clear(database):
    def clear(connection):
        for table in (automation_evidence, automation_matches, automation_actions):
            connection.execute(delete(table))

    database.write_now(clear)


def _report(database, *matches, now=_NOW):
    return database.write_now(
        lambda connection: count_and_act(connection, matches=matches, now=now)
    )


def _matches(rule, *minutes):
    return [
        Match(rule=rule, outcome=make_outcome(f"e{number}-{minute}", minute))
        for number, minute in enumerate(minutes)
    ]


def _in_force(database, now=_NOW):
    return database.read_now(lambda connection: read_in_force(connection, now=now))


def _ledger(database):
    actions = database.read_now(
        lambda connection: read_actions(connection, states=list(ActionState), limit=100)
    )
    return sorted(
        (
            action.rule_key,
            action.scope.site_name,
            action.state,
            action.match_count,
            action.first_match_time,
            action.last_match_time,
            action.expire_time,
        )
        for action in actions
    )


_triggers = st.sampled_from(
    [
        Immediate(),
        Threshold(count=2, period=timedelta(minutes=20)),
        Threshold(count=3, period=timedelta(minutes=45)),
    ]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), trigger=_triggers, duration=st.sampled_from([30, 90]))
def test_any_order_and_repetition_of_reports_ends_in_the_same_actions(
    database, data, trigger, duration
):
    rule = make_rule(trigger=trigger, duration=timedelta(minutes=duration))
    minutes = data.draw(st.lists(st.integers(60, 200), min_size=1, max_size=12))
    matches = _matches(rule, *minutes)
    repeated = data.draw(st.lists(st.sampled_from(matches), max_size=6))
    shuffled = data.draw(st.permutations([*matches, *repeated]))
    cut = data.draw(st.integers(0, len(shuffled)))
    _clear(database)
    for match in sorted(matches, key=lambda match: match.outcome.event_time):
        _report(database, match)
    in_order = _ledger(database)

    _clear(database)
    for match in shuffled[:cut]:
        _report(database, match)
    _report(database, *shuffled[cut:])

    assert _ledger(database) == in_order


def test_a_later_match_extends_what_is_in_force_under_one_revision(database):
    first = _report(database, *_matches(make_rule(), 180))
    before = database.read_now(read_revision)

    second = _report(database, *_matches(make_rule(), 190, 195))

    (action,) = _in_force(database)
    assert second.action_ids == first.action_ids == (action.id,)
    assert action.match_count == 3
    assert action.expire_time == START + timedelta(minutes=195 + 60)
    assert database.read_now(read_revision) == before + 1


def test_a_match_after_the_end_begins_a_new_action(database):
    _report(database, *_matches(make_rule(), 100), now=START + timedelta(minutes=101))

    counted = _report(database, *_matches(make_rule(), 199))

    (action,) = _in_force(database)
    assert counted.action_ids == (action.id,)
    assert action.match_count == 1
    assert [entry[2] for entry in _ledger(database)] == ["expired", "in_force"]


def test_what_changes_nothing_makes_no_revision(database):
    rule = make_rule(trigger=Threshold(count=5, period=timedelta(hours=1)))
    before = database.read_now(read_revision)

    counted = _report(database, *_matches(rule, 199))

    assert (counted.new_matches, counted.has_changed) == (1, False)
    assert database.read_now(read_revision) == before


def test_evidence_is_the_newest_replies(database):
    _report(database, *_matches(make_rule(), *range(150, 190)))
    counted = _report(database, *_matches(make_rule(), 145, 195))

    evidence = database.read_now(
        lambda connection: read_evidence(connection, action_id=counted.action_ids[0])
    )

    assert len(evidence) == EVIDENCE_KEPT
    assert evidence[0].event_time == START + timedelta(minutes=195)
    assert min(item.event_time for item in evidence) > START + timedelta(minutes=169)


def test_matches_that_no_decision_needs_are_swept(database):
    old = [
        {
            "rule_key": "k",
            "event_id": f"old{n}",
            "path_name": "p",
            "event_time": START,
            "keep_until": START + timedelta(hours=1),
        }
        for n in range(300)
    ]
    database.write_now(lambda connection: connection.execute(insert(automation_matches), old))

    for minute in (196, 197, 198):
        _report(database, *_matches(make_rule(), minute))

    count = select(func.count()).select_from(automation_matches)
    assert database.read_now(lambda connection: connection.execute(count).scalar()) == 3


def test_a_cancelled_action_stays_cancelled_and_an_unknown_one_is_not_found(database):
    (action_id,) = _report(database, *_matches(make_rule(), 190)).action_ids

    def cancel(connection, number=action_id, by="joe"):
        return cancel_action(connection, action_id=number, by=by, now=_NOW)

    first = database.write_now(cancel)
    again = database.write_now(lambda connection: cancel(connection, by="eve"))

    assert (first.state, first.changed_by) == (ActionState.CANCELLED, "joe")
    assert again == first
    with pytest.raises(NotFound):
        database.write_now(lambda connection: cancel(connection, 10**6))
    assert not _report(database, *_matches(make_rule(), 100, 199)).action_ids
