"""
Uploader: tells the policy server what became of deliveries.

Records lie in the spool's outbox, put there in the same transaction as the queue's own state.
They are sent in batches and forgotten only after the server has answered that it has them; a
batch that is sent twice counts once, by its event ids. Delivery never waits for any of it.

Batches go over a stream (see `stream`), on which the server also says which outcomes no rule could
match; those are left out. To a server that knows no streams they go one call each, all of them.

While the server is away the outbox grows, but within bounds: outcomes too old to have an effect,
and the oldest beyond `MAX_PENDING`, are dropped and counted. They are in the delivery log.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import grpc

from agent.background import end
from agent.delivery.record import Record, RecordType
from agent.errors import SpoolUnavailable
from agent.outcomes.batches import Batch
from agent.outcomes.delivery_log import has_reported
from agent.outcomes.outbox import MAX_PENDING, Outbox
from agent.outcomes.outcome_filter import CompiledFilter
from agent.outcomes.stream import OutcomeStream
from agent.policy.channel import identity
from agent.policy.staleness import retry_delay
from agent.spool.messages import Spool
from penstock.v1.feedback_service_pb2 import ReportOutcomesRequest
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.02
_POLL_SECONDS = 5.0
_DEADLINE_SECONDS = 10.0
_LONGEST_RETRY_SECONDS = 10.0
#: Errors of a server that knows no streams, and for how long calls are made then, in seconds. The
#: second is what grpc makes of the first where a write met it, or it is another; calls will tell.
_UNKNOWN = {grpc.StatusCode.UNIMPLEMENTED: 600.0, grpc.StatusCode.INTERNAL: 5.0}


class OutcomeUploader:
    """Empties the outbox to the policy server, in the background."""

    def __init__(
        self,
        spool: Spool,
        channel: grpc.aio.Channel,
        *,
        agent_name: str,
        clock: Callable[[], float],
        random: Random,
        before_forget: Callable[[], Awaitable[None]] | None = None,
        max_pending: int = MAX_PENDING,
        filters: bool = True,
    ) -> None:
        """
        Send the outbox of *spool* over *channel*; keep about *max_pending* while that fails.
        *before_forget* is awaited before records are forgotten: the delivery log's `flush`, so
        that a crash can't keep a line out of the log. *filters* leaves out what no rule matches.
        """
        self._outbox = Outbox(
            spool, clock=clock, before_forget=before_forget, max_pending=max_pending
        )
        self._stub = FeedbackServiceStub(channel)
        self._metadata = identity(agent_name)
        self._random = random
        self._filters = filters
        self._rules: CompiledFilter | None = None
        #: The stream that is open.
        self._current: OutcomeStream | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Whether the server answered on the last stream.
        self._knows_streams = False
        #: Until when calls are made, by the loop's clock; 0: streams are known.
        self._calls_until = 0.0
        #: Tries to send that failed.
        self.failures = 0

    @property
    def sent(self) -> int:
        """Outcomes that the server has taken."""
        return self._outbox.sent

    @property
    def skipped(self) -> Counter[RecordType]:
        """Outcomes left out because no rule could match them, by type."""
        return self._outbox.skipped

    @property
    def has_filter(self) -> bool:
        """Whether outcomes are left out at present."""
        rules = self._rules if self._current is None else self._current.rules
        return rules is not None

    @property
    def too_old(self) -> int:
        """Outcomes dropped for their age."""
        return self._outbox.too_old

    @property
    def too_many(self) -> int:
        """Outcomes dropped for their number."""
        return self._outbox.too_many

    @property
    def unfit(self) -> int:
        """Outcomes dropped because nobody could take them."""
        return self._outbox.unfit

    def start(self) -> None:
        """Begin to send, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="outcome-uploader")

    def on_records(self, records: Sequence[Record]) -> None:
        """Send soon, if any of *records* is to be reported; the delivery log's listener."""
        if has_reported(records):
            self._wake.set()

    async def close(self, timeout: float = 0.0) -> None:
        """Stop, after up to *timeout* seconds for what lies in the outbox."""
        if self._task is None:
            return
        await end([self._task])
        self._task = None
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, SpoolUnavailable):
            async with asyncio.timeout(timeout):
                await self.send_all()

    async def send_all(self) -> None:
        """Send what lies in the outbox. Errors: those of grpc, `SpoolUnavailable`."""
        if not self._uses_calls():
            try:
                await self._stream(until_empty=True)
                return
            except grpc.aio.AioRpcError as error:
                if not self._note_unknown(error):
                    raise
        while await self._call():
            pass

    async def _run(self) -> None:
        failures = 0
        while True:
            before = self._outbox.sent
            try:
                await self._send()
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                if self._note_unknown(error):
                    continue
            except (SpoolUnavailable, TimeoutError) as error:
                reason = str(error)
            except Exception as error:  # whatever one batch does, later ones must be tried
                logger.exception("outcomes not sent")
                reason = repr(error)
            else:
                failures = 0
                continue
            failures = 0 if self._outbox.sent > before else failures
            self._note_failure(reason)
            await self._outbox.trim()
            delay = retry_delay(failures, self._random.random())
            await asyncio.sleep(min(delay, _LONGEST_RETRY_SECONDS))
            failures += 1

    async def _send(self) -> None:
        """Send until the stream ends, or until new records are to be waited for."""
        if not self._uses_calls():
            after = await self._stream()
            # Full jitter also where the server ended it without a word.
            await asyncio.sleep(after if after is not None else self._random.random())
            return
        self._wake.clear()
        while await self._call():
            pass
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        await asyncio.sleep(_GATHER_SECONDS)

    async def _stream(self, *, until_empty: bool = False) -> float | None:
        """Send over one stream; return after how many seconds the server wishes another."""
        stream = OutcomeStream(
            self._outbox,
            wake=self._wake,
            rules=self._rules,
            wants_filter=self._filters,
            on_failure=self._note_failure,
            is_careful=not self._knows_streams,
        )
        self._current = stream
        call = self._stub.StreamOutcomes(metadata=self._metadata)
        try:
            await stream.run(call, until_empty=until_empty)
        finally:
            # An abandoned call is never collected by grpc.
            call.cancel()
            self._rules, self._current = stream.rules, None
            self._knows_streams = stream.is_answered
        return stream.reconnect_after

    async def _call(self) -> bool:
        """Send the oldest records by one call and forget them; False if there are none."""
        batch = await self._outbox.next_batch(0, None)
        if batch is None:
            return False
        if batch.is_silent or await self._report(batch):
            await self._outbox.settle(batch)
        return True

    async def _report(self, batch: Batch) -> bool:
        """Report *batch*; False if the server refuses what is in it."""
        call = self._stub.ReportOutcomes(
            ReportOutcomesRequest(outcomes=batch.outcomes),
            timeout=_DEADLINE_SECONDS,
            metadata=self._metadata,
        )
        try:
            await call
        except grpc.aio.AioRpcError as error:
            is_refused = error.code() is grpc.StatusCode.INVALID_ARGUMENT
            # Of a server that takes smaller messages than ours does.
            is_too_big = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            if not is_refused and not (is_too_big and len(batch.outcomes) > 1):
                raise
            await self._outbox.note_invalid(batch, (), error.details() or "")
            return False
        finally:
            call.cancel()
        return True

    def _uses_calls(self) -> bool:
        return asyncio.get_running_loop().time() < self._calls_until

    def _note_unknown(self, error: grpc.aio.AioRpcError) -> bool:
        """Use calls for a while, if *error* says that the server knows no streams."""
        if self._uses_calls() or self._knows_streams or error.code() not in _UNKNOWN:
            return False
        seconds = _UNKNOWN[error.code()]
        self._calls_until = asyncio.get_running_loop().time() + seconds
        logger.info(
            "the policy server takes no stream of outcomes, only calls", extra={"seconds": seconds}
        )
        return True

    def _note_failure(self, reason: str) -> None:
        self.failures += 1
        logger.info("outcomes not sent", extra={"reason": reason, "failures": self.failures})
