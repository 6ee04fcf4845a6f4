"""
Dsn: the message that tells a sender what could not be delivered (RFC 3464, RFC 6522, RFC 6533).

Pure: what happened, ids and times come in, the bytes of the message come out. Replies, addresses
and the original's header come from strangers and may hold anything, so

1. what goes into a field is brought to one line of printable characters first;
2. a part that is not plain ASCII in lines of a fit length is encoded;
3. the boundary stands in no part.

Whether a sender is told at all, and where the message goes, is not decided here.
"""

import re
from binascii import b2a_qp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum

from agent.delivery.record import Response

#: How much of the original's header is returned, in bytes.
LARGEST_HEADER = 64 * 1024
#: Recipients that the text for people names; the report for programs names all.
_MOST_NAMED = 50
#: RFC 5322 2.1.1, without the line end.
_LONGEST_LINE = 998
_WIDTH = 72
#: A word longer than this is parted, so that no line grows too long.
_LONGEST_WORD = 200
_LONGEST_ADDRESS = 900

_LINE_END = re.compile(rb"\r\n|\r|\n")
# Controls, what some programs take for line ends, and what UTF-8 has no form for.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_HOST = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a0-\u2027\u202a-\ud7ff\ue000-\U0010ffff]+"
# What may stand in angle brackets in a header as it is.
_MAILBOX = re.compile(
    rf'(?:{_ATEXT}(?:\.{_ATEXT})*|"(?:[ !#-\[\]-~]|\\[ -~])*")@[A-Za-z0-9._-]{{1,255}}'
)
_MESSAGE_ID = re.compile(
    rb"^message-id[ \t]*:(?:[ \t]|\r\n[ \t])*"
    rb"(<[!-;=?-~]{1,400}>)"
    rb"[ \t]*\r$",
    re.IGNORECASE | re.MULTILINE,
)


class TellSender(StrEnum):
    """Of which failures senders are told."""

    ALWAYS = "always"
    #: Of permanent failures only.
    FAILURE = "failure"
    #: Of mail that grew too old only.
    EXPIRY = "expiry"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A recipient that the message will not reach."""

    recipient: str
    #: Why it ended.
    response: Response
    #: The last thing that kept it from being delivered, where mail grew too old.
    last_response: Response | None = None
    is_expired: bool = False
    #: The host that answered; empty: none did.
    remote_mta: str = ""
    #: Seconds since the epoch; None: it was not tried again before it ended.
    last_attempt: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a sender is told."""

    #: Names the message: letters and digits, unique.
    id: str
    #: The host that reports.
    reporting_mta: str
    #: The address the message comes from, in its header.
    mail_from: str
    #: The envelope sender of what could not be delivered.
    to: str
    #: Seconds since the epoch.
    now: float
    #: When the message came in.
    arrival: float
    failures: Sequence[Failure]
    #: The message that could not be delivered; its header is returned.
    original: bytes


def build_dsn(report: Report) -> bytes:
    """Make the message: text for people, a report for programs, the original's header."""
    header = header_of(report.original)
    # Where the sender's address needs SMTPUTF8, its host takes 8 bits; else nothing may ask for it.
    may_be_8bit = not report.to.isascii()
    parts = [
        _part("text/plain; charset=utf-8", _text(report).encode(), may_be_8bit=False),
        _status_part(report, may_be_8bit=may_be_8bit),
        _header_part(header, may_be_8bit=may_be_8bit),
    ]
    boundary = _boundary(report.id, parts)
    is_8bit = not all(part.isascii() for part in parts)
    top = _top(report, boundary, _message_id_of(header), is_8bit=is_8bit)
    delimiter = f"--{boundary}".encode()
    body = b"".join(b"%s\r\n%s\r\n" % (delimiter, part) for part in parts)
    return b"%s\r\n%s%s--\r\n" % (top.encode(), body, delimiter)


def header_of(message: bytes) -> bytes:
    """The header of a message, at most `LARGEST_HEADER` bytes of it, in whole lines with CRLF."""
    end = message.find(b"\r\n\r\n", 0, LARGEST_HEADER)
    start = message[: end + 2] if end >= 0 else message[:LARGEST_HEADER]
    start = _LINE_END.sub(b"\r\n", start)
    if start.startswith(b"\r\n") or not start:
        return b""
    if (blank := start.find(b"\r\n\r\n")) >= 0:
        return start[: blank + 2]
    is_cut = end < 0 and len(message) > LARGEST_HEADER
    if is_cut and b"\r\n" in start:
        return start[: start.rfind(b"\r\n") + 2]
    return start if start.endswith(b"\r\n") else start + b"\r\n"


def status_of(response: Response) -> str:
    """
    The status code of RFC 3463 for a reply: its own, or one made from its code.

    >>> status_of(Response(code=550, enhanced_code=(5, 1, 1))), status_of(Response(code=552))
    ('5.1.1', '5.0.0')
    """
    enhanced = response.enhanced_code
    if enhanced is not None and enhanced[0] in (4, 5):
        return ".".join(str(number) for number in enhanced)
    return "4.0.0" if 400 <= response.code < 500 else "5.0.0"


def _message_id_of(header: bytes) -> str:
    found = _MESSAGE_ID.search(header)
    return found[1].decode() if found else ""


def _top(report: Report, boundary: str, answered: str, *, is_8bit: bool) -> str:
    domain = _host(report.reporting_mta)
    sender = report.mail_from if _MAILBOX.fullmatch(report.mail_from) else f"mailer-daemon@{domain}"
    to = f"<{report.to}>" if _MAILBOX.fullmatch(report.to) else "undisclosed-recipients:;"
    fields = [
        f"From: Mail Delivery System <{sender}>",
        f"To: {to}",
        "Subject: Your message could not be delivered",
        f"Date: {formatdate(report.now)}",
        f"Message-ID: <{report.id}@{domain}>",
        *([f"In-Reply-To: {answered}", f"References: {answered}"] if answered else ()),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
        *(["Content-Transfer-Encoding: 8bit"] if is_8bit else ()),
    ]
    return "".join(f"{field}\r\n" for field in fields)


def _boundary(base: str, parts: Sequence[bytes]) -> str:
    """A boundary that is in no part, whatever the parts hold."""
    number = 0
    while True:
        boundary = f"=_{base[:50]}.{number}"
        if not any(boundary.encode() in part for part in parts):
            return boundary
        number += 1


# The text for people


def _text(report: Report) -> str:
    count = len(report.failures)
    whom = "the recipient" if count == 1 else "the recipients"
    lines = [
        f"This is the mail system at {_host(report.reporting_mta)}.",
        "",
        f"The message that you sent could not be delivered to {whom} below,",
        "and will not be tried again.",
        "",
    ]
    named = 0
    for group in _alike(report.failures):
        shown = group[: _MOST_NAMED - named]
        if not shown:
            break
        named += len(shown)
        lines += [f"  <{_address(failure.recipient)}>" for failure in shown]
        lines += [*_reason(group[0]), ""]
    if named < count:
        lines += [f"  and {count - named} more, which the attached report names.", ""]
    lines += ["The report that is attached says the same in a form for programs; after"]
    lines += ["it comes the header of your message."]
    return "".join(f"{line}\r\n" for line in lines)


def _alike(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Failures of one reason together, in the order they came."""
    groups: dict[tuple[Response, Response | None, str], list[Failure]] = {}
    for failure in failures:
        key = (failure.response, failure.last_response, failure.remote_mta)
        groups.setdefault(key, []).append(failure)
    return list(groups.values())


def _reason(failure: Failure) -> Iterator[str]:
    said = failure.last_response or failure.response
    if failure.is_expired:
        yield "    It could not be delivered in the time that is given to a message."
        if failure.last_response is None:
            yield f"    What to do: {_EXPIRED_ADVICE}"
            return
        yield f"    The last time it was tried, {_who(failure, said)}:"
    else:
        who = _who(failure, said)
        yield f"    {who[:1].upper()}{who[1:]}:"
    yield from _lines(" " * 5, _words(_reply(said)), indent=" " * 5)
    yield from _lines(" " * 3, _words(f"What to do: {_advice(failure)}"), indent=" " * 3)


def _who(failure: Failure, said: Response) -> str:
    if said.internal:
        return "the reason was"
    host = f"host {_host(failure.remote_mta)}" if failure.remote_mta else "the receiving host"
    return f"{host} answered"


#: By the subject of the status code, RFC 3463 section 3.
_ADVICE = {
    1: "check the address; if it is right, ask the recipient in another way whether it changed.",
    2: "tell the recipient in another way that the mailbox takes no mail, or send it again later.",
    3: "if the message is large, make it smaller; else show this message to your mail "
    "administrator.",
    6: "show this message to your mail administrator: the form of your message is not taken there.",
    7: "show this message to your mail administrator: the receiving side's rules refuse yours.",
}
_OTHER_ADVICE = "show this message to your mail administrator."
_EXPIRED_ADVICE = "send it again later, or tell the recipient in another way."


def _advice(failure: Failure) -> str:
    if failure.is_expired:
        return _EXPIRED_ADVICE
    return _ADVICE.get(int(status_of(failure.response).split(".")[1]), _OTHER_ADVICE)


# The report for programs


def _status_part(report: Report, *, may_be_8bit: bool) -> bytes:
    is_global = not all(failure.recipient.isascii() for failure in report.failures)
    blocks = [
        [
            ("Reporting-MTA", f"dns; {_host(report.reporting_mta)}"),
            ("Arrival-Date", formatdate(report.arrival)),
        ],
        *(_recipient_fields(failure) for failure in report.failures),
    ]
    text = "\r\n".join(
        "".join(_folded(name, value, is_global=is_global) for name, value in block)
        for block in blocks
    )
    kind = "global-delivery-status" if is_global else "delivery-status"
    return _part(f"message/{kind}", text.encode(), may_be_8bit=may_be_8bit)


def _recipient_fields(failure: Failure) -> list[tuple[str, str]]:
    kind = "rfc822" if failure.recipient.isascii() else "utf-8"
    fields = [
        ("Final-Recipient", f"{kind}; {_address(failure.recipient)}"),
        ("Action", "failed"),
        ("Status", status_of(failure.response)),
    ]
    if failure.remote_mta:
        fields.append(("Remote-MTA", f"dns; {_host(failure.remote_mta)}"))
    said = failure.last_response or failure.response
    fields.append(("Diagnostic-Code", f"smtp; {_reply(said)}"))
    if failure.last_attempt is not None:
        fields.append(("Last-Attempt-Date", formatdate(failure.last_attempt)))
    return fields


def _folded(name: str, value: str, *, is_global: bool) -> str:
    """
    A field in lines of a fit length. What is not ASCII is escaped as RFC 6533 section 3 does it for
    addresses, unless the report may hold UTF-8.
    """
    if not is_global and not value.isascii():
        value = re.sub(r"[^\x00-\x7f]", lambda found: f"\\x{{{ord(found[0]):X}}}", value)
    # What hosts said may be long; an address stays whole, and is never too long.
    words = _words(value) if name == "Diagnostic-Code" else [value]
    return "".join(f"{line}\r\n" for line in _lines(f"{name}:", words, indent=""))


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        for place in range(0, len(word), _LONGEST_WORD):
            yield word[place : place + _LONGEST_WORD]


def _lines(start: str, words: Iterable[str], *, indent: str) -> Iterator[str]:
    """*words* in lines of about the width, the first of which begins with *start*."""
    line, is_bare = start, True
    for word in words:
        if len(line) + 1 + len(word) > _WIDTH and not is_bare:
            yield line
            line = indent
        line, is_bare = f"{line} {word}", False
    yield line


# The original's header


def _header_part(header: bytes, *, may_be_8bit: bool) -> bytes:
    # RFC 6522 section 4: a header that is no legal 7-bit data may be encoded.
    kind = "text/rfc822-headers"
    if not header.isascii() and _is_utf8(header):
        kind = "message/global-headers"
    return _part(kind, header, may_be_8bit=may_be_8bit and kind != "text/rfc822-headers")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# What all of it is made of


def _part(content_type: str, content: bytes, *, may_be_8bit: bool) -> bytes:
    """A part with its header; encoded unless it can travel as it is."""
    fits = b"\0" not in content and _longest_line(content) <= _LONGEST_LINE
    if fits and (content.isascii() or may_be_8bit):
        encoding = b"7bit" if content.isascii() else b"8bit"
    else:
        encoding, content = b"quoted-printable", b2a_qp(content, istext=True)
    return b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (
        content_type.encode(),
        encoding,
        content,
    )


def _longest_line(content: bytes) -> int:
    return max(map(len, content.split(b"\r\n")))


def _reply(response: Response) -> str:
    """A reply on one line, its codes first."""
    enhanced = ".".join(map(str, response.enhanced_code)) if response.enhanced_code else ""
    return " ".join(_clean([str(response.code), enhanced, response.content]))


def _clean(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _UNSAFE.sub(" ", text).split()


def _address(text: str) -> str:
    return _UNSAFE.sub("?", text)[:_LONGEST_ADDRESS]


def _host(name: str) -> str:
    return _UNSAFE_IN_HOST.sub("?", name)[:255].replace("?", "") or "localhost"
