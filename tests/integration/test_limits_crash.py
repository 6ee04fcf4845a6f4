"""A server that lends limits is killed and started again: nobody loses or gains by it."""

import asyncio
import contextlib

import grpc

from benchmarks.server_process import ServerProcess, serving
from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from tests.integration.limit_worker import PATIENCE, Worker, path
from tests.integration.watching import SITE, write_rules, yahoo

KEY = f"connection_limit:ip-1->{SITE}"


@contextlib.asynccontextmanager
async def _channel(server: ServerProcess):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await LimitServiceStub(channel).ListLimits(pb.ListLimitsRequest())
                    break
                await asyncio.sleep(0.05)
        yield channel


async def _share(channel: grpc.aio.Channel, workers: list[Worker]) -> None:
    """Have two workers share the limit, each with half of it."""
    first, second = workers
    async with first.connected(channel), second.connected(channel):
        for worker in workers:
            worker.want(KEY, 10, path())
            await worker.report()
            await worker.until(lambda worker=worker: worker.answers)
        await first.until(lambda: first.cap(KEY) == 5)
        await second.until(lambda: second.cap(KEY) == 5)
        # What each has is confirmed, so that the book knows it too.
        for worker in workers:
            await worker.report()
            count = len(worker.answers)
            await worker.until(lambda worker=worker, count=count: len(worker.answers) > count)


async def test_a_server_that_was_killed_goes_on_from_what_it_promised(database_url) -> None:
    write_rules(database_url, yahoo(connection_limit=10))
    workers = [Worker("mta-1"), Worker("mta-2")]
    with serving(database_url) as server:
        async with _channel(server) as channel:
            await _share(channel, workers)
        server.kill()
    epoch = workers[0].answers[-1].epoch

    newcomer = Worker("mta-3")
    with serving(database_url, port=server.port) as server:
        async with _channel(server) as channel, newcomer.connected(channel):
            newcomer.want(KEY, 10, path())
            await newcomer.report()
            await newcomer.until(lambda: newcomer.answers)
            assert newcomer.answers[-1].epoch > epoch
            assert newcomer.answers[-1].recovering
            # Those who had units have them still, by their own clocks.
            assert [worker.cap(KEY) for worker in (*workers, newcomer)] == [5, 5, 0]

            first, second = workers
            async with first.connected(channel), second.connected(channel):
                for worker in workers:
                    await worker.report()
                    await worker.until(lambda worker=worker: worker.answers[-1].epoch > epoch)
                    # A book that knows nothing is shown all.
                    await worker.report()
                # All that was out is accounted for, and shared anew.
                await newcomer.until(lambda: newcomer.cap(KEY) >= 2)
                assert max(await _watch([*workers, newcomer])) <= 10
                state = await LimitServiceStub(channel).ListLimits(pb.ListLimitsRequest(key=KEY))
                assert state.limits[0].booked <= 10


async def _watch(workers: list[Worker]) -> list[int]:
    """Look for a while at what all may use together."""
    seen = []
    for _ in range(20):
        seen.append(sum(worker.cap(KEY) for worker in workers))
        await asyncio.sleep(0.02)
    return seen
