"""
Transaction: one message's way over a connection, from MAIL to the replies to its content.

Where the peer offers it commands go together (RFC 2920), a RSET that is due before them along with
them. What the replies mean is decided in `agent.delivery`.
"""

from collections.abc import Awaitable, Callable

from agent.delivery.classify import Replies, ends_connection, is_accepted
from agent.delivery.envelope import MailCommand, path_of
from agent.delivery.record import Response
from agent.dispatch.dialogue import Broken, Dialogue
from agent.dispatch.options import Timeouts
from agent.errors import AgentError

#: Most recipients named before their replies are read.
_NAMED_AT_ONCE = 100


class ResetFailed(AgentError):
    """The peer did not take RSET, which says nothing about any message."""

    def __init__(self, failure: Broken) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Transaction:
    """One transaction, and what the peer has said so far."""

    def __init__(
        self,
        dialogue: Dialogue,
        command: MailCommand,
        recipients: tuple[str, ...],
        *,
        timeouts: Timeouts,
        is_lmtp: bool,
    ) -> None:
        self._dialogue = dialogue
        self._command = command
        self._recipients = recipients
        self._timeouts = timeouts
        self._is_lmtp = is_lmtp
        self._mail: Response | None = None
        self._rcpt: list[Response] = []
        #: How many recipients were accepted.
        self._accepted = 0
        self._data: Response | None = None
        self._ends: list[Response] = []
        #: The message has begun to go: the peer may have it, whatever is heard.
        self.has_sent_content = False

    async def run(
        self,
        content: bytes,
        before_content: Callable[[], Awaitable[None]],
        *,
        is_pipelined: bool,
        needs_reset: bool,
    ) -> None:
        """
        Carry it out; *content* is in wire form, *before_content* is awaited when the peer is ready
        for it. *needs_reset*: RSET goes before. Errors: `Broken`; `ResetFailed`, and then nothing
        else was heard.
        """
        if is_pipelined:
            await self._announce_at_once(needs_reset=needs_reset)
        else:
            if needs_reset:
                await self._reset()
            await self._announce()
        if self._data is None or self._data.code != 354:
            return
        if not self._accepted:
            await self._take_back_data()
            return
        await before_content()
        self.has_sent_content = True
        await self._send_content(content)

    def replies(self) -> Replies:
        """What was said in the whole of it."""
        assert self._mail is not None
        return Replies(
            recipients=self._recipients,
            mail=self._mail,
            rcpt=tuple(self._rcpt),
            data=self._data,
            ends=tuple(self._ends),
            is_lmtp=self._is_lmtp,
        )

    def cut_short(self, failure: Response) -> Replies:
        """What was said until it broke: whoever has no reply of their own shares the failure."""
        return Replies(
            recipients=self._recipients,
            mail=self._mail if self._mail is not None else failure,
            rcpt=tuple(self._rcpt),
            ends=tuple(self._ends),
            failure=failure,
            is_lmtp=self._is_lmtp,
        )

    def add_rcpt(self, response: Response) -> None:
        """Take the reply to the next recipient. Errors: `Broken`, if the peer takes its leave."""
        if ends_connection(response):
            raise Broken(response)
        self._rcpt.append(response)
        self._accepted += is_accepted(response)

    @property
    def _is_mail_accepted(self) -> bool:
        return self._mail is not None and is_accepted(self._mail)

    async def _reset(self) -> None:
        """Send RSET and hear the reply. Errors: `ResetFailed`."""
        try:
            self._dialogue.say(b"RSET\r\n", replies=1)
        except Broken as error:
            raise ResetFailed(error) from None
        await self._hear_reset()

    async def _hear_reset(self) -> None:
        try:
            response = await self._dialogue.hear("RSET", self._timeouts.rset)
        except Broken as error:
            raise ResetFailed(error) from None
        if not is_accepted(response):
            raise ResetFailed(Broken(response))

    async def _announce(self) -> None:
        """MAIL, each RCPT and DATA, each after the reply to the one before."""
        ask, timeouts = self._dialogue.ask, self._timeouts
        self._mail = await ask("MAIL FROM", _mail_line(self._command), timeouts.mail_from)
        if is_accepted(self._mail):
            for recipient in self._recipients:
                self.add_rcpt(await ask("RCPT TO", _rcpt_line(recipient), timeouts.rcpt_to))
        if self._accepted:
            self._data = await ask("DATA", b"DATA", timeouts.data)

    async def _announce_at_once(self, *, needs_reset: bool) -> None:
        """
        RSET, MAIL, RCPT and DATA without waiting (RFC 2920 section 3.1). With many recipients the
        first go alone, so that what waits for the peer to read it stays small.
        """
        hear, timeouts = self._dialogue.hear, self._timeouts
        reset = b"RSET\r\n" if needs_reset else b""
        lines = [_mail_line(self._command), *map(_rcpt_line, self._recipients), b"DATA"]
        for begin in range(0, len(lines), _NAMED_AT_ONCE):
            part = lines[begin : begin + _NAMED_AT_ONCE]
            written = b"\r\n".join([*part, b""])
            self._dialogue.say(reset + written, replies=len(part) + bool(reset))
            if reset:
                await self._hear_reset()
                reset = b""
            for place in range(begin, begin + len(part)):
                if place == 0:
                    self._take_mail(await hear("MAIL FROM", timeouts.mail_from))
                elif place < len(lines) - 1:
                    self._take_rcpt(await hear("RCPT TO", timeouts.rcpt_to))
                else:
                    self._take_data(await hear("DATA", timeouts.data))

    def _take_mail(self, response: Response) -> None:
        self._mail = response
        if ends_connection(response):
            raise Broken(response)

    def _take_rcpt(self, response: Response) -> None:
        # After a refused MAIL the peer has but one thing to say of each recipient.
        if self._is_mail_accepted:
            self.add_rcpt(response)

    def _take_data(self, response: Response) -> None:
        if ends_connection(response):
            raise Broken(response)
        if self._accepted or response.code == 354:
            self._data = response

    async def _take_back_data(self) -> None:
        """
        Every recipient was refused, yet the peer waits for a message: give it an empty one, which
        it has to refuse as it has nobody to give it to (RFC 2920 section 3.1). Over LMTP that would
        have no reply, as there is one for each recipient; so the connection ends.
        """
        if self._is_lmtp:
            self._dialogue.hang_up()
            return
        await self._dialogue.ask(".", b".", self._timeouts.data_dot)

    async def _send_content(self, content: bytes) -> None:
        # RFC 2033 section 4.2: LMTP has a reply for each recipient that was accepted.
        count = self._accepted if self._is_lmtp else 1
        await self._dialogue.say_content(content, replies=count, timeout=self._timeouts.data)
        for _ in range(count):
            response = await self._dialogue.hear(".", self._timeouts.data_dot)
            self._ends.append(response)
            if response.code == 421:
                self._dialogue.hang_up()
                return


def _mail_line(command: MailCommand) -> bytes:
    return b" ".join((b"MAIL FROM:" + command.path, *command.parameters))


def _rcpt_line(recipient: str) -> bytes:
    return b"RCPT TO:" + path_of(recipient)
