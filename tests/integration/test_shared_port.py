"""Two server processes on one port: one service, whichever of them a connection comes to."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest

from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.automation_service_pb2 import ListActionsRequest
from penstock.v1.fleet_service_pb2 import ListAgentsRequest
from tests.integration.limit_worker import Worker, path
from tests.integration.server_processes import ServerProcess, running
from tests.integration.watching import SITE, Client, Watch, automation, outcome, write_rules, yahoo
from tests.valkey import start_valkey

_THRESHOLD = 20
_LIMIT = 10
_KEY = f"connection_limit:ip-1->{SITE}"
#: So many connections that it is next to certain that both processes get one.
_CONNECTIONS = 24
_PATIENCE = 20.0


@pytest.fixture
def shared(database_url: str):
    """Rules in a database, and the settings of processes that share a port."""
    counted = automation("slow", "Suspend", trigger={"Threshold": f"{_THRESHOLD}/hr"})
    write_rules(database_url, yahoo(counted, connection_limit=_LIMIT))
    valkey = start_valkey()
    settings = {"PENSTOCK_SERVER_SHARE_PORT": "true", "PENSTOCK_LIMITS_STATE": valkey.url}
    yield database_url, settings
    valkey.stop()


@contextlib.asynccontextmanager
async def _two(url: str, settings: dict[str, str]) -> AsyncIterator[Sequence[ServerProcess]]:
    async with running(url, **settings) as one:
        address = {"PENSTOCK_SERVER_GRPC_LISTEN": one.address}
        async with running(url, **settings, **address) as other:
            assert other.address == one.address
            yield one, other


@contextlib.asynccontextmanager
async def _connected(address: str) -> AsyncIterator[list[tuple[grpc.aio.Channel, Watch]]]:
    """Watch as many agents, each over a connection of its own."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(_CONNECTIONS):
            # Else channels to one address share one connection.
            alone = (("grpc.use_local_subchannel_pool", 1),)
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=alone)
            )
            watch = await stack.enter_async_context(
                Client(channel).watch(info=pb.AgentInfo(name=f"mta-{number}"))
            )
            await watch.until(lambda watch=watch: watch.token, _PATIENCE)
            found.append((channel, watch))
        yield found


async def _by_server(client: Client) -> dict[str, list[int]]:
    """Wait until all agents are written down; say which came to which process."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            agents = (await client.fleet.ListAgents(ListAgentsRequest())).agents
            present = [agent for agent in agents if agent.connected]
            if len(present) == _CONNECTIONS:
                break
            await asyncio.sleep(0.05)
    found: dict[str, list[int]] = {}
    for agent in present:
        found.setdefault(agent.server, []).append(int(agent.name.removeprefix("mta-")))
    return found


async def _answered(client: Client) -> None:
    """Wait for an answer; a call that was on its way to a process that is gone is lost."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                await client.policy.ListSuspensions(
                    pb.ListSuspensionsRequest(), wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                return


async def test_two_processes_on_one_port_are_one_service(shared) -> None:
    url, settings = shared
    async with _two(url, settings) as (one, other), _connected(one.address) as connected:
        of_one, of_other = (await _by_server(one.client)).values()
        ends = [connected[of_one[0]][0], connected[of_other[0]][0]]

        slow = [outcome(f"e{number}", "slow down") for number in range(_THRESHOLD)]
        await asyncio.gather(
            *(Client(ends[number % 2]).report(each) for number, each in enumerate(slow))
        )
        for _, watch in connected:
            await watch.until(lambda watch=watch: watch.suspensions, _PATIENCE)
        # One action, not two: all have been told of the same.
        (name,) = {name for _, watch in connected for name in watch.suspensions}
        (listed,) = (await Client(ends[1]).automation.ListActions(ListActionsRequest())).actions
        assert (str(listed.id), listed.count) == (name, _THRESHOLD)

        a, b = Worker("mta-a"), Worker("mta-b")
        async with a.connected(ends[0]), b.connected(ends[1]):
            for worker in (a, b):
                worker.want(_KEY, _LIMIT, path())
                await worker.report()
            await b.until(lambda: b.cap(_KEY) == _LIMIT / 2)
            await a.until(lambda: a.cap(_KEY) == _LIMIT / 2)

        await other.kill()
        # Whoever was connected to it comes to the one that is left.
        for channel in ends:
            await _answered(Client(channel))


async def test_who_does_not_share_a_port_keeps_it_for_itself(shared) -> None:
    url, settings = shared
    async with running(url) as alone:
        both: tuple[dict[str, str], ...] = ({}, settings)
        for more in both:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "policy_server.cli.main", "serve", "--log-level", "error"),
                env=os.environ
                | more
                | {
                    "PENSTOCK_DATABASE_URL": url,
                    "PENSTOCK_SERVER_GRPC_LISTEN": alone.address,
                    "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(60):
                output, errors = await process.communicate()
            assert (process.returncode, output) == (1, b"")
            assert b"can't be listened on" in errors
            assert (b"share_port = true" in errors) == bool(more)


async def test_processes_that_start_at_once_on_a_new_file_share_it(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    valkey = start_valkey()
    settings = {"PENSTOCK_SERVER_SHARE_PORT": "true", "PENSTOCK_LIMITS_STATE": valkey.url}
    try:
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(
                *(stack.enter_async_context(running(url, **settings)) for _ in range(2))
            )
    finally:
        valkey.stop()
