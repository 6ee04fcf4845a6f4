"""
Replies: the octets that a peer sends, cut into SMTP replies (RFC 5321 section 4.2).

Several replies may come in one read and one reply in many; what is no reply is an error, for
after it nobody can tell which command the next one answers. Pure, and bounded in memory.
"""

from functools import lru_cache

#: RFC 5321 section 4.5.3.1.5 has 512 octets for a reply line; peers write longer ones.
MAX_LINE = 8192
#: Longest reply of several lines, in octets.
MAX_REPLY = 65_536
#: Longest line that is remembered, to be read once.
_COMMON_LINE = 128

#: Code and text; lines of the text are separated by line feeds.
Reply = tuple[int, str]


class NotAReply(ValueError):
    """What came is no SMTP reply."""


class ReplyParser:
    """Cuts what is fed to it into replies."""

    __slots__ = ("_lines", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        #: Texts of the lines so far of a reply that has more.
        self._lines: list[str] = []
        self._size = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing of a further reply has come."""
        return not self._rest and not self._lines

    def feed(self, data: bytes) -> list[Reply]:
        """Take octets; return the replies that they complete. Errors: `NotAReply`."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        replies = [reply for line in lines if (reply := self._take_line(line)) is not None]
        if len(self._rest) > MAX_LINE:
            raise NotAReply(f"a reply line of more than {MAX_LINE} octets")
        return replies

    def _take_line(self, line: bytes) -> Reply | None:
        self._size += len(line)
        if len(line) > MAX_LINE or self._size > MAX_REPLY:
            raise NotAReply(f"a reply of more than {MAX_REPLY} octets, or {MAX_LINE} in a line")
        code, text, has_more = _read_common(line) if len(line) <= _COMMON_LINE else _read(line)
        if has_more or self._lines:
            self._lines.append(text)
            if has_more:
                return None
            text = "\n".join(self._lines)
            self._lines = []
        self._size = 0
        # Where the codes of the lines differ the last one holds, as other clients have it.
        return code, text


def _read(line: bytes) -> tuple[int, str, bool]:
    """The code and the text of one line, and whether more lines follow. Errors: `NotAReply`."""
    code, mark = line[:3], line[3:4]
    # int() alone would take signs and blanks for digits.
    if len(code) != 3 or not code.isdigit():
        raise NotAReply(f"not an SMTP reply: {line[:200].decode('utf-8', 'replace')}")
    # Some peers leave out the blank between code and text.
    text = line[4:] if mark in (b"-", b" ") else line[3:]
    return int(code), text.strip(b" \t\r").decode("utf-8", "surrogateescape"), mark == b"-"


# Peers say the same to most commands.
_read_common = lru_cache(maxsize=1024)(_read)
