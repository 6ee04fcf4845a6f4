"""
Envelope: the commands and the octets of one transaction, and whether the peer can take them.
"""

import re
from collections.abc import Collection, Sequence

import msgspec

from agent.delivery import internal
from agent.delivery.record import Response

_LINE_END = re.compile(rb"\r\n|\n|\r")
_LEADING_DOT = re.compile(rb"(?m)^\.")
# RFC 5321 section 4.1.2: nothing in a path may end the command or the path early.
_UNSENDABLE = re.compile(r"[\x00-\x20\x7f<>]")
_QUOTED = re.compile(r'^"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"@')


class MailCommand(msgspec.Struct, frozen=True, kw_only=True):
    """MAIL FROM with what the peer must know beforehand."""

    path: bytes
    parameters: tuple[bytes, ...] = ()


def mail_command(
    sender: str, recipients: Sequence[str], *, is_8bit: bool, offered: Collection[str], force: bool
) -> MailCommand | Response:
    """
    Make the MAIL command, or the response where the peer lacks what the message needs. *offered*
    are the EHLO keywords in lower case; *force* is `ignore_8bit_checks`.
    """
    parameters: list[bytes] = []
    if is_8bit:
        if "8bitmime" in offered:
            parameters.append(b"BODY=8BITMIME")
        elif not force:
            return internal.NEEDS_8BITMIME
    if not (sender.isascii() and all(map(str.isascii, recipients))):
        if "smtputf8" in offered:
            parameters.append(b"SMTPUTF8")
        elif not force:
            return internal.NEEDS_SMTPUTF8
    return MailCommand(path=path_of(sender), parameters=tuple(parameters))


def path_of(address: str) -> bytes:
    """The address as it stands in a command; the empty one is the null sender."""
    return b"<" + address.encode("utf-8", "surrogateescape") + b">"


def is_sendable(address: str) -> bool:
    """Whether the address can stand in a command without being read as something else."""
    if not _UNSENDABLE.search(address):
        return True
    quoted = _QUOTED.match(address)
    return quoted is not None and not _UNSENDABLE.search(address, quoted.end())


def wire_form(body: bytes, *, is_plain: bool = False) -> bytes:
    """
    The message as it goes after DATA: CRLF line ends, leading dots doubled, the final dot
    (RFC 5321 section 4.5.2). A bare CR or LF never leaves, so that no peer can take it for an
    end of the message. *is_plain*: there is neither in it, for it was looked through before.
    """
    if is_plain:
        return body + b".\r\n"
    line_feeds = body.count(b"\n")
    if not line_feeds == body.count(b"\r\n") == body.count(b"\r"):
        body = _LINE_END.sub(b"\r\n", body)
    if body.startswith(b".") or b"\n." in body:
        body = _LEADING_DOT.sub(b"..", body)
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    return body + b".\r\n"
