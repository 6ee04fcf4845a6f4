"""
The outbox as the uploader sees it: batches out of it in order, and records that are done with.

It also counts what became of records, for metrics.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from agent.delivery.record import RecordType
from agent.outcomes.batches import Batch, is_too_old, make_batch
from agent.outcomes.outcome_filter import CompiledFilter
from agent.outcomes.sampling import FailureSample
from agent.spool.messages import Spool

logger = logging.getLogger(__name__)

#: Most records of a batch; the server takes up to 1000 outcomes.
BATCH = 500
#: Most outcomes that wait for the server, so that they do not take the disk from the mail.
MAX_PENDING = 1_000_000


class Outbox:
    """Reads records of the spool's outbox, and forgets those that are done with."""

    def __init__(
        self,
        spool: Spool,
        *,
        clock: Callable[[], float],
        before_forget: Callable[[], Awaitable[None]] | None,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._before_forget = before_forget
        self._max_pending = max_pending
        self._sample = FailureSample()
        #: Records in the next batch: fewer while one that the server refuses is looked for.
        self._limit = BATCH
        #: Outcomes sent; left out, by type; dropped for age, for their number, because nobody
        #: could take them.
        self.sent = 0
        self.skipped: Counter[RecordType] = Counter()
        self.too_old = 0
        self.too_many = 0
        self.unfit = 0

    async def next_batch(self, after_seq: int, rules: CompiledFilter | None) -> Batch | None:
        """Make a batch of the oldest records after *after_seq*; None if there are none."""
        pending = await self._spool.pending_records(after_seq, self._limit)
        if not pending:
            return None
        make = partial(make_batch, pending, now=self._clock(), rules=rules, sample=self._sample)
        if rules is not None and rules.is_slow:
            return await asyncio.to_thread(make)
        return make()

    async def settle(self, batch: Batch) -> None:
        """Forget a batch that the server has, and count what became of it."""
        await self._forget(batch.seqs)
        self._limit = min(BATCH, 2 * self._limit)
        self.sent += len(batch.outcomes)
        self.skipped.update(batch.skipped)
        self.too_old += batch.too_old
        self.unfit += len(batch.unfit)
        for record, reason in batch.unfit:
            extra = {"id": record.id, "reason": reason}
            logger.error("outcome not fit to be reported", extra=extra)

    async def note_invalid(self, batch: Batch, indexes: Sequence[int], reason: str) -> None:
        """
        Forget the outcomes of a refused batch that the server named; where it named none, make
        batches smaller until the culprit stands alone.
        """
        named = [index for index in indexes if index < len(batch.outcomes)]
        if len(batch.outcomes) == 1:
            named = [0]
        if not named:
            self._limit = max(1, len(batch.seqs) // 2)
            return
        await self._forget([batch.outcome_seqs[index] for index in named])
        self.unfit += len(named)
        for index in named:
            extra = {"event_id": batch.outcomes[index].event_id, "reason": reason}
            logger.error("outcome refused by the policy server", extra=extra)

    async def trim(self) -> None:
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
        now = self._clock()
        # Numbers have no gaps to speak of, so they tell how many there are without a count.
        newer = await self._spool.pending_records(pending[0].seq + self._max_pending, 1)
        gone = pending if newer else [one for one in pending if is_too_old(one, now)]
        if not gone:
            return False
        await self._forget([one.seq for one in gone])
        old = sum(is_too_old(one, now) for one in gone)
        self.too_old += old
        self.too_many += len(gone) - old
        return True

    async def _forget(self, seqs: Sequence[int]) -> None:
        if self._before_forget is not None:
            await self._before_forget()
        await self._spool.forget_records(seqs)
