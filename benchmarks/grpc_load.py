"""
A load generator for unary gRPC calls that costs far less than the server that it loads.

A client of grpcio takes as long for a call as a server does, so that it would measure itself. This
one writes HTTP/2 frames that are ready beforehand, on an asyncio transport, and of what comes back
reads the frame headers alone (RFC 9113, 4.1). It counts a call as answered when its stream has
carried data and has ended; one that ended without data was refused, and is an error.
"""

import asyncio
import multiprocessing
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import uvloop

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0x0, 0x1, 0x4, 0x6, 0x7
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_INITIAL_WINDOW_SIZE = 0x4
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_HEADER_BYTES = 9
#: Requests that are due are written that often.
_TICK_SECONDS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent to where."""

    port: int
    #: `/package.Service/Method`.
    method: str
    #: Serialised requests, taken in turn.
    requests: tuple[bytes, ...]
    #: How many calls are made in all.
    calls: int
    connections: int = 4
    #: Calls under way on each connection; those of a paced load are not bounded.
    depth: int = 16
    #: Calls a second over all connections, each at its time; None: each when another has ended.
    pace: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a load."""

    seconds: float
    #: From when each call was to be made until its end, sorted.
    waits: Sequence[float] = field(repr=False)

    @property
    def calls_per_second(self) -> float:
        """Answers a second."""
        return len(self.waits) / self.seconds

    def percentile(self, part: float) -> float:
        """Seconds within which that part of the calls was answered."""
        return self.waits[min(len(self.waits) - 1, int(len(self.waits) * part))]


def apply_load(load: Load) -> Answered:
    """Send a load from a process of its own; raises `RuntimeError` where a call is refused."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_run, load).result()


def _run(load: Load) -> Answered:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send(load))


async def _send(load: Load) -> Answered:
    loop = asyncio.get_running_loop()
    frames = _Frames(load)
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(load, frames), "127.0.0.1", load.port
        )
        connections.append(connection)
    # The server's settings are taken in before it is asked anything.
    await asyncio.gather(*(connection.is_set_up for connection in connections))
    began = time.perf_counter()
    if load.pace is None:
        for connection in connections:
            connection.start(load.calls // load.connections, load.depth)
    else:
        await _send_paced(connections, load, began)
    await asyncio.gather(*(connection.is_done for connection in connections))
    seconds = time.perf_counter() - began
    waits = sorted(wait for connection in connections for wait in connection.waits)
    for connection in connections:
        connection.close()
    return Answered(seconds=seconds, waits=waits)


async def _send_paced(connections: Sequence["_Connection"], load: Load, began: float) -> None:
    assert load.pace is not None
    per_connection = load.calls // load.connections
    for connection in connections:
        connection.expect(per_connection)
    sent = 0
    while sent < per_connection * len(connections):
        due = min(
            int((time.perf_counter() - began) * load.pace) + 1, per_connection * len(connections)
        )
        for number in range(sent, due):
            connections[number % len(connections)].ask(began + number / load.pace)
        sent = max(sent, due)
        await asyncio.sleep(_TICK_SECONDS)


class _Frames:
    """The frames of each request, without the stream's number."""

    def __init__(self, load: Load) -> None:
        authority = b"127.0.0.1:%d" % load.port
        # HPACK (RFC 7541): POST and http are of the static table; nothing is put into the other.
        block = b"\x83\x86" + b"".join(
            (
                b"\x04" + _hpack_text(load.method.encode()),
                b"\x01" + _hpack_text(authority),
                b"\x0f\x10" + _hpack_text(b"application/grpc"),
                b"\x00" + _hpack_text(b"te") + _hpack_text(b"trailers"),
            )
        )
        self._head = _frame_start(len(block), _HEADERS, _END_HEADERS)
        self._block = block
        self._bodies = [
            (
                _frame_start(len(body) + 5, _DATA, _END_STREAM),
                struct.pack(">BI", 0, len(body)) + body,
            )
            for body in load.requests
        ]
        self._next = 0

    def next_request(self, stream: int) -> bytes:
        """Make the frames of the next request."""
        start, body = self._bodies[self._next]
        self._next = (self._next + 1) % len(self._bodies)
        number = stream.to_bytes(4, "big")
        return b"".join((self._head, number, self._block, start, number, body))


class _Connection(asyncio.Protocol):
    """One connection with many calls under way."""

    def __init__(self, load: Load, frames: _Frames) -> None:
        loop = asyncio.get_running_loop()
        self.is_set_up: asyncio.Future[None] = loop.create_future()
        self.is_done: asyncio.Future[None] = loop.create_future()
        self.waits: list[float] = []
        self._frames = frames
        self._buffer = b""
        self._stream = -1
        self._started: dict[int, float] = {}
        self._with_data: set[int] = set()
        self._left_to_ask = 0
        self._left_to_answer = 0
        self._outgoing: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        window = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        self._transport.write(
            _PREFACE
            + _frame_start(len(window), _SETTINGS, 0)
            + bytes(4)
            + window
            + _frame_start(4, 0x8, 0)
            + bytes(4)
            + (_LARGEST_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big")
        )

    def start(self, calls: int, depth: int) -> None:
        """Make so many calls, *depth* of them at a time."""
        self.expect(calls)
        self._left_to_ask = calls
        for _ in range(min(depth, calls)):
            self._ask_next()
        self._flush()

    def expect(self, calls: int) -> None:
        """Be done after that many answers."""
        self._left_to_answer = calls

    def ask(self, due: float) -> None:
        """Make one call that was due at that time."""
        self._stream += 2
        self._started[self._stream] = due
        self._transport.write(self._frames.next_request(self._stream))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server hung up: {exc}")

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        while len(buffer) - at >= _HEADER_BYTES:
            end = at + _HEADER_BYTES + int.from_bytes(buffer[at : at + 3], "big")
            if end > len(buffer):
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            if kind == _DATA:
                self._with_data.add(stream)
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._end(stream)
            else:
                self._note(kind, flags, buffer[at + _HEADER_BYTES : end])
            at = end
        self._buffer = buffer[at:]
        self._flush()

    def _note(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._outgoing.append(_frame_start(0, _SETTINGS, _ACK) + bytes(4))
            if not self.is_set_up.done():
                self.is_set_up.set_result(None)
        elif kind == _PING and not flags & _ACK:
            self._outgoing.append(_frame_start(8, _PING, _ACK) + bytes(4) + payload)
        elif kind == _GOAWAY:
            self._fail(f"the server sent GOAWAY {payload!r}")

    def _end(self, stream: int) -> None:
        if stream not in self._with_data:
            self._fail("a call was refused")
            return
        self._with_data.discard(stream)
        self.waits.append(time.perf_counter() - self._started.pop(stream))
        self._left_to_answer -= 1
        if self._left_to_ask:
            self._ask_next()
        elif not self._left_to_answer and not self.is_done.done():
            self.is_done.set_result(None)

    def _ask_next(self) -> None:
        self._left_to_ask -= 1
        self._stream += 2
        self._started[self._stream] = time.perf_counter()
        self._outgoing.append(self._frames.next_request(self._stream))

    def _flush(self) -> None:
        if self._outgoing:
            self._transport.write(b"".join(self._outgoing))
            self._outgoing.clear()

    def _fail(self, why: str) -> None:
        for waiting in (self.is_set_up, self.is_done):
            if not waiting.done():
                waiting.set_exception(RuntimeError(why))


def _frame_start(length: int, kind: int, flags: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags))


def _hpack_text(text: bytes) -> bytes:
    """A text as it is; those here are shorter than 127 bytes, whose length is one byte."""
    return bytes((len(text),)) + text
