"""Replies that no rule matched, by kind."""

import time

import pytest

from policy_server.automation.outcomes import OutcomeType, Reply
from policy_server.automation.unmatched import MAX_TEXT, UnmatchedCounter, shorten_reply
from tests.unit.policy_server.automation.examples import make_outcome


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<joe@x.example>: unknown", "<jim.doe@y.example>: unknown"),
        ("192.0.2.7 is listed", "198.51.100.23 is listed"),
        ("2001:db8::1:2:3 is listed", "2001:db8:0:1::ffff is listed"),
        ("try again in 300 seconds", "try again in 1200 seconds"),
        ("queue id 4XyZ88123qk", "queue id 5AbC99713rt"),
        ("at 2026-08-01T12:00:00.123Z", "at 2026-08-02T13:01:02.456Z"),
        ("first\r\nsecond", "first second"),
    ],
)
def test_replies_of_one_kind_have_one_text(one, other):
    assert shorten_reply(Reply(content=one)) == shorten_reply(Reply(content=other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[TS01] deferred", "[TS04] deferred"),
        ("(S3140) blocked", "(S3150) blocked"),
        ("4.7.650 busy", "4.7.651 busy"),
    ],
)
def test_codes_of_providers_tell_kinds_apart(one, other):
    assert shorten_reply(Reply(content=one)) != shorten_reply(Reply(content=other))


@pytest.mark.parametrize("content", ["a" * 5_000_000, "a." * 3000, "1" * 3000, "1.a" * 1000, "…"])
def test_hostile_replies_cost_little(content):
    started = time.monotonic()

    text = shorten_reply(Reply(content=content))

    assert len(text) <= MAX_TEXT
    assert time.monotonic() - started < 1


def test_the_most_frequent_kinds_come_first_and_deliveries_are_left_out():
    counter = UnmatchedCounter()
    for number in range(9):
        content = ["rare", "often", "often"][number % 3]
        counter.add(make_outcome(reply=Reply(code=450, content=content), internal=number == 0))
        counter.add(make_outcome(type=OutcomeType.DELIVERY))

    listed = counter.most_frequent(2)

    assert [(one.text, one.count, one.internal) for one in listed] == [
        ("often", 6, False),
        ("rare", 2, False),
    ]


def test_kinds_are_bounded_and_the_frequent_ones_stay():
    counter = UnmatchedCounter(groups_kept=10)
    for number in range(2000):
        counter.add(make_outcome(reply=Reply(content=f"kind x{number}y")))
        counter.add(make_outcome(reply=Reply(content=f"frequent {'ab'[number % 2]}")))

    listed = counter.most_frequent(1000)

    assert [(one.text, one.count) for one in listed[:2]] == [
        ("frequent a", 1000),
        ("frequent b", 1000),
    ]
    assert len(listed) < 20
