"""The least that answering costs: a grpc.aio server whose one handler returns constant bytes."""

import sys
from typing import Any

import grpc
import uvloop

METHOD = "/plain.Answers/Get"


async def main(size: int) -> None:
    """Answer every call with *size* bytes."""
    answer = bytes(size)

    async def get(_request: bytes, _context: Any) -> bytes:
        return answer

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Get": grpc.unary_unary_rpc_method_handler(get)
    }
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("plain.Answers", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    # The event loop that the server chooses, so that the loop makes no difference.
    uvloop.run(main(int(sys.argv[1])))
