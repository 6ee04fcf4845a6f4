"""
One worker's stream: reports up, grants down.

1. A report is taken in once the one before it has been answered: what a client sends faster waits
   in HTTP/2, and holds it back.
2. What is sent is looked up when it is sent: however slowly a client reads, it gets the newest
   grant of each limit, and nothing piles up.
3. An answer acknowledges the newest report, whether or not it has grants; grants come when they
   are there.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta

from penstock.v1 import limit_service_pb2 as pb
from policy_server.conversions.limits import (
    check_report,
    invalid_report,
    read_demand,
    to_answer,
    to_duration,
    to_terms,
)
from policy_server.errors import Aborted, InvalidRequest, PolicyServerError, Unavailable
from policy_server.lending.port import Heard, LimitStore, Taken
from policy_server.limits.messages import Report
from policy_server.metrics import ServerMetrics
from policy_server.services.limit_names import LimitNames

#: Most grants of one answer.
MOST_GRANTS = 1000
_MOST_HANDLES = 200_000
_FIRST_SECONDS = 30.0


class Handles:
    """The numbers that a stream has for keys."""

    def __init__(self) -> None:
        self._keys: dict[int, str] = {}
        self.by_key: dict[str, int] = {}

    def read_key(self, demand: pb.LimitDemand, index: int) -> str:
        """Return the key of a demand, and remember its handle. Errors: `InvalidRequest`."""
        key = demand.key or self._keys.get(demand.handle, "")
        if not key:
            text = "is required with a handle that the stream has not given a key"
            raise invalid_report([(f"demands[{index}].key", text)])
        if demand.handle and self._keys.get(demand.handle) != key:
            if len(self._keys) >= _MOST_HANDLES:
                text = f"must not be more than {_MOST_HANDLES} in one stream"
                raise invalid_report([(f"demands[{index}].handle", text)])
            self.by_key.pop(self._keys.get(demand.handle, ""), None)
            self._keys[demand.handle] = key
            self.by_key[key] = demand.handle
        return key


class Receiver:
    """Takes in the reports of one worker."""

    def __init__(
        self, store: LimitStore, names: LimitNames, *, holder: str, metrics: ServerMetrics
    ) -> None:
        self._store = store
        self._names = names
        self._holder = holder
        self._metrics = metrics
        self.handles = Handles()

    async def take(self, message: pb.LimitReport) -> Heard:
        """Take in a report; say what became of it. Errors: as the RPCs."""
        check_report(message)
        keys = [self.handles.read_key(one, index) for index, one in enumerate(message.demands)]
        self._names.note_seen(self._holder)
        paths = [path for demand in message.demands for path in demand.paths]
        if paths:
            await self._names.name(self._holder, paths)
        specs = self._names.specs(keys)
        demands = tuple(
            read_demand(demand, key, specs.get(key))
            for demand, key in zip(message.demands, keys, strict=True)
        )
        report = Report(
            agent=self._holder,
            incarnation=message.incarnation,
            sequence=message.sequence,
            demands=demands,
        )
        heard = await self._store.receive(report, specs)
        self._metrics.limit_reports.inc()
        self._metrics.limit_demands.inc(len(demands))
        return heard


class LimitStream:
    """What one worker is told, until either side ends."""

    def __init__(
        self,
        store: LimitStore,
        receiver: Receiver,
        *,
        holder: str,
        incarnation: int,
        next_sync: Callable[[], timedelta],
        metrics: ServerMetrics,
    ) -> None:
        self._store = store
        self._receiver = receiver
        self._holder = holder
        self.incarnation = incarnation
        self._next_sync = next_sync
        self._metrics = metrics
        self._alarm = asyncio.Event()
        self._is_answered = asyncio.Event()
        self._owes = False
        self._unknown: list[str] = []
        #: In which epoch of the book the report was taken in that is to be answered.
        self._epoch = 0
        self._failure: Exception | None = None
        self._reconnect_after: timedelta | None = None
        self._is_over = False
        self._has_terms = False

    async def serve(
        self, first: pb.LimitReport, requests: AsyncIterator[pb.SyncLimitsRequest]
    ) -> AsyncGenerator[pb.SyncLimitsResponse, None]:
        """Answer the *first* report and what follows. Errors: as `SyncLimits`."""
        detach = self._store.attach(self._holder, self._alarm.set)
        listener = asyncio.create_task(self._listen(first, requests))
        listener.add_done_callback(self._note_end)
        try:
            while (answer := await self._next()) is not None:
                yield pb.SyncLimitsResponse(answer=answer)
        finally:
            detach()
            listener.cancel()

    def end(self, reconnect_after: timedelta) -> None:
        """Ask the client to come back later, and end."""
        self._reconnect_after = reconnect_after
        self._alarm.set()

    def give_way(self) -> None:
        """End, as another stream of the worker has begun."""
        self._failure = Aborted("another stream of the same worker has begun")
        self._alarm.set()

    async def _listen(
        self, first: pb.LimitReport, requests: AsyncIterator[pb.SyncLimitsRequest]
    ) -> None:
        await self._take(first)
        async for request in requests:
            report = request.report
            for field in ("worker", "incarnation", "host"):
                if getattr(report, field) != getattr(first, field):
                    raise invalid_report([(field, "must stay the same within a stream")])
            await self._take(report)

    async def _take(self, report: pb.LimitReport) -> None:
        heard = await self._receiver.take(report)
        self._unknown += heard.unknown
        self._epoch, self._owes = heard.epoch, True
        self._is_answered.clear()
        self._alarm.set()
        await self._is_answered.wait()

    async def _next(self) -> pb.LimitAnswer | None:
        """Return what is to be sent next; None at the end."""
        while True:
            await self._alarm.wait()
            self._alarm.clear()
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return None
            taken = await self._store.take(self._holder, self.incarnation, MOST_GRANTS)
            if taken.has_more:
                self._alarm.set()
            if not (taken.grants or self._owes or self._reconnect_after):
                continue
            if self._owes and not taken.sequence:
                raise why_unheard(taken, self._epoch)
            unknown, self._unknown = self._unknown, []
            answer = to_answer(
                taken, self.incarnation, self._receiver.handles.by_key, unknown=unknown
            )
            self._metrics.limit_grants.inc(len(taken.grants))
            self._finish(answer)
            return answer

    def _finish(self, answer: pb.LimitAnswer) -> None:
        answer.next_sync.CopyFrom(to_duration(self._next_sync()))
        if not self._has_terms:
            answer.terms.CopyFrom(to_terms(self._store.timing))
            self._has_terms = True
        if self._reconnect_after is not None:
            answer.reconnect_after.CopyFrom(to_duration(self._reconnect_after))
            self._is_over = True
            self._alarm.set()
        self._owes = False
        self._is_answered.set()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                self._failure = error
            self._is_over = True
        self._alarm.set()


def why_unheard(taken: Taken, epoch: int) -> PolicyServerError:
    """Say why the book does not know of a report that was taken in in *epoch*."""
    if taken.epoch != epoch:
        return Unavailable("the book of limits has been begun anew; connect and report again")
    return why_over()


def why_over() -> PolicyServerError:
    """Say that a start of a worker is over: our agents know it by this text."""
    return Aborted("a later start of this worker has reported, or this one was released")


async def read_first(requests: AsyncIterator[pb.SyncLimitsRequest]) -> pb.LimitReport:
    """Read the report that a stream begins with. Errors: `InvalidRequest`."""
    with contextlib.suppress(StopAsyncIteration, TimeoutError):
        async with asyncio.timeout(_FIRST_SECONDS):
            return (await anext(requests)).report
    raise InvalidRequest("a stream begins with a report", field="report")
