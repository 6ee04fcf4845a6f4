"""The policy server on PostgreSQL: readiness, restarts of the database, several servers on one."""

import asyncio
import contextlib
import os
import sys
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest
from aiohttp import ClientSession
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text

from penstock.v1 import automation_service_pb2 as automation_pb
from penstock.v1 import feedback_service_pb2 as feedback_pb
from penstock.v1 import fleet_service_pb2 as fleet_pb
from penstock.v1 import limit_service_pb2 as limit_pb
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1 import rule_service_pb2 as rule_pb
from penstock.v1.automation_service_pb2_grpc import AutomationServiceStub
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from penstock.v1.fleet_service_pb2_grpc import FleetServiceStub
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from penstock.v1.rule_service_pb2_grpc import RuleServiceStub
from policy_server.automation.actions import ActionState
from policy_server.automation.decide import Match
from policy_server.cli.main import run
from policy_server.errors import StoreUnavailable
from policy_server.rules.layers import BlockDraft, LayerDraft, Scope, Threshold
from policy_server.server import Server
from policy_server.settings import DatabaseSettings, DnsSettings, ServerSettings, Settings
from policy_server.store.actions import count_and_act, read_actions
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import downgrade, newest_schema, upgrade
from tests.unit.policy_server.automation.examples import START, make_outcome, make_rule

_LAYER = LayerDraft(
    name="base", blocks=(BlockDraft(scope=Scope.DEFAULT, options={"connection_limit": 10}),)
)


@pytest.fixture
def url(postgresql):
    url = postgresql.new_database()
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def database(url):
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def migrated(database):
    upgrade(database)
    database.write_now(lambda connection: import_layers(connection, [_LAYER], author="test"))
    return database


@contextlib.asynccontextmanager
async def _serving(url):
    settings = Settings(
        server=ServerSettings(grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0"),
        database=DatabaseSettings(url=url),
        # Nothing answers at port 9, so that no test depends on a name server.
        dns=DnsSettings(nameservers=("127.0.0.1:9",), timeout=timedelta(seconds=0.2)),
    )
    server = Server(settings)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            yield server, channel
    finally:
        await server.stop(timedelta(seconds=1))


async def _limit(channel):
    question = pb.GetEgressPathConfigRequest(
        routing_domain="x.example",
        egress_source="ip-1",
        mx_hosts=[pb.MxHost(host="mx.x.example", preference=10)],
    )
    answer = await PolicyServiceStub(channel).GetEgressPathConfig(question)
    return answer.config.connection_limit.value


async def _sees(channel, limit, seconds=10):
    async def sees():
        return await _limit(channel) == limit

    await _until(sees, seconds)


async def _until(condition, seconds=10):
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def _readiness(server):
    address = f"http://127.0.0.1:{server.http_port}/readyz"
    async with ClientSession() as session, session.get(address) as response:
        return response.status, await response.text()


async def _health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest())).status


async def _set_limit(database, limit):
    def change(connection):
        connection.execute(text("UPDATE rule_options SET value = :v"), {"v": str(limit)})

    await database.write(change)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        pytest.param(lambda database: None, '"none"', id="no schema"),
        pytest.param(lambda database: upgrade(database, "0001"), '"0001"', id="an older one"),
    ],
)
async def test_on_a_wrong_schema_it_waits_and_becomes_ready_by_itself(
    url, database, prepare, says, monkeypatch
):
    await asyncio.to_thread(prepare, database)
    async with _serving(url) as (server, channel):
        status, reason = await _readiness(server)
        assert (status, await _health(channel)) == (503, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert says in reason
        assert "penstock-server migrate" in reason
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _limit(channel)
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert says in (refused.value.details() or "")

        monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)
        assert await asyncio.to_thread(run, ["migrate"]) == 0

        async def is_ready():
            return (await _readiness(server))[0] == 200

        await _until(is_ready)
        assert await _health(channel) == health_pb2.HealthCheckResponse.SERVING
        assert await _limit(channel) == 32


def _set_schema(database, schema):
    statement = text("UPDATE alembic_version SET version_num = :schema")
    database.write_now(lambda connection: connection.execute(statement, {"schema": schema}))


_CALLS = {
    "GetEgressPathConfig": lambda channel: PolicyServiceStub(channel).GetEgressPathConfig(
        pb.GetEgressPathConfigRequest(routing_domain="x.example", egress_source="ip-1")
    ),
    "WatchPolicy": lambda channel: (
        PolicyServiceStub(channel).WatchPolicy(iter([pb.WatchPolicyRequest()])).read()
    ),
    "ReportOutcomes": lambda channel: FeedbackServiceStub(channel).ReportOutcomes(
        feedback_pb.ReportOutcomesRequest()
    ),
    "StreamOutcomes": lambda channel: (
        FeedbackServiceStub(channel)
        .StreamOutcomes(iter([feedback_pb.StreamOutcomesRequest()]))
        .read()
    ),
    "ListActions": lambda channel: AutomationServiceStub(channel).ListActions(
        automation_pb.ListActionsRequest()
    ),
    "CreateAction": lambda channel: AutomationServiceStub(channel).CreateAction(
        automation_pb.CreateActionRequest(
            kind=automation_pb.ACTION_KIND_SUSPEND, egress_source="ip-1", pinned=True
        )
    ),
    "ListLayers": lambda channel: RuleServiceStub(channel).ListLayers(rule_pb.ListLayersRequest()),
    "ListAgents": lambda channel: FleetServiceStub(channel).ListAgents(
        fleet_pb.ListAgentsRequest()
    ),
    "ListLimits": lambda channel: LimitServiceStub(channel).ListLimits(
        limit_pb.ListLimitsRequest()
    ),
}


@pytest.mark.parametrize(
    ("schema", "remedy"),
    [
        pytest.param("", "run penstock-server migrate", id="none"),
        pytest.param("9999", "update the server", id="a newer one"),
    ],
)
async def test_on_a_wrong_schema_every_service_says_so_until_it_fits(url, database, schema, remedy):
    if schema:
        await asyncio.to_thread(upgrade, database)
        await asyncio.to_thread(_set_schema, database, schema)
    async with _serving(url) as (server, channel):
        for name, call in _CALLS.items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION, name
            assert refused.value.details().endswith(remedy)

        if schema:
            await asyncio.to_thread(_set_schema, database, newest_schema())
        else:
            await asyncio.to_thread(upgrade, database)

        async def is_ready():
            return (await _readiness(server))[0] == 200

        await _until(is_ready)
        assert await _limit(channel) == 32
        listed = await RuleServiceStub(channel).ListLayers(rule_pb.ListLayersRequest())
        assert not listed.layers


async def test_commands_do_not_migrate_a_database_elsewhere(url, database, monkeypatch, capsys):
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)

    assert await asyncio.to_thread(run, ["rules", "list"]) == 1
    assert "penstock-server migrate" in capsys.readouterr().err


async def test_commands_work_on_it_as_on_a_file(url, database, monkeypatch, tmp_path, capsys):
    rules = tmp_path / "base.toml"
    rules.write_text('["default"]\nconnection_limit = 4\n')
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)

    for command in (
        ["migrate"],
        ["rules", "import", str(rules)],
        ["rules", "list", "--json"],
        ["explain", "x.example", "--source", "ip-1", "--mx", "mx.x.example", "--json"],
        ["actions", "list", "--json"],
    ):
        assert await asyncio.to_thread(run, command) == 0, command
    output = capsys.readouterr().out
    assert '"blocks": 1' in output
    assert '"value": 4' in output


async def test_it_answers_while_the_database_is_away_and_goes_on_after(url, migrated, postgresql):
    async with _serving(url) as (server, channel):
        assert await _limit(channel) == 10
        with postgresql.down():
            assert await _limit(channel) == 10
            with pytest.raises(StoreUnavailable):
                await _set_limit(migrated, 11)
            assert (await _readiness(server))[0] == 200, "it has rules to answer from"

        await _set_limit(migrated, 12)
        await _sees(channel, 12)


async def test_it_starts_while_the_database_is_away(url, migrated, postgresql):
    with postgresql.down():
        async with _serving(url) as (server, _channel):
            status, reason = await _readiness(server)
    assert status == 503
    assert reason.startswith("database: ")


@contextlib.asynccontextmanager
async def _process(url):
    """A server in a process of its own, as `serve` runs it; give a channel to it."""
    settings = {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "policy_server.cli.main", "serve"),
        env=os.environ | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        address = line.partition("grpc=")[2].split()[0]
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
    finally:
        process.terminate()
        # Read to the end, so that its pipe is closed with it.
        await process.communicate()
    assert process.returncode == 0


async def test_two_server_processes_on_one_database_give_the_same_answers(url, migrated):
    async with _process(url) as one, _process(url) as other:
        assert await _limit(one) == await _limit(other) == 10

        for limit in (7, 8):
            await _set_limit(migrated, limit)
            await asyncio.gather(_sees(one, limit), _sees(other, limit))


async def test_an_action_that_one_server_puts_in_force_is_answered_by_the_other(url, migrated):
    async with _serving(url) as (one, _), _serving(url) as (other, _):
        rule = make_rule()
        now = datetime.now(UTC)
        outcome = make_outcome("e1", event_time=now)
        match = Match(rule=rule, outcome=outcome)

        await one.actions.count_and_act([match], now)

        async def has_it():
            return [action.rule_key for action in other.policy.actions()] == [rule.key]

        await _until(has_it)


async def test_findings_of_two_servers_are_written_down_once(url, migrated):
    async with _serving(url) as (one, _), _serving(url) as (other, _):
        await _set_limit(migrated, '"none"')
        # What a reload found is written down before it ends.
        await asyncio.gather(one.policy.reload(), other.policy.reload())

    count = text("SELECT count(*) FROM rule_errors WHERE code <> ''")
    assert migrated.read_now(lambda c: c.execute(count).scalar()) == 1


def test_outcomes_reported_to_two_servers_meet_one_threshold(url, migrated):
    rule = make_rule(trigger=Threshold(count=20, period=timedelta(hours=1)))
    other = Database(url)

    async def report(database, first):
        for number in range(first, first + 10):
            match = Match(rule=rule, outcome=make_outcome(f"e{number}", 100 + number / 100))
            await database.write(
                lambda c, m=match: count_and_act(c, matches=[m], now=START + timedelta(hours=2))
            )

    async def report_to_both():
        await asyncio.gather(report(migrated, 0), report(other, 10))

    asyncio.run(report_to_both())
    other.close()

    (action,) = migrated.read_now(lambda c: read_actions(c, states=list(ActionState), limit=9))
    assert action.match_count >= 20


def test_a_transaction_that_somebody_leaves_open_holds_nobody_up(url, migrated):
    with psycopg.connect(url) as person:
        person.execute("UPDATE rule_options SET value = '3'")

        revision, _ = migrated.write_now(
            lambda c: import_layers(c, [LayerDraft(name="other")], author="test")
        )
        person.commit()
        newest = person.execute("SELECT max(id) FROM policy_revisions").fetchone()

    assert newest == (revision + 1,)


def test_a_role_that_may_write_rules_alone_is_recorded_by_name(url, migrated):
    role = f"editor_{datetime.now(UTC):%H%M%S%f}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            connection.execute(f"GRANT SELECT, UPDATE ON rule_options TO {role}")
            with psycopg.connect(url, user=role) as person:
                person.execute("UPDATE rule_options SET value = '3'")
            with psycopg.connect(url, user=role) as person, pytest.raises(psycopg.Error):
                person.execute("DELETE FROM rule_history")
            authors = connection.execute(
                "SELECT h.author, r.author FROM rule_history h "
                "JOIN policy_revisions r ON r.id = h.revision ORDER BY h.id DESC LIMIT 1"
            ).fetchone()
        finally:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")

    assert authors == (role, role)


async def test_a_downgraded_database_makes_a_new_server_wait(url, migrated):
    await asyncio.to_thread(downgrade, migrated, "0001")

    async with _serving(url) as (server, _):
        assert (await _readiness(server))[0] == 503
