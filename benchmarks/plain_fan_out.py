"""
The least that a fan-out costs: a bare grpc.aio server that sends the same bytes to every stream.

`python -m benchmarks.plain_fan_out SIZE` runs it; each call of `SEND` begins a round. Clients
listen alone, or acknowledge what they hear; acknowledgements are read and thrown away.
"""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

SERVICE = "penstock.benchmarks.PlainFanOut"
LISTEN = f"/{SERVICE}/Listen"
ACKNOWLEDGE = f"/{SERVICE}/Acknowledge"
SEND = f"/{SERVICE}/Send"


class _FanOut:
    def __init__(self, size: int) -> None:
        self._rest = b"x" * (size - 4)
        self._message = bytes(4) + self._rest
        self._round = 0
        self._began = asyncio.Event()

    async def listen(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            began = self._began
            yield self._message
            await began.wait()

    async def acknowledge(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        reader = asyncio.create_task(_read(requests))
        try:
            async for message in self.listen(b"", context):
                yield message
        finally:
            reader.cancel()

    async def send(self, _request: bytes, _context: Any) -> bytes:
        self._round += 1
        self._message = self._round.to_bytes(4, "big") + self._rest
        began, self._began = self._began, asyncio.Event()
        began.set()
        return b""


async def _read(requests: AsyncIterator[bytes]) -> None:
    async for _ in requests:
        pass


async def _serve(size: int) -> None:
    fan_out = _FanOut(size)
    server = grpc.aio.server(options=(("grpc.max_concurrent_streams", 256),))
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Listen": grpc.unary_stream_rpc_method_handler(fan_out.listen),
        "Acknowledge": grpc.stream_stream_rpc_method_handler(fan_out.acknowledge),
        "Send": grpc.unary_unary_rpc_method_handler(fan_out.send),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"listening grpc=127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main() -> None:
    """Serve until ended, on the event loop that the policy server runs on."""
    with asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
