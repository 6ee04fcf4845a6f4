"""A limit service that lends what a test says, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc

from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import (
    LimitServiceServicer,
    add_LimitServiceServicer_to_server,
)


class LimitPeer(LimitServiceServicer):
    """Answers every report with what it has to lend, and keeps what it was told."""

    def __init__(self, *, ttl: float = 15.0, drain: float = 5.0, floor: float = 60.0) -> None:
        self.terms = pb.LeaseTerms(drift=1000)
        self.terms.session_ttl.FromTimedelta(timedelta(seconds=ttl))
        self.terms.drain_time.FromTimedelta(timedelta(seconds=drain))
        self.terms.floor_ttl.FromTimedelta(timedelta(seconds=floor))
        self.next_sync = 0.1
        self.epoch = 1
        #: Units by key, and what else grants say: (limit, rate count, rate period in seconds).
        self.units: dict[str, int] = {}
        self.floors: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, int, float]] = {}
        self.unknown: set[str] = set()
        #: Hears reports, but says nothing more.
        self.is_silent = False
        #: With what the next streams break off.
        self.breakages: list[grpc.StatusCode] = []
        self.says = "it broke"
        #: Where the book is, if it is not here.
        self.elsewhere = ""
        #: Reports of every stream so far, a list a stream, with keys in place of handles.
        self.streams: list[list[pb.LimitReport]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.released: list[tuple[str, int]] = []
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._granted: dict[str, tuple[int, int]] = {}
        self._version = 0
        self._push = asyncio.Event()

    async def start(self) -> None:
        """Listen, on the port of the last time if there was one."""
        self._server = grpc.aio.server()
        add_LimitServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def begin_anew(self, epoch: int) -> None:
        """Forget everything, as another book would have."""
        self.epoch, self._granted, self._version = epoch, {}, 0

    def lend(self, key: str, units: int, *, floor: int = 0) -> None:
        """Lend so much of *key* from now on."""
        self.units[key], self.floors[key] = units, floor
        self._push.set()

    @property
    def reports(self) -> list[pb.LimitReport]:
        """All reports so far."""
        return [report for stream in self.streams for report in stream]

    def told(self, key: str) -> list[pb.LimitDemand]:
        """All that was said of *key*."""
        return [one for report in self.reports for one in report.demands if one.key == key]

    async def SyncLimits(self, request_iterator, context) -> AsyncIterator[pb.SyncLimitsResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        reports: list[pb.LimitReport] = []
        self.streams.append(reports)
        if self.elsewhere:
            text = f"the server at {self.elsewhere} keeps the book of limits"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)
        if self.breakages:
            await context.abort(self.breakages.pop(0), self.says)
        keys: dict[int, str] = {}
        handles: dict[str, int] = {}
        outgoing: asyncio.Queue[pb.SyncLimitsResponse] = asyncio.Queue()
        self._granted = {}
        tasks = [
            asyncio.create_task(self._hear(request_iterator, reports, keys, handles, outgoing)),
            asyncio.create_task(self._lend(reports, handles, outgoing)),
        ]
        try:
            while True:
                yield await outgoing.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self, requests, reports, keys, handles, outgoing) -> None:
        async for request in requests:
            report = request.report
            unknown = []
            for demand in report.demands:
                if demand.key:
                    keys[demand.handle] = demand.key
                    handles[demand.key] = demand.handle
                demand.key = keys[demand.handle]
                # What lapsed is granted anew.
                if demand.version and demand.enforced < self._granted.get(demand.key, (0, 0))[0]:
                    del self._granted[demand.key]
                if demand.key in self.unknown:
                    unknown.append(demand.key)
            reports.append(report)
            if not self.is_silent:
                outgoing.put_nowait(self._answer(reports, self._grants(handles), unknown))

    async def _lend(self, reports, handles, outgoing) -> None:
        while True:
            await self._push.wait()
            self._push.clear()
            if reports and not self.is_silent and (grants := self._grants(handles)):
                outgoing.put_nowait(self._answer(reports, grants, []))

    def _answer(self, reports, grants, unknown) -> pb.SyncLimitsResponse:
        answer = pb.LimitAnswer(
            epoch=self.epoch,
            incarnation=reports[-1].incarnation,
            sequence=reports[-1].sequence,
            grants=grants,
            terms=self.terms,
            unknown=unknown,
        )
        answer.next_sync.FromTimedelta(timedelta(seconds=self.next_sync))
        return pb.SyncLimitsResponse(answer=answer)

    def _grants(self, handles: dict[str, int]) -> list[pb.LimitGrant]:
        grants = []
        for key, units in self.units.items():
            handle = handles.get(key)
            floor = self.floors.get(key, 0)
            if handle is None or self._granted.get(key) == (units, floor):
                continue
            had = self._granted.get(key, (0, 0))[0]
            self._granted[key] = (units, floor)
            self._version += 1
            limit, count, period = self.shapes.get(key, (units, 0, 0.0))
            grant = pb.LimitGrant(
                handle=handle,
                version=(self.epoch << 32) + self._version,
                units=units,
                floor=floor,
                limit=limit,
                rate_count=count,
                proof=f"{key} {units}".encode(),
            )
            if count:
                grant.rate_period.FromTimedelta(timedelta(seconds=period))
                grant.fill_nano_events = max(0, units - had) * 1_000_000_000
            grants.append(grant)
        return grants

    async def ReleaseSession(self, request, context) -> pb.ReleaseSessionResponse:
        self.released.append((request.worker, request.incarnation))
        return pb.ReleaseSessionResponse()
