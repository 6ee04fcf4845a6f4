"""
One agent's stream of outcomes: batches up, acknowledgements down.

1. At most `WINDOW` batches of a stream are under way: further ones are not read until responses
   have been taken, so that HTTP/2 holds the sender back. What all streams hold together is bounded
   too; beyond it a batch is refused and let go of at once.
2. Each batch gets one response: an acknowledgement once it is durable, or a refusal. A refusal
   ends no stream; only requests out of order do.
3. An agent that wants the filter is sent it at the start and whenever it changes, and always
   before a refusal of a batch for a filter that holds no more.
4. When the server stops, agents are asked to come back later; what was taken up is answered first.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta

from penstock.v1 import feedback_service_pb2 as pb
from policy_server.automation.outcome_filter import OutcomeFilter
from policy_server.conversions.outcomes import (
    find_violations,
    from_outcome,
    read_skipped,
    to_filter,
)
from policy_server.errors import InvalidRequest, PolicyServerError, Unavailable
from policy_server.metrics import ServerMetrics
from policy_server.services.outcome_counter import OutcomeCounter, StaleFilter
from policy_server.services.outcome_filters import OutcomeFilters

logger = logging.getLogger(__name__)

#: Most outcomes of one batch.
MAX_OUTCOMES = 1000
#: Batches of one stream under way.
WINDOW = 8
#: Most bytes of batches under way, of all streams together.
MAX_BYTES = 64 * 1024 * 1024
_START_SECONDS = 30.0
#: After an error that waiting may not mend.
_LONG_DELAY = timedelta(seconds=10)
_MOST_NAMED = 3

_Refusal = pb.OutcomeRefusal


@dataclass(slots=True)
class Room:
    """What batches under way may take of memory."""

    limit: int = MAX_BYTES
    taken: int = 0

    def take(self, size: int) -> bool:
        """Take room for *size* bytes; False if there is none. A lone batch always fits."""
        if self.taken and self.taken + size > self.limit:
            return False
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        """Give back what `take` took."""
        self.taken -= size


class OutcomeStream:
    """What one agent is answered."""

    def __init__(
        self,
        counter: OutcomeCounter,
        filters: OutcomeFilters,
        *,
        room: Room,
        metrics: ServerMetrics,
        chance: Callable[[], float],
    ) -> None:
        """*chance*, between 0 and 1, spreads the agents that are to try again."""
        self._counter = counter
        self._filters = filters
        self._room = room
        self._metrics = metrics
        self._chance = chance
        self._responses: deque[pb.StreamOutcomesResponse] = deque()
        self._wake = asyncio.Event()
        self._window = asyncio.Semaphore(WINDOW)
        self._under_way: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._wants_filter = False
        #: Of the filter that the agent has, or that is on its way to it.
        self._filter_etag = ""
        self._newest: OutcomeFilter | None = None
        self._failure: Exception | None = None

    async def serve(
        self, requests: AsyncIterator[pb.StreamOutcomesRequest]
    ) -> AsyncGenerator[pb.StreamOutcomesResponse, None]:
        """Answer *requests* until either side ends. Errors: `InvalidRequest`, `Unavailable`."""
        start = await _read_start(requests)
        unsubscribe = self._filters.subscribe(self._hear_filter)
        self._listener = asyncio.create_task(self._listen(requests))
        self._listener.add_done_callback(self._note_end)
        try:
            if start.wants_filter:
                self._wants_filter, self._filter_etag = True, start.filter_etag
                self._hear_filter(await self._filters.current())
            while (response := await self._next()) is not None:
                yield response
                if response.HasField("ack") or response.HasField("refusal"):
                    self._window.release()
        finally:
            unsubscribe()
            self._listener.cancel()
            for task in self._under_way:
                task.cancel()

    def end(self, reconnect_after: timedelta) -> None:
        """Ask the agent to come back later, take no more batches, end once all are answered."""
        response = pb.StreamOutcomesResponse()
        response.reconnect_after.FromTimedelta(reconnect_after)
        self._say(response)
        if self._listener is not None:
            self._listener.cancel()

    async def _next(self) -> pb.StreamOutcomesResponse | None:
        """Return what is to be sent next; None at the end."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._newest is not None:
                newest, self._newest = self._newest, None
                return self._write_filter(newest)
            if self._responses:
                return self._responses.popleft()
            if self._listener is not None and self._listener.done() and not self._under_way:
                return None
            self._wake.clear()
            await self._wake.wait()

    async def _listen(self, requests: AsyncIterator[pb.StreamOutcomesRequest]) -> None:
        await self._window.acquire()
        async for request in requests:
            if request.WhichOneof("request") != "batch" or not request.batch.batch_id:
                raise InvalidRequest(
                    "after start every request is a batch with a batch_id", field="batch"
                )
            task = asyncio.create_task(self._take(request.batch))
            self._under_way.add(task)
            task.add_done_callback(self._note_done)
            await self._window.acquire()

    async def _take(self, batch: pb.OutcomeBatch) -> None:
        size = batch.ByteSize()
        if not self._room.take(size):
            self._refuse(
                batch, _Refusal.REASON_UNAVAILABLE, "too much is under way", delay=_second()
            )
            return
        try:
            await self._count(batch)
        except StaleFilter as error:
            # It goes out before any response does.
            self._hear_filter(error.current)
            self._refuse(batch, _Refusal.REASON_STALE_FILTER, str(error))
        except Unavailable as error:
            self._refuse(batch, _Refusal.REASON_UNAVAILABLE, str(error), delay=error.retry_delay)
        # The supervisor of a batch: the stream goes on, and the agent keeps what is refused.
        except Exception as error:
            logger.error("batch of outcomes not counted", exc_info=error)
            text = str(error) if isinstance(error, PolicyServerError) else "internal error"
            self._refuse(batch, _Refusal.REASON_UNAVAILABLE, text, delay=_LONG_DELAY)
        finally:
            self._room.give_back(size)

    async def _count(self, batch: pb.OutcomeBatch) -> None:
        if len(batch.outcomes) > MAX_OUTCOMES:
            text = f"a batch has at most {MAX_OUTCOMES} outcomes, this one {len(batch.outcomes)}"
            self._refuse(batch, _Refusal.REASON_INVALID, text)
            return
        invalid = {
            index: violations
            for index, outcome in enumerate(batch.outcomes)
            if (violations := find_violations(outcome))
        }
        if invalid:
            self._refuse_invalid(batch, invalid)
            return
        counted = await self._counter.count(
            list(map(from_outcome, batch.outcomes)), filter_etag=batch.filter_etag
        )
        for kind, count in read_skipped(batch.skipped).items():
            self._metrics.outcomes_skipped.labels(kind).inc(count)
        self._say(
            pb.StreamOutcomesResponse(
                ack=pb.OutcomeAck(
                    batch_id=batch.batch_id,
                    match_count=counted.match_count,
                    action_ids=counted.action_ids,
                )
            )
        )

    def _refuse_invalid(
        self, batch: pb.OutcomeBatch, invalid: dict[int, list[tuple[str, str]]]
    ) -> None:
        named = [
            f"outcomes[{index}].{field} {text}"
            for index, violations in list(invalid.items())[:_MOST_NAMED]
            for field, text in violations
        ]
        more = f", and {len(invalid) - _MOST_NAMED} more" if len(invalid) > _MOST_NAMED else ""
        self._refuse(batch, _Refusal.REASON_INVALID, "; ".join(named) + more, indexes=list(invalid))

    def _refuse(
        self,
        batch: pb.OutcomeBatch,
        reason: pb.OutcomeRefusal.Reason,
        message: str,
        *,
        indexes: list[int] | None = None,
        delay: timedelta | None = None,
    ) -> None:
        refusal = _Refusal(
            batch_id=batch.batch_id, reason=reason, message=message, invalid_indexes=indexes
        )
        if delay is not None:
            # Up to twice as long: many agents are told so at the same time.
            refusal.retry_delay.FromTimedelta(delay * (1 + self._chance()))
        name = _Refusal.Reason.Name(reason).removeprefix("REASON_").lower()
        self._metrics.outcome_refusals.labels(name).inc()
        self._say(pb.StreamOutcomesResponse(refusal=refusal))

    def _say(self, response: pb.StreamOutcomesResponse) -> None:
        self._responses.append(response)
        self._wake.set()

    def _hear_filter(self, newest: OutcomeFilter) -> None:
        if self._wants_filter:
            self._newest = newest if newest.etag != self._filter_etag else None
            self._wake.set()

    def _write_filter(self, newest: OutcomeFilter) -> pb.StreamOutcomesResponse:
        self._filter_etag = newest.etag
        return pb.StreamOutcomesResponse(filter=to_filter(newest))

    def _note_done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._wake.set()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                self._failure = error
        self._wake.set()


def _second() -> timedelta:
    return timedelta(seconds=1)


async def _read_start(
    requests: AsyncIterator[pb.StreamOutcomesRequest],
) -> pb.OutcomeStreamStart:
    try:
        async with asyncio.timeout(_START_SECONDS):
            first = await anext(requests)
    except (StopAsyncIteration, TimeoutError):
        raise InvalidRequest("the first request of a stream is start", field="start") from None
    if first.WhichOneof("request") != "start":
        raise InvalidRequest("the first request of a stream is start", field="start")
    return first.start
