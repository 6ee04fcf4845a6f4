"""
InjectionStream: many messages over one call, in step with the disk.

Messages are taken side by side, so that they share the disk's writes, but only so many of them and
so many of their bytes: beyond that nothing is read, and HTTP/2 holds the client back. A client that
does not read its answers is held back too.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from penstock.v1.injection_service_pb2 import InjectStreamRequest, InjectStreamResponse

#: Messages of one stream that may wait for the disk, or for the client to read their answers.
MOST_WAITING = 256
#: Their bytes; one message always may.
MOST_BYTES = 16 * 1024 * 1024


class InjectionStream:
    """One call's messages; *answer* takes one and says what became of it, and never raises."""

    def __init__(
        self, answer: Callable[[InjectStreamRequest], Awaitable[InjectStreamResponse]]
    ) -> None:
        self._answer = answer
        self._answers: asyncio.Queue[InjectStreamResponse | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Condition()
        #: Messages without an answer that was read, and their bytes.
        self._waiting = 0
        self._bytes = 0

    async def answers(
        self, requests: AsyncIterator[InjectStreamRequest]
    ) -> AsyncGenerator[InjectStreamResponse, None]:
        """Every answer, as it comes; ends after the answer to the last of *requests*."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (response := await self._answers.get()) is not None:
                yield response
                async with self._room:
                    self._waiting -= 1
                    self._room.notify_all()
            await reader
        finally:
            # What was handed to the spool goes its way; nobody hears of it any more.
            reader.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(reader, *self._tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[InjectStreamRequest]) -> None:
        try:
            async for request in requests:
                size = len(request.message.content)
                await self._wait_for_room(size)
                task = asyncio.create_task(self._take(request, size))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._answers.put_nowait(None)

    async def _wait_for_room(self, size: int) -> None:
        async with self._room:
            await self._room.wait_for(lambda: self._has_room(size))
            self._waiting += 1
            self._bytes += size

    def _has_room(self, size: int) -> bool:
        fits = self._bytes == 0 or self._bytes + size <= MOST_BYTES
        return fits and self._waiting < MOST_WAITING

    async def _take(self, request: InjectStreamRequest, size: int) -> None:
        try:
            self._answers.put_nowait(await self._answer(request))
        finally:
            async with self._room:
                self._bytes -= size
                self._room.notify_all()
