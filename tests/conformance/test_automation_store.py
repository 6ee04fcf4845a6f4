"""The ledger in a real database: any order and repetition of reports ends in the same actions."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, select, update

from policy_server.automation.actions import EVIDENCE_KEPT, ActionKind, ActionScope, ActionState
from policy_server.automation.decide import Match
from policy_server.automation.outcomes import Reply
from policy_server.errors import InvalidRequest, NotFound, NotInForce
from policy_server.rules.layers import (
    AdjustConfig,
    Bounce,
    BounceCampaign,
    BounceTenant,
    Immediate,
    SetConfig,
    SetDomainConfig,
    Suspend,
    SuspendCampaign,
    SuspendTenant,
    Threshold,
)
from policy_server.rules.values import Limit
from policy_server.store.actions import (
    cancel_action,
    count_and_act,
    expire_actions,
    read_actions,
    read_in_force,
)
from policy_server.store.database import Database
from policy_server.store.evidence import read_evidence
from policy_server.store.operator_actions import (
    NewAction,
    create_action,
    extend_action,
    pin_action,
)
from policy_server.store.outcomes import OutcomeBounds
from policy_server.store.reports import take_report
from policy_server.store.retention import LedgerBounds, forget_actions
from policy_server.store.revisions import read_revision
from policy_server.store.rows import insert_row
from policy_server.store.tables import (
    automation_actions,
    automation_evidence,
    automation_matches,
    automation_rules,
    rule_blocks,
    rule_layers,
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


def _take(database, rule, *outcomes):
    """Report outcomes that the rule matches, as one report."""
    return database.write_now(
        lambda connection: take_report(
            connection,
            outcomes=outcomes,
            matches=[Match(rule=rule, outcome=outcome) for outcome in outcomes],
            bounds=OutcomeBounds(),
            now=_NOW,
        )
    )


def _replies(database, action_id):
    evidence = database.read_now(lambda c: read_evidence(c, action_id=action_id))
    return [(item.event_id, item.reply) for item in evidence]


def _said(event_id, minute, **changes):
    reply = Reply(code=421, content=f"<joe@yahoo.com> slow {event_id}")
    return make_outcome(event_id, minute, reply=reply, **changes)


def test_the_evidence_of_a_threshold_has_the_replies_of_earlier_reports(database):
    rule = make_rule(
        trigger=Threshold(count=3, period=timedelta(minutes=20)),
        duration=timedelta(minutes=90),
        actions=(SuspendTenant(),),
    )
    of_acme = [_said(f"e{minute}", minute, tenant="acme") for minute in (101, 150, 151)]
    _take(database, rule, *of_acme)
    # Of the same path, but no reply that the tenant's action rests on.
    _take(database, rule, _said("other", 152, tenant="zeta"))
    assert [a.scope.tenant for a in _in_force(database)] == ["zeta"]

    counted = _take(database, rule, _said("e153", 153, tenant="acme"))

    (number,) = counted.begun_ids
    assert _replies(database, number) == [
        (event_id, f"421 <@yahoo.com> slow {event_id}") for event_id in ("e153", "e151", "e150")
    ]
    # One that comes late joins, and brings along what did not count before.
    _take(database, rule, _said("e120", 120, tenant="acme"), _said("e110", 110, tenant="acme"))
    assert [event_id for event_id, _ in _replies(database, number)] == [
        "e153", "e151", "e150", "e120", "e110", "e101"
    ]  # fmt: skip


def test_of_many_earlier_replies_the_newest_are_evidence(database):
    rule = make_rule(
        trigger=Threshold(count=30, period=timedelta(minutes=60)), duration=timedelta(minutes=90)
    )
    for number in range(29):
        assert not _take(database, rule, _said(f"e{number:02}", 150 + number)).begun_ids
    (action_id,) = _take(database, rule, _said("e29", 179)).begun_ids

    expected = [f"e{number:02}" for number in range(29, 29 - EVIDENCE_KEPT, -1)]
    assert [event_id for event_id, _ in _replies(database, action_id)] == expected


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


def _on_many_sites(rule, number, count=1100):
    return [
        Match(
            rule=rule,
            outcome=make_outcome(
                f"e{number}-{site}", 180 + number, site_name=f"s{site}", path_name=f"ip-1->s{site}"
            ),
        )
        for site in range(count)
    ]


@pytest.mark.parametrize("observe", [False, True])
def test_a_report_acts_on_more_sites_than_one_statement_takes(database, observe):
    rule = make_rule(observe=observe, trigger=Threshold(count=2, period=timedelta(hours=1)))
    assert not _report(database, *_on_many_sites(rule, 0)).action_ids

    first = _report(database, *_on_many_sites(rule, 1))
    second = _report(database, *_on_many_sites(rule, 2), *_on_many_sites(rule, 3))

    assert first.action_ids == second.action_ids
    assert (len(first.begun_ids), len(second.begun_ids)) == (1100, 0)
    states = [ActionState.OBSERVED if observe else ActionState.IN_FORCE]
    actions = database.read_now(lambda c: read_actions(c, states=states, limit=2000))
    assert {action.match_count for action in actions} == {4}
    assert len({action.site_name for action in actions}) == 1100
    kept = select(func.count()).select_from(automation_evidence)
    assert database.read_now(lambda c: c.execute(kept).scalar()) == 3 * 1100


def test_matches_of_several_paths_on_one_tenant_are_one_action_of_all(database):
    rule = make_rule(actions=(SuspendTenant(),))
    matches = [
        Match(
            rule=rule,
            outcome=make_outcome(f"e{path}-{n}", 180 + n, tenant="t", path_name=f"ip-{path}->site"),
        )
        for path in range(3)
        for n in range(15)
    ]

    counted = _report(database, *matches)

    (action,) = _in_force(database)
    assert counted.begun_ids == {action.id}
    assert action.match_count == 45
    assert action.expire_time == START + timedelta(minutes=194 + 60)
    evidence = database.read_now(lambda c: read_evidence(c, action_id=action.id))
    assert len(evidence) == EVIDENCE_KEPT
    assert min(item.event_time for item in evidence) == START + timedelta(minutes=188)


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


_KINDS = (
    Suspend(),
    SuspendTenant(),
    SuspendCampaign(),
    Bounce(),
    BounceTenant(),
    BounceCampaign(),
    SetConfig(name="connection_limit", value=Limit(1)),
    SetDomainConfig(name="connection_limit", value=Limit(1)),
    AdjustConfig(
        name="connection_limit",
        factor=0.5,
        floor=Limit(1),
        recover_step=2,
        recover_every=timedelta(minutes=30),
    ),
)


def _match(rule, number, minute, *, domain="yahoo.com", tenant="t", campaign="", ruled=100):
    outcome = make_outcome(
        f"e{number}-{minute}", minute, routing_domain=domain, tenant=tenant, campaign=campaign
    )
    return Match(rule=rule, outcome=outcome, ruled_values={"connection_limit": ruled})


def _all(database):
    return database.read_now(
        lambda connection: read_actions(connection, states=list(ActionState), limit=1000)
    )


def _cancel(database, action_id, now=_NOW):
    return database.write_now(
        lambda connection: cancel_action(connection, action_id=action_id, by="joe", now=now)
    )


@pytest.mark.parametrize("action", _KINDS, ids=lambda action: type(action).__name__)
def test_every_kind_is_put_in_force_and_read_back(database, action):
    _report(database, _match(make_rule(actions=(action,)), 0, 190, campaign="c"))

    (entry,) = _in_force(database)

    assert entry.kind == type(action).__name__
    assert entry.scope.egress_source == ("ip-1" if entry.option or entry.kind == "Suspend" else "")
    assert entry.tenant == ("t" if entry.kind.endswith(("Tenant", "Campaign")) else "")
    assert entry.campaign == ("c" if entry.kind.endswith("Campaign") else "")
    if entry.option:
        assert (entry.old_value, entry.new_value) == (100, 50 if entry.adjust else 1)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), action=st.sampled_from(_KINDS), trigger=_triggers)
def test_cancelling_wins_over_whatever_is_delivered_late(database, data, action, trigger):
    """Reports and cancellations in any order: what was sent before the last one has no effect."""
    _clear(database)
    rule = make_rule(actions=(action,), trigger=trigger, duration=timedelta(minutes=60))
    minutes = data.draw(st.lists(st.integers(130, 199), min_size=1, max_size=10))
    mail = [("t", ""), ("t", "c"), ("u", "")]
    late = [
        _match(rule, number, minute, tenant=tenant, campaign=campaign)
        for number, minute in enumerate(minutes)
        for tenant, campaign in (data.draw(st.sampled_from(mail)),)
    ]
    early = data.draw(st.integers(0, len(late)))
    # All that has come to be by now, cancelled; then the rest of what was sent before.
    _report(database, *late[:early])
    cancelled = [action.id for action in _in_force(database)]
    for action_id in cancelled:
        _cancel(database, action_id)
    ended = {(entry.kind, entry.scope) for entry in _all(database)}
    rest = late[early:]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        _report(database, *rest[:size])
        rest = rest[size:]

    assert not {(entry.kind, entry.scope) for entry in _in_force(database)} & ended
    assert [entry.id for entry in _all(database) if entry.state == "cancelled"][::-1] == cancelled
    assert all(entry.expire_time <= _NOW for entry in _all(database) if entry.id in cancelled)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), action=st.sampled_from(_KINDS), trigger=_triggers)
def test_batches_make_no_difference_whoever_the_mail_is_from(database, data, action, trigger):
    rule = make_rule(actions=(action,), trigger=trigger, duration=timedelta(minutes=120))
    minutes = sorted(data.draw(st.lists(st.integers(171, 200), min_size=1, max_size=10)))
    matches = [
        _match(
            rule,
            number,
            minute,
            domain=data.draw(st.sampled_from(["yahoo.com", "ymail.com"])),
            tenant=data.draw(st.sampled_from(["", "t", "u"])),
            campaign=data.draw(st.sampled_from(["", "c"])),
        )
        for number, minute in enumerate(minutes)
    ]
    is_adjusting = isinstance(action, AdjustConfig)

    def ledger():
        return sorted(
            (
                *(entry.kind, str(entry.scope), entry.state, str(entry.new_value)),
                *(entry.match_count, entry.last_match_time, entry.expire_time),
                *(entry.lowered_time, entry.next_step_time),
            )
            for entry in _all(database)
        )

    _clear(database)
    _report(database, *matches)
    at_once = ledger()
    _clear(database)
    # What lowers a value goes by the order of the matches; what only extends does not.
    rest = matches if is_adjusting else data.draw(st.permutations(matches))
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        _report(database, *rest[:size])
        rest = rest[size:]

    assert ledger() == at_once


_ADJUST = _KINDS[-1]


def _expire(database, now):
    return database.write_now(lambda connection: expire_actions(connection, now=now))


def test_an_adjustment_steps_back_to_the_ruled_value_and_ends(database):
    _report(database, _match(make_rule(actions=(_ADJUST,)), 0, 190), now=_at(190))
    _report(database, _match(make_rule(actions=(_ADJUST,)), 1, 192), now=_at(192))
    (lowered,) = _in_force(database)
    assert (lowered.new_value, lowered.expire_time) == (25, _at(192 + 60))

    revision = database.read_now(read_revision)
    assert not _expire(database, _at(221))
    assert _expire(database, _at(222))
    (stepped,) = _in_force(database)
    assert (stepped.new_value, stepped.next_step_time) == (50, _at(252))
    # Agents have the right end already.
    assert stepped.expire_time == lowered.expire_time
    assert database.read_now(read_revision) == revision + 1
    assert not _expire(database, _at(223))
    assert _expire(database, _at(252))

    assert [entry.state for entry in _all(database)] == ["expired"]


def test_steps_missed_while_the_server_was_away_are_made_up_for(database):
    rule = make_rule(actions=(replace(_ADJUST, floor=Limit(5), factor=0.05),))
    _report(database, _match(rule, 0, 190), now=_at(190))

    _expire(database, _at(190 + 95))

    (entry,) = _in_force(database)
    assert (entry.new_value, entry.next_step_time) == (40, _at(190 + 120))


def test_several_servers_make_each_step_once(database, database_url):
    rule = make_rule(actions=(replace(_ADJUST, floor=Limit(5), factor=0.05),))
    _report(database, _match(rule, 0, 190), now=_at(190))
    before = database.read_now(read_revision)
    other = Database(database_url)
    try:
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(_expire, [database, other] * 4, [_at(220)] * 8))
    finally:
        other.close()

    (entry,) = _in_force(database)
    assert done.count(True) == 1
    assert (entry.new_value, database.read_now(read_revision)) == (10, before + 1)


def test_a_pinned_adjustment_neither_steps_nor_lowers_nor_ends(database):
    rule = make_rule(actions=(_ADJUST,))
    _report(database, _match(rule, 0, 190), now=_at(190))
    (entry,) = _in_force(database)
    pinned = database.write_now(
        lambda connection: pin_action(connection, action_id=entry.id, by="joe", now=_NOW)
    )
    assert (pinned.end, pinned.step_time, pinned.changed_by) == (None, None, "joe")

    assert not _expire(database, _at(10_000))
    _report(database, _match(rule, 1, 195))
    (still,) = _in_force(database, _at(10_000))
    assert (still.new_value, still.match_count) == (50, 2)

    extended = database.write_now(
        lambda connection: extend_action(
            connection, action_id=entry.id, until=_at(10_060), by="eve", now=_at(10_000)
        )
    )
    # It recovers by one step, right at the end that was asked for.
    assert (extended.state, extended.expire_time) == (ActionState.IN_FORCE, _at(10_060))
    assert extended.next_step_time == _at(10_060)
    assert _expire(database, _at(10_060))
    assert _in_force(database, _at(10_060)) == ()


def test_an_adjustment_outlives_its_rule_and_one_that_makes_no_sense_ends_at_its_time(database):
    _report(database, _match(make_rule(actions=(_ADJUST,)), 0, 190), now=_at(190))

    def break_it(connection):
        connection.execute(update(automation_actions).values(adjust={"factor": 2}))

    database.write_now(break_it)

    assert _expire(database, _at(220))
    assert not _expire(database, _at(219))
    _expire(database, _at(250))
    assert [entry.state for entry in _all(database)] == ["expired"]


def test_an_observed_adjustment_is_recorded_alone(database):
    rule = make_rule(actions=(_ADJUST,), observe=True)
    for number, minute in enumerate((190, 195)):
        _report(database, _match(rule, number, minute))

    (entry,) = _all(database)
    assert (entry.state, entry.new_value, entry.match_count) == (ActionState.OBSERVED, 25, 2)
    assert _in_force(database) == ()
    assert not _expire(database, _at(226))


def _at(minutes):
    return START + timedelta(minutes=minutes)


def test_what_ends_is_ordered_by_less_than_a_millisecond(database):
    rule = make_rule(duration=timedelta(microseconds=600))
    outcome = make_outcome("a", event_time=_NOW)
    _report(database, Match(rule=rule, outcome=outcome))

    assert _in_force(database, _NOW + timedelta(microseconds=599))
    assert not _in_force(database, _NOW + timedelta(microseconds=600))
    assert not _expire(database, _NOW + timedelta(microseconds=599))
    assert _expire(database, _NOW + timedelta(microseconds=600))


def test_a_pinned_action_that_is_cancelled_late_stays_cancelled(database):
    (action_id,) = _report(database, *_matches(make_rule(), 100), now=_at(101)).action_ids
    database.write_now(
        lambda connection: pin_action(connection, action_id=action_id, by="joe", now=_at(102))
    )

    cancelled = _cancel(database, action_id)

    # It had been beyond its own end for long: what was sent until now counts as known.
    assert cancelled.expire_time == _NOW
    assert not _report(database, *_matches(make_rule(), 195)).action_ids


def test_what_has_ended_can_be_neither_extended_nor_pinned(database):
    (action_id,) = _report(database, *_matches(make_rule(), 190)).action_ids
    end = _at(190 + 60)

    def change(work, now, **more):
        return database.write_now(
            lambda connection: work(connection, action_id=action_id, by="joe", now=now, **more)
        )

    with pytest.raises(InvalidRequest, match="cancel it"):
        change(extend_action, _NOW, until=_NOW)
    for work, more in ((extend_action, {"until": _at(999)}), (pin_action, {})):
        with pytest.raises(NotInForce, match="has ended"):
            change(work, end, **more)
        with pytest.raises(NotFound):
            database.write_now(
                lambda connection, work=work, more=more: work(
                    connection, action_id=10**6, by="joe", now=_NOW, **more
                )
            )
    _cancel(database, action_id)
    with pytest.raises(NotInForce, match="is cancelled"):
        change(pin_action, _NOW)


def test_a_request_is_carried_out_once_whoever_sends_it_again(database, database_url):
    new = NewAction(
        key="operator-r1",
        kind=ActionKind.BOUNCE,
        scope=ActionScope(routing_domain="yahoo.com"),
        expire_time=_at(300),
        reason="spam run",
    )
    other = Database(database_url)

    def create(number):
        store = (database, other)[number % 2]
        return store.write_now(
            lambda connection: create_action(connection, new=new, by="joe", now=_NOW)
        )

    try:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(create, range(8)))
    finally:
        other.close()

    assert len({action.id for action in made}) == 1
    (action,) = _in_force(database)
    assert (action.given_reason, action.is_by_hand, action.match_count) == ("spam run", True, 0)
    _cancel(database, action.id)
    assert create(0).state == ActionState.CANCELLED


@pytest.mark.parametrize("action", [Suspend(), _ADJUST], ids=["Suspend", "AdjustConfig"])
def test_a_cancellation_and_a_match_on_another_server_leave_it_cancelled(
    database, database_url, action
):
    """However the two meet: what was sent before is not in force after."""
    rule = make_rule(actions=(action,))
    other = Database(database_url)
    try:
        with ThreadPoolExecutor(2) as pool:
            for turn in range(20):
                _clear(database)
                first = _report(database, _match(rule, turn, 190))
                start = threading.Barrier(2)

                def cancel(start=start, number=first.action_ids[0]):
                    start.wait()
                    return _cancel(database, number)

                def report(start=start, turn=turn):
                    start.wait()
                    return _report(other, _match(rule, 1000 + turn, 195))

                for done in (pool.submit(cancel), pool.submit(report)):
                    done.result()
                assert _in_force(database) == ()
                (entry,) = _all(database)
                assert (entry.state, entry.expire_time) == (ActionState.CANCELLED, _NOW)
    finally:
        other.close()


def _forget(database, now, **bounds):
    return database.write_now(
        lambda connection: forget_actions(connection, bounds=LedgerBounds(**bounds), now=now)
    )


def test_ended_actions_are_forgotten_oldest_first_with_their_evidence(database):
    rules = [make_rule(key=f"rule {number}") for number in range(6)]
    for number, rule in enumerate(rules):
        _report(database, _match(rule, number, 100 + number), now=_at(100 + number))
    _expire(database, _at(164))
    # Of six, the last is in force; of the five ended, two are within the bounds.
    assert _forget(database, _at(164), rows=2, step=2)
    assert not _forget(database, _at(164), rows=2, step=2)
    assert not _forget(database, _at(164), rows=2, step=2)

    assert [entry.rule_key for entry in _all(database)] == ["rule 5", "rule 4", "rule 3"]
    count = select(func.count()).select_from(automation_evidence)
    assert database.read_now(lambda connection: connection.execute(count).scalar()) == 3

    revision = database.read_now(read_revision)
    assert not _forget(database, _at(164) + timedelta(days=89))
    assert database.read_now(read_revision) == revision
    _forget(database, _at(164) + timedelta(days=91))
    assert [entry.rule_key for entry in _all(database)] == ["rule 5"]


def test_a_cancelled_action_is_kept_while_a_late_match_could_bring_it_back(database):
    def add_rule(connection):
        layer = insert_row(connection, insert(rule_layers).values(name="base", position=0))
        block = insert_row(connection, insert(rule_blocks).values(layer_id=layer, scope="default"))
        for duration in ("300 days", "nonsense"):
            connection.execute(
                insert(automation_rules).values(
                    block_id=block,
                    regexes=["x"],
                    actions=["Suspend"],
                    trigger="Immediate",
                    duration=duration,
                )
            )

    database.write_now(add_rule)
    (action_id,) = _report(database, *_matches(make_rule(), 190)).action_ids
    _cancel(database, action_id)

    _forget(database, _NOW + timedelta(days=299), rows=0)
    assert [entry.id for entry in _all(database)] == [action_id]
    _forget(database, _NOW + timedelta(days=300), rows=0)
    assert _all(database) == ()
