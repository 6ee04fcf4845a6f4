import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.smtp.injection_stream import MOST_BYTES, MOST_WAITING, InjectionStream
from penstock.v1.injection_service_pb2 import InjectStreamRequest, InjectStreamResponse


class Disk:
    """Answers what it is given once it may."""

    def __init__(self) -> None:
        self.may_work = asyncio.Event()
        self.given = 0
        self.bytes = 0
        self.most_bytes = 0

    async def answer(self, request: InjectStreamRequest) -> InjectStreamResponse:
        self.given += 1
        self.bytes += len(request.message.content)
        self.most_bytes = max(self.most_bytes, self.bytes)
        await self.may_work.wait()
        self.bytes -= len(request.message.content)
        return InjectStreamResponse(request_id=request.request_id)


async def requests(count: int, size: int) -> AsyncIterator[InjectStreamRequest]:
    content = b"x" * size
    for number in range(count):
        request = InjectStreamRequest(request_id=number)
        request.message.content = content
        yield request


async def settle() -> None:
    """Let everything go on that can."""
    for _ in range(2000):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("size", "held"),
    [
        pytest.param(10, MOST_WAITING, id="many small ones"),
        pytest.param(MOST_BYTES // 4, 4, id="few large ones"),
        pytest.param(MOST_BYTES + 1, 1, id="one that is larger than all may be"),
    ],
)
async def test_no_more_is_read_than_may_wait_for_the_disk(size, held):
    disk = Disk()
    count = held + 3
    answers = InjectionStream(disk.answer).answers(requests(count, size))
    first = asyncio.create_task(anext(answers))
    await settle()

    assert disk.given == held
    disk.may_work.set()
    numbers = [(await first).request_id, *[answer.request_id async for answer in answers]]
    assert sorted(numbers) == list(range(count))
    assert disk.most_bytes <= max(size, MOST_BYTES)


async def test_no_more_is_read_while_answers_are_not():
    disk = Disk()
    disk.may_work.set()
    answers = InjectionStream(disk.answer).answers(requests(1000, 10))
    await anext(answers)
    await settle()

    assert disk.given == MOST_WAITING
    assert len([answer async for answer in answers]) == 999


async def test_closing_in_the_middle_ends_all_work():
    disk = Disk()
    answers = InjectionStream(disk.answer).answers(requests(1000, 10))
    first = asyncio.create_task(anext(answers))
    await settle()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await answers.aclose()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stream_without_messages_ends():
    assert [one async for one in InjectionStream(Disk().answer).answers(requests(0, 1))] == []


async def test_a_client_that_fails_in_the_middle_is_told_to_whoever_reads():
    async def broken() -> AsyncIterator[InjectStreamRequest]:
        yield InjectStreamRequest(request_id=1)
        raise ConnectionResetError("gone")

    disk = Disk()
    disk.may_work.set()
    with pytest.raises(ConnectionResetError):
        async for _ in InjectionStream(disk.answer).answers(broken()):
            pass
