"""
One shard of the book as this server uses it: what comes in gathers for a moment and goes out in
one call, which settles as well. The shard is called at least once a second, as its clock needs.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from policy_server.errors import Unavailable
from policy_server.limits.messages import NumberedPromise, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.shared_book.calls import (
    Argument,
    Synced,
    TakenPart,
    read_synced,
    report_arguments,
    restore_arguments,
    spec_arguments,
    sync_arguments,
)
from policy_server.shared_book.epoch import BookEpoch
from policy_server.shared_book.errors import BookFenced, BookLost
from policy_server.shared_book.valkey import Valkey
from policy_server.store.shared_leases import PromisedLimit, SharedLeases

_SECOND = 1_000_000_000
_GATHER_SECONDS = 0.01
#: Half of what the clock of a shard takes for a step (clock.lua).
_TICK_SECONDS = 1.0
#: Demands and limits of one call, so that nobody waits long for a shard.
MOST_DEMANDS = 100
#: Parts of one report; those of its repetition count on from there.
_MOST_PARTS = 64
_MOST_REPETITIONS = 2
#: How often a server says anew what a limit is; the book goes by it for three times as long.
_SAY_AGAIN = 20 * _SECOND
#: Limits whose being known here is remembered; of others the database is asked again.
_MOST_KNOWN = 50_000
#: Requests that wait; more are refused, and their agents ask again.
_MOST_WAITING = 10_000


@dataclass(slots=True, eq=False)
class _Request:
    """What is asked of a shard, and who waits for it."""

    done: "asyncio.Future[TakenPart]"
    #: Limits as they are now. Without a report they are only changed where the shard has them.
    specs: Mapping[str, LimitSpec] = field(default_factory=dict)
    report: Report | None = None
    part: int = 0
    repetitions: int = 0
    #: Done only when nothing is left to be settled.
    is_settling: bool = False

    @property
    def size(self) -> int:
        """How much of a call it fills."""
        return max(len(self.specs), len(self.report.demands) if self.report is not None else 0)


@dataclass(frozen=True, slots=True)
class _Said:
    """What this server said of a limit that the shard knows, and when."""

    spec: LimitSpec
    at: int


class Shard:
    """One shard; `run` it."""

    def __init__(
        self,
        number: int,
        valkey: Valkey,
        leases: SharedLeases,
        epoch: BookEpoch,
        *,
        timing: LeaseTiming,
        server: str,
        clock: Callable[[], int],
        act: Callable[["Shard", int, Synced], None],
    ) -> None:
        """Have *act* act on what is decided, in which epoch."""
        self.number = number
        self._valkey = valkey
        self._leases = leases
        self._epoch = epoch
        self._timing = timing
        self._server = server
        self._clock = clock
        self._act = act
        self._waiting: deque[_Request] = deque()
        self._confirmed: list[NumberedPromise] = []
        #: Limits that the shard knows, in which epoch.
        self._said: dict[str, _Said] = {}
        self._said_in = 0
        #: What the clock of the shard said, and when it was asked.
        self._time, self._asked_at = 0, 0
        #: As it last answered.
        self.last = Synced()
        self._work = asyncio.Event()
        self._due_in = _TICK_SECONDS
        self._is_closed = False

    # What is asked of it.

    async def take(self, report: Report, part: int, specs: Mapping[str, LimitSpec]) -> TakenPart:
        """Have the book take in *report*; Unavailable: it may or may not have."""
        return await self._ask(_Request(_future(), specs, report, part))

    async def configure(self, specs: Mapping[str, LimitSpec]) -> None:
        """Change limits that the shard knows."""
        await self._ask(_Request(_future(), specs))

    async def settled(self) -> None:
        """Return once what came in before is settled."""
        await self._ask(_Request(_future(), is_settling=True))

    def confirm(self, promises: Sequence[NumberedPromise]) -> None:
        """Note that promises are durable; the shard hears of it with the next call."""
        self._confirmed += promises

    def age_at_most(self, time: int) -> int:
        """How long ago by the shard's clock *time* was, at most, in nanoseconds."""
        return self._time + self._timing.longer(self._clock() - self._asked_at) - time

    def close(self) -> None:
        """Take nothing any more; whoever waits hears of it."""
        self._is_closed = True
        _fail(self._waiting, Unavailable("the server is stopping"))
        self._waiting.clear()

    async def _ask(self, request: _Request) -> TakenPart:
        if self._is_closed:
            raise Unavailable("the server is stopping")
        if len(self._waiting) >= _MOST_WAITING:
            raise Unavailable("too many requests wait for the book of limits")
        self._waiting.append(request)
        self._work.set()
        return await request.done

    # Its work.

    async def run(self) -> None:
        """Call the shard whenever there is something to do, and now and then."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._due_in):
                    await self._work.wait()
            if self._work.is_set():
                await asyncio.sleep(_GATHER_SECONDS)
            self._work.clear()
            self._due_in = _TICK_SECONDS
            requests = self._next_requests()
            try:
                await self._sync(requests)
            except Unavailable as error:
                _fail(requests, error)
            except BaseException:
                # Whatever it was, and also at the end: nobody may wait for ever.
                _fail(requests, Unavailable("the book of limits was not reached"))
                raise
            if self._waiting:
                self._work.set()

    def _next_requests(self) -> list[_Request]:
        requests: list[_Request] = []
        size = 0
        while self._waiting and len(requests) < MOST_DEMANDS:
            size += self._waiting[0].size
            if requests and size > MOST_DEMANDS:
                break
            request = self._waiting.popleft()
            # Nobody waits for one that was cancelled.
            if not request.done.done():
                requests.append(request)
        return requests

    async def _sync(self, requests: Sequence[_Request]) -> None:
        epoch = self._epoch.current
        self._forget_if_new(epoch)
        additions = await self._additions(epoch, requests)
        asked_at = self._clock()
        arguments, specs = self._arguments(requests, asked_at)
        try:
            *_, reply = await self._valkey.call(self.number, epoch, *additions, ("sync", arguments))
        except (BookLost, BookFenced) as error:
            self._epoch.leave(epoch, error)
            raise
        # Only now: what was decided after this server had lost touch is not to be acted on.
        self._epoch.require(epoch)
        synced = read_synced(reply, self._epoch.sign)
        self._time, self._asked_at = synced.now, asked_at
        self.last = synced
        self._said |= {key: _Said(spec, asked_at) for key, spec in specs.items()}
        self._plan(synced)
        self._act(self, epoch, synced)
        self._answer(requests, synced)

    def _arguments(
        self, requests: Sequence[_Request], now: int
    ) -> tuple[list[Argument], dict[str, LimitSpec]]:
        """State a call; return also what it says of limits that the shard has from then on."""
        reports = [one for one in requests if one.report is not None]
        specs = {
            key: spec
            for request in requests
            for key, spec in request.specs.items()
            if request.report is None or self._is_to_be_said(key, spec, now)
        }
        confirmed, self._confirmed = self._confirmed[:MOST_DEMANDS], self._confirmed[MOST_DEMANDS:]
        arguments = sync_arguments(
            server=self._server,
            confirmed=confirmed,
            specs=specs,
            reports=[
                report_arguments(one.report, part=one.part, sign=self._epoch.sign)
                for one in reports
                if one.report is not None
            ],
        )
        return arguments, {
            key: spec for key, spec in specs.items() if any(key in one.specs for one in reports)
        }

    def _is_to_be_said(self, key: str, spec: LimitSpec, now: int) -> bool:
        said = self._said.get(key)
        return said is None or said.spec != spec or now - said.at > _SAY_AGAIN

    def _forget_if_new(self, epoch: int) -> None:
        if epoch != self._said_in:
            self._said_in, self._said, self._confirmed = epoch, {}, []
        if len(self._said) > _MOST_KNOWN:
            self._said = {}

    async def _additions(
        self, epoch: int, requests: Sequence[_Request]
    ) -> list[tuple[str, list[Argument]]]:
        """State calls that make limits known which the shard may not know yet."""
        specs = {
            key: spec
            for request in requests
            if request.report is not None
            for key, spec in request.specs.items()
            if key not in self._said
        }
        promised = await self._leases.read(list(specs)) if specs else {}
        additions = []
        for key, spec in specs.items():
            arguments: list[Argument] = [self._server, key, *spec_arguments(spec)]
            limit = promised.get(key)
            if self._epoch.is_doubted:
                limit = _count_in_full(limit, spec)
            if limit is not None:
                arguments += restore_arguments(
                    limit.used,
                    limit.ceiling,
                    limit.holdings,
                    is_of_this_epoch=limit.epoch == epoch,
                    unseen_ns=self._epoch.unseen,
                )
            additions.append(("add", arguments))
        return additions

    def _answer(self, requests: Sequence[_Request], synced: Synced) -> None:
        taken = iter(synced.taken)
        for request in requests:
            answer = next(taken) if request.report is not None else TakenPart(is_new=True)
            for key in answer.unknown:
                self._said.pop(key, None)
            if self._is_to_be_repeated(request, answer, synced):
                self._waiting.append(request)
                self._work.set()
            elif not request.done.done():
                request.done.set_result(answer)

    def _is_to_be_repeated(self, request: _Request, answer: TakenPart, synced: Synced) -> bool:
        if request.is_settling:
            return synced.has_more
        forgotten = [key for key in answer.unknown if key in request.specs]
        if request.report is None or not forgotten or request.repetitions >= _MOST_REPETITIONS:
            return False
        # The book has forgotten them since this server heard of them: they are made known again,
        # and demanded as a later part of the same report.
        demands = tuple(one for one in request.report.demands if one.key in forgotten)
        request.report = replace(request.report, demands=demands)
        request.part += _MOST_PARTS
        request.repetitions += 1
        return True

    def _plan(self, synced: Synced) -> None:
        if synced.has_more:
            self._work.set()
        if synced.next_time is not None:
            due = (synced.next_time - synced.now) / _SECOND
            self._due_in = min(_TICK_SECONDS, max(_GATHER_SECONDS, due))


def _count_in_full(limit: PromisedLimit | None, spec: LimitSpec) -> PromisedLimit:
    """All of a limit may be out, and who has it need not be among those who are known to."""
    limit = limit or PromisedLimit(epoch=0, used=0, ceiling=0, holdings={})
    known = sum(max(one.units, one.floor) for one in limit.holdings.values())
    return replace(limit, ceiling=max(limit.ceiling, known + spec.units))


def _future() -> "asyncio.Future[TakenPart]":
    return asyncio.get_running_loop().create_future()


def _fail(requests: Iterable[_Request], error: Unavailable) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)
