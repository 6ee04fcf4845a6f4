"""
Uploader: tells the policy server what became of deliveries.

Records lie in the spool's outbox, put there in the same transaction as the queue's own state.
They are sent in batches and forgotten only after the server has answered that it has them; a
batch that is sent twice counts once, by its event ids. Delivery never waits for any of it.
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
    ) -> None:
        """
        Send the outbox of *spool* over *channel*. *before_forget* is awaited before records are
        forgotten: the delivery log's `flush`, so that a crash can't keep a line out of the log.
        """
        self._spool = spool
        self._stub = FeedbackServiceStub(channel)
        self._metadata = identity(agent_name)
        self._clock = clock
        self._random = random
        self._before_forget = before_forget
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Outcomes sent, dropped for age, dropped because nobody could take them; calls failed.
        self.sent = 0
        self.too_old = 0
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
        outcomes: list[DeliveryOutcome] = []
        for one in pending:
            outcome = self._outcome(one)
            if outcome is not None:
                outcomes.append(outcome)
        await self._report(outcomes)
        if self._before_forget is not None:
            await self._before_forget()
        await self._spool.forget_records([one.seq for one in pending])
        return True

    def _outcome(self, pending: PendingRecord) -> DeliveryOutcome | None:
        if self._clock() - pending.record.timestamp > TOO_OLD_SECONDS:
            self.too_old += 1
            return None
        try:
            return outcome_of(pending.record)
        except ValueError as error:
            self.unfit += 1
            extra = {"id": pending.record.id, "reason": str(error)}
            logger.error("outcome not fit to be reported", extra=extra)
            return None

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
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
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
