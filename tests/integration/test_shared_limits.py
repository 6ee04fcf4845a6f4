"""Two server processes lend one limit from one book in a real Valkey, over real gRPC."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from click.testing import CliRunner, Result

from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from policy_server.cli.main import cli
from policy_server.errors import InvalidSettings
from policy_server.settings import load_settings
from tests.integration.limit_worker import PATIENCE, Worker, path
from tests.integration.server_processes import ServerProcess, running
from tests.integration.watching import SITE, write_rules, yahoo
from tests.valkey import start_valkey

KEY = f"connection_limit:ip-1->{SITE}"


@pytest.fixture
def valkey():
    server = start_valkey()
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def _two_servers(url: str, state: str) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    write_rules(url, yahoo(connection_limit=10))
    settings = {"PENSTOCK_LIMITS_STATE": state}
    async with running(url, **settings) as first, running(url, **settings) as second:
        await _until_lending_together(first, second)
        yield first, second


async def _until_lending(server: ServerProcess) -> pb.ListLimitsResponse:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await LimitServiceStub(server.channel).ListLimits(pb.ListLimitsRequest())
            await asyncio.sleep(0.05)


async def _until_lending_together(*servers: ServerProcess) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if len({(await _until_lending(server)).epoch for server in servers}) == 1:
                return
            await asyncio.sleep(0.05)


async def _find(server: ServerProcess) -> pb.LimitState:
    request = pb.ListLimitsRequest(key=KEY)
    return (await LimitServiceStub(server.channel).ListLimits(request)).limits[0]


async def test_two_servers_lend_from_one_book_and_one_goes_on_when_the_other_is_killed(
    database_url: str, valkey
) -> None:
    a, b = Worker("mta-1"), Worker("mta-2")
    async with _two_servers(database_url, valkey.url) as (first, second):
        async with a.connected(first.channel), b.connected(second.channel):
            a.want(KEY, 10, path())
            await a.report()
            await a.until(lambda: a.cap(KEY) == 10)

            b.want(KEY, 10, path())
            await b.report()
            await b.until(lambda: b.cap(KEY) == 5)
            assert a.cap(KEY) == 5

            states = [await _find(server) for server in (first, second)]
            assert [(one.booked, one.holder_count) for one in states] == [(10, 2)] * 2
            epoch = b.answers[-1].epoch
            await first.kill()
        # It goes to the other one, and has what it had: the book does not know of servers.
        async with a.connected(second.channel), b.connected(second.channel):
            for one in (a, b):
                await one.report()
            await a.until(lambda: a.answers and b.answers)
            assert (a.cap(KEY), b.cap(KEY)) == (5, 5)
            a.want(KEY, 1)
            await a.report()
            await b.until(lambda: b.cap(KEY) == 9)
            assert (a.cap(KEY), a.answers[-1].epoch) == (1, epoch)


async def test_of_two_agents_with_one_name_the_earlier_is_told_whichever_server_hears_the_later(
    database_url: str, valkey
) -> None:
    earlier, later = (Worker("mta-1", incarnation=2**52 + number) for number in (1, 2))
    async with (
        _two_servers(database_url, valkey.url) as (first, second),
        earlier.connected(first.channel),
    ):
        earlier.want(KEY, 10, path())
        await earlier.report()
        await earlier.until(lambda: earlier.cap(KEY) == 10)
        async with later.connected(second.channel):
            later.want(KEY, 10, path())
            await later.report()
            await later.until(lambda: later.cap(KEY) == 10)

            # It may have been told already.
            with contextlib.suppress(asyncio.InvalidStateError):
                await earlier.report()
            end = await earlier.ended()
            assert end.code() is grpc.StatusCode.ABORTED
            assert "a later start of this worker has reported" in (end.details() or "")


async def test_what_an_agent_may_use_on_one_host_is_not_lent_to_it_on_another(
    database_url: str, valkey
) -> None:
    here, there = (
        Worker("mta-1", incarnation=2**52 + number, host=f"host-{number}") for number in (1, 2)
    )
    async with (
        _two_servers(database_url, valkey.url) as (first, second),
        here.connected(first.channel),
    ):
        here.want(KEY, 10, path())
        await here.report()
        await here.until(lambda: here.cap(KEY) == 10)
        async with there.connected(second.channel):
            there.want(KEY, 10, path())
            await there.report()
            await there.until(lambda: there.cap(KEY) == 5)

            assert here.cap(KEY) == 5
            state = await _find(first)
            assert sorted(holder.host for holder in state.holders) == ["host-1", "host-2"]


async def test_the_command_asks_a_server_that_lives_whoever_began_the_book(
    database_url: str, valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rules(database_url, yahoo(connection_limit=10))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", database_url)
    # Their names aren't where they listen.
    settings = {"PENSTOCK_LIMITS_STATE": valkey.url, "PENSTOCK_SERVER_SHARE_PORT": "true"}
    elsewhere = {"PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.2:0"}

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, ["limits", *arguments])

    async with running(database_url, **settings, **elsewhere) as first:
        await _until_lending(first)
        async with running(database_url, **settings) as second:
            await _until_lending_together(first, second)
            worker = Worker("mta-1")
            worker.want(KEY, 4, path())
            await worker.exchange(second.channel)
            listed = await run("--json")
            assert [one["booked"] for one in json.loads(listed.stdout)["limits"]] == [10]

            await first.kill()
            async with asyncio.timeout(PATIENCE):
                while (released := await run("--release", "mta-1", "--force")).exit_code:
                    assert f"the server at {first.address}: " in str(released.exception)
                    await asyncio.sleep(0.1)
            other = Worker("mta-2")
            other.want(KEY, 1, path())
            await other.exchange(second.channel)
            assert other.cap(KEY) == 10


async def test_a_valkey_that_was_killed_takes_nothing_from_who_holds_it(
    database_url: str, valkey
) -> None:
    a, b = Worker("mta-1"), Worker("mta-2")
    async with _two_servers(database_url, valkey.url) as (first, second):
        async with a.connected(first.channel), b.connected(second.channel):
            for one in (a, b):
                one.want(KEY, 10, path())
                await one.report()
            # Either may be the one that had all before.
            await b.until(lambda: b.cap(KEY) == 5)
            await a.until(lambda: a.cap(KEY) == 5)
            epoch = b.answers[-1].epoch
            valkey.kill()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await b.exchange(second.channel)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            valkey.start()
            for server in (first, second):
                await _until_lending(server)

        begun = time.monotonic()
        async with a.connected(first.channel), b.connected(second.channel):
            for one in (a, b):
                await one.report()
                await one.until(lambda one=one: one.answers[-1].epoch > epoch)
                assert one.answers[-1].recovering
                # All that it has is said anew.
                await one.report()
            assert time.monotonic() - begun < PATIENCE
            assert (a.cap(KEY), b.cap(KEY)) == (5, 5)
            assert (await _find(first)).booked <= 10


def test_a_state_that_is_no_place_for_a_book_is_refused() -> None:
    with pytest.raises(InvalidSettings) as refusal:
        load_settings(None, {"PENSTOCK_LIMITS_STATE": "localhost:6379"})

    assert "PENSTOCK_LIMITS_STATE" in str(refusal.value)
    assert "redis://HOST:6379/0" in str(refusal.value)


async def test_without_a_client_the_server_says_what_to_install(tmp_path) -> None:
    program = (
        "import sys; sys.modules['redis'] = None; sys.argv[0] = 'penstock-server'\n"
        "from policy_server.cli.main import main; main()"
    )
    settings = {
        "PENSTOCK_DATABASE_URL": f"sqlite:///{tmp_path}/penstock.db",
        "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:0",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        "PENSTOCK_LIMITS_STATE": "redis://127.0.0.1:6379",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "serve"),
        env=os.environ | settings,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()

    assert process.returncode == 1
    assert b"install penstock[valkey]" in errors
    assert b"Traceback" not in errors
