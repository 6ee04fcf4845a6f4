"""RuleService on a real server: files in and out, races, history, and what is refused."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from sqlalchemy import text

from agent.sink.dns_server import DnsServer
from penstock.v1 import policy_service_pb2
from penstock.v1 import rule_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from penstock.v1.rule_service_pb2_grpc import RuleServiceStub
from policy_server.server import Server
from policy_server.settings import DatabaseSettings, DnsSettings, ServerSettings, Settings

_RULES = b'# Ours.\n\n["default"]\nconnection_limit = 10  # enough\n'
_NAME = "penstock.v1.RuleService"


@pytest.fixture
async def server(tmp_path):
    async with DnsServer({"mx": {"a.example": [[10, "mx.a.example"]]}}) as dns:
        server = Server(
            Settings(
                server=ServerSettings(grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0"),
                database=DatabaseSettings(url=f"sqlite:///{tmp_path}/penstock.db"),
                dns=DnsSettings(nameservers=(dns.address,), timeout=timedelta(seconds=1)),
            )
        )
        await server.start()
        yield server
        await server.stop(timedelta(seconds=1))


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return RuleServiceStub(channel)


async def _import(stub, name="custom", content=_RULES, **more):
    request = pb.ImportLayerRequest(layer_name=name, content=content, **more)
    return await stub.ImportLayer(request, metadata=[("penstock-agent", "ada")])


async def _refusal(call):
    """The code, message and violations of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    status = rpc_status.from_call(refused.value)
    violations = []
    for detail in status.details if status else ():
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            violations = [(item.field, item.description) for item in request.field_violations]
    return refused.value.code().name, refused.value.details(), violations


async def _limit(channel):
    question = policy_service_pb2.GetEgressPathConfigRequest(
        routing_domain="a.example", egress_source="ip-1", site_name="mx.a.example"
    )
    answer = await PolicyServiceStub(channel).GetEgressPathConfig(question)
    return answer.config.connection_limit.value


async def test_an_imported_layer_is_in_force_at_once(stub, channel):
    response = await _import(stub)

    assert await _limit(channel) == 10
    assert (response.layer.name, response.layer.block_count) == ("custom", 1)
    assert (response.layer.enabled, response.layer.description) == (True, "Ours.")
    assert response.revision == 1


async def test_what_is_imported_is_exported(stub):
    await _import(stub)

    as_toml = await stub.ExportLayer(pb.ExportLayerRequest(layer_name="custom"))
    as_json = await stub.ExportLayer(
        pb.ExportLayerRequest(layer_name="custom", format=pb.RULE_FILE_FORMAT_JSON)
    )

    assert as_toml.content == _RULES
    assert (as_toml.revision, as_toml.layer.name) == (1, "custom")
    assert as_json.content == b'{\n  "default": {\n    "connection_limit": 10\n  }\n}\n'
    again = await _import(
        stub, "copy", as_json.content, format=pb.RULE_FILE_FORMAT_JSON, file_name="copy.json"
    )
    assert (again.layer.block_count, again.layer.position) == (1, 1)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        pytest.param(
            b'["default"]\nmax_message_rate = "100/foo"\n',
            2,
            ["[default]", 'max_message_rate "100/foo"', "expected s, min, h or day"],
            id="a bad value",
        ),
        pytest.param(
            b'["default"]\nmax_mesage_rate = 1\n', 2, ["max_message_rate"], id="a misspelt option"
        ),
        pytest.param(b'["default"\n', 1, ["not TOML"], id="no TOML"),
        pytest.param(b'["default"]\n# \xff\n', 2, ["0xff", "UTF-8"], id="no UTF-8"),
        pytest.param(
            b'["A.example"]\n["a.example"]\n', 2, ["already in line 1"], id="a duplicate block"
        ),
        pytest.param(b"x = " + b"[" * 5000, 1, ["nested too deeply"], id="deep nesting"),
    ],
)
async def test_a_mistake_in_a_file_is_a_violation_that_names_its_place(stub, content, line, words):
    call = _import(stub, content=content, file_name="bad.toml")

    code, message, ((field, description), *_) = await _refusal(call)

    assert (code, field) == ("INVALID_ARGUMENT", "content")
    assert description.startswith(f"bad.toml:{line}: ")
    assert message.startswith("nothing was imported: bad.toml:")
    for word in words:
        assert word in description
    assert not (await stub.ListLayers(pb.ListLayersRequest())).layers


async def test_very_many_mistakes_are_reported_as_far_as_there_is_room(stub):
    content = "".join(f'["{n}.example"]\nmax_ready = "{"x" * 100}"\n' for n in range(5000))

    code, message, violations = await _refusal(_import(stub, content=content.encode()))

    assert code == "INVALID_ARGUMENT"
    assert "and 4999 more mistakes" in message
    assert 5 < len(violations) < 50


async def test_a_secret_is_not_in_the_refusal(stub):
    content = b'["default"]\nsmtp_auth_plain_password = ["hunter2"]\n'

    assert "hunter2" not in str(await _refusal(_import(stub, content=content)))


async def test_a_layer_that_holds_a_secret_is_not_exported(stub):
    await _import(stub, content=b'["default"]\ntls_private_key = { key_data = "hunter2" }\n')

    refusal = await _refusal(stub.ExportLayer(pb.ExportLayerRequest(layer_name="custom")))

    assert refusal[0] == "INVALID_ARGUMENT"
    assert "never exported" in refusal[2][0][1]
    assert "hunter2" not in str(refusal)


@pytest.mark.parametrize(
    ("name", "request_", "code", "field"),
    [
        ("ImportLayer", pb.ImportLayerRequest(), "INVALID_ARGUMENT", "layer_name"),
        ("ImportLayer", pb.ImportLayerRequest(layer_name="\n"), "INVALID_ARGUMENT", "layer_name"),
        (
            "ImportLayer",
            pb.ImportLayerRequest(layer_name="a" * 256),
            "INVALID_ARGUMENT",
            "layer_name",
        ),
        (
            "ValidateLayer",
            pb.ValidateLayerRequest(layer_name="a\0"),
            "INVALID_ARGUMENT",
            "layer_name",
        ),
        (
            "ExportLayer",
            pb.ExportLayerRequest(layer_name="a\0"),
            "INVALID_ARGUMENT",
            "layer_name",
        ),
        (
            "DeleteLayer",
            pb.DeleteLayerRequest(layer_name="a\0"),
            "INVALID_ARGUMENT",
            "layer_name",
        ),
        (
            "ReorderLayers",
            pb.ReorderLayersRequest(layer_names=["a\0"]),
            "INVALID_ARGUMENT",
            "layer_names",
        ),
        (
            "ImportLayer",
            pb.ImportLayerRequest(layer_name="a", format=7),
            "INVALID_ARGUMENT",
            "format",
        ),
        (
            "ImportLayer",
            pb.ImportLayerRequest(layer_name="a", expected_revision=-1),
            "INVALID_ARGUMENT",
            "expected_revision",
        ),
        ("ValidateLayer", pb.ValidateLayerRequest(), "INVALID_ARGUMENT", "layer_name"),
        ("ExportLayer", pb.ExportLayerRequest(), "INVALID_ARGUMENT", "layer_name"),
        ("ExportLayer", pb.ExportLayerRequest(layer_name="none"), "NOT_FOUND", None),
        ("DeleteLayer", pb.DeleteLayerRequest(layer_name="none"), "NOT_FOUND", None),
        ("ReorderLayers", pb.ReorderLayersRequest(layer_names=["none"]), "NOT_FOUND", None),
        ("RollbackToRevision", pb.RollbackToRevisionRequest(revision=99), "NOT_FOUND", None),
        (
            "RollbackToRevision",
            pb.RollbackToRevisionRequest(revision=-1),
            "INVALID_ARGUMENT",
            "revision",
        ),
        ("ListLayers", pb.ListLayersRequest(page_token="x"), "INVALID_ARGUMENT", "page_token"),
        ("ListLayers", pb.ListLayersRequest(page_token="7"), "INVALID_ARGUMENT", "page_token"),
        (
            "ListRevisions",
            pb.ListRevisionsRequest(page_token="-1"),
            "INVALID_ARGUMENT",
            "page_token",
        ),
        (
            "ListRuleErrors",
            pb.ListRuleErrorsRequest(page_token="1" * 30),
            "INVALID_ARGUMENT",
            "page_token",
        ),
        ("ImportLayer", pb.ImportLayerRequest(content=b"#" * 2**23), "RESOURCE_EXHAUSTED", None),
    ],
)
async def test_a_bad_request_is_refused(stub, name, request_, code, field):
    found, _, violations = await _refusal(getattr(stub, name)(request_))

    assert found == code
    assert [place for place, _ in violations][:1] == ([field] if field else [])


async def test_a_lost_race_is_aborted(stub):
    first = await _import(stub)
    await _import(stub, "other")
    requests = [
        ("ImportLayer", pb.ImportLayerRequest(layer_name="a", expected_revision=first.revision)),
        ("DeleteLayer", pb.DeleteLayerRequest(layer_name="other", expected_revision=1)),
        ("ReorderLayers", pb.ReorderLayersRequest(layer_names=["other"], expected_revision=1)),
        ("RollbackToRevision", pb.RollbackToRevisionRequest(expected_revision=1)),
    ]

    for name, request in requests:
        code, message, _ = await _refusal(getattr(stub, name)(request))
        assert (code, "in revision 2" in message) == ("ABORTED", True)

    listed = await stub.ListLayers(pb.ListLayersRequest())
    assert [layer.name for layer in listed.layers] == ["custom", "other"]


async def test_of_many_at_once_one_wins(stub):
    await _import(stub)
    calls = (
        _import(stub, content=b'["default"]\nconnection_limit = %d\n' % n, expected_revision=1)
        for n in range(1, 9)
    )

    results = await asyncio.gather(*calls, return_exceptions=True)

    lost = [error.code().name for error in results if isinstance(error, grpc.aio.AioRpcError)]
    assert lost == ["ABORTED"] * 7


async def test_layers_are_ordered_deleted_and_rolled_back(stub, channel):
    await _import(stub, "low", b'["default"]\nconnection_limit = 1\n')
    await _import(stub, "high", b'["default"]\nconnection_limit = 2\n')
    assert await _limit(channel) == 2

    reordered = await stub.ReorderLayers(pb.ReorderLayersRequest(layer_names=["high", "low"]))
    assert (reordered.revision, await _limit(channel)) == (3, 1)

    await stub.DeleteLayer(pb.DeleteLayerRequest(layer_name="low"))
    assert await _limit(channel) == 2

    back = await stub.RollbackToRevision(pb.RollbackToRevisionRequest(revision=3))
    assert (back.revision, back.row_count, await _limit(channel)) == (5, 3, 1)


async def test_revisions_are_listed_page_by_page(stub):
    for name in "abc":
        await _import(stub, name)

    first = await stub.ListRevisions(pb.ListRevisionsRequest(page_size=2))
    rest = await stub.ListRevisions(
        pb.ListRevisionsRequest(page_size=2, page_token=first.next_page_token)
    )

    assert [item.revision for item in first.revisions] == [3, 2]
    assert [item.revision for item in rest.revisions] == [1]
    assert not rest.next_page_token
    newest = first.revisions[0]
    assert (newest.author, newest.summary, newest.row_count) == ("ada", "imported c", 3)
    assert newest.commit_time.seconds > 0


async def test_layers_are_listed_page_by_page(stub):
    for name in "abc":
        await _import(stub, name)

    first = await stub.ListLayers(pb.ListLayersRequest(page_size=2))
    rest = await stub.ListLayers(pb.ListLayersRequest(page_token=first.next_page_token))

    assert [layer.name for layer in (*first.layers, *rest.layers)] == ["a", "b", "c"]
    assert (rest.next_page_token, rest.revision) == ("", 3)


async def test_a_file_is_validated_without_being_imported(stub):
    await _import(stub, content=b'["default"]\nconnection_limit = 10\nmax_ready = 5\n')
    content = b'["default"]\nconnection_limit = 11\n["a.example"]\nunset = ["max_ready"]\n'

    response = await stub.ValidateLayer(
        pb.ValidateLayerRequest(layer_name="custom", content=content)
    )

    assert (list(response.errors), response.revision) == ([], 1)
    assert response.layer_change.change == pb.RULE_CHANGE_CHANGED
    assert [
        (block.block, option.option, option.old_value, option.new_value)
        for block in response.layer_change.blocks
        for option in block.options
    ] == [
        ("default", "connection_limit", "10", "11"),
        ("default", "max_ready", "5", ""),
        ('"a.example"', "max_ready", "", "null"),
    ]
    assert (await stub.ListLayers(pb.ListLayersRequest())).revision == 1


async def test_validation_tells_of_mistakes_as_an_answer(stub):
    content = b'["default"]\nmax_message_rate = "100/foo"\n[["default".automation]]\n'

    response = await stub.ValidateLayer(
        pb.ValidateLayerRequest(layer_name="custom", content=content, file_name="my.toml")
    )

    first = response.errors[0]
    assert (first.file, first.line, first.block, first.option) == (
        "my.toml",
        2,
        "default",
        "max_message_rate",
    )
    assert (first.value, first.code, first.severity) == (
        '"100/foo"',
        "bad_value",
        pb.RULE_SEVERITY_ERROR,
    )
    assert len(response.errors) > 1
    assert not response.HasField("layer_change")


async def test_odd_rules_are_imported_with_a_warning(stub):
    content = b'[provider."p"]\nmax_ready = 5\n'

    response = await _import(stub, content=content, file_name="odd.toml")

    (warning,) = response.warnings
    assert (warning.code, warning.file, warning.line) == (
        "provider_without_match",
        "odd.toml",
        1,
    )
    assert warning.severity == pb.RULE_SEVERITY_WARNING


async def test_rows_that_are_refused_are_listed_until_they_are_repaired(stub, server, channel):
    await _import(stub)
    await _sql(server, "UPDATE rule_options SET value = '\"many\"'")

    response = await stub.ListRuleErrors(pb.ListRuleErrorsRequest())

    (error,) = response.rule_errors
    assert (error.layer, error.block, error.option) == ("custom", "default", "connection_limit")
    assert (error.value, error.severity) == ('"many"', pb.RULE_SEVERITY_ERROR)
    assert error.since_revision == 2
    assert await _limit(channel) == 10

    await _import(stub)
    assert not (await stub.ListRuleErrors(pb.ListRuleErrorsRequest())).rule_errors


async def _sql(server, statement):
    await server.database.write(lambda connection: connection.execute(text(statement)).rowcount)
    await server.policy.reload()


async def test_the_service_is_healthy_and_listed_by_reflection(channel):
    health = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=_NAME)
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    async def ask():
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        ask()
    ):
        names = {service.name for service in answer.list_services_response.service}
    assert _NAME in names
