"""
Session: the receiving side of one SMTP connection (RFC 5321), without input or output.

Bytes go in by `feed`; `next_action` tells what to do, one thing after the other: send a reply, or
store a message. After a message nothing is read on until `answer` gave its reply. Several commands
may come in one piece (RFC 2920), so replies are best sent together.

STARTTLS (RFC 3207) is answered, and then nothing is done until `tls_started`: the caller sees to
TLS itself. The session begins anew there. A client that sends anything in clear behind STARTTLS is
sent away, so that no command that came in clear is ever run as if TLS had protected it.

Lines end with CRLF and nothing else: a client that ends a command otherwise is sent away, and a
message with a bare CR or LF is read to its true end, CRLF.CRLF, and refused. So no two programs
can differ on where a message ends, which is what smuggling needs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from agent.errors import Refusal
from agent.smtp.addresses import parse_recipient, parse_sender

#: RFC 5321 4.5.3.1.4 asks for 512; addresses in UTF-8 and parameters want more.
_LONGEST_LINE = 2048
#: Commands refused for their form before the client is sent away.
_MOST_MISTAKES = 20
#: Commands that bring no message nearer, since the last message, before the client is sent away.
_MOST_IDLE = 100
_END_OF_DATA = b"\r\n.\r\n"
_DOT_LINE = b"\r\n."
_PATH = re.compile(r'\s*<((?:"(?:[^"\\]|\\.)*"|[^>"])*)>(?:[ ]+(.*))?')

_NEEDS_GREETING = "503 5.5.1 send EHLO first"


def most_received(max_message_size: int) -> int:
    """How many bytes a message of the largest size may take on its way in, in whatever pieces."""
    return max_message_size * 4 // 3 + 1024


class Reply(msgspec.Struct, frozen=True):
    """Lines to send."""

    text: str
    #: Whether the connection ends after it.
    closes: bool = False
    #: Whether TLS begins after it.
    starts_tls: bool = False

    def encode(self) -> bytes:
        """The bytes to send."""
        return self.text.encode("utf-8", "replace") + b"\r\n"


_SENDER_OK = Reply("250 2.1.0 sender ok")
_RECIPIENT_OK = Reply("250 2.1.5 recipient ok")
_GO_ON = Reply("354 end with <CRLF>.<CRLF>")


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A message to store, to be answered."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    #: Whether a line of it began with a dot on its way here; of the content none may begin so else.
    has_dots: bool
    protocol: str
    smtp_utf8: bool
    helo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """What one session may do."""

    hostname: str
    max_message_size: int
    max_recipients: int
    #: Whether a certificate is configured.
    offers_tls: bool = False


class Session:
    """One connection; *check_room* raises a `Refusal` while no message can be taken."""

    def __init__(self, limits: SessionLimits, check_room: Callable[[], None]) -> None:
        self._limits = limits
        self._check_room = check_room
        self._buffer = bytearray()
        self._data: bytearray | None = None
        #: Whether a line of it begins with a dot, and does not end it.
        self._has_dots = False
        self._is_too_big = False
        self._is_waiting = False
        self._waiting_size = 0
        self._is_closed = False
        self._is_starting_tls = False
        self._is_encrypted = False
        self._mistakes = 0
        self._idle_commands = 0
        self._helo = ""
        self._is_extended = False
        self._forget_envelope()

    @property
    def buffered(self) -> int:
        """How many bytes of this client are in memory."""
        return len(self._buffer) + len(self._data or b"") + self._waiting_size

    @property
    def has_unread(self) -> bool:
        """Whether something of the client waits to be looked at."""
        return bool(self._buffer)

    def greeting(self) -> Reply:
        """What is sent first."""
        return Reply(f"220 {self._limits.hostname} ESMTP Penstock")

    def feed(self, data: bytes) -> None:
        """Take in what the client sent."""
        if not self._is_closed:
            self._buffer += data

    def next_action(self) -> Reply | Submission | None:
        """What to do next, or None until more has come."""
        if self._is_waiting or self._is_closed or self._is_starting_tls:
            return None
        action = self._next_command() if self._data is None else self._next_data(self._data)
        if isinstance(action, Reply) and action.closes:
            self._is_closed = True
            self._buffer.clear()
        return action

    def answer(self, text: str) -> Reply:
        """The reply to the message that was handed out; the session goes on."""
        self._is_waiting = False
        self._waiting_size = 0
        self._idle_commands = 0
        self._forget_envelope()
        return Reply(text)

    def tls_started(self) -> None:
        """TLS protects the connection from now on; what the client said before counts no more."""
        self._is_starting_tls = False
        self._is_encrypted = True
        self._helo, self._is_extended = "", False
        self._forget_envelope()

    def _forget_envelope(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._smtp_utf8 = False

    def _next_command(self) -> Reply | None:
        end = self._buffer.find(b"\n", 0, _LONGEST_LINE)
        if end < 0:
            if len(self._buffer) < _LONGEST_LINE:
                return None
            return Reply("500 5.5.2 the line is too long; goodbye", closes=True)
        if end == 0 or self._buffer.find(b"\r", 0, end) != end - 1:
            return Reply("500 5.5.2 lines must end with CRLF; goodbye", closes=True)
        line = self._buffer[: end - 1]
        del self._buffer[: end + 1]
        return self._count_mistakes(self._run_command(line))

    def _run_command(self, line: bytearray) -> Reply:
        try:
            verb, _, argument = line.decode("utf-8").partition(" ")
        except UnicodeDecodeError:
            return Reply("500 5.5.2 no valid UTF-8")
        verb = verb.upper()
        command = _COMMANDS.get(verb)
        if command is None:
            # Not SMTP at all, such as a browser that was led here: don't let it go on.
            is_stranger = not self._helo
            return Reply("500 5.5.1 unknown command", closes=is_stranger)
        if verb in _IDLE:
            self._idle_commands += 1
            if self._idle_commands > _MOST_IDLE:
                return Reply("421 4.7.0 too many commands and no mail; goodbye", closes=True)
        try:
            return command(self, argument.strip())
        except Refusal as refusal:
            return Reply(refusal.reply)

    def _count_mistakes(self, reply: Reply) -> Reply:
        if reply.text.startswith("50"):
            self._mistakes += 1
            if self._mistakes > _MOST_MISTAKES:
                return Reply("421 4.7.0 too many mistakes; goodbye", closes=True)
        return reply

    def _ehlo(self, argument: str) -> Reply:
        if not argument:
            return Reply("501 5.5.4 EHLO needs a name")
        self._forget_envelope()
        self._helo, self._is_extended = argument, True
        lines = [
            f"{self._limits.hostname}",
            "PIPELINING",
            f"SIZE {self._limits.max_message_size}",
            "8BITMIME",
            "ENHANCEDSTATUSCODES",
            "SMTPUTF8",
        ]
        if self._limits.offers_tls and not self._is_encrypted:
            lines.append("STARTTLS")
        return Reply("\r\n".join(f"250-{line}" for line in lines[:-1]) + f"\r\n250 {lines[-1]}")

    def _helo_(self, argument: str) -> Reply:
        if not argument:
            return Reply("501 5.5.4 HELO needs a name")
        self._forget_envelope()
        self._helo, self._is_extended = argument, False
        return Reply(f"250 {self._limits.hostname}")

    def _mail(self, argument: str) -> Reply:
        if not self._helo:
            return Reply(_NEEDS_GREETING)
        if self._sender is not None:
            return Reply("503 5.5.1 a sender was given already")
        path = _PATH.fullmatch(argument[5:]) if argument[:5].upper() == "FROM:" else None
        if path is None:
            return Reply("501 5.5.4 write MAIL FROM:<address>")
        parameters, mistake = self._parameters(path[2] or "")
        if mistake is not None:
            return mistake
        self._check_room()
        smtp_utf8 = "SMTPUTF8" in parameters
        self._sender = parse_sender(path[1], smtp_utf8=smtp_utf8)
        self._smtp_utf8 = smtp_utf8
        return _SENDER_OK

    def _parameters(self, text: str) -> tuple[dict[str, str], Reply | None]:
        """Read the parameters of MAIL; the reply that refuses them, if any."""
        if not text:
            return {}, None
        given = (part.partition("=") for part in text.upper().split())
        parameters = {name: value for name, _, value in given}
        if parameters and not self._is_extended:
            return {}, Reply("555 5.5.4 parameters need EHLO")
        for name, value in parameters.items():
            pattern = _PARAMETERS.get(name)
            if pattern is None:
                return {}, Reply("555 5.5.4 unknown parameter of MAIL")
            if not pattern.fullmatch(value):
                return {}, Reply(f"501 5.5.4 bad value of {name}")
        if int(parameters.get("SIZE") or 0) > self._limits.max_message_size:
            return {}, self._too_big()
        return parameters, None

    def _rcpt(self, argument: str) -> Reply:
        if self._sender is None:
            return Reply("503 5.5.1 send MAIL first")
        path = _PATH.fullmatch(argument[3:]) if argument[:3].upper() == "TO:" else None
        if path is None:
            return Reply("501 5.5.4 write RCPT TO:<address>")
        if path[2]:
            return Reply("555 5.5.4 unknown parameter of RCPT")
        if len(self._recipients) >= self._limits.max_recipients:
            return Reply("452 4.5.3 too many recipients")
        self._recipients.append(parse_recipient(path[1], smtp_utf8=self._smtp_utf8))
        return _RECIPIENT_OK

    def _data_(self, argument: str) -> Reply:
        if argument:
            return Reply("501 5.5.4 DATA takes no argument")
        if not self._recipients:
            return Reply("503 5.5.1 send MAIL and RCPT first")
        # The line end before the first line, so that the end of data is one pattern throughout.
        self._data = bytearray(b"\r\n")
        self._has_dots = False
        self._is_too_big = False
        return _GO_ON

    def _rset(self, argument: str) -> Reply:
        self._forget_envelope()
        return Reply("250 2.0.0 ok")

    def _noop(self, argument: str) -> Reply:
        return Reply("250 2.0.0 ok")

    def _vrfy(self, argument: str) -> Reply:
        return Reply("252 2.1.5 send some mail, and see")

    def _help(self, argument: str) -> Reply:
        return Reply("214 2.0.0 see RFC 5321")

    def _quit(self, argument: str) -> Reply:
        return Reply("221 2.0.0 goodbye", closes=True)

    def _starttls(self, argument: str) -> Reply:
        if not self._limits.offers_tls:
            return self._refuse(argument)
        if argument:
            return Reply("501 5.5.4 STARTTLS takes no argument")
        if self._is_encrypted:
            return Reply("503 5.5.1 TLS has begun already")
        if not self._is_extended:
            return Reply(_NEEDS_GREETING)
        if self._buffer:
            return Reply("554 5.5.1 nothing may follow STARTTLS in clear; goodbye", closes=True)
        self._is_starting_tls = True
        return Reply("220 2.0.0 begin TLS", starts_tls=True)

    def _refuse(self, argument: str) -> Reply:
        return Reply("502 5.5.1 not offered here")

    def _next_data(self, data: bytearray) -> Reply | Submission | None:
        seen = max(0, len(data) - len(_END_OF_DATA) + 1)
        data += self._buffer
        self._buffer.clear()
        end = self._find_end(data, seen)
        if end >= 0:
            self._buffer += data[end + len(_END_OF_DATA) :]
            return self._end_data(data, end)
        # A third more than allowed, for added dots do not count, and a line of one dot has two
        # bytes beside it; what is beyond is not kept.
        if len(data) > most_received(self._limits.max_message_size):
            self._is_too_big = True
            del data[: -len(_END_OF_DATA)]
        return None

    def _find_end(self, data: bytearray, seen: int) -> int:
        """Where the end of the message is, not before *seen*; -1: it has not come."""
        if self._has_dots:
            return data.find(_END_OF_DATA, seen)
        # One look for both: the dot that ends the message, and a line of it that begins with one.
        place = data.find(_DOT_LINE, seen)
        if place < 0 or data.startswith(_END_OF_DATA, place):
            return place
        if len(data) < place + len(_END_OF_DATA):
            return -1
        self._has_dots = True
        return data.find(_END_OF_DATA, place)

    def _end_data(self, data: bytearray, end: int) -> Reply | Submission:
        self._data = None
        # Without the line end that was put before the first line.
        if self._has_dots:
            content = bytes(data[: end + 2].replace(_DOT_LINE, b"\r\n")[2:])
        else:
            content = bytes(memoryview(data)[2 : end + 2])
        if self._is_too_big or len(content) > self._limits.max_message_size:
            self._forget_envelope()
            return self._too_big()
        self._is_waiting = True
        self._waiting_size = len(content)
        # RFC 3848, RFC 6531 section 4.3.
        extended = "ESMTPS" if self._is_encrypted else "ESMTP"
        in_utf8 = "UTF8SMTPS" if self._is_encrypted else "UTF8SMTP"
        plain = extended if self._is_extended else "SMTP"
        return Submission(
            sender=self._sender or "",
            recipients=tuple(self._recipients),
            content=content,
            has_dots=self._has_dots,
            protocol=in_utf8 if self._smtp_utf8 else plain,
            smtp_utf8=self._smtp_utf8,
            helo=self._helo,
        )

    def _too_big(self) -> Reply:
        return Reply(f"552 5.3.4 larger than {self._limits.max_message_size} bytes")


_PARAMETERS = {
    "SIZE": re.compile(r"\d{1,20}"),
    "BODY": re.compile(r"7BIT|8BITMIME"),
    "SMTPUTF8": re.compile(r""),
}
_IDLE = frozenset({"EHLO", "HELO", "RSET", "NOOP", "VRFY", "HELP"})
_COMMANDS: dict[str, Callable[[Session, str], Reply]] = {
    "EHLO": Session._ehlo,
    "HELO": Session._helo_,
    "MAIL": Session._mail,
    "RCPT": Session._rcpt,
    "DATA": Session._data_,
    "RSET": Session._rset,
    "NOOP": Session._noop,
    "VRFY": Session._vrfy,
    "HELP": Session._help,
    "QUIT": Session._quit,
    "EXPN": Session._refuse,
    "BDAT": Session._refuse,
    "AUTH": Session._refuse,
    "STARTTLS": Session._starttls,
}
