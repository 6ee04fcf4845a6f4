"""A worker that shares limits: the real holder, over a real stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from agent.limits.holder import LeaseHolder
from agent.limits.messages import Answer, Demand, Grant
from agent.limits.times import HolderTimes
from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from penstock.v1.policy_service_pb2 import MxHost
from policy_server.lending.clock import boottime_ns

_NANO = 1_000_000_000
PATIENCE = 20.0
HOSTS = (
    MxHost(host="mta5.am0.yahoodns.net", preference=1),
    MxHost(host="mta6.am0.yahoodns.net", preference=1),
)


def path(domain: str = "yahoo.com", source: str = "ip-1") -> pb.LimitPath:
    """A path, whose answer names limits."""
    return pb.LimitPath(routing_domain=domain, egress_source=source, mx_hosts=HOSTS)


class Worker:
    """One worker of an agent."""

    def __init__(
        self, agent: str, *, worker: str = "", incarnation: int = 1, host: str = ""
    ) -> None:
        self.agent, self.worker, self.incarnation, self.host = agent, worker, incarnation, host
        times = HolderTimes.of(session=15 * _NANO, floor=1200 * _NANO, drain=55 * _NANO, drift=1000)
        self.holder = LeaseHolder(times, agent=agent, incarnation=incarnation)
        self.paths: dict[str, tuple[pb.LimitPath, ...]] = {}
        self.answers: list[pb.LimitAnswer] = []
        self.unknown: list[str] = []
        self._specs: dict[str, tuple[int, int]] = {}
        self._handles: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._changed = asyncio.Event()
        #: A stream takes one message at a time.
        self._writing = asyncio.Lock()
        self._call: Any = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Who calls."""
        return (("penstock-agent", self.agent),)

    def cap(self, key: str) -> int:
        """Units that may be used now."""
        return self.holder.cap(key, boottime_ns())

    def want(self, key: str, units: int, *paths: pb.LimitPath) -> None:
        """Want units, to be reported by the next report."""
        if paths:
            self.paths[key] = paths
        self.holder.want(key, units)

    def make_report(self, *, with_keys: bool = False) -> pb.LimitReport:
        """Make the next report, as the stream or (*with_keys*) a call of its own needs it."""
        made = self.holder.report(boottime_ns())
        return pb.LimitReport(
            worker=self.worker,
            host=self.host,
            incarnation=made.incarnation,
            sequence=made.sequence,
            demands=[self._write(one, with_keys=with_keys) for one in made.demands],
        )

    def _write(self, demand: Demand, *, with_keys: bool) -> pb.LimitDemand:
        is_known = demand.key in self._handles and not with_keys
        if not with_keys:
            handle = self._handles.setdefault(demand.key, len(self._handles) + 1)
            self._keys[handle] = demand.key
        parts, _ = self._specs.get(demand.key, (0, 0))
        lease = next(one for one in self.holder.leases() if one.key == demand.key)
        return pb.LimitDemand(
            handle=0 if with_keys else self._handles[demand.key],
            key="" if is_known else demand.key,
            paths=() if is_known else self.paths.get(demand.key, ()),
            wants=demand.wants,
            enforced=demand.enforced,
            version=demand.version,
            returned_nano_events=demand.returned * _NANO // parts if parts else 0,
            claim=pb.LimitClaim(units=demand.granted, floor=demand.floor, proof=demand.proof),
            in_use=lease.in_use,
        )

    def apply(self, answer: pb.LimitAnswer) -> None:
        """Take an answer."""
        self.answers.append(answer)
        self.unknown += answer.unknown
        grants = tuple(map(self._read, answer.grants))
        heard = Answer(
            epoch=answer.epoch,
            incarnation=answer.incarnation,
            sequence=answer.sequence,
            grants=grants,
        )
        self.holder.hear(heard, boottime_ns())
        self._changed.set()

    def _read(self, grant: pb.LimitGrant) -> Grant:
        key = grant.key or self._keys[grant.handle]
        period_ns = grant.rate_period.seconds * _NANO + grant.rate_period.nanos
        parts = period_ns * grant.limit if grant.rate_count else 0
        self._specs[key] = parts, grant.rate_count
        return Grant(
            key=key,
            version=grant.version,
            units=grant.units,
            floor=grant.floor,
            fill=grant.fill_nano_events * parts // _NANO,
            proof=grant.proof,
            event_parts=parts,
            earns=grant.rate_count,
        )

    # Over a stream.

    @contextlib.asynccontextmanager
    async def connected(self, channel: grpc.aio.Channel) -> AsyncIterator["Worker"]:
        """Have a stream; what is granted is applied and confirmed as it comes."""
        self._handles, self._keys = {}, {}
        self._call = LimitServiceStub(channel).SyncLimits(metadata=self.metadata)
        reader = asyncio.create_task(self._read_all())
        try:
            yield self
        finally:
            reader.cancel()
            self._call.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read_all(self) -> None:
        async for response in self._call:
            self.apply(response.answer)
            if response.answer.grants:
                await self.report()

    async def report(self) -> None:
        """Send what changed."""
        async with self._writing:
            await self._call.write(pb.SyncLimitsRequest(report=self.make_report()))

    async def until(self, condition: Any) -> None:
        """Wait until *condition* holds, looking after each answer; report once a second."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._changed.wait()
                if not condition():
                    await self.report()

    async def ended(self) -> grpc.aio.AioRpcError:
        """Wait until the server ends the stream; return its error."""
        async with asyncio.timeout(PATIENCE):
            code, details = await self._call.code(), await self._call.details()
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)

    # By calls of its own.

    async def exchange(self, channel: grpc.aio.Channel) -> pb.LimitAnswer:
        """Report and apply the answer."""
        request = pb.ExchangeLimitsRequest(report=self.make_report(with_keys=True))
        response = await LimitServiceStub(channel).ExchangeLimits(
            request, metadata=self.metadata, timeout=PATIENCE
        )
        self.apply(response.answer)
        return response.answer
