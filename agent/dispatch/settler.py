"""
Settler: hands in what became of a session's messages, and keeps them until that is durable.

What was handed in goes on by itself: a session that is cut off must not forget what the peer has
taken.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from agent.delivery.classify import Result
from agent.dispatch.durable import until_done
from agent.dispatch.path import Path
from agent.dispatch.settling import Attempt
from agent.dispatch.work import Work
from agent.queue.entry import Entry
from agent.spool.messages import Settlement

logger = logging.getLogger(__name__)


class Settler:
    """The messages of one session whose outcome is being stored, two at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results = path.services.results
        self._holding = path.services.holding
        self._entries: list[Entry] = []
        #: Done when the outcome of the last message is durable.
        self._last: asyncio.Future[None] | None = None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries whose outcome is being stored."""
        return tuple(self._entries)

    @property
    def is_done(self) -> bool:
        """Whether all outcomes are stored."""
        return self._last is None or self._last.done()

    async def wait(self) -> None:
        """Wait until the last message is settled, for as long as the disk takes."""
        if self._last is not None:
            await until_done(self._last)

    async def settle_part(self, work: Work) -> None:
        """Make durable what became of some recipients, the others of *work* are tried on."""
        _, durable = self._hand_in(work, goes_on=True)
        await until_done(durable)
        durable.result()

    async def settle(self, work: Work, earliest: Callable[[], float]) -> None:
        """
        Settle a message; what remains of it waits, until *earliest* at least, in seconds since the
        epoch, and this returns when it does. What is final is made durable while the next message
        is on its way to the peer, but before its content is, so at most one message a connection
        is in doubt.
        """
        before = self._last
        self._entries.append(work.entry)
        try:
            settlement, self._last = self._hand_in(work)
        except Exception as error:
            self._let_go(work.entry, error)
            return
        self._last.add_done_callback(partial(self._on_settled, work.entry, settlement, earliest))
        if work.batches.waiting or work.put_off:
            await self.wait()
        elif before is not None:
            await until_done(before)

    def _hand_in(
        self, work: Work, *, goes_on: bool = False
    ) -> tuple[Settlement, asyncio.Future[None]]:
        """What holds for *work* from now on, and when that is durable."""
        for each in work.results:
            self._path.counters.count(each.result, 1)
        if work.results:
            refused = (each for each in work.results if each.result is not Result.DELIVERED)
            self._path.note_reply(next(refused, work.results[-1]).response, work.way.peer)
        return self._results.settle(
            Attempt(
                entry=work.entry,
                queue=work.queue,
                message=work.message,
                way=work.way,
                results=work.results,
                unsent=work.batches.waiting,
                goes_on=goes_on,
            )
        )

    def _on_settled(
        self,
        entry: Entry,
        settlement: Settlement,
        earliest: Callable[[], float],
        durable: asyncio.Future[None],
    ) -> None:
        if durable.cancelled():
            # The agent stops, and the disk has not taken it: what is there decides.
            self._let_go(entry, None)
            return
        error = durable.exception()
        self._let_go(entry, error)
        if error is None and settlement.remaining:
            entry.due, entry.attempts = max(settlement.due, earliest()), settlement.attempts
            self._holding.take_back(entry)

    def _let_go(self, entry: Entry, error: BaseException | None) -> None:
        self._entries.remove(entry)
        self._path.let_go()
        if error is not None:
            # Supervisor: sent mail that can't be struck out must not be sent over and over. It
            # stays in the spool, in no queue, until the next start.
            facts = {"entry": entry.id}
            logger.error("outcome can't be stored", exc_info=error, extra=facts)
