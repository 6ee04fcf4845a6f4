"""
FeedbackService: takes outcomes, and answers once what follows from them is durable.

How outcomes are counted stands in `outcome_counter`, how one stream is answered in
`outcome_stream`.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from penstock.v1 import feedback_service_pb2, feedback_service_pb2_grpc
from policy_server.conversions.outcomes import read_outcomes
from policy_server.errors import InvalidRequest, Unavailable
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.services.outcome_counter import OutcomeCounter
from policy_server.services.outcome_filters import OutcomeFilters
from policy_server.services.outcome_stream import MAX_OUTCOMES, OutcomeStream, Room
from policy_server.store.reports import ReportStore

#: Most streams open at a time.
MAX_STREAMS = 4000
#: When the server stops, agents come back spread over so much time.
_SOONEST = timedelta(seconds=0.5)
_SPREAD = timedelta(seconds=2)


class FeedbackService(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Counts outcomes; close it with `drain` before the server stops."""

    def __init__(
        self,
        policy: Policy,
        store: ReportStore,
        *,
        metrics: ServerMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Random | None = None,
    ) -> None:
        self._metrics = metrics
        self._random = random or Random()
        self._filters = OutcomeFilters(policy)
        self._counter = OutcomeCounter(
            policy, store, filters=self._filters, metrics=metrics, clock=clock
        )
        self._room = Room()
        self._streams: set[OutcomeStream] = set()
        self._is_draining = False

    async def ReportOutcomes(
        self, request: feedback_service_pb2.ReportOutcomesRequest, context: Any
    ) -> feedback_service_pb2.ReportOutcomesResponse:
        """Count a batch; the answer says that it is counted durably."""
        if len(request.outcomes) > MAX_OUTCOMES:
            raise InvalidRequest(
                f"a call takes at most {MAX_OUTCOMES} outcomes, this one has "
                f"{len(request.outcomes)}",
                field="outcomes",
            )
        size = request.ByteSize()
        if not self._room.take(size):
            raise Unavailable("too many outcomes are under way; try again")
        try:
            counted = await self._counter.count(read_outcomes(request.outcomes))
        finally:
            self._room.give_back(size)
        return feedback_service_pb2.ReportOutcomesResponse(
            match_count=counted.match_count, action_ids=counted.action_ids
        )

    async def StreamOutcomes(
        self,
        request_iterator: AsyncIterator[feedback_service_pb2.StreamOutcomesRequest],
        context: Any,
    ) -> AsyncGenerator[feedback_service_pb2.StreamOutcomesResponse, None]:
        """Count batch after batch, until either side ends."""
        if self._is_draining or len(self._streams) >= MAX_STREAMS:
            raise Unavailable("no more streams are taken now; connect again")
        stream = OutcomeStream(
            self._counter,
            self._filters,
            room=self._room,
            metrics=self._metrics,
            chance=self._random.random,
        )
        self._streams.add(stream)
        try:
            async with contextlib.aclosing(stream.serve(request_iterator)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams.discard(stream)

    def drain(self) -> None:
        """Ask every agent to come back later, end the streams and take no more."""
        self._is_draining = True
        self._filters.close()
        for stream in tuple(self._streams):
            stream.end(_SOONEST + _SPREAD * self._random.random())
