"""
One stream to the policy server, over which the outbox is emptied.

1. Batches go in the order of the outbox, up to `WINDOW` unanswered. Each is forgotten when it is
   acknowledged, whatever the others do.
2. After a refusal no more is sent until all batches are answered; then reading begins anew at the
   oldest record. So there is one way to send again, and it keeps the order.
3. A filter holds from its arrival on. A batch names the filter it was made by; should that hold no
   more, the server says so before anything is forgotten.
4. Silence of the server while batches are unanswered ends the stream, and so does its own wish.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from agent.convert import filter_of, skipped_of
from agent.outcomes.batches import Batch
from agent.outcomes.outbox import Outbox
from agent.outcomes.outcome_filter import CompiledFilter, compile_filter
from agent.policy.channel import raise_failure
from penstock.v1 import feedback_service_pb2 as pb

#: Batches that may be unanswered.
WINDOW = 4
#: A server that leaves batches unanswered for longer is gone, in seconds.
SILENCE_SECONDS = 30.0
#: Longest time between two looks at the outbox.
_POLL_SECONDS = 5.0
#: New records are waited for so long, so that they go together.
_GATHER_SECONDS = 0.02
_LONGEST_DELAY = 30.0
_REASON_SECONDS = 5.0
#: A server that knows no such streams refuses them within this time.
_REFUSAL_SECONDS = 0.25


class OutcomeStream:
    """Empties the outbox over one stream."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        wake: asyncio.Event,
        rules: CompiledFilter | None,
        wants_filter: bool,
        on_failure: Callable[[str], None],
        is_careful: bool = False,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """
        *wake* is set when there are new records; *rules* is the filter held from before;
        *on_failure* is told why the server can't take outcomes for now; *is_careful* waits a
        moment for a server that may not know such streams.
        """
        self._outbox = outbox
        self._wake = wake
        self._wants_filter = wants_filter
        self._on_failure = on_failure
        self._is_careful = is_careful
        self._silence = silence
        self._unanswered: dict[int, Batch] = {}
        self._last_id = 0
        #: The newest record that was sent.
        self._cursor = 0
        self._must_rewind = False
        #: When the server can be asked again, by the loop's clock.
        self._resume_time = 0.0
        self._heard_time = 0.0
        #: The filter held.
        self.rules = rules
        #: Seconds after which to connect again, if the server wished so.
        self.reconnect_after: float | None = None
        #: Whether the server answered anything.
        self.is_answered = False

    async def run(self, call: Any, *, until_empty: bool = False) -> None:
        """
        Send over *call* until either side ends, or, if so wished, until all is settled.

        Errors: those of grpc, `SpoolUnavailable`, `TimeoutError` for a server that is silent.
        """
        start = pb.OutcomeStreamStart(
            wants_filter=self._wants_filter,
            filter_etag=self.rules.etag if self.rules is not None else "",
        )
        reader = asyncio.get_running_loop().create_task(self._read(call))
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            if self._is_careful:
                # To grpc, a write that meets a refusal is an internal error, and the refusal lost.
                await call.wait_for_connection()
                await asyncio.wait([reader], timeout=_REFUSAL_SECONDS)
            await call.write(pb.StreamOutcomesRequest(start=start))
            while not reader.done() and await self._send_next(call, until_empty):
                pass
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            # A write to a stream that is over says that alone; the reader knows why it is.
            await asyncio.wait([reader], timeout=_REASON_SECONDS)
            if not reader.done():
                raise
        finally:
            if not reader.done():
                reader.cancel()
            # Looked at here too, as a write may have failed before for the same reason.
            await asyncio.gather(reader, return_exceptions=True)
        if not reader.cancelled():
            reader.result()

    async def _send_next(self, call: Any, until_empty: bool) -> bool:
        """Send a batch, or wait for what stands in the way; False at the end."""
        loop = asyncio.get_running_loop()
        if self.reconnect_after is not None and not self._unanswered:
            return False
        self._wake.clear()
        if self._must_rewind and not self._unanswered:
            await self._rest()
            self._must_rewind, self._cursor = False, 0
        if self._must_rewind or self.reconnect_after is not None or len(self._unanswered) >= WINDOW:
            await self._wait()
            return True
        batch = await self._outbox.next_batch(self._cursor, self.rules)
        if batch is None:
            # An answer may have come while the outbox was read.
            if until_empty and not self._unanswered and not self._must_rewind:
                return False
            await self._wait()
            if not until_empty:
                await asyncio.sleep(_GATHER_SECONDS)
            return True
        self._cursor = batch.seqs[-1]
        if batch.is_silent:
            await self._outbox.settle(batch)
            return True
        if not self._unanswered:
            self._heard_time = loop.time()
        self._last_id += 1
        self._unanswered[self._last_id] = batch
        # HTTP/2 holds the write back while the server takes nothing.
        async with asyncio.timeout(self._silence):
            await call.write(_request(self._last_id, batch))
        return True

    async def _wait(self) -> None:
        """Wait until there is something new to look at."""
        loop = asyncio.get_running_loop()
        seconds = _POLL_SECONDS
        if self._unanswered:
            seconds = self._heard_time + self._silence - loop.time()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            if self._unanswered:
                raise TimeoutError("the server was silent for too long") from None

    async def _rest(self) -> None:
        """Wait as long as the server asked for; meanwhile the outbox stays bounded."""
        loop = asyncio.get_running_loop()
        if self._resume_time <= loop.time():
            return
        await self._outbox.trim()
        await asyncio.sleep(max(0.0, self._resume_time - loop.time()))

    async def _read(self, call: Any) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            self.is_answered = True
            self._heard_time = asyncio.get_running_loop().time()
            match response.WhichOneof("response"):
                case "ack":
                    await self._take_ack(response.ack)
                case "refusal":
                    await self._take_refusal(response.refusal)
                case "filter":
                    # Large ones take a while.
                    self.rules = await asyncio.to_thread(compile_filter, filter_of(response.filter))
                case "reconnect_after":
                    after = response.reconnect_after
                    self.reconnect_after = after.seconds + after.nanos / 1e9
            self._wake.set()
        await raise_failure(call)

    async def _take_ack(self, ack: pb.OutcomeAck) -> None:
        batch = self._unanswered.get(ack.batch_id)
        if batch is None:
            return
        await self._outbox.settle(batch)
        # Only now: a new start of reading must not find its records.
        del self._unanswered[ack.batch_id]

    async def _take_refusal(self, refusal: pb.OutcomeRefusal) -> None:
        batch = self._unanswered.get(refusal.batch_id)
        if batch is None:
            return
        match refusal.reason:
            case pb.OutcomeRefusal.REASON_STALE_FILTER:
                if self.rules is not None and self.rules.etag == batch.filter_etag:
                    # No newer one came, so nothing is left out until one does.
                    self.rules = None
            case pb.OutcomeRefusal.REASON_INVALID:
                await self._outbox.note_invalid(batch, refusal.invalid_indexes, refusal.message)
            case _:
                delay = refusal.retry_delay.seconds + refusal.retry_delay.nanos / 1e9
                now = asyncio.get_running_loop().time()
                self._resume_time = max(self._resume_time, now + min(delay, _LONGEST_DELAY))
                self._on_failure(refusal.message)
        self._must_rewind = True
        del self._unanswered[refusal.batch_id]


def _request(batch_id: int, batch: Batch) -> pb.StreamOutcomesRequest:
    return pb.StreamOutcomesRequest(
        batch=pb.OutcomeBatch(
            batch_id=batch_id,
            outcomes=batch.outcomes,
            filter_etag=batch.filter_etag,
            skipped=skipped_of(batch.skipped),
        )
    )
