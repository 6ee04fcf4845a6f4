"""
Session: one connection slot of a path at work.

It takes a message, connects along the plan, sends message after message over the connection and
ends when there is no more mail, the connection has done its share, or it is told to leave. Before
each transaction it asks the path anew, so that a change of policy holds from the next step on.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Collection
from uuid import uuid4

from msgspec.structs import replace

from agent.delivery import internal
from agent.delivery.batches import RecipientBatches
from agent.delivery.classify import (
    Replies,
    classify,
    ends_connection,
    is_accepted,
    result_of,
)
from agent.delivery.envelope import mail_command
from agent.delivery.plan import Candidate
from agent.delivery.record import Response
from agent.dispatch.bell import Bell
from agent.dispatch.dialogue import Broken
from agent.dispatch.link import Link, Paused
from agent.dispatch.path import Path
from agent.dispatch.settler import Settler
from agent.dispatch.transaction import ResetFailed
from agent.dispatch.watchdog import Watchdog
from agent.dispatch.work import Work, begin_work, give_all
from agent.errors import SpoolUnavailable
from agent.queue.entry import Entry
from agent.queue.names import parse_queue_name

logger = logging.getLogger(__name__)

#: When mail that met a failure of our own is tried again, in seconds.
_LATER = 60.0
#: Within which time mail is tried again whose session the watchdog has ended, in seconds.
_STALLED_SECONDS = 60.0


class Session:
    """Implements `agent.dispatch.services.Connection`."""

    def __init__(self, path: Path, *, host_name: str) -> None:
        self.is_idle = False
        self.is_opening = True
        self._path = path
        self._services = path.services
        self._id = uuid4().hex
        self._watchdog = Watchdog()
        self._link = Link(
            path,
            session_id=self._id,
            host_name=host_name,
            pace=self._pace,
            on_progress=self._watchdog.progress,
        )
        #: The entry that the session has to settle or give back.
        self._entry: Entry | None = None
        #: Has the entries that were sent and whose outcome is being stored.
        self._settler = Settler(path)
        self._is_leaving = False
        self._bell = Bell()
        #: Why the watchdog ended the attempt in hand; None: it did not.
        self._stalled: Response | None = None

    @property
    def in_hand(self) -> tuple[Entry, ...]:
        """The entries that it sends, or whose outcome it stores."""
        stored = self._settler.entries
        return (self._entry, *stored) if self._entry is not None else stored

    def leave(self) -> None:
        """Close after the transaction in progress."""
        self._is_leaving = True
        self._bell.ring()

    def cut(self) -> None:
        """Close now: what is under way counts as a connection that was lost."""
        self.leave()
        self._link.cut()

    def wake(self) -> None:
        """Look again: something has changed."""
        self._bell.ring()

    async def run(self) -> None:
        """Work until there is nothing more to do."""
        try:
            while (entry := await self._next_entry()) is not None:
                await self._handle(entry)
        except asyncio.CancelledError:
            self._link.abort()
            raise
        finally:
            self._watchdog.close()
            self._bell.close()
            await self._link.close()
            await self._settler.wait()

    async def _handle(self, entry: Entry) -> None:
        self._entry, self._stalled = entry, None
        try:
            if self._link.peer is None and self._path.policy_for(entry) is None:
                self._give_back(entry)
                return
            if await self._find_peer(entry):
                await self._deliver(entry)
        except asyncio.CancelledError:
            # Stopped in the middle: what is on disk decides at the next start.
            if self._entry is not None:
                self._let_go()
            raise
        except Exception:
            # A mistake of ours must not lose the entry: it is tried again later, elsewhere.
            if self._entry is not None:
                self._try_later(entry)
            raise

    async def _find_peer(self, entry: Entry) -> bool:
        """
        Have a connection that may take *entry*; if none is to be had, settle it or put it back.
        """
        link, domain = self._link, self._domain_of(entry)
        if link.serves_at_once(domain):
            return True

        async def find() -> bool:
            await link.leave_other_hosts(domain)
            return link.peer is not None or await self._connect(entry)

        if (is_found := await self._watched(find())) is not None:
            return is_found
        link.route.forget()
        self._is_leaving = True
        if self._entry is not None:
            await self._put_off_stalled(entry)
        return False

    async def _watched(self, work: Awaitable[bool]) -> bool | None:
        """What *work* led to; None: the watchdog ended it."""
        loop, scope = asyncio.get_running_loop(), asyncio.timeout(None)
        try:
            async with scope:
                with self._watchdog.watch(
                    self._path.options.timeouts.watchdog, lambda: scope.reschedule(loop.time())
                ):
                    return await work
        except TimeoutError:
            if not scope.expired():
                raise
        self._note_stall()
        return None

    def _note_stall(self) -> Response:
        """The watchdog went off: what is to be said of it."""
        watchdog = self._watchdog
        self._stalled = stalled = internal.stalled(watchdog.phase, watchdog.still_seconds)
        self._services.counts.watchdog_aborts += 1
        facts = {"path": self._path.name, "session": self._id, "phase": watchdog.phase}
        logger.warning("session without progress ended", extra=facts)
        return stalled

    async def _put_off_stalled(self, entry: Entry) -> None:
        """Nothing was said of the message: it waits a moment, and no attempt is used up."""
        assert self._stalled is not None
        way = self._link.way(parse_queue_name(entry.queue_name))
        self._let_go()
        entry.due = self._services.clock() + self._services.random.uniform(0, _STALLED_SECONDS)
        self._services.holding.take_back(entry)
        await self._services.results.delay([entry], way, self._stalled)

    def _let_go(self) -> None:
        self._entry = None
        self._path.let_go()

    def _give_back(self, entry: Entry) -> None:
        """Nothing was tried: the entry waits on as it did."""
        self._entry = None
        self._path.put_back(entry)

    def _try_later(self, entry: Entry) -> None:
        self._let_go()
        entry.due = self._services.clock() + _LATER
        self._services.holding.take_back(entry)

    async def _next_entry(self) -> Entry | None:
        """The next entry to work on; None: the session ends."""
        while True:
            self._bell.silence()
            if self._must_end():
                return None
            if (entry := self._path.take()) is not None:
                return entry
            if self._link.peer is None or not await self._wait_idle():
                return None

    def _must_end(self) -> bool:
        if self._is_leaving or not self._services.results.is_healthy:
            return True
        self._link.drop_if_gone()
        return self._link.is_used_up

    async def _wait_idle(self) -> bool:
        """Wait for mail; False once the connection has been idle for long enough."""
        self.is_idle = True
        self._path.became_idle(self)
        try:
            return await self._wait(self._path.options.timeouts.idle)
        finally:
            self.is_idle = False
            self._path.became_busy(self)

    async def _wait(self, seconds: float) -> bool:
        """Wait for a change or for word from the peer; False if the time went by."""
        if self._link.peer is not None:
            self._link.peer.watch(self._bell.ring)
        return await self._bell.wait(seconds)

    # Connecting

    def _domain_of(self, entry: Entry) -> str:
        return parse_queue_name(entry.queue_name).next_domain

    async def _connect(self, entry: Entry) -> bool:
        """Open a connection for *entry*; if none is to be had, settle it or put it back."""
        if not self._link.route.is_made and not await self._make_route(entry):
            return False
        failures: list[str] = []
        self.is_opening = True
        try:
            if await self._link.open_next(failures):
                return True
        except Paused:
            self._is_leaving = True
            self._give_back(entry)
            return False
        finally:
            self.is_opening = False
        await self._unreachable(entry, tuple(failures))
        return False

    async def _pace(self) -> None:
        """Charge the connection rate, waiting for it if that is not long."""
        while not self._is_leaving and not self._path.must_leave(self):
            self._bell.silence()
            wait = self._path.connection_wait()
            if wait == 0:
                return
            if wait >= self._path.options.timeouts.idle:
                break
            with self._watchdog.pause():
                await self._wait(wait)
        raise Paused

    async def _make_route(self, entry: Entry) -> bool:
        """Find a way for *entry*, or settle it where there is none."""
        self._watchdog.progress("lookup")
        response = await self._link.find_route(self._domain_of(entry))
        if response is not None:
            await self._finish([entry], response)
        return response is None

    async def _unreachable(self, entry: Entry, failures: tuple[str, ...]) -> None:
        if self._link.route.has_served:
            # The plan served before; the message in hand deserves a plan of its own.
            self._give_back(entry)
            return
        self._is_leaving = True
        path = self._path
        logger.info("no usable host", extra={"path": path.name, "failures": failures[:3]})
        path.failures += 1
        entries = [entry]
        response = internal.unreachable(failures)
        if path.failures > path.options.failures_before_delay + 1:
            response = internal.TOO_MANY_FAILURES
            entries += path.drain()
        await self._finish(entries, response)

    async def _finish(self, entries: list[Entry], response: Response) -> None:
        """Settle *entries*, the first of them in hand, with one response of our own."""
        way = self._link.way(parse_queue_name(entries[0].queue_name))
        try:
            with self._watchdog.pause():
                waiting = await self._services.results.finish(entries, way, response)
        except Exception:
            # A mistake of ours: those that were not in hand have nobody else to keep them.
            for entry in entries[1:]:
                entry.due = self._services.clock() + _LATER
                self._services.holding.take_back(entry)
            raise
        self._path.counters.count(result_of(response), len(entries))
        self._path.note_reply(response, way.peer)
        self._let_go()
        for entry in waiting:
            self._services.holding.take_back(entry)

    # Sending

    async def _deliver(self, entry: Entry) -> None:
        """Send an entry to its recipients; afterwards it is settled or back in a queue."""
        try:
            message = await self._services.results.load(entry.id)
        except SpoolUnavailable:
            # It may be this message alone; others must not wait behind it.
            self._try_later(entry)
            return
        if message is None:
            self._let_go()
            return
        queue = parse_queue_name(entry.queue_name)
        work = begin_work(entry, queue, message, self._link.way(queue))
        while work.batches.waiting:
            if self._link.peer is None or not await self._may_send(entry):
                break
            failure = await self._transact(work)
            if failure is None:
                continue
            if not self._goes_on(failure, work.tried):
                break
            await self._settler.settle_part(work)
            self._stalled = None
            work.batches = RecipientBatches(work.put_off)
            work.results = []
            if not await self._connect_again(work):
                break
            work.way = self._link.way(queue)
        await self._end_work(work)

    async def _end_work(self, work: Work) -> None:
        if not work.results:
            if self._stalled is not None:
                await self._put_off_stalled(work.entry)
            else:
                self._give_back(work.entry)
            return
        self._entry = None
        await self._settler.settle(work, self._earliest)

    def _earliest(self) -> float:
        """When what remains of the message in hand may be tried again at the earliest."""
        if self._stalled is None:
            return 0.0
        return self._services.clock() + self._services.random.uniform(0, _STALLED_SECONDS)

    async def _before_content(self) -> None:
        """Wait for the message before; nobody else is to blame for how long that takes."""
        if not self._settler.is_done:
            with self._watchdog.pause():
                await self._settler.wait()

    async def _may_send(self, entry: Entry) -> bool:
        """Wait until a transaction may begin, and charge it; False: not on this connection."""
        try:
            while True:
                self._bell.silence()
                # First of all: both may tell that this connection must end.
                self._is_leaving = self._is_leaving or self._path.must_leave(self)
                if self._path.policy_for(entry) is None:
                    self._is_leaving = self._path.is_suspended
                    return False
                if self._must_end() or self._link.peer is None:
                    return False
                wait = self._path.message_wait(self)
                if wait == 0:
                    return True
                if not await self._wait_for_rate(wait):
                    self._is_leaving = True
                    return False
        finally:
            self._path.leave_line(self)

    async def _wait_for_rate(self, seconds: float) -> bool:
        """Wait so long; False if that is longer than a connection is kept for."""
        idle = self._path.options.timeouts.idle
        if seconds < idle:
            await self._wait(seconds)
            return True
        # A lease may come at any moment, and go again soon: be ready for it.
        return seconds == math.inf and await self._wait(idle)

    async def _transact(self, work: Work) -> Broken | None:
        """One transaction; returns what broke the connection, if anything did."""
        peer, options = self._link.peer, self._path.options
        assert peer is not None
        recipients = work.batches.peek(options.max_recipients)
        command = mail_command(
            work.message.sender,
            recipients,
            is_8bit=work.is_8bit,
            offered=peer.offered,
            force=options.force_8bit,
        )
        if isinstance(command, Response):
            work.results += work.batches.settle(give_all(recipients, command))
            return None
        is_first = self._link.transactions == 0
        self._link.transactions += 1
        try:
            with self._watchdog.watch(options.timeouts.watchdog, peer.abort):
                replies = await peer.send(
                    command,
                    recipients,
                    work.content,
                    self._before_content,
                    needs_reset=self._link.needs_reset,
                )
        except ResetFailed as error:
            # Not a word of it was about the message.
            if self._watchdog.has_tripped:
                self._note_stall()
            self._link.drop()
            return error.failure
        work.tried.add(peer.candidate)
        if self._watchdog.has_tripped and peer.failure:
            stalled = peer.failure.response = self._note_stall()
            replies = replace(replies, failure=stalled)
            if not peer.failure.is_after_content:
                # The peer can't have the message: it goes back as a whole.
                self._link.drop()
                return peer.failure
        failure = peer.failure or _closing(replies)
        if failure and failure.is_silent and not is_first and not failure.is_after_content:
            # The peer had closed an idle connection; that says nothing about the message.
            self._link.drop()
            return failure
        work.results += work.batches.settle(classify(replies, suspected=work.batches.suspected))
        self._link.needs_reset = options.enable_rset or not _was_taken(replies)
        if failure or not peer.is_open:
            failure = failure or Broken(internal.broken("", "connection lost"), is_silent=True)
            self._link.drop()
        return failure

    def _goes_on(self, failure: Broken, tried: Collection[Candidate]) -> bool:
        """Whether the message is tried on the next host at once."""
        if not self._path.options.try_next_host or failure.is_after_content or self._is_leaving:
            return False
        # A strategy that returns to the same host would never come to an end with this message.
        self._link.route.leave_out(tried)
        return self._link.route.has_more

    async def _connect_again(self, work: Work) -> bool:
        """Open a connection for what is left of *work*; if none is to be had, that has failed."""
        failures: list[str] = []
        try:
            is_open = await self._watched(self._link.open_next(failures))
        except Paused:
            is_open = None
        if is_open is None:
            self._is_leaving = True
            return False
        if not is_open and not self._is_leaving:
            left = work.batches.waiting
            work.batches = RecipientBatches(())
            work.results = give_all(left, internal.unreachable(tuple(failures)))
        return is_open


def _closing(replies: Replies) -> Broken | None:
    """A 421 among the replies: the peer is closing."""
    said = (replies.mail, *replies.rcpt, replies.data, *replies.ends)
    for response in said:
        if response is not None and ends_connection(response):
            return Broken(response)
    return None


def _was_taken(replies: Replies) -> bool:
    return bool(replies.ends) and all(map(is_accepted, replies.ends))
