"""The message as it came: line ends, header fields that steer us, and the trace field we add."""

import re
from email.utils import formatdate
from functools import lru_cache

from agent.errors import BadContent

_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_TOKEN = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class FieldFinder:
    """Takes the fields of one name out of a header; made once for each name."""

    def __init__(self, name: str) -> None:
        self._needle = name.lower().encode()
        self._pattern = re.compile(
            rb"^" + re.escape(self._needle) + rb"[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n",
            re.IGNORECASE | re.MULTILINE,
        )

    def take(self, header: bytes) -> tuple[str, bytes]:
        """The value of the first such field, and *header* without any of them."""
        if self._needle not in header.lower():
            return "", header
        first = self._pattern.search(header)
        if first is None:
            return "", header
        value = b" ".join(first[1].split()).decode("utf-8", "replace")
        return value, self._pattern.sub(b"", header)


def has_bare_line_end(content: bytes) -> bool:
    """Whether a CR or LF stands alone; RFC 5321 2.3.8 forbids it, and smuggling rests on it."""
    pairs = content.count(b"\r\n")
    return content.count(b"\r") != pairs or content.count(b"\n") != pairs


def has_long_line(content: bytes, most: int) -> bool:
    """Whether a line is longer than *most* bytes, its line end not counted."""
    place, size = 0, len(content)
    while size - place > most:
        # The last line end that is near enough: many short lines are passed at once.
        end = content.rfind(b"\r\n", place, place + most + 2)
        if end < 0:
            return True
        place = end + 2
    return False


def normalise_line_ends(content: bytes) -> bytes:
    """Turn every bare CR or LF into CRLF, and end the last line."""
    if has_bare_line_end(content):
        # Many times faster than a pattern, and large messages would hold up the event loop.
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def split_header(content: bytes) -> tuple[bytes, bytes]:
    """Part a message into its header and the rest, which begins with the empty line."""
    if not _FIELD.match(content):
        # No header at all: set apart what would be taken for a field of ours.
        return b"", content if content.startswith(b"\r\n") else b"\r\n" + content
    end = content.find(b"\r\n\r\n")
    return (content, b"") if end < 0 else (content[: end + 2], content[end + 2 :])


def check_hops(header: bytes, most: int) -> None:
    """Refuse a message that has gone in circles (RFC 5321 6.3). Errors: `BadContent`."""
    if header.lower().count(b"received") <= most:
        # Nearly always, and seen at once.
        return
    if sum(1 for _ in _RECEIVED.finditer(header)) > most:
        raise BadContent(
            f"more than {most} Received fields, so mail is going in circles",
            field="content",
            enhanced_code="5.4.6",
        )


def received_field(
    *,
    helo: str,
    peer: str,
    hostname: str,
    protocol: str,
    message_id: str,
    now: float,
    tls: str = "",
) -> bytes:
    """
    The trace field for this hop (RFC 5321 4.4); *now* in seconds since the epoch, *tls* the version
    and the cipher if there are any.
    """
    origin = _origin_of(helo, peer)
    secured = f"\r\n\t({tls})" if tls else ""
    return (
        f"Received: {origin}by {hostname} with {protocol}{secured} id {message_id};\r\n"
        f"\t{_date_of(int(now))}\r\n"
    ).encode()


@lru_cache(maxsize=256)
def _origin_of(helo: str, peer: str) -> str:
    """Where a message came from; a client mostly sends more than one."""
    if not peer:
        return ""
    name = helo if _TOKEN.fullmatch(helo) else "unknown"
    literal = f"IPv6:{peer}" if ":" in peer else peer
    return f"from {name} ([{literal}])\r\n\t"


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    """The date as RFC 5322 has it; many messages come within one second."""
    return formatdate(second)
