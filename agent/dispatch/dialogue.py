"""
Dialogue: commands and the replies to them, over a `Wire`.

A reply that arrives is a `Response`, whatever it says. What is no reply (a timeout, a broken
connection, octets that are no SMTP) is `Broken`, and the connection is gone.
"""

from collections.abc import Callable

from agent.delivery import internal
from agent.delivery.classify import parse_reply
from agent.delivery.record import Response
from agent.delivery.replies import NotAReply
from agent.dispatch.wire import Wire, WireTimeout
from agent.errors import AgentError


class Broken(AgentError):
    """The connection can't be used any more."""

    def __init__(self, response: Response, *, is_silent: bool = False) -> None:
        super().__init__(response.content)
        self.response = response
        #: The peer closed without a word, or had done so before.
        self.is_silent = is_silent
        #: The message had been sent: the peer may have it although no reply came.
        self.is_after_content = False


class Dialogue:
    """What is said to a peer, and heard of it; every method's errors: `Broken`."""

    def __init__(
        self,
        wire: Callable[[], Wire],
        on_progress: Callable[[str], None],
        hang_up: Callable[[], None],
    ) -> None:
        """
        *wire* gives what goes to the peer, or raises `Broken`; *on_progress* is told what is waited
        for next; *hang_up* ends the connection, for replies that come later must not be taken for
        others.
        """
        self._wire = wire
        self._on_progress = on_progress
        self.hang_up = hang_up

    def say(self, data: bytes, *, replies: int) -> None:
        """Write commands that *replies* replies are to come for."""
        try:
            self._wire().write(data, replies=replies)
        except (OSError, ValueError) as error:
            raise self._broken(data[:4].decode("ascii", "replace").strip(), error) from None

    async def say_content(self, content: bytes, *, replies: int, timeout: float) -> None:
        """Write a message as fast as the peer takes it; some of it must go each *timeout*."""
        self._on_progress("content")
        try:
            await self._wire().write_content(content, replies=replies, timeout=timeout)
        except (OSError, ValueError) as error:
            raise self._broken(".", error) from None

    async def hear(self, command: str, timeout: float) -> Response:
        """The next reply, which is to *command*; it must come within *timeout* seconds."""
        wire = self._wire()
        reply = wire.take()
        if reply is None:
            self._on_progress(command)
            try:
                reply = await wire.read(timeout)
            except (OSError, ValueError) as error:
                raise self._broken(command, error) from None
        code, text = reply
        return parse_reply(code, text, command)

    async def ask(self, command: str, line: bytes, timeout: float) -> Response:
        """Say one line and hear the reply."""
        self.say(line + b"\r\n", replies=1)
        return await self.hear(command, timeout)

    def _broken(self, command: str, error: Exception) -> Broken:
        self.hang_up()
        match error:
            case WireTimeout():
                return Broken(internal.timed_out(command))
            case NotAReply():
                return Broken(internal.broken(command, str(error)))
            case _:
                return Broken(internal.broken(command, "connection lost"), is_silent=True)
