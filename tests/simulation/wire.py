"""
A network between simulated processes, which carries gRPC calls as bytes and loses some.

It stands where grpc's channel and server stand: generated stubs call a `Channel`, and what the
real `add_…_to_server` registers at a `Listener` is called as grpc would.

What is promised is what gRPC promises. Messages of one stream arrive in order and once, until the
stream breaks; then what was on its way is lost, and each side learns of it at a time of its own,
perhaps never. Unary calls pass one another, get lost before or after the server handled them, or
are handled twice, as they are where a channel or a proxy tries again.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from tests.simulation.virtual_loop import Process, VirtualLoop

#: Bytes of a stream that may lie unread before its writer has to wait, as HTTP/2 has it.
_WINDOW = 65_536
#: Between two messages, as timers of one instant go off in any order.
_GAP = 1e-6
#: A peer that is gone without a word is noticed by keepalive after up to so many seconds.
_KEEPALIVE = 25.0
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How bad the network is: shares of messages, streams and calls, delays in seconds."""

    delay: float = 0.002
    slow_delay: float = 0.0
    slow_share: float = 0.0
    #: Of unary calls.
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    repeated: float = 0.0
    #: Of messages of a stream: it breaks instead of carrying this one.
    cuts: float = 0.0
    #: Of breakages: the other side hears nothing of it for long.
    silent: float = 0.0


CALM = Faults()


class Network:
    """Everything between the processes."""

    def __init__(self, loop: VirtualLoop, *, seed: object, faults: Faults) -> None:
        self.loop = loop
        self.faults = faults
        self.listeners: dict[str, Listener] = {}
        #: Told of every message of a stream as its client sends or reads it: client, path, message.
        self.on_sent: Callable[[str, str, Any], None] = _ignore
        self.on_read: Callable[[str, str, Any], None] = _ignore
        self._seed = seed
        self._randoms: dict[str, Random] = {}
        #: Until when a client is cut off.
        self._cut_off: dict[str, float] = {}
        # Deliveries belong to no process.
        self._context = contextvars.Context()

    def random(self, client: str) -> Random:
        """What happens to one client's messages does not hang on what others do."""
        if client not in self._randoms:
            self._randoms[client] = Random(f"{self._seed} wire {client}")
        return self._randoms[client]

    def later(self, seconds: float, deliver: Callable[..., None], *args: Any) -> None:
        """Have something arrive."""
        self.loop.call_later(seconds, deliver, *args, context=self._context)

    def delay(self, client: str) -> float:
        """How long the next message from or to a client takes."""
        random, faults = self.random(client), self.faults
        held = max(0.0, self._cut_off.get(client, 0.0) - self.loop.time())
        longest = faults.slow_delay if random.random() < faults.slow_share else faults.delay
        return held + longest * random.random()

    def cut_off(self, client: str, seconds: float) -> None:
        """Hold up everything from and to a client; it arrives when this is over."""
        self._cut_off[client] = self.loop.time() + seconds

    def heal(self) -> None:
        """End all faults."""
        self.faults = CALM
        self._cut_off.clear()

    def happens(self, client: str, share: float) -> bool:
        """Whether a fault of this *share* hits."""
        return share > 0 and self.random(client).random() < share

    def noticed_after(self, client: str) -> float:
        """How long it takes a side to learn that a stream broke."""
        if self.happens(client, self.faults.silent):
            return _KEEPALIVE * self.random(client).random()
        return self.delay(client)


class Channel:
    """What an agent's stubs call; to any of several servers, where *addresses* are several."""

    def __init__(
        self,
        network: Network,
        process: Process,
        addresses: Sequence[str],
        *,
        is_balanced: bool = False,
    ) -> None:
        """Connect to one of *addresses* and stay there, or to any anew for each call."""
        self.network = network
        self.process = process
        self._addresses = addresses
        self._is_balanced = is_balanced
        self._current = ""
        self._calls: dict[Any, None] = {}

    def unary_unary(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Callable[..., "UnaryCall"]:
        """Return what makes a call of this method, as grpc's channel does."""

        def call(request: Any, *, timeout: float | None = None, metadata: Any = ()) -> UnaryCall:
            data = request_serializer(request)
            return UnaryCall(self, path, data, timeout, metadata, response_deserializer)

        return call

    def stream_stream(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Callable[..., "StreamCall"]:
        """Return what opens a stream of this method, as grpc's channel does."""

        def call(*, timeout: float | None = None, metadata: Any = ()) -> StreamCall:
            return StreamCall(
                self, path, timeout, metadata, request_serializer, response_deserializer
            )

        return call

    unary_stream = stream_stream

    def pick(self) -> "Listener | None":
        """Find the server for the next call."""
        running = [name for name in self._addresses if name in self.network.listeners]
        if not running:
            return None
        if self._is_balanced or self._current not in running:
            self._current = self.network.random(self.process.name).choice(running)
        return self.network.listeners[self._current]

    def break_off(self) -> None:
        """Lose the connection with all calls on it; the next may go elsewhere."""
        self._current = ""
        for call in tuple(self._calls):
            call.break_off()

    def add(self, call: Any) -> None:
        """Note an open call."""
        self._calls[call] = None

    def discard(self, call: Any) -> None:
        """Forget a call that has ended."""
        self._calls.pop(call, None)

    async def close(self) -> None:
        """End what is open."""
        for call in tuple(self._calls):
            call.cancel()


class UnaryCall:
    """One call, as its caller sees it."""

    def __init__(
        self,
        channel: Channel,
        path: str,
        data: bytes,
        timeout: float | None,
        metadata: Any,
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._channel = channel
        self._network = network = channel.network
        self._client = client = channel.process.name
        self._deserialize = deserialize
        self._ended: asyncio.Future[tuple[grpc.StatusCode, str, bytes]]
        self._ended = network.loop.create_future()
        self._attempts: list[ServerCall] = []
        self._payload = b""
        self._is_answer_lost = network.happens(client, network.faults.lost_answers)
        channel.add(self)
        if timeout is not None:
            network.later(timeout, self._give_up, grpc.StatusCode.DEADLINE_EXCEEDED)
        listener = channel.pick()
        if listener is None or network.happens(client, network.faults.lost_requests):
            network.later(network.noticed_after(client), self._end, _UNAVAILABLE, "not reached")
            return
        attempts = 2 if network.happens(client, network.faults.repeated) else 1
        for _ in range(attempts):
            network.later(network.delay(client), self._arrive, listener, path, data, metadata)

    def _arrive(self, listener: "Listener", path: str, data: bytes, metadata: Any) -> None:
        if not listener.is_open or self._ended.done():
            self._network.later(self._delay(), self._end, _UNAVAILABLE, "connection refused")
            return
        call = ServerCall(listener, path, metadata, send=self._hear, finish=self._hear_end)
        self._attempts.append(call)
        call.receive(data)
        call.half_close()

    def _hear(self, _call: "ServerCall", data: bytes) -> None:
        self._payload = data

    def _hear_end(self, _call: "ServerCall", code: grpc.StatusCode, details: str) -> None:
        if self._is_answer_lost:
            code, details = _UNAVAILABLE, "connection reset"
        payload = self._payload if code is grpc.StatusCode.OK else b""
        self._network.later(self._delay(), self._end, code, details, payload)

    def _delay(self) -> float:
        return self._network.delay(self._client)

    def _end(self, code: grpc.StatusCode, details: str, payload: bytes = b"") -> None:
        self._channel.discard(self)
        if not self._ended.done():
            self._ended.set_result((code, details, payload))

    def _give_up(self, code: grpc.StatusCode) -> None:
        if self._ended.done():
            return
        self._end(code, code.name)
        for attempt in self._attempts:
            self._network.later(self._delay(), attempt.cancel)

    def break_off(self) -> None:
        """Lose the connection."""
        self._give_up(_UNAVAILABLE)

    def cancel(self) -> bool:
        """Want no answer any more."""
        was_open = not self._ended.done()
        self._give_up(grpc.StatusCode.CANCELLED)
        return was_open

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            code, details, payload = yield from asyncio.shield(self._ended).__await__()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if code is not grpc.StatusCode.OK:
            raise AioRpcError(code, Metadata(), Metadata(), details)
        return self._deserialize(payload)


class StreamCall:
    """One stream, as its client sees it."""

    def __init__(
        self,
        channel: Channel,
        path: str,
        timeout: float | None,
        metadata: Any,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._channel = channel
        self._network = network = channel.network
        self._client = channel.process.name
        self._path = path
        self._serialize, self._deserialize = serialize, deserialize
        self._inbox: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._server: ServerCall | None = None
        self._up_free = self._down_free = 0.0
        self._is_broken = False
        channel.add(self)
        listener = channel.pick()
        if listener is None:
            network.later(network.noticed_after(self._client), self._end, _UNAVAILABLE, "no server")
        else:
            self._up(self._connect, listener, path, metadata)
        if timeout is not None:
            network.later(timeout, self._end, grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")

    # What the network does.

    def _connect(self, listener: "Listener", path: str, metadata: Any) -> None:
        if listener.is_open and self._status is None:
            send, finish = self._hear, self._hear_end
            self._server = ServerCall(listener, path, metadata, send=send, finish=finish)
            self._changed.set()
        else:
            self._down(self._end, _UNAVAILABLE, "connection refused")

    def _up(self, deliver: Callable[..., None], *args: Any) -> None:
        """Have something arrive at the server after what was sent before."""
        now = self._network.loop.time()
        self._up_free = max(self._up_free + _GAP, now + self._network.delay(self._client))
        self._network.later(self._up_free - now, self._carry, deliver, *args)

    def _down(self, deliver: Callable[..., None], *args: Any) -> None:
        now = self._network.loop.time()
        self._down_free = max(self._down_free + _GAP, now + self._network.delay(self._client))
        self._network.later(self._down_free - now, self._carry, deliver, *args)

    def _carry(self, deliver: Callable[..., None], *args: Any) -> None:
        if self._is_broken:
            return
        if self._network.happens(self._client, self._network.faults.cuts):
            self.break_off()
            return
        deliver(*args)

    def _hear(self, call: "ServerCall", data: bytes) -> None:
        self._down(self._take_in, data)

    def _take_in(self, data: bytes) -> None:
        self._inbox.append(data)
        self._changed.set()

    def _hear_end(self, call: "ServerCall", code: grpc.StatusCode, details: str) -> None:
        self._down(self._end, code, details)

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        self._channel.discard(self)
        if self._status is None:
            self._status = (code, details)
            self._changed.set()

    def break_off(self) -> None:
        """Lose the connection and what is on its way; each side learns of it in its own time."""
        if self._is_broken:
            return
        self._is_broken = True
        after = self._network.noticed_after(self._client)
        self._network.later(after, self._end, _UNAVAILABLE, "connection reset")
        if self._server is not None:
            self._network.later(self._network.noticed_after(self._client), self._server.cancel)

    # What the client does.

    async def wait_for_connection(self) -> None:
        """Return once there is a connection. Errors: `AioRpcError`."""
        while self._server is None and self._status is None:
            self._changed.clear()
            await self._changed.wait()
        self._raise_if_over()

    async def write(self, request: Any) -> None:
        """Hand a message to the transport."""
        self._raise_if_over()
        self._network.on_sent(self._client, self._path, request)
        data = self._serialize(request)
        self._up(self._reach_server, data)
        await asyncio.sleep(0)
        self._raise_if_failed()

    def _reach_server(self, data: bytes) -> None:
        if self._server is not None:
            self._server.receive(data)

    async def done_writing(self) -> None:
        """Say that there is nothing more to come."""
        self._raise_if_over()
        self._up(self._half_close)

    def _half_close(self) -> None:
        if self._server is not None:
            self._server.half_close()

    async def read(self) -> Any:
        """Return the next message, or EOF at the end. Errors: `AioRpcError`."""
        while not self._inbox and self._status is None:
            self._changed.clear()
            await self._changed.wait()
        if self._inbox:
            data = self._inbox.popleft()
            if self._server is not None:
                self._server.credit(len(data))
            message = self._deserialize(data)
            self._network.on_read(self._client, self._path, message)
            return message
        self._raise_if_failed()
        return grpc.aio.EOF

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def cancel(self) -> bool:
        """End the stream; the server learns of it."""
        if self._status is not None:
            return False
        self._end(grpc.StatusCode.CANCELLED, "cancelled by the client")
        self._inbox.clear()
        if self._server is not None and not self._is_broken:
            self._network.later(self._network.delay(self._client), self._server.cancel)
        self._is_broken = True
        return True

    def done(self) -> bool:
        """Whether it is over."""
        return self._status is not None

    async def code(self) -> grpc.StatusCode:
        """Return the status, once there is one."""
        while self._status is None:
            self._changed.clear()
            await self._changed.wait()
        return self._status[0]

    async def details(self) -> str:
        """Return what the status says."""
        await self.code()
        assert self._status is not None
        return self._status[1]

    async def initial_metadata(self) -> Metadata:
        """Return no metadata."""
        return Metadata()

    async def trailing_metadata(self) -> Metadata:
        """Return no metadata."""
        return Metadata()

    def _raise_if_over(self) -> None:
        self._raise_if_failed()
        if self._status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")

    def _raise_if_failed(self) -> None:
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            raise AioRpcError(self._status[0], Metadata(), Metadata(), self._status[1])


class Listener:
    """Where a server's handlers are registered, in the place of a grpc server."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self.network = network
        self.process = process
        self.address = address
        self.is_open = False
        self._generic: list[Any] = []
        self._calls: dict[ServerCall, None] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Register handlers."""
        self._generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Register handlers that were registered already as generic ones: nothing to do."""

    def open(self) -> None:
        """Take calls."""
        self.is_open = True
        self.network.listeners[self.address] = self

    def close(self) -> None:
        """Take no more calls; those that are open go on."""
        self.is_open = False
        if self.network.listeners.get(self.address) is self:
            del self.network.listeners[self.address]

    def die(self) -> None:
        """Be gone with every call, as the process is."""
        self.close()
        for call in tuple(self._calls):
            call.lose()

    def add(self, call: "ServerCall") -> None:
        """Note an open call."""
        self._calls[call] = None

    def discard(self, call: "ServerCall") -> None:
        """Forget a call that has ended."""
        self._calls.pop(call, None)

    def find(self, path: str, metadata: Any) -> Any:
        """Find what handles a method."""
        details = _CallDetails(path, metadata)
        found = (handlers.service(details) for handlers in self._generic)
        return next((handler for handler in found if handler is not None), None)


class ServerCall:
    """One call as the server sees it: what handlers know as their context."""

    def __init__(
        self,
        listener: Listener,
        path: str,
        metadata: Any,
        *,
        send: Callable[["ServerCall", bytes], None],
        finish: Callable[["ServerCall", grpc.StatusCode, str], None],
    ) -> None:
        self._listener = listener
        self._path = path
        self._metadata = tuple(metadata or ())
        self._send, self._finish = send, finish
        self._requests: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._is_half_closed = self._is_over = False
        self._unread = 0
        self._handler: Any = None
        self._status = (grpc.StatusCode.UNKNOWN, "")
        self._is_aborted = False
        listener.add(self)
        self._task = listener.process.start(self._serve())

    # What the network does.

    def receive(self, data: bytes) -> None:
        """Take in a request."""
        self._requests.append(data)
        self._changed.set()

    def half_close(self) -> None:
        """Take in that there are no more requests."""
        self._is_half_closed = True
        self._changed.set()

    def credit(self, size: int) -> None:
        """Let the handler write on: the client has read so many bytes."""
        self._unread -= size
        self._changed.set()

    def cancel(self) -> None:
        """The client is gone, or wants no answer."""
        if self._is_over:
            return
        self._is_over = self._is_half_closed = True
        self._changed.set()
        self._listener.discard(self)
        if self._listener.process.is_alive:
            self._task.cancel()

    def lose(self) -> None:
        """The process of the server is gone."""
        if not self._is_over:
            self._is_over = True
            self._finish(self, _UNAVAILABLE, "connection reset")

    # What the handler does.

    async def _serve(self) -> None:
        try:
            self._handler = self._listener.find(self._path, self._metadata)
            if self._handler is None:
                self._status = (grpc.StatusCode.UNIMPLEMENTED, self._path)
            elif self._handler.unary_unary is not None:
                request = await self.read()
                await self.write(await self._handler.unary_unary(request, self))
                self._status = (grpc.StatusCode.OK, "")
            else:
                await self._stream()
                self._status = (grpc.StatusCode.OK, "")
        except grpc.aio.AbortError:
            pass
        # grpc answers so; a supervised server maps every error before it gets here.
        except Exception as error:
            self._status = (grpc.StatusCode.UNKNOWN, repr(error))
        self._listener.discard(self)
        if not self._is_over:
            self._is_over = True
            self._finish(self, *self._status)

    async def _stream(self) -> None:
        requests: Any = self._read_all()
        behaviour = self._handler.stream_stream or self._handler.unary_stream
        if self._handler.stream_stream is None:
            requests = await self.read()
        answers = behaviour(requests, self)
        if not hasattr(answers, "__aiter__"):
            await answers
            return
        async with aclosing(answers):
            async for answer in answers:
                await self.write(answer)

    async def _read_all(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def read(self) -> Any:
        """Return the next request, or EOF."""
        while not self._requests and not self._is_half_closed:
            self._changed.clear()
            await self._changed.wait()
        if self._requests:
            request = self._requests.popleft()
            deserialize = self._handler.request_deserializer
            return deserialize(request) if deserialize else request
        return grpc.aio.EOF

    async def write(self, answer: Any) -> None:
        """Send an answer; wait where too much lies unread."""
        data = self._handler.response_serializer(answer)
        while self._unread > _WINDOW and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        self._unread += len(data)
        if not self._is_over:
            self._send(self, data)

    def invocation_metadata(self) -> Any:
        """Return what the client said besides."""
        return self._metadata

    def peer(self) -> str:
        """Name the client's address."""
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: grpc.StatusCode, details: str = "", _trailing: Any = ()) -> None:
        """End with an error."""
        self._status = (code, details)
        raise grpc.aio.AbortError

    async def abort_with_status(self, status: Any) -> None:
        """End with an error and its details."""
        await self.abort(status.code, status.details)

    def cancelled(self) -> bool:
        """Whether the client is gone."""
        return self._is_over

    def done(self) -> bool:
        """Whether it is over."""
        return self._is_over


def _ignore(client: str, path: str, message: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class _CallDetails:
    method: str
    invocation_metadata: Any
