"""
Client of the limit service: one stream for this process, over a connection of its own.

1. What this process could use and what it keeps to is told every few seconds, and sooner where
   something is short, has been given back or was granted; at most four times a second.
2. Leases hang on when the last request that was answered was sent, by `FleetLimits`. The stream
   may break, and the server be another one: leases hold on, and are told and shown anew.
3. A stream that is silent for too long is given up with its connection, for on that nothing may
   come through for minutes after a network has lost packets.
4. A server without a limit service leaves every limit to this agent alone, unless a server has
   lent something since the start: then it is as silent as any that is not there.
5. A server that has heard a later start on this host, or was told to release this one, has lent
   to others what this one had: nothing is used from then on, and it is asked again now and then.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc

from agent.background import end
from agent.leases.wire import Handles, answer_of, report_message, times_of
from agent.limits.fleet import FleetLimits
from agent.limits.limit import LimitPath
from agent.policy.channel import identity, raise_failure
from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub

logger = logging.getLogger(__name__)

_SOONEST_SECONDS = 0.25
#: What happens at once is told together.
_GATHER_SECONDS = 0.005
#: Until the server has said how often it wants to hear.
_NEXT_SYNC_SECONDS = 2.0
_JITTER = 0.1
#: Beyond when it had to answer, a stream may be silent for so long.
_SILENT_SECONDS = 3.0
_FIRST_ANSWER_SECONDS, _FIRST_ANSWER_LEAST = 5.0, 2.0
_LONGEST_RETRY_SECONDS = 4.0
#: How often a server is asked again that had no limit service, or has heard a later start.
_SELDOM_SECONDS = 60.0
#: How long a limit that the server does not know is left alone.
_UNKNOWN_SECONDS = 5.0
_RELEASE_SECONDS = 2.0
_MOST_DEMANDS = 500
#: A stream that has named so many limits begins anew.
_MOST_HANDLES = 50_000
_NS = 1_000_000_000
#: How a server says that another one keeps the book of what is lent (`LimitService`).
_BOOK = re.compile(r"the server at (\S+:\d+) keeps the book")
#: And that it lends nothing to this start (`SyncLimits`).
_LATER_START = "a later start of this worker has reported"


def _ignore_path(path: LimitPath) -> None:
    """Do nothing."""


def _log_failure(writer: asyncio.Task[None]) -> None:
    """The reader sees that a call has ended; what else ends the writer is a mistake of ours."""
    error = None if writer.cancelled() else writer.exception()
    if error is not None and not isinstance(
        error, grpc.aio.AioRpcError | asyncio.InvalidStateError | grpc.aio.UsageError
    ):
        logger.error("leases can't be asked for", exc_info=error)


@dataclass(slots=True, kw_only=True)
class Parts:
    """The parts of the agent that the client works for; all are called without waiting."""

    #: Has `FleetLimits` know what mail could use now.
    tell_demand: Callable[[], None] = lambda: None
    #: Something else is lent, of these keys or of any: None.
    on_change: Callable[[Collection[str] | None], None] = lambda keys: None
    #: The server does not know a limit by which the answer for this path goes.
    on_unknown: Callable[[LimitPath], None] = _ignore_path


class LeaseClient:
    """Keeps leases current, for as long as the process runs."""

    def __init__(
        self,
        open_channel: Callable[[str], grpc.aio.Channel],
        fleet: FleetLimits,
        *,
        agent_name: str,
        worker: str,
        host: str,
        incarnation: int,
        clock_ns: Callable[[], int],
        random: Random,
    ) -> None:
        """
        *open_channel* is given the address of the server that keeps the book, empty: whoever is
        configured; *clock_ns* is the clock of *fleet*; *incarnation* that of its holder.
        """
        self._open_channel = open_channel
        self._fleet = fleet
        self._holder = fleet.holder
        self._agent_name = agent_name
        self._metadata = identity(agent_name)
        self._worker = worker
        self._host = host
        self._incarnation = incarnation
        self._clock_ns = clock_ns
        self._random = random
        self.parts = Parts()
        self._channel: grpc.aio.Channel | None = None
        #: Where another server said that limits are lent; empty: the configured one is asked.
        self._book_address = ""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._nudged = asyncio.Event()
        self._handles = Handles()
        self._next_sync = _NEXT_SYNC_SECONDS
        self._first_answer = _FIRST_ANSWER_SECONDS
        self._leave_at: float | None = None
        #: Limits that the server did not know, and when they are told of again.
        self._unknown: dict[str, float] = {}
        #: Whether a stream is open and answered; streams, requests and grants, for metrics.
        self.connected = False
        self.is_recovering = False
        self.streams = 0
        self.requests = 0
        self.grants = 0

    def start(self) -> None:
        """Begin to ask for leases, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="leases")
        self._arm()

    def nudge(self) -> None:
        """Something is short or was given back: tell the server soon."""
        self._nudged.set()

    async def close(self) -> None:
        """End the stream and give everything back; nothing may be used any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await end([self._task])
        if self._holder.epoch and self._fleet.is_supported:
            await self._release()
        await self._drop_channel()

    async def _release(self) -> None:
        request = pb.ReleaseSessionRequest(
            worker=self._worker, incarnation=self._incarnation, host=self._host
        )
        call = self._stub().ReleaseSession(
            request, timeout=_RELEASE_SECONDS, metadata=self._metadata
        )
        try:
            await call
        except grpc.aio.AioRpcError as error:
            # They end by themselves, only later.
            logger.info("leases not released", extra={"reason": error.code().name})
        finally:
            call.cancel()

    def _stub(self) -> LimitServiceStub:
        if self._channel is None:
            self._channel = self._open_channel(self._book_address)
        return LimitServiceStub(self._channel)

    async def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            reason = await self._one_stream_safely()
            failures = 0 if self.connected else failures + 1
            was_connected, self.connected = self.connected, False
            if was_connected or failures == 1:
                logger.info("limit service lost", extra={"reason": reason})
            pause = self._pause(failures)
            if self._leave_at is not None:
                # The server is about to stop: it knows when another will be there.
                pause = max(pause, self._leave_at - asyncio.get_running_loop().time())
            await asyncio.sleep(pause)

    def _pause(self, failures: int) -> float:
        """Seconds until the next try: full jitter, for a fleet must not come back as one."""
        if not self._fleet.is_supported or self._fleet.has_given_way:
            return _SELDOM_SECONDS * self._random.uniform(0.8, 1.2)
        longest = min(_LONGEST_RETRY_SECONDS, 0.25 * 2.0 ** min(failures, 8))
        return longest * self._random.random()

    async def _one_stream_safely(self) -> str:
        """Open a stream and keep it while it lives; return why it ended."""
        try:
            await self._one_stream()
        except grpc.aio.AioRpcError as error:
            # A proxy's 404 is one too: what has lent before is not without a limit service.
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and not self._holder.epoch:
                self._set_supported(is_supported=False)
            if error.code() is grpc.StatusCode.ABORTED and _LATER_START in (error.details() or ""):
                self._give_way(error.details())
            await self._go_to_book(error)
            return f"{error.code().name}: {error.details()}"
        except TimeoutError:
            self._book_address = ""
            await self._drop_channel()
            return "the server was silent for too long"
        except asyncio.InvalidStateError:
            return "the stream was over before it began"
        except Exception as error:  # the client must outlive whatever an answer does to it
            logger.exception("leases failed")
            return repr(error)
        return "the server ended it"

    async def _go_to_book(self, error: grpc.aio.AioRpcError) -> None:
        """Of several servers one lends limits: ask that one, else the one configured."""
        found = _BOOK.search(error.details() or "")
        address = found[1] if found is not None else ""
        if address != self._book_address:
            self._book_address = address
            await self._drop_channel()

    def _set_supported(self, *, is_supported: bool) -> None:
        if self._fleet.is_supported == is_supported:
            return
        self._fleet.is_supported = is_supported
        if is_supported:
            logger.info("limits of the fleet are lent from now on")
        else:
            logger.warning(
                "the policy server has no limit service: every agent keeps limits for itself"
            )
        self.parts.on_change(None)

    def _give_way(self, why: str | None) -> None:
        if self._fleet.has_given_way:
            return
        self._fleet.give_way(self._clock_ns())
        logger.error(
            "limits of the fleet are lent to a later start of this agent, or it was released, and "
            "none is used here; if it runs twice, as on a cloned machine, give each its own name",
            extra={"agent": self._agent_name, "reason": why},
        )
        self._arm()
        self.parts.on_change(None)

    async def _one_stream(self) -> None:
        self._handles, self._leave_at, self._unknown = Handles(), None, {}
        self._holder.meet_anew()
        call = self._stub().SyncLimits(metadata=self._metadata)
        writer = asyncio.get_running_loop().create_task(self._write(call))
        writer.add_done_callback(_log_failure)
        try:
            while (answer := await self._read(call)) is not None:
                self._hear(answer)
        finally:
            # An abandoned call is never collected by grpc.
            call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _read(self, call: Any) -> pb.LimitAnswer | None:
        """Return the next answer; None once the stream is at its end, or is to be left."""
        wait = self._first_answer
        if self.connected:
            wait = self._next_sync * (1 + _JITTER) + _SILENT_SECONDS
        leaves = False
        if self._leave_at is not None:
            left = self._leave_at - asyncio.get_running_loop().time()
            leaves, wait = left < wait, min(wait, max(0.0, left))
        try:
            async with asyncio.timeout(wait):
                response = await call.read()
        except TimeoutError:
            if leaves:
                return None
            raise
        if response is not grpc.aio.EOF:
            return response.answer  # type: ignore[no-any-return] # the stub is untyped
        await raise_failure(call)
        return None

    # Telling.

    async def _write(self, call: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            self._nudged.clear()
            self.parts.tell_demand()
            await self._send(call)
            while self._holder.has_more_to_tell:
                await self._send(call)
            await self._until_due(begun)

    async def _send(self, call: Any) -> None:
        self._recall_unknown()
        # Before it is sent: the lease is reckoned from here.
        report = self._holder.report(self._clock_ns(), most=_MOST_DEMANDS)
        message = report_message(
            report,
            self._handles,
            self._fleet.paths_of,
            worker=self._worker,
            host=self._host,
            shapes=self._holder.event_parts,
            epoch=self._holder.epoch,
        )
        await call.write(pb.SyncLimitsRequest(report=message))
        self.requests += 1

    async def _until_due(self, begun: float) -> None:
        """Wait until it is time for the next request, or until there is something to tell."""
        loop = asyncio.get_running_loop()
        jitter, looked = self._random.uniform(1 - _JITTER, 1 + _JITTER), begun
        # How often to speak may be changed by the server meanwhile.
        while (left := begun + self._next_sync * jitter - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._nudged.wait()
            except TimeoutError:
                return
            await asyncio.sleep(max(_GATHER_SECONDS, looked + _SOONEST_SECONDS - loop.time()))
            self._nudged.clear()
            self.parts.tell_demand()
            if self._holder.has_more_to_tell:
                return
            looked = loop.time()

    def _recall_unknown(self) -> None:
        now = asyncio.get_running_loop().time()
        for key in [key for key, at in self._unknown.items() if at <= now]:
            del self._unknown[key]
            self._holder.tell_again(key)

    # Hearing.

    def _hear(self, message: pb.LimitAnswer) -> None:
        answer, now = answer_of(message, self._handles), self._clock_ns()
        if message.HasField("terms"):
            self._holder.times = times_of(message.terms)
            # Soon enough for a lease that is about to lapse to be kept over another connection.
            third = self._holder.times.session / _NS / 3
            self._first_answer = min(_FIRST_ANSWER_SECONDS, max(_FIRST_ANSWER_LEAST, third))
        if message.HasField("next_sync"):
            self._set_next_sync(message.next_sync.ToNanoseconds() / _NS)
        if not self.connected:
            self._begin(message.epoch)
        if message.HasField("reconnect_after"):
            after = message.reconnect_after.ToNanoseconds() / _NS
            self._leave_at = asyncio.get_running_loop().time() + after
        self.is_recovering = message.recovering
        was_lapsed = self._holder.is_lapsed(now)
        if not self._holder.hear(answer, now):
            return
        self._note_unknown(message.unknown)
        self.grants += len(answer.grants)
        self._arm()
        if was_lapsed and not self._holder.is_lapsed(now):
            self.parts.on_change(None)
        elif answer.grants:
            self.parts.on_change({grant.key for grant in answer.grants})
        if answer.grants:
            self.nudge()
        if len(self._handles) > _MOST_HANDLES:
            self._leave_at = asyncio.get_running_loop().time()

    def _set_next_sync(self, seconds: float) -> None:
        if seconds != self._next_sync:
            self._next_sync = max(0.05, seconds)
            self.nudge()

    def _begin(self, epoch: int) -> None:
        """The first answer of a stream."""
        self.connected = True
        self.streams += 1
        if epoch < self._holder.epoch:
            # Nothing of the old stream is read any more.
            logger.warning("the limit service has a new book", extra={"epoch": epoch})
            self._holder.begin_anew()
        logger.info("limit service reached", extra={"epoch": epoch})
        self._fleet.has_given_way = False
        self._set_supported(is_supported=True)

    def _note_unknown(self, keys: Collection[str]) -> None:
        for key in keys:
            self._handles.forget(key)
            self._unknown[key] = asyncio.get_running_loop().time() + _UNKNOWN_SECONDS
            logger.info("limit not known to the limit service", extra={"limit": key})
            for path in self._fleet.paths_of(key):
                self.parts.on_unknown(path)

    # Lapsing.

    def _arm(self) -> None:
        """Look again when less holds by itself."""
        now = self._clock_ns()
        when = self._fleet.next_change(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            delay = (when - now) / _NS + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_lapse)

    def _on_lapse(self) -> None:
        now = self._clock_ns()
        is_silent = self._holder.epoch and not self._fleet.has_given_way
        if is_silent and self._holder.is_lapsed(now):
            logger.warning(
                "limit service silent for too long",
                extra={"floors_hold": not self._holder.is_over(now)},
            )
        self._arm()
        self.parts.on_change(None)
