"""
Wire: an SMTP connection after the greeting, as commands written and replies read in their order.

aiosmtplib connects, greets, upgrades and authenticates, one command at a time; `Wire` then takes
its transport over, so that several commands may be under way (RFC 2920). It counts what is
outstanding: a reply that nobody asked for says that the peer is leaving, and can never be taken
for the answer to a later command.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from agent.delivery.replies import NotAReply, Reply, ReplyParser
from agent.dispatch.alarm import Alarm

#: What is written between two looks at whether the peer takes it, in octets.
_SLICE = 256 * 1024
#: How often it is looked at whether a slow peer has taken anything, in seconds.
_LOOK_SECONDS = 5.0


class WireClosed(ConnectionError):
    """The connection is gone."""


class WireTimeout(TimeoutError):
    """The peer did not reply, or did not take what was written, in time."""


def _ignore() -> None:
    """Nobody wants to know."""


class Wire(asyncio.Protocol):
    """Reads replies and writes commands over a transport that is connected already."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parser = ReplyParser()
        self._replies: deque[Reply] = deque()
        self._outstanding = 0
        self._waiter: asyncio.Future[None] | None = None
        #: Goes off when the reply that is waited for does not come.
        self._alarm = Alarm(self._give_up)
        self._is_late = False
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False
        self._failure: Exception | None = None
        #: Called whenever the peer took some of a message.
        self.on_taken: Callable[[], None] = _ignore
        #: Called when the peer has closed or said something that nobody asked for.
        self.on_failed: Callable[[], None] = _ignore
        self._closed = asyncio.Event()
        transport.set_protocol(self)
        # The transport may have paused its former protocol; it does not tell a new one.
        self._is_paused = transport.get_write_buffer_size() > 0

    @property
    def is_open(self) -> bool:
        """Whether commands may be written: the peer has neither closed nor spoken unasked."""
        return self._failure is None and not self._transport.is_closing()

    def write(self, data: bytes, *, replies: int) -> None:
        """Write commands that *replies* replies are to come for. Errors: `WireClosed`."""
        self._check()
        self._outstanding += replies
        self._transport.write(data)

    async def write_content(self, data: bytes, *, replies: int, timeout: float) -> None:
        """
        Write a message, as fast as the peer takes it; some of it must go each *timeout* seconds.
        Errors: `WireClosed`, `WireTimeout`.
        """
        self._check()
        self._outstanding += replies
        view = memoryview(data)
        for begin in range(0, len(data), _SLICE):
            self._transport.write(view[begin : begin + _SLICE])
            if self._is_paused:
                await self._drain(timeout)

    def take(self) -> Reply | None:
        """Return the next reply if it has come."""
        return self._replies.popleft() if self._replies else None

    async def read(self, timeout: float) -> Reply:
        """Return the next reply, waiting for at most *timeout* seconds. Errors: as writing."""
        loop = asyncio.get_running_loop()
        self._is_late = False
        self._alarm.set(loop.time() + timeout)
        try:
            while not self._replies:
                self._check()
                if self._is_late:
                    raise WireTimeout("no reply")
                self._waiter = loop.create_future()
                await self._waiter
        finally:
            self._waiter = None
            self._alarm.clear()
        return self._replies.popleft()

    async def wait_until_closed(self) -> None:
        """Return once the peer has closed the connection."""
        await self._closed.wait()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Take in what the peer says."""
        try:
            replies = self._parser.feed(data)
        except NotAReply as error:
            self._fail(error)
            return
        expected = replies[: self._outstanding]
        self._outstanding -= len(expected)
        self._replies.extend(expected)
        if len(replies) > len(expected) or (not self._outstanding and not self._parser.is_clean):
            self._fail(WireClosed("the peer spoke unasked"))
        self._wake()

    def eof_received(self) -> bool:
        """The peer says no more, so neither do we."""
        self._closed.set()
        self._fail(WireClosed("connection lost"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._closed.set()
        self._fail(WireClosed("connection lost"))
        self._alarm.close()

    def pause_writing(self) -> None:
        """The peer takes no more for now."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """The peer has taken what was written."""
        self._is_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _check(self) -> None:
        if self._failure is not None or self._transport.is_closing():
            raise self._failure or WireClosed("connection lost")

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self.on_failed()
        self._wake()
        self.resume_writing()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give_up(self) -> None:
        self._is_late = True
        self._wake()

    async def _drain(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        left, since = self._transport.get_write_buffer_size(), loop.time()
        while self._is_paused:
            self._check()
            self._drained = loop.create_future()
            try:
                async with asyncio.timeout(min(timeout, _LOOK_SECONDS)):
                    await self._drained
            except TimeoutError:
                size = self._transport.get_write_buffer_size()
                if size < left:
                    left, since = size, loop.time()
                    self.on_taken()
                elif loop.time() - since >= timeout:
                    raise WireTimeout("the peer does not take the message") from None
            finally:
                self._drained = None
        self.on_taken()
        self._check()
