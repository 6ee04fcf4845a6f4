"""
The book in the memory of one server, with its promises in SQL.

1. One task settles: it gathers what came in, decides, makes the promises durable in one
   transaction, and only then lets grants be taken. What comes in meanwhile waits for the next turn.
2. Promises that can't be written are tried again until they can; so long no grant leaves, though
   reports are taken in and answered, and leases hold.
3. The book is dropped the moment it is not ours any more.
4. A book that is doubted counts every limit as lent in full, beside what is known of it, until
   leases of before must be over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from policy_server.errors import BookElsewhere, Unavailable
from policy_server.lending.clock import boottime_ns
from policy_server.lending.keeper import BookKeeper, BookLost
from policy_server.lending.port import BookView, Heard, Taken
from policy_server.lending.proofs import make_signer
from policy_server.limits.book import LeaseBook
from policy_server.limits.messages import Decision, Grant, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.limits.views import view_limit
from policy_server.metrics import ServerMetrics
from policy_server.store.database import Database
from policy_server.store.leases import BookRow, end_doubt, read_promises
from policy_server.supervisor import end, keep_running

logger = logging.getLogger(__name__)

_SECOND = 1_000_000_000
#: How long what comes in is gathered after a turn, at least and at most: the longer the longer a
#: turn takes, so that there is time for other things. A lone report waits for nobody.
_GATHER_LEAST, _GATHER_MOST = 0.002, 0.05
_GATHER_PART = 4
_RETRY_SECONDS = 0.5
_MOST_HOLDERS = 1000
_SLICE = 1000


@dataclass(slots=True)
class _Listener:
    """Who is told of one agent's grants."""

    wake: Callable[[], None]
    #: Durable, the newest of each key.
    grants: dict[str, Grant] = field(default_factory=dict)
    #: What its agent has not confirmed is to be taken again.
    is_new: bool = True


class EmbeddedLimitStore:
    """Keeps the book of this server; see `LimitStore`."""

    def __init__(
        self,
        database: Database,
        keeper: BookKeeper,
        *,
        server: str,
        metrics: ServerMetrics | None = None,
        timing: LeaseTiming | None = None,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._server = server
        self._metrics = metrics or ServerMetrics()
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._book: LeaseBook | None = None
        self._epoch = 0
        self._opened_at = self._doubted_until = 0
        self._listeners: dict[str, _Listener] = {}
        self._news = asyncio.Event()
        #: Who waits until what came in so far is settled.
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def timing(self) -> LeaseTiming:
        """The spans of leases."""
        return self._timing

    async def start(self) -> None:
        """Begin to keep the book, once it is ours."""
        self._task = asyncio.create_task(keep_running(self._run), name="lease-book")

    async def close(self) -> None:
        """Stop, and give the book up."""
        if self._task is not None:
            await end([self._task])
        self._drop()
        await self._keeper.give_up()

    async def receive(self, report: Report, specs: Mapping[str, LimitSpec]) -> Heard:
        """Take in a report."""
        book, now = self._ours(), self._clock()
        for key, spec in specs.items():
            self._configure(book, key, spec, now)
        unknown = tuple(demand.key for demand in report.demands if book.limit(demand.key) is None)
        is_new = book.receive(report, now)
        self._news.set()
        return Heard(epoch=self._epoch, is_new=is_new, unknown=unknown)

    async def configure(self, specs: Mapping[str, LimitSpec]) -> None:
        """Change limits that are lent."""
        book, now = self._ours(), self._clock()
        for key, spec in specs.items():
            if book.limit(key) is not None:
                book.configure(key, spec, now)
        self._news.set()

    async def release(self, agent: str, incarnation: int) -> None:
        """End all leases of an agent, up to *incarnation*."""
        self._ours().release(agent, incarnation, self._clock())
        self._news.set()

    async def hears(self, agent: str) -> bool | None:
        """Whether an agent has reported lately; None: it is not known."""
        session = self._ours().session(agent)
        if session is None:
            return None
        until = session.speaks_until or self._opened_at + self._timing.session
        return self._clock() < until

    def attach(self, agent: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* whenever there is something to be taken for *agent*."""
        listener = self._listeners[agent] = _Listener(wake)
        self._news.set()

        def detach() -> None:
            if self._listeners.get(agent) is listener:
                del self._listeners[agent]

        return detach

    async def take(self, agent: str, incarnation: int, most: int) -> Taken:
        """Take up to *most* grants for an agent whose listener is attached."""
        book = self._ours()
        listener, session = self._listeners.get(agent), book.session(agent)
        taken: list[Grant] = []
        if listener is not None:
            while listener.grants and len(taken) < most:
                grant = listener.grants.pop(next(iter(listener.grants)))
                # A newer one, which is not durable yet, will come in its place.
                if grant.incarnation == incarnation and book.holds(grant):
                    taken.append(grant)
        is_present = session is not None and session.incarnation == incarnation
        return Taken(
            epoch=self._epoch,
            sequence=session.sequence if session is not None and is_present else 0,
            grants=tuple(taken),
            has_more=listener is not None and bool(listener.grants),
            is_recovering=self._is_recovering(book),
        )

    async def settled(self) -> None:
        """Return once what was received before can be taken."""
        self._ours()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._news.set()
        await done

    async def list_limits(self, after: str, limit: int) -> BookView:
        """List up to *limit* limits by key, from the one after *after* on."""
        keys = sorted(key for key in self._ours().keys if key > after)[:limit]
        return self._view(keys, most_holders=0)

    async def find_limit(self, key: str) -> BookView:
        """Find one limit with its holders."""
        return self._view([key], most_holders=_MOST_HOLDERS)

    def _view(self, keys: list[str], *, most_holders: int) -> BookView:
        book, now = self._ours(), self._clock()
        views = (view_limit(book, key, now, most_holders=most_holders) for key in keys)
        return BookView(
            server=self._server,
            epoch=self._epoch,
            is_recovering=self._is_recovering(book),
            limits=tuple(view for view in views if view is not None),
        )

    def _ours(self) -> LeaseBook:
        if self._book is None or not self._keeper.is_ours:
            raise BookElsewhere(self._keeper.whose)
        return self._book

    # Keeping the book.

    async def _run(self) -> None:
        """Keep the book for as long as it is ours, and try to have it again."""
        row = await self._keeper.acquire()
        try:
            await self._open(row)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.stay())
                group.create_task(self._settle_all())
                if row.is_doubted:
                    group.create_task(self._end_doubt(row.epoch))
        except* BookLost:
            logger.warning("the book of limits has gone to another server")
        finally:
            self._drop()

    async def _open(self, row: BookRow) -> None:
        promised = await self._database.read(read_promises)
        self._opened_at = self._doubted_until = self._clock()
        if row.is_doubted:
            logger.warning("an older copy of the database was put back, limits count as lent")
            self._doubted_until += _lease_span(self._timing)
        book = LeaseBook(self._timing, epoch=row.epoch, sign=make_signer(row.secret))
        for number, (key, durable) in enumerate(promised.items()):
            if number % _SLICE == _SLICE - 1:
                # There may be very many, and others are served meanwhile.
                await asyncio.sleep(0)
            now = self._clock()
            book.configure(key, durable.spec, now)
            ceiling = durable.ceiling
            if row.is_doubted:
                known = sum(max(one.units, one.floor) for one in durable.holdings.values())
                ceiling = max(ceiling, known + durable.spec.units)
            book.restore(
                key, ceiling=ceiling, holdings=durable.holdings, owed=durable.owed, now=now
            )
        self._book, self._epoch = book, row.epoch
        for listener in self._listeners.values():
            listener.grants.clear()
        self._show_state()
        facts = {"epoch": row.epoch, "limits": len(promised)}
        logger.info("the book of limits is open here", extra=facts)

    def _configure(self, book: LeaseBook, key: str, spec: LimitSpec, now: int) -> None:
        is_new = book.limit(key) is None
        book.configure(key, spec, now)
        if is_new and now < self._doubted_until:
            book.restore(key, ceiling=spec.units, holdings={}, now=self._opened_at)

    def _is_recovering(self, book: LeaseBook) -> bool:
        return book.is_recovering or self._clock() < self._doubted_until

    async def _end_doubt(self, epoch: int) -> None:
        """Note in the end that leases of before are over."""
        while True:
            await asyncio.sleep(max(0, self._doubted_until - self._clock()) / _SECOND)
            if self._clock() < self._doubted_until:
                continue
            try:
                await self._database.write(partial(end_doubt, epoch=epoch))
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._news.set()
            return

    def _show_state(self) -> None:
        book = self._book
        state = "elsewhere"
        if book is not None:
            state = "recovering" if self._is_recovering(book) else "open"
        for one in ("open", "recovering", "elsewhere"):
            self._metrics.limit_book.labels(one).set(one == state)
        limits, workers, scarce = book.counts if book is not None else (0, 0, 0)
        self._metrics.limits_lent.set(limits)
        self._metrics.limit_workers.set(workers)
        self._metrics.limits_scarce.set(scarce)

    def _drop(self) -> None:
        self._book = None
        self._show_state()
        for done in self._waiting:
            if not done.done():
                done.set_exception(BookElsewhere(self._keeper.whose))
        self._waiting = []

    async def _settle_all(self) -> None:
        book = self._ours()
        was_recovering = book.is_recovering
        while True:
            await self._wait(book)
            self._news.clear()
            waiting, self._waiting = self._waiting, []
            begun = self._clock()
            decision = book.settle(begun)
            took = (self._clock() - begun) / _SECOND
            try:
                await self._keep(decision)
            finally:
                _finish(waiting)
            self._deliver(book, decision)
            self._show_state()
            if was_recovering and not book.is_recovering:
                was_recovering = False
                logger.info("all that was lent before is accounted for")
            await asyncio.sleep(min(max(took * _GATHER_PART, _GATHER_LEAST), _GATHER_MOST))

    async def _wait(self, book: LeaseBook) -> None:
        """Wait until something came in, or something ends by itself."""
        next_time = book.next_time()
        seconds = None if next_time is None else max(0, next_time - self._clock()) / _SECOND
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _keep(self, decision: Decision) -> None:
        """Make promises durable, however long it takes. Errors: `BookLost`."""
        failure = ""
        while decision.promises:
            try:
                with self._metrics.limit_commit_seconds.time():
                    await self._keeper.keep(decision.promises)
                return
            except Unavailable as error:
                if str(error) != failure:
                    failure = str(error)
                    logger.warning("leases can't be written down", extra={"why": failure})
            await asyncio.sleep(_RETRY_SECONDS)

    def _deliver(self, book: LeaseBook, decision: Decision) -> None:
        woken: dict[str, _Listener] = {}
        for grant in decision.grants:
            listener = self._listeners.get(grant.agent)
            if listener is not None:
                # At its end, as the newest.
                listener.grants.pop(grant.key, None)
                listener.grants[grant.key] = grant
                woken[grant.agent] = listener
        for agent, listener in self._listeners.items():
            if listener.is_new:
                listener.is_new = False
                listener.grants |= {one.key: one for one in book.unconfirmed_grants(agent)}
                woken[agent] = listener
        for listener in woken.values():
            listener.wake()


def _lease_span(timing: LeaseTiming) -> int:
    """After how long whatever was lent, but floors of agents that are cut off, is over."""
    return timing.longer(timing.session) + timing.grace + timing.longer(timing.drain)


def _finish(waiting: list[asyncio.Future[None]]) -> None:
    for done in waiting:
        if not done.done():
            done.set_result(None)
