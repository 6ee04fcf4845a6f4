"""Injection over gRPC with a real spool behind it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status import rpc_status

from agent.queue.entry import Entry
from agent.settings import Settings
from agent.smtp.injection_service import InjectionService
from agent.smtp.intake import Intake
from agent.spool.sqlite import SqliteSpool
from penstock.v1.injection_service_pb2 import InjectRequest, InjectStreamRequest
from penstock.v1.injection_service_pb2_grpc import (
    InjectionServiceStub,
    add_InjectionServiceServicer_to_server,
)
from tests.integration.policy_peer import until

CONTENT = b"From: a@x.example\nX-Tenant: header\nX-Campaign: news\n\nbody\n"


@dataclass
class Host:
    stub: InjectionServiceStub
    spool: SqliteSpool
    accepted: list[Entry]
    service: InjectionService
    intake: Intake


@asynccontextmanager
async def open_host(
    tmp_path: Path, *, max_messages: int = 2, most_calls: int = 1024, **listen: Any
) -> AsyncIterator[Host]:
    settings = Settings.model_validate(
        {
            "agent": {"name": "test", "data_dir": tmp_path},
            "listen": {"max_message_size": 2000, "max_recipients": 3, **listen},
            "spool": {"min_free_space": 0, "max_messages": max_messages},
        }
    )
    spool = await SqliteSpool.open(settings.agent.data_dir)
    accepted: list[Entry] = []
    intake = Intake(settings, spool, accept=accepted.extend, log=lambda records: None)
    server = grpc.aio.server()
    service = InjectionService(intake, most_calls=most_calls)
    add_InjectionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Host(InjectionServiceStub(channel), spool, accepted, service, intake)
    await server.stop(None)
    await intake.drain()
    await spool.close()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path) as host:
        yield host


def request(**parts) -> InjectRequest:
    return InjectRequest(
        **({"sender": "a@x.example", "recipients": ["u@one.example"], "content": CONTENT} | parts)
    )


async def test_a_message_is_stored_and_its_line_ends_made_whole(host):
    answer = await host.stub.Inject(request(recipients=["ü@bücher.example"]))

    (entry,) = host.accepted
    assert [one.entry_id for one in (await host.spool.find(answer.message_id)).entries] == [
        entry.id
    ]
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


def stream_of(*messages: InjectRequest) -> Iterator[InjectStreamRequest]:
    for number, message in enumerate(messages):
        yield InjectStreamRequest(request_id=number, message=message)


async def test_many_messages_of_one_call_are_taken_each_once_and_share_the_disk(tmp_path):
    async with open_host(tmp_path, max_messages=10_000) as host:
        messages = [request(recipients=[f"u{number}@one.example"]) for number in range(2000)]

        answers = [answer async for answer in host.stub.InjectStream(stream_of(*messages))]

        assert sorted(answer.request_id for answer in answers) == list(range(2000))
        assert len({answer.accepted.message_id for answer in answers}) == 2000
        stored = await host.spool.entries()
        assert len(stored) == len(host.accepted) == 2000
        for answer in answers[::100]:
            found = await host.spool.find(answer.accepted.message_id)
            assert found is not None
            assert found.entries[0].recipients == (f"u{answer.request_id}@one.example",)


async def test_a_refusal_in_a_stream_ends_nothing_but_its_message(host):
    answers = [
        answer
        async for answer in host.stub.InjectStream(
            stream_of(
                request(),
                request(sender="nobody"),
                request(recipients=["u@one.example", "@"]),
                request(content=b"x" * 2001),
                request(content=b"A: 1\n\n\0\n"),
                InjectRequest(),
                request(),
            )
        )
    ]

    by_id = {answer.request_id: answer for answer in answers}
    assert len(by_id) == len(answers) == 7
    assert [number for number, one in sorted(by_id.items()) if one.HasField("accepted")] == [0, 6]
    refused = {number: one.refused for number, one in by_id.items() if one.HasField("refused")}
    assert {number: (one.code, one.field) for number, one in refused.items()} == {
        1: (grpc.StatusCode.INVALID_ARGUMENT.value[0], "sender"),
        2: (grpc.StatusCode.INVALID_ARGUMENT.value[0], "recipients[1]"),
        3: (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "content"),
        4: (grpc.StatusCode.INVALID_ARGUMENT.value[0], "content"),
        5: (grpc.StatusCode.INVALID_ARGUMENT.value[0], "recipients"),
    }
    assert not any(one.HasField("retry_delay") for one in refused.values())
    assert host.intake.refusals.permanent == 5


async def test_a_full_agent_puts_off_what_comes_in_a_stream(host):
    call = host.stub.InjectStream()
    for number in range(4):
        await call.write(InjectStreamRequest(request_id=number, message=request()))
        answer = await call.read()
        if number < 2:
            assert answer.accepted.message_id
            continue
        assert answer.refused.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert answer.refused.retry_delay.seconds > 0
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_call_that_breaks_off_leaves_whole_messages_and_nothing_else(tmp_path):
    async with open_host(tmp_path, max_messages=10_000) as host:
        answered = set()
        for _ in range(5):
            call = host.stub.InjectStream(stream_of(*[request()] * 500))
            async for answer in call:
                answered.add(answer.accepted.message_id)
                if len(answered) % 50 == 0:
                    break
            call.cancel()
        await host.intake.drain()
        await until(lambda: not host.service._calls)
        await host.intake.drain()

        stored = await host.spool.entries()
        assert len(stored) == len(host.accepted)
        assert len(answered) == 250
        for message_id in answered:
            assert await host.spool.find(message_id) is not None


async def test_streams_beyond_the_bound_are_put_off(tmp_path):
    async with open_host(tmp_path, max_messages=100, most_calls=1) as host:
        first = host.stub.InjectStream()
        await first.write(InjectStreamRequest(request_id=1, message=request()))
        assert (await first.read()).HasField("accepted")

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in host.stub.InjectStream(stream_of(request())):
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert [one async for one in host.stub.InjectStream(stream_of(request()))]
