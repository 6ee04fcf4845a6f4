"""TestRules against the real server and database, over gRPC; and what hostile replies cost it."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.v1 import automation_service_pb2 as pb
from penstock.v1 import outcome_pb2
from policy_server.services.rule_trials import MAX_OUTCOMES
from tests.integration.watching import SITE, automation, outcome, serving, write_rules, yahoo

_SUSPEND = automation(r"\[TS04\]", "Suspend")
_RULES = """
[provider."yahoo"]
match = [{MXSuffix = ".yahoodns.net"}]
connection_limit = 8

[[provider."yahoo".automation]]
regex = '\\[TS0[0-9]\\]'
trigger = {Threshold = "2/hr"}
duration = "1 hour"
action = ["Suspend", {AdjustConfig = {name = "connection_limit", factor = 0.5, floor = 2, MORE}}]

[["default".automation]]
regex = "nobody says that"
action = "Suspend"
duration = "1 hour"
""".replace("MORE", 'recover_step = 2, recover_every = "15m"')
_START = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(database_url):
    return database_url


def _at(minutes: float) -> datetime:
    return _START + timedelta(minutes=minutes)


def _time(moment: datetime) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(moment)
    return time


async def _refused(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_rules_in_force_do_in_a_trial_what_they_did(url):
    """Two actions, one of them over and begun anew, from reports of one outcome each."""
    write_rules(url, yahoo(_SUSPEND, automation("busy", "SuspendTenant")))
    now = datetime.now(UTC)
    async with serving(url) as client:
        for number, (ago, content, tenant) in enumerate(
            [(50, "[TS04] a", ""), (40, "busy", "acme"), (20, "busy", "zeta"), (10, "[TS04] b", "")]
        ):
            at = now - timedelta(minutes=ago)
            await client.report(outcome(f"e{number}", content, at=at, tenant=tenant))
        await client.report(outcome("e9", "something else", at=now))
        states = [pb.ACTION_STATE_IN_FORCE, pb.ACTION_STATE_EXPIRED]
        ledger = await client.automation.ListActions(pb.ListActionsRequest(states=states))

        tried = await client.automation.TestRules(pb.TestRulesRequest(), timeout=30)

    assert len(ledger.actions) == 3
    assert _facts(tried.actions) == _facts(ledger.actions)
    assert (tried.outcome_count, tried.unmatched_count) == (5, 1)
    assert [(rule.match_count, rule.action_count) for rule in tried.rules] == [(2, 1), (2, 2)]
    (unmatched,) = tried.unmatched_replies
    assert (unmatched.text, unmatched.code, unmatched.enhanced_code) == (
        "something else",
        421,
        "4.7.0",
    )


def _facts(actions):
    return {
        (
            action.kind,
            action.state,
            action.site_name,
            action.egress_source,
            action.routing_domain,
            action.tenant,
            action.count,
            action.first_match_time.ToDatetime(),
            action.last_match_time.ToDatetime(),
            action.expire_time.ToDatetime(),
            action.rule.position,
        )
        for action in actions
    }


async def test_rules_of_a_file_are_tried_on_given_outcomes_and_nothing_is_put_in_force(url):
    write_rules(url, yahoo(_SUSPEND))
    # In no order: they are run over by the times of the events.
    given = [outcome(f"e{m}", at=_at(m)) for m in (20, 0, 10)]
    async with serving(url) as client:
        tried = await client.automation.TestRules(
            pb.TestRulesRequest(content=_RULES, outcomes=given), timeout=30
        )
        every = [pb.ACTION_STATE_IN_FORCE, pb.ACTION_STATE_EXPIRED, pb.ACTION_STATE_OBSERVED]
        ledger = await client.automation.ListActions(pb.ListActionsRequest(states=every))

    suspension, adjustment = sorted(tried.actions, key=lambda action: action.kind)
    assert suspension.kind == pb.ACTION_KIND_SUSPEND
    assert suspension.first_match_time.ToDatetime(UTC) == _at(0)
    assert suspension.expire_time.ToDatetime(UTC) == _at(80)
    assert suspension.count == 3
    assert (adjustment.old_value, adjustment.new_value) == ("8", "2")
    assert adjustment.rule.block == 'provider."yahoo"'
    assert [(rule.match_count, rule.action_count) for rule in tried.rules] == [(0, 0), (3, 2)]
    assert list(ledger.actions) == []


async def test_stored_outcomes_are_chosen_by_their_times(url):
    write_rules(url, yahoo(_SUSPEND))
    now = datetime.now(UTC)
    async with serving(url) as client:
        await client.report(*(outcome(f"e{m}", at=now - timedelta(minutes=m)) for m in range(9)))

        tried = await client.automation.TestRules(
            pb.TestRulesRequest(
                start_time=_time(now - timedelta(minutes=6)),
                end_time=_time(now - timedelta(minutes=2)),
            ),
            timeout=30,
        )

    assert tried.outcome_count == 4


async def test_what_is_odd_about_the_rules_is_told(url):
    trap = (
        _RULES + '[["trap.example".automation]]\nregex = "Administrator bounced"\n'
        'action = "Bounce"\nmatch_internal = true\nduration = "1h"\n'
    )
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        tried = await client.automation.TestRules(
            pb.TestRulesRequest(content=trap, outcomes=[outcome("e1")]), timeout=30
        )

    fed, idle = tried.warnings
    assert "Administrator bounced with reason" in fed
    assert "no path had 2 of them within 3600 s" in idle


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (pb.TestRulesRequest(content="[default"), "nothing was tried: test:1: not TOML"),
        (pb.TestRulesRequest(content="{}", format="yaml"), "format"),
        (
            pb.TestRulesRequest(start_time=_time(_START), end_time=_time(_START)),
            "end_time",
        ),
        (
            pb.TestRulesRequest(outcomes=[outcome("e")], start_time=_time(_START)),
            "start_time",
        ),
        (pb.TestRulesRequest(outcomes=[outcome_pb2.DeliveryOutcome()]), "event_id"),
        (pb.TestRulesRequest(outcomes=[outcome("e")] * (MAX_OUTCOMES + 1)), "outcomes"),
    ],
    ids=["content", "format", "empty span", "span of given", "bad outcome", "too many"],
)
async def test_bad_requests_are_refused_with_the_reason(url, request_, text):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        error = await _refused(client.automation.TestRules(request_, timeout=30))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in (error.details() or "")


async def test_a_trial_that_nobody_waits_for_makes_room_for_the_next(url):
    write_rules(url, yahoo(_SUSPEND))
    given = [outcome(f"e{n}", at=_at(n / 60)) for n in range(5000)]
    async with serving(url) as client:
        request = pb.TestRulesRequest(outcomes=given)
        first = asyncio.ensure_future(client.automation.TestRules(request, timeout=60))
        busy = None
        async with asyncio.timeout(30):
            while busy is None and not first.done():
                call = client.automation.TestRules(pb.TestRulesRequest(), timeout=30)
                try:
                    await call
                except grpc.aio.AioRpcError as error:
                    busy = error
        first.cancel()
        await asyncio.wait([first])

        tried = None
        async with asyncio.timeout(30):
            while tried is None:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    tried = await client.automation.TestRules(pb.TestRulesRequest(), timeout=30)
                await asyncio.sleep(0.01)

    assert busy is not None
    assert busy.code() is grpc.StatusCode.UNAVAILABLE
    assert tried.outcome_count == 0


async def test_hostile_replies_hold_up_neither_the_server_nor_the_rest_of_their_batch(url):
    catastrophic = [automation(rf"(?=a)(a|a?)+{n}$|(x)\2", "Suspend") for n in range(60)]
    write_rules(url, yahoo(_SUSPEND, automation(r"(a+)+[0-9]$|\x00+b", "Suspend"), *catastrophic))
    hostile = ["a" * 2000 + "!", "\x00" * 2000, "a\r\n" * 600, "ä" * 2000, "a" * 100_000]
    batch = [outcome(f"h{n}", hostile[n % len(hostile)]) for n in range(100)]
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.002)

    async with serving(url) as client:
        ticking = asyncio.create_task(tick())
        began = time.monotonic()
        answer = await client.report(*batch[:10], outcome("good"), *batch[10:])
        took = time.monotonic() - began
        ticking.cancel()
        timeouts = client.metric("penstock_server_pattern_timeouts_total")
        shown = await client.automation.ListActions(pb.ListActionsRequest())

    assert answer.match_count == 1
    assert [action.site_name for action in shown.actions] == [SITE]
    # The patterns were slow indeed, and the loop went on all the while.
    assert timeouts > 0
    assert took > 0.5
    longest = max(later - earlier for earlier, later in pairwise(ticks))
    assert longest < took / 2, (longest, took)
    assert took < 30
