"""Policy servers in processes of their own, as `penstock-server serve` runs them."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

import grpc

from penstock.v1 import policy_service_pb2 as pb
from tests.integration.watching import HOSTS, Client

_START_SECONDS = 60


class ServerProcess:
    """One server and a client of it; `running` starts and ends it."""

    def __init__(
        self, process: asyncio.subprocess.Process, address: str, channel: grpc.aio.Channel
    ) -> None:
        self._process = process
        #: Of its gRPC.
        self.address = address
        self.channel = channel
        self.client = Client(channel)

    async def kill(self) -> None:
        """End it this instant, as `kill -9` does; it has time for nothing."""
        self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def running(url: str, **overrides: str) -> AsyncIterator[ServerProcess]:
    """Run a server on this database, with settings as the environment has them."""
    settings = {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        # Nothing answers at port 9, so that no test depends on a name server.
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
        "PENSTOCK_DNS_TIMEOUT": "0.2s",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "policy_server.cli.main", "serve", "--log-level", "error"),
        env=os.environ | settings | overrides,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = (await process.stdout.readline()).decode()
        address = line.partition("grpc=")[2].split()[0]
        async with grpc.aio.insecure_channel(address) as channel:
            server = ServerProcess(process, address, channel)
            await _become_known(server.client)
            yield server
    finally:
        if process.returncode is None:
            process.terminate()
        # Read to the end, so that its pipe is closed with it.
        await process.communicate()


async def _become_known(client: Client) -> None:
    """Ask as agents do before they send, once it is ready: then it knows the site's hosts."""
    question = pb.GetEgressPathConfigRequest(
        routing_domain="yahoo.com", egress_source="ip-1", mx_hosts=HOSTS
    )
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                await client.policy.GetEgressPathConfig(question)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
            else:
                return
