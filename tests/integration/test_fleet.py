"""What the servers know of the agents that watch, and what polling clients are told."""

import asyncio
import json
from datetime import timedelta

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration

from penstock.v1 import automation_service_pb2 as actions_pb
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.fleet_service_pb2 import Agent, ListAgentsRequest
from policy_server.cli.main import cli
from tests.integration.watching import (
    Client,
    automation,
    outcome,
    run_sql,
    serving,
    write_rules,
    yahoo,
)

_SUSPEND = automation(r"\[TS04\]", "Suspend")
_TENANT = automation("slow tenant", "SuspendTenant")
_BOUNCE = automation("bounce it", "BounceTenant")
_INFO = pb.AgentInfo(name="mta-1", version="1.2", egress_sources=["ip-1", "ip-2"])


@pytest.fixture
def url(database_url):
    return database_url


async def _agents(client: Client, **request) -> dict[str, Agent]:
    answer = await client.fleet.ListAgents(ListAgentsRequest(**request))
    return {agent.name: agent for agent in answer.agents}


async def _until(condition, seconds: float = 10):
    """Ask until *condition* gives something; each asking waits for the server's answer."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            pass
        return found


async def test_the_fleet_shows_who_watches_and_what_each_has_applied(url):
    write_rules(url, yahoo(_SUSPEND, connection_limit=7))
    async with serving(url) as client:
        async with client.watch("yahoo.com", info=_INFO) as watch:
            await watch.until(lambda: watch.paths and watch.token)

            async def is_current():
                newest = (await client.fleet.ListAgents(ListAgentsRequest())).revision
                agent = (await _agents(client, connected_only=True)).get("mta-1")
                return agent if agent and agent.applied_revision == newest else None

            agent = await _until(is_current)
            assert (agent.connected, agent.version, agent.subscribed_paths) == (True, "1.2", 1)
            assert list(agent.egress_sources) == ["ip-1", "ip-2"]

            # What was sent but not acknowledged has not been applied.
            watch.stop_acknowledging()
            await client.report(outcome("e1"))
            await watch.until(lambda: watch.suspensions)
            before = (await _agents(client))["mta-1"].applied_revision
            assert before < (await client.fleet.ListAgents(ListAgentsRequest())).revision
            nonce = watch.newest_nonce
            await watch.send(ack=pb.WatchAck(nonce=nonce))
            assert (await _until(is_current)).applied_revision > before

        async def is_gone():
            return not (await _agents(client))["mta-1"].connected

        await _until(is_gone)
        assert await _agents(client, connected_only=True) == {}


async def test_a_refusal_is_shown_and_holds_the_applied_revision_back(url):
    write_rules(url, yahoo(_SUSPEND, connection_limit=7))
    async with serving(url) as client, client.watch("yahoo.com", info=_INFO) as watch:
        await watch.until(lambda: watch.paths and watch.token)
        watch.stop_acknowledging()
        run_sql(url, "UPDATE rule_options SET value = '8'")
        await watch.until(lambda: watch.paths["yahoo.com"].config.connection_limit.value == 8)
        refused = watch.newest_nonce
        rejected = pb.RejectedResource(name="yahoo.com", code=3, message="8 is no good")
        await watch.send(ack=pb.WatchAck(nonce=refused, error="1 refused", rejected=[rejected]))

        async def is_refused():
            agent = (await _agents(client)).get("mta-1")
            return agent if agent and agent.reject_reason else None

        agent = await _until(is_refused)
        assert agent.reject_reason == "1 refused"
        newest = (await client.fleet.ListAgents(ListAgentsRequest())).revision
        assert agent.applied_revision < newest
        assert client.metric("penstock_server_watch_refusals_total") == 1

        # The refused answer does not come again; the next different one does, and is applied.
        run_sql(url, "UPDATE rule_options SET value = '9'")
        seen = len(watch.kinds)
        await watch.until(lambda: watch.paths["yahoo.com"].config.connection_limit.value == 9)
        assert len(watch.kinds) - seen <= 3
        await watch.send(ack=pb.WatchAck(nonce=watch.newest_nonce))

        async def has_caught_up():
            newest = (await client.fleet.ListAgents(ListAgentsRequest())).revision
            return (await _agents(client))["mta-1"].applied_revision == newest

        await _until(has_caught_up)


async def test_tenants_and_bounces_reach_watching_agents_and_those_that_poll(url):
    write_rules(url, yahoo(_TENANT, _BOUNCE))
    async with serving(url) as client, client.watch() as watch:
        await watch.until(lambda: watch.token)

        await client.report(
            outcome("e1", "slow tenant", tenant="acme"), outcome("e2", "bounce it", tenant="acme")
        )
        await watch.until(lambda: watch.suspensions and watch.bounces)

        ((held, suspension),) = watch.suspensions.items()
        ((bounced, bounce),) = watch.bounces.items()
        assert (suspension.tenant, suspension.routing_domain) == ("acme", "yahoo.com")
        assert (suspension.egress_source, suspension.site_name) == ("", "")
        assert (bounce.tenant, bounce.routing_domain) == ("acme", "yahoo.com")
        listed = await client.policy.ListSuspensions(pb.ListSuspensionsRequest())
        assert [str(one.action_id) for one in listed.suspensions] == [held]
        assert [str(one.action_id) for one in listed.bounces] == [bounced]

        for action_id in (held, bounced):
            await client.automation.CancelAction(actions_pb.CancelActionRequest(id=int(action_id)))
        await watch.until(lambda: not watch.suspensions and not watch.bounces)
        assert sorted(watch.removed) == sorted(
            [(held, pb.RESOURCE_TYPE_SUSPENSION), (bounced, pb.RESOURCE_TYPE_BOUNCE)]
        )


async def test_polling_clients_get_pages(url):
    write_rules(url, yahoo())
    async with serving(url) as client:
        for domain in ("a.example", "b.example", "c.example"):
            await client.automation.CreateAction(
                actions_pb.CreateActionRequest(
                    kind=actions_pb.ACTION_KIND_BOUNCE,
                    routing_domain=domain,
                    duration=Duration(seconds=60),
                )
            )
        found, token = [], ""
        for _ in range(2):
            page = await client.policy.ListSuspensions(
                pb.ListSuspensionsRequest(page_size=2, page_token=token)
            )
            found += [one.routing_domain for one in page.bounces]
            token = page.next_page_token

        assert (found, token) == (["a.example", "b.example", "c.example"], "")


async def test_a_pinned_suspension_has_no_end_on_the_wire(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch() as watch:
        await watch.until(lambda: watch.token)
        (action_id,) = (await client.report(outcome("e1"))).action_ids
        await watch.until(lambda: watch.suspensions)
        assert watch.suspensions[str(action_id)].HasField("expire_time")

        await client.automation.PinAction(actions_pb.PinActionRequest(id=action_id))
        await watch.until(lambda: not watch.suspensions[str(action_id)].HasField("expire_time"))

        until = Duration()
        until.FromTimedelta(timedelta(hours=3))
        await client.automation.ExtendAction(
            actions_pb.ExtendActionRequest(id=action_id, duration=until)
        )
        await watch.until(lambda: watch.suspensions[str(action_id)].HasField("expire_time"))


async def test_the_command_shows_agents_without_a_server(url, monkeypatch):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch(info=_INFO) as watch:
        await watch.until(lambda: watch.token)

        async def is_there():
            return await _agents(client)

        await _until(is_there)
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)

    ran = await asyncio.to_thread(CliRunner().invoke, cli, ["agents", "--json"])

    told = json.loads(ran.stdout)
    (agent,) = told["agents"]
    assert (agent["name"], agent["connected"]) == ("mta-1", False)
    assert agent["applied_revision"] <= told["revision"]
    table = await asyncio.to_thread(CliRunner().invoke, cli, ["agents"])
    assert "mta-1" in table.stdout
    assert "gone" in table.stdout


async def test_streams_that_come_and_go_leave_nothing_behind(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        hub = client.server._hub
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            watches = [client.watch("yahoo.com", info=_INFO) for _ in range(25)]
            await asyncio.gather(*(watch.__aenter__() for watch in watches))
            await watches[0].until(lambda watches=watches: watches[0].kinds)
            for watch in watches:
                watch.call.cancel()

        async def is_empty():
            await _agents(client)
            return hub.streams == 0

        await _until(is_empty)

        async def are_over():
            await _agents(client)
            return len(asyncio.all_tasks()) <= tasks + 5

        await _until(are_over)


async def test_each_worker_of_an_agent_is_known_for_itself(url):
    write_rules(url, yahoo(_SUSPEND))
    first, second = (
        (("penstock-agent", "mta-1"), ("penstock-worker", f"worker-{number}")) for number in (0, 1)
    )
    async with serving(url) as client:

        async def connected():
            return set(await _agents(client, connected_only=True))

        async def both():
            return await connected() == {"mta-1/worker-0", "mta-1/worker-1"}

        async def one():
            return await connected() == {"mta-1/worker-0"}

        async with client.watch("yahoo.com", info=_INFO, metadata=first) as watch:
            await watch.until(lambda: watch.token)
            async with client.watch("yahoo.com", info=_INFO, metadata=second) as other:
                await other.until(lambda: other.token)
                await _until(both)
                # They share the agent's sources as a matter of course.
                assert client.metric("penstock_server_sources_shared") == 0
            await _until(one)


@pytest.mark.parametrize(
    ("info", "field"),
    [
        pytest.param(pb.AgentInfo(name="w\0"), "agent_info.name", id="name"),
        pytest.param(pb.AgentInfo(name="w", version="1\n"), "agent_info.version", id="version"),
        pytest.param(
            pb.AgentInfo(name="w", egress_sources=["ip-1", "\x7f"]),
            "agent_info.egress_sources",
            id="source",
        ),
    ],
)
async def test_an_agent_with_a_control_character_in_a_name_is_refused_and_the_others_are_shown(
    url, info, field
):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        async with client.watch(info=info) as refused:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused.until(lambda: refused.token)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field in (caught.value.details() or "")

        async with client.watch(info=_INFO) as watch:
            await watch.until(lambda: watch.token)

            async def shown():
                return set(await _agents(client)) == {"mta-1"}

            await _until(shown)


async def test_a_page_token_that_no_list_gave_is_refused(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.fleet.ListAgents(ListAgentsRequest(page_token="a\0"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
