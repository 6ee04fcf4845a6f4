import dataclasses
from typing import Any

import pytest

from examples.demo.load import SHARES, Message, plan_messages
from examples.demo.reckoning import Facts, merge_accepted, reckon


def _message(number: int, kind: str = "reader") -> Message:
    recipient = f"{kind}-{number}@bigmail.example"
    return Message(message_id=f"m{number}", recipient=recipient, provider="bigmail")


_GOOD = Facts(
    injected={"m1": _message(1), "m2": _message(2), "m3": _message(3, "gone")},
    not_taken=0,
    accepted={"m1": 1, "m2": 2},
    bounced=frozenset({"m3"}),
    queued=frozenset(),
    report={"exceeded": [], "providers": {"bigmail": {"total": {"protocol_violations": 0}}}},
    sources=frozenset({"ip-1", "ip-2"}),
    suspended=frozenset({"ip-1", "ip-2"}),
    lifted=frozenset({"ip-1", "ip-2"}),
    pushed_back=True,
    suspended_in_ledger=frozenset({"ip-1", "ip-2"}),
    seconds=50.0,
)


def test_run_that_held_everything_passes():
    findings = reckon(_GOOD)

    assert all(finding.holds for finding in findings)
    assert findings[0].text == (
        "3 injected = 2 delivered + 1 bounced + 0 still queued; 1 duplicates"
    )


@pytest.mark.parametrize(
    ("change", "finding", "detail"),
    [
        pytest.param({"accepted": {"m1": 1}}, 0, "1 neither", id="lost"),
        pytest.param({"accepted": {"m1": 1, "m2": 1, "x": 1}}, 0, "never injected", id="unknown"),
        pytest.param({"bounced": {"m1", "m3"}}, 0, "both", id="delivered and bounced"),
        pytest.param({"not_taken": 1}, 0, "not taken over", id="not taken"),
        pytest.param(
            {"bounced": {"m2", "m3"}, "accepted": {"m1": 1}}, 1, "m2", id="bounced without reason"
        ),
        pytest.param(
            {"bounced": frozenset(), "accepted": {"m1": 1, "m2": 1, "m3": 1}},
            1,
            "delivered to nobody",
            id="delivered to an unknown user",
        ),
        pytest.param(
            {"report": {"exceeded": ["bigmail: 9 connections, limit 8"], "providers": {}}},
            2,
            "9 connections",
            id="limit exceeded",
        ),
        pytest.param({"pushed_back": False}, 3, "did not push back", id="no push-back"),
        pytest.param({"suspended": {"ip-1"}}, 3, "ip-2", id="one agent not suspended"),
        pytest.param({"lifted": {"ip-2"}}, 3, "ip-1", id="suspension not lifted"),
        pytest.param({"suspended_in_ledger": frozenset()}, 3, "ledger", id="not in the ledger"),
        pytest.param({"ended": {"mta-1": 0, "sink": 1}}, 4, "sink exited with 1", id="bad end"),
        pytest.param({"ended": {"server": -9}}, 4, "killed by signal 9", id="had to be killed"),
        pytest.param({"seconds": 91.0}, 5, "", id="too long"),
    ],
)
def test_broken_promise_is_found(change: dict[str, Any], finding: int, detail: str):
    findings = reckon(dataclasses.replace(_GOOD, **change))

    assert not findings[finding].holds
    assert detail in " ".join(findings[finding].details)


def test_acceptances_are_merged_over_providers_by_message():
    merged = merge_accepted({"a": {"m1 x@y": 1, "m1 z@y": 1}, "b": {"m2 x@y": 3}})

    assert merged == {"m1": 2, "m2": 3}


def test_plan_has_every_kind_and_unique_recipients():
    messages = plan_messages(2000, seed=1)

    assert len({message.recipient for message in messages}) == 2000
    assert {message.provider for message in messages} == set(SHARES)
    assert 20 < sum(message.is_to_bounce for message in messages) < 80
    assert any(message.recipient.startswith("grey-") for message in messages)
    assert plan_messages(2000, seed=1) == messages
