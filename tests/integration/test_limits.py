"""Limits are lent by a real server to real holders over real streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import grpc
import pytest
from click.testing import CliRunner

from penstock.v1 import limit_pb2
from penstock.v1 import limit_service_pb2 as pb
from penstock.v1 import policy_service_pb2 as policy_pb
from penstock.v1.automation_service_pb2 import (
    ACTION_KIND_SET_CONFIG,
    CancelActionRequest,
    CreateActionRequest,
)
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from policy_server.cli.main import cli
from policy_server.rules.layers import BlockDraft, LayerDraft, Scope
from tests.integration.limit_worker import HOSTS, PATIENCE, Worker, path
from tests.integration.watching import SITE, Client, run_sql, serving, write_rules, yahoo

KEY = f"connection_limit:ip-1->{SITE}"
SHARED = "additional_connection_limits:shaping-provider-yahoo-ip-1-limit"


@pytest.fixture
def url(database_url):
    return database_url


@contextlib.asynccontextmanager
async def lending(url: str, **options) -> AsyncIterator[tuple[Client, grpc.aio.Channel]]:
    """A server whose provider has these options; wait until it lends."""
    write_rules(url, yahoo(**options))
    async with serving(url) as client, channel_to(client) as channel:
        yield client, channel


@contextlib.asynccontextmanager
async def channel_to(client: Client) -> AsyncIterator[grpc.aio.Channel]:
    address = f"127.0.0.1:{client.server.grpc_port}"
    async with grpc.aio.insecure_channel(address) as channel:
        await _until_lending(channel)
        yield channel


async def _until_lending(channel: grpc.aio.Channel) -> pb.ListLimitsResponse:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await LimitServiceStub(channel).ListLimits(pb.ListLimitsRequest())
            await asyncio.sleep(0.05)


async def _find(channel: grpc.aio.Channel, key: str = KEY) -> pb.LimitState:
    response = await LimitServiceStub(channel).ListLimits(pb.ListLimitsRequest(key=key))
    return response.limits[0]


async def _end_of(call) -> grpc.StatusCode:
    """Read to the end of a stream, and return how it ended."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
        return await call.code()


async def test_answers_name_their_limits(url) -> None:
    async with lending(url, connection_limit=7, max_message_rate="local:5/s") as (client, _):
        question = policy_pb.GetEgressPathConfigRequest(
            routing_domain="yahoo.com", egress_source="ip-1", mx_hosts=HOSTS
        )
        answer = await client.policy.GetEgressPathConfig(question)

        refs = {ref.option: ref for ref in answer.limit_refs}
        assert refs["connection_limit"].key == KEY
        assert refs["connection_limit"].limit == 7
        assert refs["connection_limit"].sharing == limit_pb2.LIMIT_SHARING_FLEET
        assert refs["max_message_rate"].sharing == limit_pb2.LIMIT_SHARING_LOCAL
        question.if_none_match = answer.etag
        assert not (await client.policy.GetEgressPathConfig(question)).limit_refs


async def test_two_agents_share_a_limit_and_what_one_leaves_the_other_gets(url) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        first, second = Worker("mta-1"), Worker("mta-2", worker="1")
        async with first.connected(channel), second.connected(channel):
            first.want(KEY, 3, path())
            await first.report()
            await first.until(lambda: first.cap(KEY) == 10)

            second.want(KEY, 10, path())
            first.want(KEY, 10)
            await second.report()
            await second.until(lambda: second.cap(KEY) == 5)
            assert first.cap(KEY) == 5

            first.want(KEY, 1)
            await first.report()
            await second.until(lambda: second.cap(KEY) == 9)
            assert first.cap(KEY) == 1

            state = await _find(channel)
            assert (state.booked, state.holder_count) == (10, 2)
            assert {(one.agent, one.worker): one.units for one in state.holders} == {
                ("mta-1", ""): 1,
                ("mta-2", "1"): 9,
            }


async def test_who_polls_is_lent_the_same(url) -> None:
    rate = f"max_message_rate:ip-1->{SITE}"
    async with lending(url, max_message_rate="600/m,max_burst=4") as (_, channel):
        polls, streams = Worker("polls"), Worker("streams")
        polls.want(rate, 4, path())
        answer = await polls.exchange(channel)
        assert polls.cap(rate) == 4
        assert answer.terms.session_ttl.seconds == 15
        # Nobody used any of it yet: its units are full.
        assert answer.grants[0].fill_nano_events == 4_000_000_000

        async with streams.connected(channel):
            streams.want(rate, 4, path())
            await streams.report()
            await streams.until(lambda: streams.answers)
            await polls.exchange(channel)
            assert polls.cap(rate) == 2
            await polls.exchange(channel)
            await streams.until(lambda: streams.cap(rate) == 2)


async def test_a_key_that_no_answer_names_is_unknown(url) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        worker = Worker("mta-1")
        async with worker.connected(channel):
            worker.want("connection_limit:made-up", 1, path())
            # No path says what this is.
            worker.want("connection_limit:ip-2->mx", 1)
            await worker.report()

            await worker.until(lambda: len(worker.unknown) >= 2)

            assert set(worker.unknown) == {"connection_limit:made-up", "connection_limit:ip-2->mx"}
            assert worker.cap(KEY) == 0


async def test_a_limit_follows_rules_and_actions(url) -> None:
    async with lending(url, connection_limit=10) as (client, channel):
        worker = Worker("mta-1")
        async with worker.connected(channel):
            worker.want(KEY, 10, path())
            await worker.report()
            await worker.until(lambda: worker.cap(KEY) == 10)

            run_sql(url, "UPDATE rule_options SET value = '6' WHERE name = 'connection_limit'")
            await worker.until(lambda: worker.cap(KEY) == 6)

            request = CreateActionRequest(
                kind=ACTION_KIND_SET_CONFIG,
                egress_source="ip-1",
                site_name=SITE,
                option="connection_limit",
                value="2",
            )
            request.duration.FromSeconds(3600)
            created = await client.automation.CreateAction(request)
            await worker.until(lambda: worker.cap(KEY) == 2)

            await client.automation.CancelAction(CancelActionRequest(id=created.action.id))
            await worker.until(lambda: worker.cap(KEY) == 6)


async def test_of_values_that_disagree_the_smallest_holds_and_is_shown(url) -> None:
    own = BlockDraft(
        scope=Scope.DOMAIN,
        name="aol.com",
        mx_rollup=False,
        options={"additional_connection_limits": {SHARED.partition(":")[2]: 3}},
    )
    base = yahoo(provider_connection_limit=10)
    write_rules(url, LayerDraft(name="base", blocks=(*base.blocks, own)))
    async with serving(url) as client, channel_to(client) as channel:
        worker = Worker("mta-1")
        async with worker.connected(channel):
            worker.want(SHARED, 10, path())
            await worker.report()
            await worker.until(lambda: worker.cap(SHARED) == 10)

            # Another path turns up.
            other = Worker("mta-2")
            other.want(SHARED, 1, path("aol.com"))
            await other.exchange(channel)
            await worker.until(lambda: worker.cap(SHARED) <= 2)

            state = await _find(channel, SHARED)
            assert (state.limit, state.disagreeing) == (3, 1)


async def test_a_later_stream_of_a_worker_takes_over_and_is_told_what_was_lost(url) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        worker = Worker("mta-1")
        call = LimitServiceStub(channel).SyncLimits(metadata=worker.metadata)
        worker.want(KEY, 10, path())
        await call.write(pb.SyncLimitsRequest(report=worker.make_report()))
        # The grant is read by nobody.
        async with asyncio.timeout(PATIENCE):
            while not (await LimitServiceStub(channel).ListLimits(pb.ListLimitsRequest())).limits:
                pass

        async with worker.connected(channel):
            await worker.report()
            await worker.until(lambda: worker.cap(KEY) == 10)
            assert await _end_of(call) is grpc.StatusCode.ABORTED


async def test_who_begins_to_poll_leaves_its_stream(url) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        worker = Worker("mta-1")
        async with worker.connected(channel):
            await worker.report()
            await worker.until(lambda: worker.answers)

            worker.want(KEY, 10, path())
            await worker.exchange(channel)

            assert worker.cap(KEY) == 10
            assert (await worker.ended()).code() is grpc.StatusCode.ABORTED


async def test_a_path_whose_hosts_nobody_told_is_no_path_with_other_limits(url) -> None:
    """No name server answers here, and the hosts say which provider's limit holds."""
    async with lending(url, connection_limit=10) as (_, channel):
        unknown = pb.LimitPath(
            routing_domain="yahoo.example", egress_source="ip-1", site_name="mx.yahoo.example"
        )
        key = "connection_limit:ip-1->mx.yahoo.example"
        worker = Worker("mta-1")
        worker.want(key, 1, unknown)
        answer = await worker.exchange(channel)
        assert list(answer.unknown) == [key]
        # Of a site that was asked about the hosts are known.
        known = pb.LimitPath(routing_domain="yahoo.com", egress_source="ip-1", site_name=SITE)
        worker.want(KEY, 1, known)

        await worker.exchange(channel)

        assert worker.cap(KEY) == 10


async def test_a_worker_that_started_again_leaves_nothing_to_the_earlier_one(url) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        old, new = Worker("mta-1"), Worker("mta-1", incarnation=2)
        old.want(KEY, 10, path())
        await old.exchange(channel)
        new.want(KEY, 10, path())

        await new.exchange(channel)

        assert new.cap(KEY) == 10
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await old.exchange(channel)
        assert failure.value.code() is grpc.StatusCode.ABORTED


async def test_a_start_on_another_host_takes_nothing_from_one_that_may_still_run(
    url, caplog
) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        here, there = (Worker("mta-1", incarnation=n, host=f"host-{n}") for n in (1, 2))
        here.want(KEY, 10, path())
        await here.exchange(channel)
        there.want(KEY, 10, path())

        await there.exchange(channel)
        # The first one has heard nothing yet, and may use all that it had.
        assert (here.cap(KEY), there.cap(KEY)) == (10, 0)
        assert "a worker begins on another host" in caplog.text
        assert caplog.records[-1].earlier == ["mta-1@host-1"]

        # Both have a half once it is heard; and what it gives back goes to the other.
        async with asyncio.timeout(PATIENCE):
            while (here.cap(KEY), there.cap(KEY)) != (5, 5):
                await here.exchange(channel)
                await there.exchange(channel)
                assert here.cap(KEY) + there.cap(KEY) <= 10
        release = pb.ReleaseSessionRequest(incarnation=1, host="host-1")
        await LimitServiceStub(channel).ReleaseSession(release, metadata=here.metadata)
        await there.exchange(channel)
        assert there.cap(KEY) == 10


async def test_a_worker_that_was_released_but_lives_is_told_and_others_have_what_it_had(
    url,
) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        worker, other = Worker("mta-1"), Worker("mta-2")
        async with worker.connected(channel), other.connected(channel):
            worker.want(KEY, 10, path())
            await worker.report()
            await worker.until(lambda: worker.cap(KEY) == 10)
            request = pb.ReleaseSessionRequest(worker=worker.worker, incarnation=2**64 - 1)
            await LimitServiceStub(channel).ReleaseSession(request, metadata=worker.metadata)

            await worker.report()

            end = await worker.ended()
            assert end.code() is grpc.StatusCode.ABORTED
            assert "released" in (end.details() or "")
            other.want(KEY, 10, path())
            await other.report()
            await other.until(lambda: other.cap(KEY) == 10)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await worker.exchange(channel)
            assert failure.value.code() is grpc.StatusCode.ABORTED


async def test_an_earlier_start_that_asks_again_leaves_the_stream_of_the_later_one_alone(
    url,
) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        earlier, later = Worker("mta-1", incarnation=1), Worker("mta-1", incarnation=2)
        async with later.connected(channel):
            later.want(KEY, 10, path())
            await later.report()
            await later.until(lambda: later.cap(KEY) == 10)

            async with earlier.connected(channel):
                await earlier.report()
                assert (await earlier.ended()).code() is grpc.StatusCode.ABORTED
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await earlier.exchange(channel)
            assert failure.value.code() is grpc.StatusCode.ABORTED

            before = len(later.answers)
            await later.report()
            await later.until(lambda: len(later.answers) > before)


async def test_released_leases_are_free_at_once(url) -> None:
    async with lending(url, connection_limit=10) as (_, channel):
        first, second = Worker("mta-1"), Worker("mta-2")
        first.want(KEY, 10, path())
        await first.exchange(channel)
        request = pb.ReleaseSessionRequest(incarnation=1)
        stub = LimitServiceStub(channel)
        await stub.ReleaseSession(request, metadata=first.metadata)
        await stub.ReleaseSession(request, metadata=first.metadata)

        second.want(KEY, 10, path())
        await second.exchange(channel)

        assert second.cap(KEY) == 10


_REPORT = pb.LimitReport(incarnation=1, sequence=1)


@pytest.mark.parametrize(
    ("report", "field"),
    [
        pytest.param(pb.LimitReport(sequence=1), "report.incarnation", id="no incarnation"),
        pytest.param(pb.LimitReport(incarnation=1), "report.sequence", id="no sequence"),
        pytest.param(
            pb.LimitReport(incarnation=1, sequence=1, worker="a/b"),
            "report.worker",
            id="a worker with a slash",
        ),
        pytest.param(
            pb.LimitReport(incarnation=1, sequence=1, host="a@b"),
            "report.host",
            id="a host that is no name",
        ),
        pytest.param(
            pb.LimitReport(incarnation=1, sequence=1, demands=[pb.LimitDemand(handle=7)]),
            "report.demands[0].key",
            id="a handle without a key",
        ),
        pytest.param(
            pb.LimitReport(incarnation=1, sequence=1, demands=[pb.LimitDemand(key="k")] * 1001),
            "report.demands",
            id="too many demands",
        ),
    ],
)
async def test_a_report_with_a_mistake_is_refused(url, report: pb.LimitReport, field: str) -> None:
    async with lending(url) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await LimitServiceStub(channel).ExchangeLimits(
                pb.ExchangeLimitsRequest(report=report), metadata=(("penstock-agent", "mta-1"),)
            )

        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (failure.value.details() or "").startswith(f"{field} ")


async def test_who_has_no_name_is_lent_nothing(url) -> None:
    async with lending(url) as (_, channel):
        stub = LimitServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.ExchangeLimits(pb.ExchangeLimitsRequest(report=_REPORT))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        call = stub.SyncLimits(metadata=(("penstock-agent", "mta-1"),))
        await call.write(pb.SyncLimitsRequest(report=_REPORT))
        changed = pb.LimitReport(incarnation=2, sequence=2)
        await call.write(pb.SyncLimitsRequest(report=changed))
        assert await _end_of(call) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_server_that_stops_asks_workers_to_come_back_and_another_goes_on(url) -> None:
    async with lending(url, connection_limit=10) as (client, channel):
        worker = Worker("mta-1")
        async with worker.connected(channel):
            worker.want(KEY, 10, path())
            await worker.report()
            await worker.until(lambda: worker.cap(KEY) == 10)
            await client.server.stop()

            # To a call that ends while it is about to write, grpc.aio may give an error of its own.
            ends = {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL}
            assert (await worker.ended()).code() in ends
            assert worker.answers[-1].HasField("reconnect_after")
        epoch = worker.answers[-1].epoch

    async with serving(url) as client, channel_to(client) as channel:
        other = Worker("mta-2")
        async with worker.connected(channel), other.connected(channel):
            await worker.report()
            other.want(KEY, 10, path())
            await other.report()
            await other.until(lambda: other.answers)

            def is_shared() -> bool:
                # What the first one holds it has until it gives it up, and nobody else gets it.
                assert worker.cap(KEY) + other.cap(KEY) <= 10
                return worker.cap(KEY) + other.cap(KEY) == 10 and other.cap(KEY) > 0

            await worker.until(lambda: worker.answers[-1].epoch > epoch)
            await worker.until(is_shared)


async def test_a_second_server_says_who_keeps_the_book(url) -> None:
    async with lending(url, connection_limit=10) as (client, _), serving(url) as second:
        address = f"127.0.0.1:{second.server.grpc_port}"
        async with grpc.aio.insecure_channel(address) as channel:
            worker = Worker("mta-1")
            worker.want(KEY, 1, path())
            async with asyncio.timeout(PATIENCE):
                details = ""
                while str(client.server.grpc_port) not in details:
                    with pytest.raises(grpc.aio.AioRpcError) as failure:
                        await worker.exchange(channel)
                    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
                    details = failure.value.details() or ""
                    await asyncio.sleep(0.05)

            # It goes on at once when the first one has stopped.
            await client.server.stop()
            await _until_lending(channel)
            await worker.exchange(channel)
            assert worker.cap(KEY) == 10


async def test_the_command_shows_limits_and_ends_leases(url, monkeypatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)
    async with lending(url, connection_limit=10, max_message_rate="5/m,max_burst=2") as (
        _,
        channel,
    ):
        worker = Worker("mta-1", worker="w1")
        worker.want(KEY, 4, path())
        worker.want(f"max_message_rate:ip-1->{SITE}", 1, path())
        await worker.exchange(channel)

        async def run(*arguments: str):
            return await asyncio.to_thread(CliRunner().invoke, cli, ["limits", *arguments])

        listed = json.loads((await run("--json")).stdout)
        assert [(one["key"], one["limit"], one["booked"]) for one in listed["limits"]] == [
            (KEY, 10, 10),
            (f"max_message_rate:ip-1->{SITE}", "5/m,max_burst=2", 2),
        ]
        shown = json.loads((await run(KEY, "--json")).stdout)
        (holder,) = shown["limits"][0]["holders"]
        assert (holder["agent"], holder["worker"], holder["wants"]) == ("mta-1", "w1", 4)
        table = await run(KEY)
        assert table.exit_code == 0
        assert "mta-1/w1" in table.stdout
        assert (await run("no such key")).exit_code == 1

        for wrong in (["--force"], ["--release", "mta-1", KEY], ["--release", "mta-1@"]):
            assert (await run(*wrong)).exit_code == 2
        unknown = await run("--release", "mat-1", "--json")
        assert unknown.exit_code == 1
        assert 'no worker "mat-1" is known' in str(unknown.exception)
        refused = await run("--release", "mta-1", "--json")
        assert refused.exit_code == 1
        assert "mta-1/w1: heard a moment ago" in str(refused.exception)
        released = await run("--release", "mta-1", "--json", "--force")
        assert released.exit_code == 0
        assert json.loads(released.stdout) == {"released": "mta-1", "workers": ["mta-1/w1"]}
        other = Worker("mta-2")
        other.want(KEY, 1, path())
        await other.exchange(channel)
        assert other.cap(KEY) == 10

    stopped = await asyncio.to_thread(CliRunner().invoke, cli, ["limits"])
    assert stopped.exit_code == 1


async def test_the_command_ends_leases_where_an_agent_is_silent_and_not_where_it_is_heard(
    url, monkeypatch
) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)
    write_rules(url, yahoo(connection_limit=10))

    async def run(*arguments: str):
        return await asyncio.to_thread(CliRunner().invoke, cli, ["limits", *arguments])

    async with (
        serving(url, PENSTOCK_LIMITS_SESSION_TTL="5s") as client,
        channel_to(client) as channel,
    ):
        gone, moved = (Worker("mta-1", incarnation=n, host=f"host-{n}") for n in (1, 2))
        gone.want(KEY, 10, path())
        moved.want(KEY, 10, path())
        async with asyncio.timeout(PATIENCE):
            while (gone.cap(KEY), moved.cap(KEY)) != (5, 5):
                await gone.exchange(channel)
                await moved.exchange(channel)
        table = (await run(KEY)).stdout
        assert "mta-1@host-1" in table
        assert "mta-1@host-2" in table

        async with asyncio.timeout(PATIENCE):
            while (ended := await run("--release", "mta-1", "--json")).exit_code:
                assert "mta-1@host-1, mta-1@host-2: heard a moment ago" in str(ended.exception)
                await moved.exchange(channel)
        assert json.loads(ended.stdout)["workers"] == ["mta-1@host-1"]
        assert "mta-1@host-2 is heard, and keeps its leases" in ended.stderr
        async with asyncio.timeout(PATIENCE):
            while moved.cap(KEY) != 10:
                await moved.exchange(channel)

        assert (await run("--release", "mta-1@host-2", "--force")).exit_code == 0
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await moved.exchange(channel)
        assert failure.value.code() is grpc.StatusCode.ABORTED
