"""
The filter changes nothing: whatever is left out, the same actions result.

Random rules and outcomes, with changes of the rules in between; the real filter on both sides, the
real matching and the real store. An agent holds whatever filter it was last told, as on a stream.
"""

from dataclasses import replace
from datetime import timedelta

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from agent.convert import filter_of
from agent.delivery.record import Record, RecordType, Response
from agent.outcomes.batches import make_batch
from agent.outcomes.outcome_filter import CompiledFilter, compile_filter
from agent.outcomes.sampling import FailureSample
from agent.spool.messages import PendingRecord
from policy_server.automation.actions import ActionState
from policy_server.automation.decide import Match
from policy_server.automation.matching import Effort, compile_rules, match_outcome
from policy_server.automation.outcome_filter import build_filter
from policy_server.conversions.outcomes import from_outcome, to_filter
from policy_server.rules.layers import (
    AutomationRule,
    Block,
    Immediate,
    Layer,
    Scope,
    SetConfig,
    Suspend,
    Threshold,
)
from policy_server.rules.resolve import Question, consulted_rules
from policy_server.rules.snapshot import Snapshot, compile_snapshot
from policy_server.store.actions import read_actions
from policy_server.store.evidence import read_evidence
from policy_server.store.outcomes import OutcomeBounds
from policy_server.store.reports import take_report
from policy_server.store.tables import (
    automation_actions,
    automation_evidence,
    automation_matches,
)
from policy_server.store.tables import outcomes as outcomes_table
from tests.unit.policy_server.automation.examples import START, make_rule

_NOW = START + timedelta(hours=2)
_DOMAINS = ("yahoo.com", "other.example")

_triggers = st.sampled_from(
    [
        Immediate(),
        Threshold(count=2, period=timedelta(minutes=30)),
        Threshold(count=3, period=timedelta(hours=1)),
    ]
)
_actions = st.sampled_from([(Suspend(),), (SetConfig(name="connection_limit", value=1),)])


@st.composite
def _layers(draw) -> Layer:
    """One layer with rules for everybody and for each domain."""
    blocks = [
        Block(
            id=number,
            layer="base",
            scope=Scope.DOMAIN if name else Scope.DEFAULT,
            name=name,
            source=draw(st.sampled_from(["", "ip-1"])),
            mx_rollup=False,
            replace_base=False,
            options={},
            automation=tuple(_draw_rule(draw, name, position) for position in range(2)),
        )
        for number, name in enumerate(("", *_DOMAINS))
    ]
    return Layer(id=1, name="base", blocks=tuple(blocks))


def _draw_rule(draw, name: str, position: int) -> AutomationRule:
    texts = st.sampled_from(["slow", r"\b4\d\d ", "(?=bu)busy", "^250", "x|y", r"(.)\1z"])
    return make_rule(
        key=f"{name}/{position}",
        scope=Scope.DOMAIN if name else Scope.DEFAULT,
        name=name,
        mx_rollup=False,
        position=position,
        regexes=tuple(draw(st.lists(texts, min_size=1, max_size=2))),
        actions=draw(_actions),
        trigger=draw(_triggers),
        duration=draw(st.sampled_from([timedelta(minutes=45), timedelta(hours=5)])),
        match_internal=draw(st.booleans()),
        observe=draw(st.integers(0, 5)) == 0,
    )


_records = st.builds(
    lambda domain, kind, code, text, internal, minute: Record(
        type=kind,
        event_id="",
        timestamp=(START + timedelta(minutes=minute)).timestamp(),
        id="m1",
        sender="",
        recipients=(f"a@{domain}",),
        recipient_domain=domain,
        routing_domain=domain,
        site="ip-1->mx",
        site_name="mx",
        egress_source="ip-1",
        created=0.0,
        response=Response(code=code, content=text, internal=internal),
    ),
    st.sampled_from(_DOMAINS),
    st.sampled_from([RecordType.DELIVERY, RecordType.TRANSIENT_FAILURE, RecordType.BOUNCE]),
    st.sampled_from([0, 250, 421, 550]),
    st.sampled_from(["ok", "slow down", "busy", "x", "aaz", "", "no\r\nbusy"]),
    st.booleans(),
    st.integers(0, 119),
)


def _snapshot(layer: Layer, revision: int) -> Snapshot:
    return compile_snapshot([layer], sites={}, revision=revision)


def _take(database, snapshot: Snapshot, outcomes) -> None:
    """Do what the server does with a batch, under one snapshot."""
    read = [from_outcome(outcome) for outcome in outcomes]
    matches = []
    for outcome in read:
        question = Question(
            routing_domain=outcome.recipient_domain, egress_source="ip-1", site_name="mx"
        )
        compiled = compile_rules(consulted_rules(snapshot, question))
        matches += [
            Match(rule=rule, outcome=outcome) for rule in match_outcome(compiled, outcome, Effort())
        ]
    database.write_now(
        lambda connection: take_report(
            connection, outcomes=read, matches=matches, bounds=OutcomeBounds(), now=_NOW
        )
    )


def _run(database, steps, *, filtered: bool):
    """Report batch after batch, each under the rules of its step; return the ledger and counts."""
    tables = (automation_evidence, automation_matches, automation_actions, outcomes_table)
    database.write_now(lambda connection: [connection.execute(delete(one)) for one in tables])
    held: CompiledFilter | None = None
    sample = FailureSample(most=2)
    sent = 0
    for snapshot, pending in steps:
        if not pending:
            continue
        rules = held if filtered else None
        batch = make_batch(pending, now=_NOW.timestamp(), rules=rules, sample=sample)
        current = build_filter(snapshot)
        if batch.filter_etag and batch.filter_etag != current.etag:
            # The server refuses it and sends the filter of these rules.
            held = compile_filter(filter_of(to_filter(current)))
            batch = make_batch(pending, now=_NOW.timestamp(), rules=held, sample=sample)
        assert batch.seqs == tuple(one.seq for one in pending)
        _take(database, snapshot, batch.outcomes)
        sent += len(batch.outcomes)
        if held is None:
            held = compile_filter(filter_of(to_filter(current)))
    return database.read_now(_ledger), sent


def _ledger(connection):
    actions = read_actions(connection, states=list(ActionState), limit=1000)
    return sorted(
        (
            (
                replace(action, id=0),
                tuple(sorted(read_evidence(connection, action_id=action.id), key=repr)),
            )
            for action in actions
        ),
        key=repr,
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(_layers(), st.lists(st.lists(_records, max_size=8), max_size=3)), max_size=4)
)
def test_the_same_actions_result_with_and_without_the_filter(database, phases):
    steps = []
    seq = 0
    for revision, (layer, batches) in enumerate(phases):
        snapshot = _snapshot(layer, revision)
        for records in batches:
            pending = [
                PendingRecord(
                    seq=seq + n, record=msgspec.structs.replace(one, event_id=f"e{seq + n}")
                )
                for n, one in enumerate(records, 1)
            ]
            seq += len(records)
            steps.append((snapshot, pending))

    everything, all_sent = _run(database, steps, filtered=False)
    what_could_match, some_sent = _run(database, steps, filtered=True)

    assert what_could_match == everything
    assert some_sent <= all_sent == seq
