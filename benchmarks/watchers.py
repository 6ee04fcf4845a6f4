"""
Watching clients in processes of their own: many streams a process, over a few channels.

They do what an agent does, acknowledge every response, and note when they heard of what. Times are
of the system's monotonic clock, which all processes share.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import grpc

from benchmarks.plain_fan_out import ACKNOWLEDGE, LISTEN
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub

_STREAMS_A_CHANNEL = 125
_OPENED_AT_ONCE = 64
_PATIENCE = 120.0
#: Of a call that waits for a server to come up again.
_RECONNECT_MS = 20
_SITE = pb.MxHost(host="mx.d0.example", preference=10)
PATH = pb.PathSubscription(
    name="d0.example ip-1", routing_domain="d0.example", egress_source="ip-1", mx_hosts=[_SITE]
)


@dataclass(slots=True)
class Heard:
    """What the watchers of a process were told: for each thing, when each watcher heard of it."""

    times: dict[str, list[float]] = field(default_factory=dict)
    #: Kinds of the first responses, and when each watcher had its first.
    kinds: list[int] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    def note(self, thing: str) -> None:
        """A watcher hears of *thing* now."""
        self.times.setdefault(thing, []).append(time.perf_counter())


class Fleet:
    """Watchers in several processes; see `watching`."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def ask(self, *question: Any) -> list[Any]:
        """Ask every process the same; return their answers."""
        for pipe in self._pipes:
            pipe.send(question)
        answers = []
        for pipe in self._pipes:
            if not pipe.poll(_PATIENCE):
                raise RuntimeError(f"watchers did not answer: {question[0]}")
            answer = pipe.recv()
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    def times_of(self, thing: str) -> list[float]:
        """Wait until every watcher has heard of *thing*; return when each did."""
        return [at for times in self.ask("times", thing) for at in times]


@contextmanager
def watching(port: int, streams: int, *, kind: str, processes: int = 2) -> Iterator[Fleet]:
    """Open streams from some processes; *kind* is "watch", "listen" or "acknowledge"."""
    context = multiprocessing.get_context("spawn")
    pipes, started = [], []
    try:
        for number in range(processes):
            ours, theirs = context.Pipe()
            count = streams // processes + (number < streams % processes)
            arguments = (theirs, port, count, number, kind)
            process = context.Process(target=_run, args=arguments, daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            started.append(process)
        fleet = Fleet(pipes)
        fleet.ask("open")
        yield fleet
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(10)
            process.kill()


def _run(pipe: Connection, port: int, count: int, number: int, kind: str) -> None:
    asyncio.run(_serve(pipe, _Watchers(port, count, number, kind=kind)))


async def _serve(pipe: Connection, watchers: "_Watchers") -> None:
    """Do what is asked over the pipe, until it closes."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe.fileno(), readable.set)
    while True:
        await readable.wait()
        readable.clear()
        while pipe.poll():
            try:
                name, *arguments = pipe.recv()
            except EOFError:
                loop.remove_reader(pipe.fileno())
                await watchers.close()
                return
            try:
                pipe.send(await getattr(watchers, name)(*arguments))
            except (RuntimeError, TimeoutError) as error:
                pipe.send(RuntimeError(f"{name}: {error!r}"))


class _Watchers:
    def __init__(self, port: int, count: int, number: int, *, kind: str) -> None:
        self._port, self._count, self._number, self._kind = port, count, number, kind
        self._channels: list[grpc.aio.Channel] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = Heard()
        self._tokens: dict[str, tuple[bytes, str]] = {}

    async def open(self) -> None:
        """Open every stream and wait until each has its first response."""
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _RECONNECT_MS),
        )
        self._channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=options)
            for _ in range(-(-self._count // _STREAMS_A_CHANNEL))
        ]
        self._heard = Heard()
        room = asyncio.Semaphore(_OPENED_AT_ONCE)
        kinds = {"watch": self._watch, "listen": self._listen, "acknowledge": self._acknowledge}
        watch = kinds[self._kind]
        self._tasks = [
            asyncio.create_task(watch(index, self._channels[index % len(self._channels)], room))
            for index in range(self._count)
        ]
        await self._until(lambda: len(self._heard.first) == self._count)

    async def reopen(self) -> tuple[list[float], list[int]]:
        """Connect anew, each from its token; return when each had its first response and which."""
        await self.close()
        await self.open()
        return self._heard.first, self._heard.kinds

    async def times(self, thing: str) -> list[float]:
        """Wait until all have heard of *thing*; return when each did."""
        await self._until(lambda: len(self._heard.times.get(thing, ())) == self._count)
        return self._heard.times.pop(thing)

    async def close(self) -> None:
        """End every stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def _until(self, condition: Any) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)
                for task in self._tasks:
                    if task.done():
                        raise RuntimeError("a stream ended") from task.exception()

    async def _watch(self, index: int, channel: grpc.aio.Channel, room: Any) -> None:
        name = f"watcher-{self._number}-{index}"
        token, etag = self._tokens.get(name, (b"", ""))
        start = pb.WatchStart(
            resume_token=token, known={PATH.name: etag}, subscribe=[PATH],
            agent_info=pb.AgentInfo(name=name, version="bench", egress_sources=[name]),
        )  # fmt: skip
        async with room:
            call = PolicyServiceStub(channel).WatchPolicy(wait_for_ready=True)
            await call.write(pb.WatchPolicyRequest(start=start))
            response = await call.read()
        self._heard.first.append(time.perf_counter())
        self._heard.kinds.append(response.kind)
        try:
            while response is not grpc.aio.EOF:
                for resource in response.resources:
                    if resource.type == pb.RESOURCE_TYPE_EGRESS_PATH:
                        etag = resource.etag
                        limit = resource.egress_path.config.connection_limit.value
                        self._heard.note(f"limit {limit}")
                    else:
                        self._heard.note(f"action {resource.name}")
                self._tokens[name] = (response.token, etag)
                if response.nonce:
                    ack = pb.WatchAck(nonce=response.nonce, token=response.token)
                    await call.write(pb.WatchPolicyRequest(ack=ack))
                response = await call.read()
        finally:
            call.cancel()

    async def _listen(self, _index: int, channel: grpc.aio.Channel, room: Any) -> None:
        listen: Any = channel.unary_stream(LISTEN)
        await self._note_rounds(listen(b"", wait_for_ready=True), room)

    async def _acknowledge(self, _index: int, channel: grpc.aio.Channel, room: Any) -> None:
        call: Any = channel.stream_stream(ACKNOWLEDGE)(wait_for_ready=True)
        await self._note_rounds(call, room, ack=bytes(60))

    async def _note_rounds(self, call: Any, room: Any, ack: bytes = b"") -> None:
        try:
            async with room:
                received = await call.read()
            self._heard.first.append(time.perf_counter())
            while received is not grpc.aio.EOF:
                self._heard.note(f"round {int.from_bytes(received[:4], 'big')}")
                if ack:
                    await call.write(ack)
                received = await call.read()
        finally:
            call.cancel()
