"""The policy server whole: a real server on port 0, a real database, a real client."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from sqlalchemy import text

from agent.sink.dns_server import DnsServer
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from policy_server.rules.layers import BlockDraft, LayerDraft, Scope
from policy_server.server import Server
from policy_server.settings import DatabaseSettings, DnsSettings, ServerSettings, Settings
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade

_ZONE: dict[str, Any] = {
    "mx": {
        "a.example": [[10, "mx1.mail.example"], [20, "mx2.mail.example"]],
        "b.example": [[10, "mx1.mail.example"], [20, "mx2.mail.example"]],
        "c.example": [[10, "mx.other.example"]],
        "plain.example": [],
        "null.example": [[0, "."]],
    },
    "faults": {"broken.example": "servfail"},
    "ttl": 60,
}


def _block(scope=Scope.DEFAULT, name="", **more):
    options = {key: more.pop(key) for key in list(more) if key.startswith("max_") or "limit" in key}
    return BlockDraft(scope=scope, name=name, options=options, **more)


_LAYER = LayerDraft(
    name="base",
    blocks=(
        _block(connection_limit=10),
        _block(Scope.DOMAIN, "a.example", connection_limit=3),
        _block(
            Scope.PROVIDER,
            "mail",
            matches=(("mx_suffix", ".mail.example"),),
            max_deliveries_per_connection=7,
        ),
    ),
)


@pytest.fixture
async def dns():
    async with DnsServer(_ZONE) as server:
        yield server


@pytest.fixture
def settings(database_url, dns):
    # What `migrate` does; the embedded database is migrated by the server itself.
    database = Database(database_url)
    upgrade(database)
    database.close()
    return Settings(
        server=ServerSettings(grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0"),
        database=DatabaseSettings(url=database_url),
        dns=DnsSettings(nameservers=(dns.address,), timeout=timedelta(seconds=1)),
    )


@pytest.fixture
async def server(settings):
    server = Server(settings)
    await server.start()
    yield server
    await server.stop(timedelta(seconds=1))


@pytest.fixture
async def stub(server):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield PolicyServiceStub(channel)


async def _import(server, *layers):
    drafts = layers or (_LAYER,)
    await server.database.write(lambda c: import_layers(c, drafts, author="test"))
    await server.policy.reload()
    await _until(lambda: _known(server) == server.policy.snapshot.rolled_up_domains)


def _known(server):
    return server.policy._loaded().rules.sites.keys()


async def _until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def _ask(domain, **more):
    return pb.GetEgressPathConfigRequest(routing_domain=domain, egress_source="ip-1", **more)


async def _sql(server, *statements):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement))

    await server.database.write(run)


async def test_a_question_without_hosts_is_resolved_by_the_server(server, stub):
    await _import(server)

    answer = await stub.GetEgressPathConfig(_ask("B.Example."))

    assert answer.site_name == "(mx1|mx2).mail.example"
    assert answer.path_name == "ip-1->(mx1|mx2).mail.example"
    assert answer.config.connection_limit.value == 3, "a.example's rule is for its whole site"
    assert answer.config.max_deliveries_per_connection == 7
    assert list(answer.provider_names) == ["mail"]
    assert answer.revision == server.policy.revision
    assert answer.max_age.ToTimedelta() == timedelta(seconds=60)


async def test_a_question_with_hosts_asks_no_dns(server, stub, dns):
    await _import(server)
    before = len(dns.queries)

    answer = await stub.GetEgressPathConfig(
        _ask("unknown.example", mx_hosts=[pb.MxHost(host="MX.Other.Example.", preference=1)])
    )

    assert answer.site_name == "mx.other.example"
    assert answer.config.connection_limit.value == 10
    assert len(dns.queries) == before


async def test_a_question_with_a_site_name_uses_the_hosts_known_for_it(server, stub):
    await _import(server)

    answer = await stub.GetEgressPathConfig(
        _ask("elsewhere.example", site_name="(mx1|mx2).mail.example")
    )

    assert list(answer.provider_names) == ["mail"]


@pytest.mark.parametrize(
    ("domain", "site", "path"),
    [
        ("plain.example", "plain.example", "ip-1->plain.example"),
        ("null.example", "", "ip-1->#null.example"),
        ("[192.0.2.1]", "192.0.2.1", "ip-1->192.0.2.1"),
    ],
)
async def test_odd_destinations_have_a_path_too(server, stub, domain, site, path):
    answer = await stub.GetEgressPathConfig(_ask(domain))

    assert (answer.site_name, answer.path_name) == (site, path)


async def test_an_equal_answer_comes_as_not_modified(server, stub):
    await _import(server)
    first = await stub.GetEgressPathConfig(_ask("a.example"))
    await _sql(server, "INSERT INTO rule_layers (name, position) VALUES ('empty', 9)")
    await server.policy.reload()

    again = await stub.GetEgressPathConfig(_ask("a.example", if_none_match=first.etag))

    assert again.not_modified
    assert not again.HasField("config")
    assert again.etag == first.etag
    assert again.revision == first.revision


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GetEgressPathConfigRequest(egress_source="x"), "routing_domain"),
        (pb.GetEgressPathConfigRequest(routing_domain="a.example"), "egress_source"),
        (_ask("a b"), "routing_domain"),
        (_ask("x" * 300), "routing_domain"),
        (_ask("a.example", mx_hosts=[pb.MxHost(host=f"h{n}") for n in range(201)]), "mx_hosts"),
    ],
)
async def test_a_bad_question_names_its_field(server, stub, request_, field):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetEgressPathConfig(request_)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = error_details_pb2.BadRequest()
    rpc_status.from_call(caught.value).details[0].Unpack(details)
    assert details.field_violations[0].field == field


async def test_a_silent_dns_is_unavailable_with_a_delay_to_retry(server, stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetEgressPathConfig(_ask("broken.example"))

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    details = error_details_pb2.RetryInfo()
    rpc_status.from_call(caught.value).details[0].Unpack(details)
    assert details.retry_delay.ToTimedelta() > timedelta()


async def test_a_domain_that_does_not_exist_is_not_found(server, stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetEgressPathConfig(_ask("nowhere.invalid"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_batch_keeps_its_order_and_survives_a_bad_question(server, stub):
    await _import(server)
    etag = (await stub.GetEgressPathConfig(_ask("a.example"))).etag

    reply = await stub.BatchGetEgressPathConfigs(
        pb.BatchGetEgressPathConfigsRequest(
            requests=[_ask("c.example"), _ask(""), _ask("a.example", if_none_match=etag)]
        )
    )

    first, second, third = reply.results
    assert first.response.site_name == "mx.other.example"
    assert second.error.code == 3
    assert third.response.not_modified


async def test_a_batch_of_more_than_500_is_refused(server, stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.BatchGetEgressPathConfigs(
            pb.BatchGetEgressPathConfigsRequest(requests=[_ask("a.example")] * 501)
        )

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_update_by_hand_changes_the_answer_within_a_second(server, stub):
    await _import(server)
    await _sql(
        server,
        "UPDATE rule_options SET value = '4' WHERE name = 'connection_limit' AND block_id = 1",
    )

    async with asyncio.timeout(1):
        limit = 0
        while limit != 4:
            answer = await stub.GetEgressPathConfig(_ask("c.example"))
            limit = answer.config.connection_limit.value
            await asyncio.sleep(0.02)


async def test_a_bad_row_is_recorded_and_repaired(server, stub):
    await _import(server)
    await _sql(server, "UPDATE rule_options SET value = '\"many\"' WHERE block_id = 1")
    await server.policy.reload()

    errors = await server.database.read(
        lambda c: c.execute(text("SELECT block_id, option, severity FROM rule_errors")).all()
    )
    assert [tuple(row) for row in errors] == [(1, "connection_limit", "error")]
    answer = await stub.GetEgressPathConfig(_ask("c.example"))
    assert answer.config.connection_limit.value == 10, "the last good version stays"

    await _sql(server, "UPDATE rule_options SET value = '5' WHERE block_id = 1")
    await server.policy.reload()
    left = await server.database.read(
        lambda c: c.execute(text("SELECT count(*) FROM rule_errors")).scalar()
    )
    assert left == 0


async def test_a_layer_begins_and_ends_by_itself(server, stub):
    now = datetime.now(UTC)
    later = LayerDraft(
        name="later",
        blocks=(_block(connection_limit=1),),
        valid_from=now + timedelta(seconds=1),
        valid_until=now + timedelta(seconds=3),
    )
    await _import(server, _LAYER, later)
    seen: list[int] = []

    async with asyncio.timeout(10):
        while seen[-1:] != [10] or 1 not in seen:
            answer = await stub.GetEgressPathConfig(_ask("c.example"))
            seen.append(answer.config.connection_limit.value)
            await asyncio.sleep(0.02)

    assert seen[0] == 10


async def test_listeners_hear_of_changes_until_they_leave(server):
    heard = []
    leave = server.policy.subscribe(lambda: heard.append(server.policy.revision))
    await _sql(server, "INSERT INTO rule_layers (name, position) VALUES ('a', 0)")
    await server.policy.reload()
    leave()
    await _sql(server, "INSERT INTO rule_layers (name, position) VALUES ('b', 1)")
    await server.policy.reload()

    assert heard == [1]


async def test_the_last_known_site_outlives_the_dns(server, stub, dns, settings):
    await _import(server)
    await server.stop(timedelta(seconds=0.1))
    dns.zone = type(dns.zone).from_mapping({"faults": {"a.example": "servfail"}})
    other = Server(settings)
    await other.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{other.grpc_port}") as channel:
            answer = await PolicyServiceStub(channel).GetEgressPathConfig(_ask("a.example"))
    finally:
        await other.stop(timedelta(seconds=0.1))

    assert answer.site_name == "(mx1|mx2).mail.example"
    assert answer.config.connection_limit.value == 3


async def test_a_rule_follows_its_domain_to_new_mx_hosts_when_the_answer_expires(server, stub, dns):
    dns.zone = type(dns.zone).from_mapping({**_ZONE, "ttl": 1})
    await _import(server)
    moved = {**_ZONE["mx"], "a.example": [[10, "new.other.example"]]}
    dns.zone = type(dns.zone).from_mapping({**_ZONE, "mx": moved, "ttl": 1})
    question = _ask("c.example", mx_hosts=[pb.MxHost(host="new.other.example", preference=1)])
    seen: list[int] = []

    async with asyncio.timeout(20):
        while seen[-1:] != [3]:
            seen.append((await stub.GetEgressPathConfig(question)).config.connection_limit.value)
            await asyncio.sleep(0.1)

    assert seen[0] == 10


async def test_health_reflection_and_http_pages(server):
    address = f"127.0.0.1:{server.grpc_port}"
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "penstock.v1.PolicyService", "penstock.v1.FeedbackService"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="none"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        names = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        listed = {entry.name async for m in names for entry in m.list_services_response.service}
    assert "penstock.v1.PolicyService" in listed

    async with ClientSession(f"http://127.0.0.1:{server.http_port}") as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(path) as page:
                assert (page.status, await page.text()) == (200, "ok\n")
        async with session.get("/metrics") as page:
            metrics = await page.text()
    assert (
        'penstock_server_rpc_total{code="OK",method="/grpc.health.v1.Health/Check"} 3.0' in metrics
    )
    assert "penstock_server_revision 0.0" in metrics


async def test_an_unforeseen_error_is_internal_and_keeps_its_secret(server, stub, caplog):
    server.policy._answers = None

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetEgressPathConfig(_ask("c.example"))

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error; the server's log has the details"
    assert "rpc failed" in caplog.text
    server.policy._answers = {}


async def test_explain_tells_the_origin_of_every_value_of_the_same_answer(server, stub):
    later = LayerDraft(
        name="later",
        blocks=(
            _block(additional_connection_limits={"shared": 4}),
            _block(Scope.DOMAIN, "a.example", source="ip-1", connection_limit=2),
        ),
    )
    await _import(server, _LAYER, later)
    answer = await stub.GetEgressPathConfig(_ask("b.example"))

    explained = await stub.ExplainEgressPathConfig(
        pb.ExplainEgressPathConfigRequest(routing_domain="B.example", egress_source="ip-1")
    )

    assert (explained.etag, explained.revision) == (answer.etag, answer.revision)
    assert explained.path_name == answer.path_name
    options = {option.name: option for option in explained.options}
    limit = options["connection_limit"]
    assert limit.value.number_value == answer.config.connection_limit.value == 2
    assert (limit.set_by.layer, limit.set_by.source) == ("later", "ip-1")
    assert not limit.set_by.HasField("automation_action_id")
    assert [(each.value.number_value, each.origin.name) for each in limit.overrode] == [
        (10, ""),
        (3, "a.example"),
    ]
    assert options["additional_connection_limits"].entries["shared"].layer == "later"
    assert not options["max_recipients_per_batch"].HasField("set_by")
    assert "max_message_rate" not in options


async def test_a_bad_question_can_not_be_explained(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ExplainEgressPathConfig(pb.ExplainEgressPathConfigRequest(egress_source="x"))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
