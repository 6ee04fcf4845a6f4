"""
Session: the SMTP dialogue (RFC 5321) of the sink's side of one connection, without input or output.

Bytes go in by `feed`; `next_step` says what to do next, or None when it needs more bytes. Commands
may be pipelined (RFC 2920). The end of a message is CRLF.CRLF and nothing else, so that a client
that sends bare line feeds is seen for what it does.

States: `greeting` before the banner, `command`, `data` between DATA and the final dot, `closed`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from agent.sink.provider import ProviderState, ReceivedMessage

# RFC 5321 4.5.3.1.4 asks for 512; SIZE, BODY and SMTPUTF8 parameters and long addresses add to it.
_MAX_COMMAND = 4096
_MAX_RECIPIENTS = 1000
_PATH = re.compile(r"(?:FROM|TO):\s*<([^<>]*)>\s*(.*)", re.IGNORECASE)
_SIZE = re.compile(r"(?:^|\s)SIZE=(\d+)", re.IGNORECASE)
_GARBAGE = b"\x00\xffthis is no SMTP reply\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the edge does next: wait, then write, then perhaps something more."""

    reply: bytes = b""
    #: Seconds to wait before the reply.
    delay: float = 0.0
    close: bool = False
    start_tls: bool = False
    #: Answer nothing any more, but stay connected.
    silent: bool = False


class Session:
    """The dialogue with one client."""

    def __init__(
        self, provider: ProviderState, client: str, *, now: int, id_header: str = "Message-ID"
    ) -> None:
        """Take *client*'s connection to *provider* at *now*, nanoseconds."""
        self.provider = provider
        self.connection, self._refusal = provider.connect(client, now)
        self._id_pattern = re.compile(
            rb"^" + re.escape(id_header.encode()) + rb":[ \t]*(?:\r\n[ \t]+)?(\S+)",
            re.IGNORECASE | re.MULTILINE,
        )
        self._state = "greeting"
        self._input = bytearray()
        self._body = bytearray()
        self._searched = 0
        self._is_too_large = False
        self._esmtp = False
        self._greeted = False
        self.is_tls = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._unnamed = 0

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived."""
        self._input += data

    def next_step(self, now: int) -> Step | None:
        """Do what comes next; None when more bytes are needed."""
        if self._state == "greeting":
            self._state = "command"
            return self._greet(now)
        if self._state == "data":
            return self._read_data()
        if self._state == "closed":
            self._input.clear()
            return None
        return self._read_command(now)

    def disconnected(self) -> None:
        """Count the end of the connection."""
        self._state = "closed"
        self.provider.disconnect(self.connection)

    def tls_started(self) -> None:
        """Forget what was said in the clear (RFC 3207 4.2)."""
        self._input.clear()
        self._greeted = False
        self._reset()
        self.is_tls = True

    def _greet(self, now: int) -> Step:
        refusal = self._refusal or self.provider.push_back("banner", self.connection.client, now)
        if refusal is not None:
            return self._refuse_and_close(refusal)
        banner = f"220 {self.provider.settings.host_name} ESMTP sink"
        return self._answer("banner", banner, delay=self.provider.latency())

    def _read_command(self, now: int) -> Step | None:
        end = self._input.find(b"\n")
        if end < 0 and len(self._input) <= _MAX_COMMAND:
            return None
        if end < 0 or end > _MAX_COMMAND:
            del self._input[: end + 1 if end >= 0 else None]
            return self._refuse_and_close("500 5.5.2 Line too long")
        line = self._input[:end].decode("utf-8", "replace").rstrip("\r")
        del self._input[: end + 1]
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        command = _COMMANDS.get(verb)
        if command is None:
            return self._reply("500 5.5.1 Unknown command")
        if self._input and verb in _ENDS_A_GROUP:
            self.provider.count_violation(self.connection)
        return command(self, argument.strip(), now)

    def _hello(self, argument: str, now: int, *, esmtp: bool) -> Step:
        if not argument:
            return self._reply("501 5.5.4 A name is needed")
        pushed = self.provider.push_back("ehlo", self.connection.client, now)
        if pushed is not None:
            return self._refuse_and_close(pushed)
        self._greeted, self._esmtp = True, esmtp
        self._reset()
        name = self.provider.settings.host_name
        if not esmtp:
            return self._answer("ehlo", f"250 {name}")
        lines = [name, "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
        lines.append(f"SIZE {self.provider.settings.max_message_size}")
        if self.provider.settings.certificate and not self.is_tls:
            lines.append("STARTTLS")
        text = "\r\n".join(f"250-{line}" for line in lines[:-1])
        return self._answer("ehlo", f"{text}\r\n250 {lines[-1]}")

    def _ehlo(self, argument: str, now: int) -> Step:
        return self._hello(argument, now, esmtp=True)

    def _helo(self, argument: str, now: int) -> Step:
        return self._hello(argument, now, esmtp=False)

    def _starttls(self, argument: str, now: int) -> Step:
        if not self.provider.settings.certificate or self.is_tls:
            return self._reply("502 5.5.1 STARTTLS is not offered")
        if argument:
            return self._reply("501 5.5.4 No parameters allowed")
        step = self._answer("starttls", "220 2.0.0 Ready to start TLS")
        is_ready = step.reply.startswith(b"220") and not step.close
        return Step(reply=step.reply, delay=step.delay, start_tls=True) if is_ready else step

    def _mail(self, argument: str, now: int) -> Step:
        found = _PATH.fullmatch(argument)
        if not self._greeted:
            return self._reply("503 5.5.1 Say EHLO first")
        if self._sender is not None:
            return self._reply("503 5.5.1 A transaction is under way")
        if found is None or not argument.upper().startswith("FROM"):
            return self._reply("501 5.5.4 Expected MAIL FROM:<address>")
        # Both are asked before either answers: what is refused by a push-back counts as well.
        over = self.provider.begin_message(self.connection, now)
        pushed = self.provider.push_back("mail", self.connection.client, now)
        if pushed or over:
            return self._refuse(pushed or over or "")
        size = _SIZE.search(found[2])
        if size and int(size[1]) > self.provider.settings.max_message_size:
            return self._reply("552 5.3.4 Message too large")
        step = self._answer("mail", "250 2.1.0 Sender ok")
        if step.reply.startswith(b"2"):
            self._sender = found[1]
        return step

    def _rcpt(self, argument: str, now: int) -> Step:
        found = _PATH.fullmatch(argument)
        if self._sender is None:
            return self._reply("503 5.5.1 Say MAIL first")
        if found is None or not found[1] or not argument.upper().startswith("TO"):
            return self._reply("501 5.1.3 Expected RCPT TO:<address>")
        if len(self._recipients) >= _MAX_RECIPIENTS:
            return self._reply("452 4.5.3 Too many recipients")
        pushed = self.provider.push_back("rcpt", self.connection.client, now)
        if pushed is not None:
            return self._refuse(pushed)
        reply = self.provider.judge_recipient(
            self.connection, sender=self._sender, recipient=found[1], now=now
        )
        step = self._reply(reply) if reply else self._answer("rcpt", "250 2.1.5 Recipient ok")
        if step.reply.startswith(b"2"):
            self._recipients.append(found[1])
        return step

    def _data(self, argument: str, now: int) -> Step:
        if self._sender is None:
            return self._reply("503 5.5.1 Say MAIL first")
        if not self._recipients:
            return self._reply("554 5.5.1 No valid recipients")
        pushed = self.provider.push_back("data", self.connection.client, now)
        if pushed is not None:
            return self._refuse(pushed)
        step = self._answer("data", "354 End with a dot on a line of its own")
        if step.reply.startswith(b"354"):
            self._state = "data"
            # The line break before the text makes a first line of "." an end like any other.
            self._body = bytearray(b"\r\n")
            self._searched, self._is_too_large = 0, False
        return step

    def _read_data(self) -> Step | None:
        self._body += self._input
        self._input.clear()
        end = self._body.find(b"\r\n.\r\n", max(0, self._searched - 4))
        if end < 0:
            if len(self._body) > self.provider.settings.max_message_size + 2:
                self._is_too_large = True
                del self._body[:-4]
            self._searched = len(self._body)
            return None
        self._input += self._body[end + 5 :]
        content = bytes(self._body[: end + 2]).replace(b"\r\n..", b"\r\n.")[2:]
        self._body.clear()
        self._state = "command"
        return self._take(content)

    def _take(self, content: bytes) -> Step:
        sender, recipients = self._sender or "", tuple(self._recipients)
        self._reset()
        settings = self.provider.settings
        if self._is_too_large or len(content) > settings.max_message_size:
            return self._reply("552 5.3.4 Message too large")
        longest = settings.max_line_length
        if longest and max(map(len, content.split(b"\r\n"))) + 2 > longest:
            return self._reply("550 5.6.0 Line too long")
        step = self._answer("data_end", "250 2.0.0 Message accepted", delay=self.provider.latency())
        if step.reply.startswith(b"2"):
            message = ReceivedMessage(
                client=self.connection.client,
                sender=sender,
                recipients=recipients,
                content=content,
            )
            self.provider.accept(self.connection, self._identity(content), message)
        return step

    def _identity(self, content: bytes) -> str:
        found = self._id_pattern.search(content.partition(b"\r\n\r\n")[0])
        if found:
            return found[1].decode("utf-8", "replace").strip("<>")
        self._unnamed += 1
        return f"unnamed-{id(self):x}-{self._unnamed}"

    def _rset(self, argument: str, now: int) -> Step:
        self._reset()
        return self._answer("rset", "250 2.0.0 Ok")

    def _noop(self, argument: str, now: int) -> Step:
        return self._reply("250 2.0.0 Ok")

    def _vrfy(self, argument: str, now: int) -> Step:
        return self._reply("252 2.5.2 Send mail and see")

    def _quit(self, argument: str, now: int) -> Step:
        step = self._answer("quit", "221 2.0.0 Bye")
        self._state = "closed"
        return step if step.silent else Step(reply=step.reply, close=True)

    def _reset(self) -> None:
        self._sender = None
        self._recipients = []

    def _answer(self, stage: str, reply: str, *, delay: float = 0.0) -> Step:
        """Give *reply*, unless the provider misbehaves at *stage*."""
        wrong = self.provider.misbehaviour(stage)
        if wrong is None:
            return Step(reply=reply.encode() + b"\r\n", delay=delay)
        match wrong.action:
            case "drop":
                self._state = "closed"
                return Step(close=True)
            case "silence":
                self._state = "closed"
                return Step(silent=True)
            case "garbage":
                return Step(reply=_GARBAGE, delay=delay)
            case "reply":
                step = self._reply(wrong.reply or "")
                if wrong.close:
                    self._state = "closed"
                return Step(reply=step.reply, delay=delay, close=wrong.close)

    def _reply(self, reply: str) -> Step:
        self.provider.count_reply(self.connection, int(reply[:3]))
        return Step(reply=reply.encode() + b"\r\n")

    def _refuse(self, reply: str) -> Step:
        """Give *reply*; a 421 ends the connection (RFC 5321 3.8)."""
        return self._refuse_and_close(reply) if reply.startswith("421") else self._reply(reply)

    def _refuse_and_close(self, reply: str) -> Step:
        self._state = "closed"
        return Step(reply=self._reply(reply).reply, close=True)


_Command = Callable[[Session, str, int], Step]
_COMMANDS: dict[str, _Command] = {
    "EHLO": Session._ehlo,
    "HELO": Session._helo,
    "STARTTLS": Session._starttls,
    "MAIL": Session._mail,
    "RCPT": Session._rcpt,
    "DATA": Session._data,
    "RSET": Session._rset,
    "NOOP": Session._noop,
    "VRFY": Session._vrfy,
    "QUIT": Session._quit,
}
# RFC 2920 3.1: these must be the last command of a group that is sent at once.
_ENDS_A_GROUP = frozenset({"EHLO", "HELO", "STARTTLS", "DATA", "NOOP", "VRFY", "QUIT"})
