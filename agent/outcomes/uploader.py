"""
Uploader: tells the policy server what became of deliveries.

Records lie in the spool's outbox, put there in the same transaction as the queue's own state.
They are sent in batches and forgotten only after the server has answered that it has them; a
batch that is sent twice counts once, by its event ids. Delivery never waits for any of it.

While the server is away the outbox grows, but within bounds: outcomes too old to have an effect,
and the oldest beyond `MAX_PENDING`, are dropped and counted. They are in the delivery log.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import grpc

from agent.convert import outcome_of
from agent.delivery.record import Record
from agent.errors import SpoolUnavailable
from agent.outcomes.delivery_log import has_reported
from agent.policy.channel import identity
from agent.policy.staleness import retry_delay
from agent.spool.messages import PendingRecord, Spool
from penstock.v1.feedback_service_pb2 import ReportOutcomesRequest
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from penstock.v1.outcome_pb2 import DeliveryOutcome

logger = logging.getLogger(__name__)

#: Most outcomes in one call; the server takes up to 1000.
BATCH = 500
#: Outcomes older than this have no effect on any action, and are dropped.
TOO_OLD_SECONDS = 86_400.0
#: Most outcomes that wait for the server, so that they do not take the disk from the mail.
MAX_PENDING = 1_000_000
_GATHER_SECONDS = 0.02
_POLL_SECONDS = 5.0
_DEADLINE_SECONDS = 10.0
_LONGEST_RETRY_SECONDS = 10.0


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
    ) -> None:
        """
        Send the outbox of *spool* over *channel*; keep about *max_pending* while that fails.
        *before_forget* is awaited before records are forgotten: the delivery log's `flush`, so
        that a crash can't keep a line out of the log.
        """
        self._spool = spool
        self._stub = FeedbackServiceStub(channel)
        self._metadata = identity(agent_name)
        self._clock = clock
        self._random = random
        self._before_forget = before_forget
        self._max_pending = max_pending
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Outcomes sent; dropped for age, for their number, because nobody could take them;
        #: calls failed.
        self.sent = 0
        self.too_old = 0
        self.too_many = 0
        self.unfit = 0
        self.failures = 0

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
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, SpoolUnavailable):
            async with asyncio.timeout(timeout):
                while await self.send_batch():
                    pass

    async def _run(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            try:
                while await self.send_batch():
                    failures = 0
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except SpoolUnavailable as error:
                reason = str(error)
            except Exception as error:  # whatever one batch does, later ones must be tried
                logger.exception("outcomes not sent")
                reason = repr(error)
            else:
                await self._rest()
                continue
            self.failures += 1
            logger.info("outcomes not sent", extra={"reason": reason, "failures": failures})
            await self._trim()
            delay = retry_delay(failures, self._random.random())
            await asyncio.sleep(min(delay, _LONGEST_RETRY_SECONDS))
            failures += 1

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        await asyncio.sleep(_GATHER_SECONDS)

    async def send_batch(self) -> bool:
        """Send the oldest records of the outbox and forget them; False if there are none."""
        pending = await self._spool.pending_records(0, BATCH)
        if not pending:
            return False
        fresh = [one for one in pending if not self._is_too_old(one)]
        outcomes, unfit = _outcomes_of(fresh)
        await self._report(outcomes)
        await self._forget(pending)
        # Counted once they are gone: a batch whose report fails comes again.
        self.too_old += len(pending) - len(fresh)
        for record, reason in unfit:
            self.unfit += 1
            extra = {"id": record.id, "reason": reason}
            logger.error("outcome not fit to be reported", extra=extra)
        return True

    async def _trim(self) -> None:
        """Drop what need not wait for the server any longer."""
        try:
            while await self._drop_oldest():
                pass
        # Supervisor: the uploader must outlive it, and tries again after the next failure.
        except Exception as error:
            logger.warning("outbox not trimmed", extra={"reason": str(error)})

    async def _drop_oldest(self) -> bool:
        """Drop outcomes that are too old or too many, oldest first; False if there are none."""
        pending = await self._spool.pending_records(0, BATCH)
        if not pending:
            return False
        # Numbers have no gaps to speak of, so they tell how many there are without a count.
        newer = await self._spool.pending_records(pending[0].seq + self._max_pending, 1)
        gone = pending if newer else [one for one in pending if self._is_too_old(one)]
        if not gone:
            return False
        await self._forget(gone)
        old = sum(map(self._is_too_old, gone))
        self.too_old += old
        self.too_many += len(gone) - old
        return True

    async def _forget(self, pending: Sequence[PendingRecord]) -> None:
        if self._before_forget is not None:
            await self._before_forget()
        await self._spool.forget_records([one.seq for one in pending])

    def _is_too_old(self, pending: PendingRecord) -> bool:
        return self._clock() - pending.record.timestamp > TOO_OLD_SECONDS

    async def _report(self, outcomes: list[DeliveryOutcome]) -> None:
        """Report *outcomes*; halve what the server refuses, until the culprit stands alone."""
        if not outcomes:
            return
        call = self._stub.ReportOutcomes(
            ReportOutcomesRequest(outcomes=outcomes),
            timeout=_DEADLINE_SECONDS,
            metadata=self._metadata,
        )
        try:
            await call
        except grpc.aio.AioRpcError as error:
            is_refused = error.code() is grpc.StatusCode.INVALID_ARGUMENT
            # Replies are as long as peers like, so a batch may be larger than a message may be.
            is_too_big = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and len(outcomes) > 1
            if not is_refused and not is_too_big:
                raise
            await self._report_apart(outcomes, error)
        else:
            self.sent += len(outcomes)
        finally:
            call.cancel()

    async def _report_apart(
        self, outcomes: list[DeliveryOutcome], error: grpc.aio.AioRpcError
    ) -> None:
        if len(outcomes) == 1:
            self.unfit += 1
            extra = {"event_id": outcomes[0].event_id, "reason": error.details()}
            logger.error("outcome refused by the policy server", extra=extra)
            return
        middle = len(outcomes) // 2
        await self._report(outcomes[:middle])
        await self._report(outcomes[middle:])


def _outcomes_of(
    pending: Sequence[PendingRecord],
) -> tuple[list[DeliveryOutcome], list[tuple[Record, str]]]:
    """Convert records; with them those that no server could take, and why."""
    outcomes: list[DeliveryOutcome] = []
    unfit: list[tuple[Record, str]] = []
    for one in pending:
        try:
            outcomes.append(outcome_of(one.record))
        except ValueError as error:
            unfit.append((one.record, str(error)))
    return outcomes, unfit
