"""Rules that feed themselves are found, and the agents' texts are known as they are."""

import time
from datetime import timedelta

import pytest

from agent.delivery import internal
from agent.delivery.record import Response
from policy_server.automation import traps
from policy_server.automation.actions import ActionInForce, ActionKind, ActionState, block_title
from policy_server.automation.matching import BATCH_SECONDS, Effort
from policy_server.automation.outcomes import Reply, reply_text
from policy_server.automation.traps import find_traps, own_texts
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.layers import (
    Bounce,
    BounceTenant,
    Scope,
    SetConfig,
    Suspend,
    SuspendCampaign,
)
from policy_server.rules.values import parse_rate
from tests.unit.policy_server.automation.examples import START, make_rule


def _written(response: Response) -> str:
    return reply_text(
        Reply(code=response.code, enhanced_code=response.enhanced_code, content=response.content)
    )


@pytest.mark.parametrize(
    ("response", "known"),
    [
        (internal.expired(604800, 604800), traps.EXPIRED),
        (internal.timed_out("RCPT TO"), traps.TIMED_OUT + "RCPT TO"),
        (
            internal.unreachable(("mx.example.com/192.0.2.7:25: connect timed out",)),
            traps.UNREACHABLE,
        ),
        (internal.ONLY_SKIPPED, traps.ONLY_SKIPPED),
        (internal.prohibited("192.0.2.7"), traps.PROHIBITED),
        (internal.TOO_MANY_FAILURES, traps.TOO_MANY_FAILURES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_texts_are_those_that_agents_write(response, known):
    assert response.internal
    assert _written(response) == known


def test_a_bounce_is_reported_with_the_reason_of_the_action():
    rule = make_rule(actions=(Bounce(),), match_internal=True)
    action = ActionInForce(
        id=1,
        kind=ActionKind.BOUNCE,
        state=ActionState.IN_FORCE,
        path_name="",
        routing_domain="yahoo.com",
        site_name="",
        egress_source="",
        rule_key=rule.key,
        rule_layer=rule.layer,
        rule_block=block_title(rule),
        rule_position=rule.position,
        rule_regexes=rule.regexes,
        match_count=1,
        first_match_time=START,
        last_match_time=START,
        expire_time=START + timedelta(hours=1),
    )

    assert own_texts(rule) == (traps.BOUNCED + action.reason,)


def test_options_with_texts_of_their_own_are_options():
    assert traps.TEXTS_OF_OPTIONS.keys() <= build_catalogue().options.keys()


_SLOW = SetConfig(name="max_message_rate", value=parse_rate("1/minute"))
_SHORT = SetConfig(name="rcpt_to_timeout", value=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("action", "pattern"),
    [
        (Bounce(), "Administrator bounced"),
        (Bounce(), "^551 5"),
        pytest.param(BounceTenant(), "mailbox full", id="the pattern is in the reason"),
        (Suspend(), "exceeds max_age"),
        (SuspendCampaign(), r"551 5\.4\.7"),
        (_SLOW, r"^5\d\d "),
        (_SHORT, "timed out waiting"),
        pytest.param(Suspend(), r"(?<!not )exceeds", id="beyond RE2"),
    ],
)
def test_a_rule_that_matches_what_it_leads_to_is_a_trap(action, pattern):
    rule = make_rule(actions=(action,), regexes=("^neve(r)$", pattern), match_internal=True)

    (trap,) = find_traps([rule], Effort())

    assert (trap.rule, trap.pattern) == (rule, pattern)
    assert pattern in trap.message
    assert trap.text in trap.message
    assert "drop match_internal" in trap.message


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"match_internal": False, "regexes": (".",)}, id="internal texts are not seen"
        ),
        pytest.param({"regexes": ("timed out waiting",)}, id="not what suspended mail leads to"),
        pytest.param({"regexes": ("(",)}, id="no pattern at all"),
        pytest.param({"actions": (_SLOW,), "regexes": ("skip_hosts",)}, id="of another option"),
    ],
)
def test_other_rules_are_no_traps(changes):
    rule = make_rule(**({"match_internal": True, "scope": Scope.DEFAULT, "name": ""} | changes))

    assert list(find_traps([rule], Effort())) == []


def test_thousands_of_hostile_patterns_take_a_bounded_time():
    rules = [
        make_rule(
            key=str(n), match_internal=True, regexes=(rf"(?=.*x)(\w|\w\w|\s|\d+)+{n}\1(?!z)$",)
        )
        for n in range(3000)
    ]
    started = time.monotonic()

    list(find_traps(rules, Effort(clock=time.monotonic)))

    assert time.monotonic() - started < 10 * BATCH_SECONDS
