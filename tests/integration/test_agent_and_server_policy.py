"""The agent's policy part and reporting against the real policy server."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from agent.convert import outcome_of
from agent.delivery.record import RecordType, Response
from agent.outcomes.uploader import OutcomeUploader
from agent.policy.access import PolicyAccess, open_policy
from agent.policy.answer import MxHost
from agent.policy.channel import identity, open_channel
from agent.settings import Settings
from agent.spool.sqlite import SqliteSpool
from penstock.v1.feedback_service_pb2 import ReportOutcomesRequest
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from policy_server.server import Server
from policy_server.settings import Settings as ServerSettings
from tests.integration.policy_peer import until
from tests.integration.test_outcomes import put_in_outbox
from tests.unit.agent.test_convert import RECORD

MX = (MxHost(host="mx.foo.example", preference=10),)


@asynccontextmanager
async def serving(directory, port: int = 0) -> AsyncIterator[Server]:
    settings = ServerSettings.model_validate(
        {
            "server": {"grpc_listen": f"127.0.0.1:{port}", "http_listen": "127.0.0.1:0"},
            "database": {"url": f"sqlite:///{directory}/server.db"},
            "dns": {"nameservers": ["127.0.0.1:1"], "timeout": "100ms"},
        }
    )
    server = Server(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(timedelta(0))


@asynccontextmanager
async def watching(port: int, directory) -> AsyncIterator[PolicyAccess]:
    settings = Settings.model_validate(
        {
            "agent": {"name": "mta-1", "data_dir": str(directory)},
            "policy": {"server": f"127.0.0.1:{port}"},
            "source": [{"name": "ip-1"}],
        }
    )
    async with open_channel(settings.policy.server) as channel:
        policy = await open_policy(settings, channel, clock=time.time, random=Random(1))
        try:
            yield policy
        finally:
            await policy.close()


def limit_of(policy: PolicyAccess) -> int:
    found = policy.client.lookup("foo.example", "ip-1")
    return found.config.connection_limit.value if found else 0


async def change(server: Server, *statements: str) -> None:
    await server.database.write(lambda sql: [sql.execute(text(one)) for one in statements])


RULES = (
    "INSERT INTO rule_layers (id, name, position) VALUES (1, 'base', 1)",
    "INSERT INTO rule_blocks (id, layer_id, scope, name) VALUES (1, 1, 'domain', 'foo.example')",
    "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'connection_limit', '7')",
)
AUTOMATION = (
    "INSERT INTO automation_rules (block_id, position, regexes, actions, trigger, duration)"
    """ VALUES (1, 0, '["TS01"]', '["Suspend"]', '"Immediate"', '"3s"')"""
)


async def test_a_rule_changed_in_sql_reaches_the_agent_which_keeps_it_without_the_server(tmp_path):
    async with serving(tmp_path) as server:
        port = server.grpc_port
        async with watching(port, tmp_path / "agent") as policy:
            await policy.client.fetch("foo.example", "ip-1", MX)
            assert limit_of(policy) == 32

            await change(server, *RULES)
            await until(lambda: limit_of(policy) == 7)

    async with watching(port, tmp_path / "agent") as policy:
        fetched = await policy.client.fetch("foo.example", "ip-1", MX)

        assert fetched.config.connection_limit.value == 7
        assert limit_of(policy) == 7


async def test_a_reported_outcome_suspends_the_path_until_the_suspension_ends(tmp_path):
    async with serving(tmp_path) as server, watching(server.grpc_port, tmp_path / "a") as policy:
        await change(server, *RULES, AUTOMATION)
        await server.policy.reload()
        path = await policy.client.fetch("foo.example", "ip-1", MX)
        outcome = outcome_of(
            replace(RECORD, timestamp=time.time(), site=path.path_name, site_name=path.site_name)
        )

        async with open_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            answer = await FeedbackServiceStub(channel).ReportOutcomes(
                ReportOutcomesRequest(outcomes=[outcome]), metadata=identity("mta-1"), timeout=5
            )

        assert len(answer.action_ids) == 1
        await until(lambda: policy.client.suspension_of(path) is not None)
        await until(lambda: policy.client.suspension_of(path) is None)


async def test_outcomes_that_a_new_rule_matches_are_sent_though_the_filter_left_out_their_like(
    tmp_path,
):
    spool = await SqliteSpool.open(tmp_path / "spool")
    async with (
        serving(tmp_path) as server,
        watching(server.grpc_port, tmp_path / "a") as policy,
        open_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        await change(server, *RULES, AUTOMATION)
        await server.policy.reload()
        path = await policy.client.fetch("foo.example", "ip-1", MX)
        uploader = OutcomeUploader(
            spool, channel, agent_name="mta-1", clock=time.time, random=Random(1)
        )
        uploader.start()
        await until(lambda: uploader.has_filter)

        async def report(prefix: str) -> None:
            records = [
                replace(
                    RECORD,
                    type=RecordType.DELIVERY,
                    event_id=f"{prefix}{number}",
                    timestamp=time.time(),
                    site=path.path_name,
                    site_name=path.site_name,
                    response=Response(code=250, content="queued as 7"),
                )
                for number in range(1100)
            ]
            await put_in_outbox(spool, records)
            uploader.on_records(records)
            await until(lambda: spool.record_count == 0, 20)

        await report("a")
        # Counted right after they are gone.
        await until(lambda: uploader.skipped == {RecordType.DELIVERY: 1100})
        await change(server, """UPDATE automation_rules SET regexes = '["^250 queued"]'""")
        await server.policy.reload()
        await report("b")

        await until(lambda: uploader.sent == 1100)
        assert uploader.skipped == {RecordType.DELIVERY: 1100}
        matches = await server.database.read(
            lambda sql: sql.execute(text("SELECT count(*) FROM automation_matches")).scalar()
        )
        assert matches == 1100
        await uploader.close()
    await spool.close()


async def test_a_server_that_comes_back_is_watched_again(tmp_path):
    async with serving(tmp_path) as server:
        port = server.grpc_port
        await change(server, *RULES)
        await server.policy.reload()
    async with watching(port, tmp_path / "agent") as policy:
        async with serving(tmp_path, port) as server:
            await policy.client.fetch("foo.example", "ip-1", MX)
            await until(lambda: policy.watch.connected)
        await until(lambda: not policy.watch.connected)
        async with serving(tmp_path, port) as server:
            await until(lambda: policy.watch.connected, 30)
            await change(server, "UPDATE rule_options SET value = '4'")

            await until(lambda: limit_of(policy) == 4)


@pytest.mark.parametrize("known", [True, False])
async def test_a_new_database_of_the_server_is_believed(tmp_path, known):
    """Revisions start again at 1, and what the old database said must not stay for that."""
    (tmp_path / "new").mkdir()
    async with serving(tmp_path) as server:
        port = server.grpc_port
        await change(server, *RULES)
        for value in (5, 6, 7):
            await change(server, f"UPDATE rule_options SET value = '{value}'")
        await server.policy.reload()
        async with watching(port, tmp_path / "agent") as policy:
            if known:
                await policy.client.fetch("foo.example", "ip-1", MX)
    async with (
        serving(tmp_path / "new", port),
        watching(port, tmp_path / "agent") as policy,
    ):
        await policy.client.fetch("foo.example", "ip-1", MX)

        await until(lambda: limit_of(policy) == 32, 20)
