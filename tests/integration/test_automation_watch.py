"""From an agent's report to every watching agent, with the real server, database and gRPC."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest

from penstock.v1 import automation_service_pb2 as actions_pb
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.automation_service_pb2 import CancelActionRequest, ListActionsRequest
from policy_server.services.watch_timing import WatchTiming
from policy_server.store.retention import HistoryBounds, forget_history
from tests.integration.watching import (
    automation,
    outcome,
    run_sql,
    serving,
    subscription,
    write_rules,
    yahoo,
)

_SUSPEND = automation(r"\[TS04\]", "Suspend")
_SLOW = automation(
    "slow down", {"SetConfig": {"name": "connection_limit", "value": 1}}, duration="2 hours"
)


@pytest.fixture
def url(database_url):
    return database_url


async def test_a_suspension_reaches_a_watching_agent_and_so_does_its_cancellation(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch() as watch:
        await watch.until(lambda: watch.token)

        answer = await client.report(outcome("e1", "<joe@yahoo.com> [TS04] deferred"))
        await watch.until(lambda: watch.suspensions)

        ((name, suspension),) = watch.suspensions.items()
        assert [name] == [str(number) for number in answer.action_ids]
        assert suspension.egress_source == "ip-1"
        assert suspension.site_name == "(mta5|mta6).am0.yahoodns.net"
        evidence = await client.server.actions.evidence(int(name))
        assert [item.reply for item in evidence] == ["421 4.7.0 <@yahoo.com> [TS04] deferred"]

        cancelled = await client.automation.CancelAction(CancelActionRequest(id=int(name)))
        await watch.until(lambda: not watch.suspensions)

        assert cancelled.action.state == actions_pb.ACTION_STATE_CANCELLED
        # What was reported before the cancellation can't bring it back.
        late = datetime.now(UTC) - timedelta(minutes=1)
        assert not (await client.report(outcome("e0", at=late))).action_ids
        assert (await client.report(outcome("e2"))).action_ids


async def test_an_override_reaches_a_watching_agent_and_ends_by_itself(url):
    write_rules(url, yahoo(_SLOW, connection_limit=7))
    async with serving(url) as client, client.watch("yahoo.com", "ymail.com") as watch:
        await watch.until(lambda: len(watch.paths) == 2)
        assert watch.paths["yahoo.com"].config.connection_limit.value == 7
        almost = datetime.now(UTC) - timedelta(hours=2) + timedelta(seconds=3)

        await client.report(outcome("e1", "slow down", at=almost))
        for name in ("yahoo.com", "ymail.com"):
            await watch.until(lambda name=name: watch.paths[name].overrides)

        assert watch.paths["yahoo.com"].config.connection_limit.value == 1
        assert watch.paths["yahoo.com"].ruled_config.connection_limit.value == 7
        await watch.until(lambda: not watch.paths["ymail.com"].overrides)
        assert watch.paths["ymail.com"].config.connection_limit.value == 7
        # The override has ended for the agents; the ledger says so right after.
        expired = ListActionsRequest(states=[actions_pb.ACTION_STATE_EXPIRED])
        listed: list[actions_pb.AutomationAction] = []
        async with asyncio.timeout(10):
            while not listed:
                listed = list((await client.automation.ListActions(expired)).actions)
        (action,) = listed
        assert (action.option, action.old_value, action.new_value) == ("connection_limit", "7", "1")


async def test_an_action_outlives_a_restart_and_its_stream_goes_on_from_the_token(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch("yahoo.com") as watch:
        await watch.until(lambda: watch.paths and watch.token)
        await client.report(outcome("e1"))
        await watch.until(lambda: watch.suspensions)
        (name,) = watch.suspensions
        token, etag = watch.token, watch.paths["yahoo.com"].etag

    async with serving(url) as client:
        async with client.watch("yahoo.com", token=token, known={"yahoo.com": etag}) as same:
            await same.until(lambda: same.token)
            assert same.kinds == [pb.WatchPolicyResponse.KIND_DELTA]
            assert (same.suspensions, same.paths) == ({}, {})
        async with client.watch() as fresh:
            await fresh.until(lambda: fresh.suspensions)
            assert fresh.kinds == [pb.WatchPolicyResponse.KIND_SNAPSHOT]
        # An event that the server had before counts no more after the restart.
        assert (await client.report(outcome("e1"))).match_count == 0
        await client.automation.CancelAction(CancelActionRequest(id=int(name)))
        async with client.watch(token=token) as late:
            await late.until(lambda: late.removed)
            assert late.removed == [(name, pb.RESOURCE_TYPE_SUSPENSION)]
            assert late.gone_as_of == {name: client.server.policy.revision}


@pytest.mark.parametrize("token", [b"nonsense", b'[1,"other",1,"x"]', b"[" * 400])
async def test_a_foreign_token_leads_to_a_reset_and_a_snapshot(url, token):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        await client.report(outcome("e1"))
        async with client.watch("yahoo.com", token=token) as watch:
            await watch.until(lambda: watch.suspensions and watch.paths and watch.token)

            assert watch.kinds[:2] == [
                pb.WatchPolicyResponse.KIND_RESET,
                pb.WatchPolicyResponse.KIND_SNAPSHOT,
            ]


async def test_a_token_older_than_the_history_leads_to_a_reset(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        async with client.watch() as first:
            await first.until(lambda: first.token)
        for event in ("e1", "e2"):
            await client.report(outcome(event))
            await client.automation.CancelAction(CancelActionRequest(id=1))
        bounds = HistoryBounds(rows=1)
        forget = partial(forget_history, bounds=bounds, now=datetime.now(UTC))
        await client.server.database.write(forget)

        async with client.watch(token=first.token) as late:
            await late.until(lambda: len(late.kinds) >= 2)
            assert late.kinds[:2] == [
                pb.WatchPolicyResponse.KIND_RESET,
                pb.WatchPolicyResponse.KIND_SNAPSHOT,
            ]


async def test_an_event_counts_once_however_often_it_is_sent(url):
    rule = automation(r"\[TS04\]", "Suspend", trigger={"Threshold": "3/hr"})
    write_rules(url, yahoo(rule))
    async with serving(url) as client:
        counts = [
            (await client.report(*batch)).match_count
            for batch in (
                [outcome("a")],
                [outcome("a"), outcome("a")],
                [outcome("a"), outcome("b")],
            )
        ]
        assert counts == [1, 0, 1]
        assert not client.server.policy.actions()

        answer = await client.report(outcome("b"), outcome("c"))

        assert len(answer.action_ids) == 1
        (action,) = client.server.policy.actions()
        assert action.match_count == 3


async def test_an_observed_rule_is_recorded_and_has_no_effect(url):
    write_rules(url, yahoo(automation(r"\[TS04\]", "Suspend", mode="observe")))
    async with serving(url) as client:
        for event_id in ("a", "b"):
            await client.report(outcome(event_id))

        listing = await client.automation.ListActions(
            ListActionsRequest(states=[actions_pb.ACTION_STATE_OBSERVED])
        )

        assert [action.count for action in listing.actions] == [2]
        assert not client.server.policy.actions()


async def test_actions_are_listed_in_pages(url):
    rules = [automation(r"\[TS04\]", "Suspend", duration=f"{n} hours") for n in range(1, 6)]
    write_rules(url, yahoo(*rules))
    async with serving(url) as client:
        await client.report(outcome("a"))
        ids, token = [], ""
        while True:
            page = await client.automation.ListActions(
                ListActionsRequest(page_size=2, page_token=token)
            )
            ids += [action.id for action in page.actions]
            token = page.next_page_token
            if not token:
                break

        assert ids == [5, 4, 3, 2, 1]
        for request in (
            ListActionsRequest(page_token="x"),
            ListActionsRequest(states=["ACTION_STATE_UNSPECIFIED"]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.automation.ListActions(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.automation.CancelAction(CancelActionRequest(id=99))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_bad_batch_is_refused_whole_with_every_violation(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        for batch in ([outcome("a"), outcome(""), outcome("b", type=0)], [outcome("a")] * 1001):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.report(*batch)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "grpc-status-details-bin" in dict(caught.value.trailing_metadata())

        assert (await client.report(outcome("a"))).match_count == 1


async def test_a_change_of_rules_is_sent_only_for_answers_that_differ(url):
    write_rules(url, yahoo(connection_limit=7))
    async with serving(url) as client, client.watch("yahoo.com") as watch:
        await watch.until(lambda: watch.paths)
        other = pb.PathSubscription(
            name="other",
            routing_domain="example.com",
            egress_source="ip-1",
            mx_hosts=[pb.MxHost(host="mx.example.com", preference=1)],
        )
        await watch.send(subscribe=pb.WatchSubscribe(add=[other], remove=["nobody"]))
        await watch.until(lambda: "other" in watch.paths and watch.removed)
        assert watch.removed == [("nobody", pb.RESOURCE_TYPE_EGRESS_PATH)]
        watch.paths.pop("other")

        await asyncio.to_thread(run_sql, url, "UPDATE rule_options SET value = '9'")
        await watch.until(lambda: watch.paths["yahoo.com"].config.connection_limit.value == 9)

        assert list(watch.paths) == ["yahoo.com"]


async def test_many_changed_answers_are_told_by_one_invalidation(url):
    write_rules(url, yahoo(_SLOW, connection_limit=7))
    names = [f"d{n}.example" for n in range(200)]
    async with serving(url) as client, client.watch(*names) as watch:
        await watch.until(lambda: len(watch.paths) == 200)
        watch.paths.clear()

        await asyncio.to_thread(run_sql, url, "UPDATE rule_options SET value = '9'")
        await watch.until(lambda: watch.invalidations == 1)
        await client.report(outcome("e1", "slow down"))
        await watch.until(lambda: watch.invalidations == 2)

        assert watch.paths == {}


async def test_a_path_without_answer_is_told_as_removed(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch() as watch:
        unknown = pb.PathSubscription(name="x", routing_domain="no.example", egress_source="ip-1")

        await watch.send(subscribe=pb.WatchSubscribe(add=[unknown]))
        await watch.until(lambda: watch.removed)

        assert watch.removed == [("x", pb.RESOURCE_TYPE_EGRESS_PATH)]


@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param(lambda: {"start": pb.WatchStart()}, id="a second start"),
        pytest.param(dict, id="nothing"),
        pytest.param(
            lambda: {"subscribe": pb.WatchSubscribe(add=[pb.PathSubscription(name="x")])},
            id="a subscription without domain",
        ),
        pytest.param(
            lambda: {"subscribe": pb.WatchSubscribe(add=[subscription("x" * 513)])},
            id="a name too long",
        ),
    ],
)
async def test_requests_out_of_order_end_the_stream(url, request_of):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch() as watch:
        watch.stop_acknowledging()
        await watch.send(**request_of())

        with pytest.raises(grpc.aio.AioRpcError):
            await watch.until(lambda: False)

        assert await watch.call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stopping_server_asks_its_clients_to_come_back(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch() as watch:
        await watch.until(lambda: watch.token)

        stopping = asyncio.create_task(client.server.stop())
        while await watch.read() is not None:
            pass
        await stopping

        assert watch.reconnect_after is not None


async def test_a_client_that_acknowledges_nothing_is_cut_off(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        hub = client.server._hub
        assert hub is not None
        hub._timing = WatchTiming(ack=0.3)
        async with client.watch("yahoo.com", acknowledge=False) as watch:
            for number in range(8):
                await client.report(outcome(f"e{number}"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.until(lambda: False)

        assert caught.value.code() is grpc.StatusCode.ABORTED
        # At most the window was sent, beside bookmarks.
        assert sum(kind != pb.WatchPolicyResponse.KIND_BOOKMARK for kind in watch.kinds) <= 4


async def test_what_automation_does_is_counted(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        await client.report(outcome("e1"), outcome("e2", "fine"))

        kind = {"kind": "Suspend"}
        assert client.metric("penstock_server_outcomes_total", type="TransientFailure") == 2
        assert client.metric("penstock_server_automation_matches_total") == 1
        assert client.metric("penstock_server_actions_begun_total") == 1
        assert client.metric("penstock_server_actions_in_force", **kind) == 1
        await client.automation.CancelAction(CancelActionRequest(id=1))
        assert client.metric("penstock_server_actions_in_force", **kind) == 0


async def test_a_pattern_that_takes_too_long_is_counted(url):
    # Nothing but backtracking can find what a reference refers to.
    write_rules(url, yahoo(automation(r"(x)(a|aa)+\1$", "Suspend")))
    async with serving(url) as client:
        await client.report(outcome("e1", f"x{'a' * 200}b"))

        assert client.metric("penstock_server_pattern_timeouts_total") == 1


async def test_agents_that_share_a_source_are_told_of_in_log_and_metric(url, caplog):
    write_rules(url, yahoo(_SUSPEND))
    caplog.set_level(logging.INFO)

    def info(name, *sources):
        return pb.AgentInfo(name=name, egress_sources=sources)

    async with serving(url) as client:
        shared = "penstock_server_sources_shared"
        async with client.watch(info=info("mta-1", "ip-1", "ip-2")) as first:
            await first.until(lambda: first.token)
            async with client.watch(info=info("mta-1", "ip-1", "ip-2")) as again:
                await again.until(lambda: again.token)
                assert client.metric(shared) == 0
            async with client.watch(info=info("mta-2", "ip-2", "ip-3")) as second:
                await second.until(lambda: second.token)
                assert client.metric(shared) == 1
            (said,) = (r for r in caplog.records if r.message.startswith("agents share"))
            assert (said.agent, said.one, said.others) == ("mta-2", "ip-2", ("mta-1",))
            async with asyncio.timeout(5):
                while client.metric(shared):  # noqa: ASYNC110  # a gauge tells nobody
                    await asyncio.sleep(0.01)


async def test_a_caller_is_taken_at_its_word(url, caplog):
    write_rules(url, yahoo(_SUSPEND))
    caplog.set_level(logging.INFO)
    async with serving(url) as client:
        by = (("penstock-agent", "mta-7"),)
        async with client.watch(info=pb.AgentInfo(name="other"), metadata=by) as watch:
            await watch.until(lambda: watch.token)
        await client.report(outcome("e1"))
        await client.automation.CancelAction(CancelActionRequest(id=1), metadata=by)

        assert (await client.server.actions.get(1)).changed_by == "mta-7"
    began = [record.agent for record in caplog.records if record.message == "watch began"]
    assert began == ["mta-7"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("kind = 'Slow'", id="unknown kind"),
        pytest.param("expire_time = 'infinity'", id="no time"),
        pytest.param("new_value = 'fast'", id="no JSON"),
        pytest.param("rule_regexes = '7'", id="no list"),
    ],
)
async def test_an_action_that_nobody_can_read_holds_up_no_other(url, caplog, damage):
    if damage == "new_value = 'fast'" and url.startswith("postgresql"):
        pytest.skip("it takes no such value")
    write_rules(url, yahoo(_SUSPEND, _SLOW, connection_limit=7))
    async with serving(url) as client, client.watch("yahoo.com") as watch:
        await client.report(outcome("e1"))
        await watch.until(lambda: watch.suspensions)

        run_sql(url, f"UPDATE automation_actions SET {damage}, state = 'pinned'")
        await watch.until(lambda: not watch.suspensions)
        await client.report(outcome("e2"), outcome("e3", "slow down"))
        await watch.until(lambda: watch.paths["yahoo.com"].overrides)

        listing = await client.automation.ListActions(ListActionsRequest())
        assert "connection_limit" in [action.option for action in listing.actions]
        assert 1 not in [action.id for action in listing.actions]
    assert any(
        record.message == "action can't be read, it is left out" for record in caplog.records
    )
