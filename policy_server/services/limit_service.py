"""
LimitService: lends limits to the workers of agents.

How one stream goes stands in `limit_stream`, what a limit is in `limit_names`, who gets how much in
`policy_server.limits`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

from penstock.v1 import limit_service_pb2 as pb
from penstock.v1 import limit_service_pb2_grpc
from policy_server.conversions.holders import Holder
from policy_server.conversions.limits import (
    check_names,
    check_report,
    to_answer,
    to_duration,
    to_state,
    to_terms,
)
from policy_server.errors import InvalidRequest, NotFound, Unavailable
from policy_server.lending.port import LimitStore
from policy_server.metrics import ServerMetrics
from policy_server.services.caller import read_caller
from policy_server.services.limit_hosts import KnownHosts
from policy_server.services.limit_names import LimitNames
from policy_server.services.limit_stream import (
    MOST_GRANTS,
    LimitStream,
    Receiver,
    read_first,
    why_over,
    why_unheard,
)
from policy_server.services.paging import read_page_size

#: Most streams open at a time.
MAX_STREAMS = 4000
#: When the server stops, workers come back spread over so much time: well before leases end.
_SOONEST = timedelta(seconds=0.5)
_SPREAD = timedelta(seconds=2)
#: Workers report that often if nothing changes, and less often where there are many.
_SYNC_LEAST, _SYNC_MOST = timedelta(seconds=2), timedelta(seconds=5)
_SYNC_EACH = timedelta(milliseconds=5)
#: How long an answer to one who polls waits for the grants that follow from the report.
_SETTLE_SECONDS = 1.0


class LimitService(limit_service_pb2_grpc.LimitServiceServicer):
    """Lends limits; close it with `drain` before the server stops."""

    def __init__(
        self,
        store: LimitStore,
        names: LimitNames,
        *,
        metrics: ServerMetrics,
        random: Random | None = None,
    ) -> None:
        self._store = store
        self._names = names
        self._metrics = metrics
        self._random = random or Random()
        self._streams: dict[str, LimitStream] = {}
        self._hosts = KnownHosts(names.has_seen)
        self._is_draining = False

    async def SyncLimits(
        self, request_iterator: AsyncIterator[pb.SyncLimitsRequest], context: Any
    ) -> AsyncGenerator[pb.SyncLimitsResponse, None]:
        """Take reports and bring grants, until either side ends."""
        agent = _read_agent(context)
        self._refuse_if_full()
        first = await read_first(request_iterator)
        check_report(first)
        who = Holder.of(agent, first)
        holder = who.name
        stream = LimitStream(
            self._store,
            self._receiver(holder),
            holder=holder,
            incarnation=first.incarnation,
            next_sync=self._next_sync,
            metrics=self._metrics,
        )
        self._end_earlier(holder, first.incarnation)
        self._hosts.note(who)
        self._streams[holder] = stream
        try:
            async with contextlib.aclosing(stream.serve(first, request_iterator)) as responses:
                async for response in responses:
                    yield response
        finally:
            if self._streams.get(holder) is stream:
                del self._streams[holder]

    async def ExchangeLimits(
        self, request: pb.ExchangeLimitsRequest, context: Any
    ) -> pb.ExchangeLimitsResponse:
        """Take one report, and answer with the grants that its worker has not confirmed."""
        self._refuse_if_full()
        report = request.report
        check_report(report)
        who = Holder.of(_read_agent(context), report)
        holder = who.name
        # What is there for the worker goes to one place.
        self._end_earlier(holder, report.incarnation)
        self._hosts.note(who)
        detach = self._store.attach(holder, _do_nothing)
        try:
            heard = await self._receiver(holder).take(report)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await self._store.settled()
            taken = await self._store.take(holder, report.incarnation, MOST_GRANTS)
        finally:
            detach()
        if not taken.sequence:
            raise why_unheard(taken, heard.epoch)
        answer = to_answer(taken, report.incarnation, {}, unknown=heard.unknown)
        answer.terms.CopyFrom(to_terms(self._store.timing))
        answer.next_sync.CopyFrom(to_duration(self._next_sync()))
        self._metrics.limit_grants.inc(len(taken.grants))
        return pb.ExchangeLimitsResponse(answer=answer)

    async def ReleaseSession(
        self, request: pb.ReleaseSessionRequest, context: Any
    ) -> pb.ReleaseSessionResponse:
        """End all leases of a worker."""
        check_names(request)
        who = Holder.of(_read_agent(context), request)
        heard = await self._store.hears(who.name)
        if heard and request.only_silent:
            return pb.ReleaseSessionResponse(known=True, heard=True)
        await self._store.release(who.name, request.incarnation)
        self._names.forget(who.name)
        self._hosts.forget(who)
        return pb.ReleaseSessionResponse(known=heard is not None)

    async def ListLimits(
        self, request: pb.ListLimitsRequest, _context: Any
    ) -> pb.ListLimitsResponse:
        """List limits by key, a page at a time; or one with its holders."""
        size = read_page_size(request.page_size)
        if request.key:
            book = await self._store.find_limit(request.key)
            if not book.limits:
                raise NotFound(f'no limit "{request.key}" is lent now')
        else:
            book = await self._store.list_limits(request.page_token, size + 1)
        page = book.limits[:size]
        return pb.ListLimitsResponse(
            limits=[to_state(one, disagreeing=self._names.disagreeing(one.key)) for one in page],
            # The token is the last key of the page before: any text is one.
            next_page_token=page[-1].key if len(book.limits) > size else "",
            server=book.server,
            epoch=book.epoch,
            recovering=book.is_recovering,
        )

    def drain(self) -> None:
        """Ask every worker to come back later, end the streams and take no more reports."""
        self._is_draining = True
        for stream in tuple(self._streams.values()):
            stream.end(_SOONEST + _SPREAD * self._random.random())

    def _end_earlier(self, holder: str, incarnation: int) -> None:
        earlier = self._streams.get(holder)
        if earlier is None:
            return
        if earlier.incarnation > incarnation:
            # One that has been told so asks again now and then, and must not disturb the other.
            raise why_over()
        del self._streams[holder]
        earlier.give_way()

    def _receiver(self, holder: str) -> Receiver:
        return Receiver(self._store, self._names, holder=holder, metrics=self._metrics)

    def _refuse_if_full(self) -> None:
        if self._is_draining or len(self._streams) >= MAX_STREAMS:
            raise Unavailable("no more workers are taken now; connect again")

    def _next_sync(self) -> timedelta:
        wished = max(_SYNC_LEAST, min(_SYNC_MOST, _SYNC_EACH * len(self._streams)))
        # One report may be lost, and the next one late, before a lease is over.
        return min(wished, timedelta(microseconds=self._store.timing.session // 3000))


def _do_nothing() -> None:
    """Be woken for nothing: who polls looks by itself."""


def _read_agent(context: Any) -> str:
    agent = read_caller(context)
    if not agent:
        message = "limits are lent to agents that have a name: set the metadata key penstock-agent"
        raise InvalidRequest(message, field="penstock-agent")
    return agent
