"""Injection over gRPC with a real spool behind it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status import rpc_status

from agent.queue.entry import Entry
from agent.settings import Settings
from agent.smtp.injection_service import InjectionService
from agent.smtp.intake import Intake
from agent.spool.sqlite import SqliteSpool
from penstock.v1.injection_service_pb2 import InjectRequest
from penstock.v1.injection_service_pb2_grpc import (
    InjectionServiceStub,
    add_InjectionServiceServicer_to_server,
)

CONTENT = b"From: a@x.example\nX-Tenant: header\nX-Campaign: news\n\nbody\n"


@dataclass
class Host:
    stub: InjectionServiceStub
    spool: SqliteSpool
    accepted: list[Entry]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    settings = Settings.model_validate(
        {
            "agent": {"name": "test", "data_dir": tmp_path},
            "listen": {"max_message_size": 2000, "max_recipients": 3},
            "spool": {"min_free_space": 0, "max_messages": 2},
        }
    )
    spool = await SqliteSpool.open(settings.agent.data_dir)
    accepted: list[Entry] = []
    intake = Intake(settings, spool, accept=accepted.extend, log=lambda records: None)
    server = grpc.aio.server()
    add_InjectionServiceServicer_to_server(InjectionService(intake), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Host(InjectionServiceStub(channel), spool, accepted)
    await server.stop(None)
    await spool.close()


def request(**parts) -> InjectRequest:
    return InjectRequest(
        **({"sender": "a@x.example", "recipients": ["u@one.example"], "content": CONTENT} | parts)
    )


async def test_a_message_is_stored_and_its_line_ends_made_whole(host):
    answer = await host.stub.Inject(request(recipients=["ü@bücher.example"]))

    (entry,) = host.accepted
    assert answer.message_id == entry.message_id
    assert entry.queue_name == "news:header@xn--bcher-kva.example"
    loaded = await host.spool.load(entry.id)
    assert loaded is not None
    assert loaded.body.endswith(b"From: a@x.example\r\n\r\nbody\r\n")
    assert b" with gRPC id " in loaded.body
    assert loaded.reception_protocol == "gRPC"


async def test_what_the_call_says_wins_over_the_header(host):
    await host.stub.Inject(request(tenant="call"))

    assert host.accepted[0].queue_name == "news:call@one.example"


@pytest.mark.parametrize(
    ("parts", "code", "field"),
    [
        ({"sender": "nobody"}, grpc.StatusCode.INVALID_ARGUMENT, "sender"),
        ({"recipients": []}, grpc.StatusCode.INVALID_ARGUMENT, "recipients"),
        ({"recipients": ["u@a.example", "x"]}, grpc.StatusCode.INVALID_ARGUMENT, "recipients[1]"),
        ({"tenant": "a:b"}, grpc.StatusCode.INVALID_ARGUMENT, "tenant"),
        ({"campaign": "a@b"}, grpc.StatusCode.INVALID_ARGUMENT, "campaign"),
        (
            {"content": b"Received: x\n" * 51 + b"\n"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "content",
        ),
        ({"content": b"x" * 2001}, grpc.StatusCode.RESOURCE_EXHAUSTED, "content"),
        ({"recipients": ["u@a.example"] * 4}, grpc.StatusCode.RESOURCE_EXHAUSTED, "recipients"),
    ],
)
async def test_a_bad_message_is_refused_with_the_field_at_fault(host, parts, code, field):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await host.stub.Inject(request(**parts))

    assert caught.value.code() == code
    status = rpc_status.from_call(caught.value)
    detail = BadRequest()
    assert status.details[0].Unpack(detail)
    assert [violation.field for violation in detail.field_violations] == [field]
    assert host.accepted == []


async def test_a_full_agent_asks_to_try_again(host):
    await host.stub.Inject(request(recipients=["u@a.example", "u@b.example"]))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await host.stub.Inject(request())

    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    detail = RetryInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(detail)
    assert detail.retry_delay.seconds > 0
