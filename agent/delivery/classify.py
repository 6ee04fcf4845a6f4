"""
Classify: what a reply means for the recipients it concerns.

A transaction yields replies to MAIL, to each RCPT, to DATA and to the end of the message. This
module turns them into one result a recipient. What is done with a result (records, retries) is
not decided here. Any bytes that a peer may send lead to a result; nothing here raises.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from agent.delivery import internal
from agent.delivery.record import Response, on_one_line

# RFC 3463 section 2: class 2, 4 or 5, then subject and detail of up to three digits.
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?:[ \t]+|$)")
#: Longer replies are not worth remembering.
_COMMON_LENGTH = 100


class Result(StrEnum):
    """What became of one recipient."""

    #: The peer answers for the message now.
    DELIVERED = "delivered"
    #: To be tried again later.
    TRANSIENT = "transient"
    #: Refused for good.
    PERMANENT = "permanent"
    #: Not refused, only too many for one transaction: to be sent again at once.
    AGAIN = "again"


class TooMany(StrEnum):
    """Whether a refused RCPT only says that the transaction has too many recipients."""

    NO = "no"
    YES = "yes"
    #: A bare 452 or 552 may mean that, or a full mailbox.
    MAYBE = "maybe"


class RecipientResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one recipient, and the reply that says so."""

    recipient: str
    result: Result
    response: Response


class Replies(msgspec.Struct, frozen=True, kw_only=True):
    """The replies to one transaction; None where the command was not sent or got no reply."""

    recipients: tuple[str, ...]
    mail: Response
    rcpt: tuple[Response, ...] = ()
    data: Response | None = None
    #: To the message: one reply, or over LMTP one for each accepted recipient (RFC 2033).
    ends: tuple[Response, ...] = ()
    #: What cut the transaction short, if anything did; holds for whoever has no reply of their own.
    failure: Response | None = None
    is_lmtp: bool = False


def parse_reply(code: int, text: str, command: str = "") -> Response:
    """
    Make a Response of a reply's code and text (lines separated by line feeds).

    >>> parse_reply(550, "5.1.1 no such\\n5.1.1 user").content
    'no such user'
    """
    if len(text) <= _COMMON_LENGTH:
        return _parse_common(code, text, command)
    return _parse_reply(code, text, command)


def _parse_reply(code: int, text: str, command: str) -> Response:
    enhanced: tuple[int, int, int] | None = None
    lines = []
    for line in text.split("\n"):
        if match := _ENHANCED.match(line):
            enhanced = enhanced or (int(match[1]), int(match[2]), int(match[3]))
            line = line[match.end() :]
        lines.append(line)
    content = on_one_line(" ".join(lines))
    return Response(code=code, enhanced_code=enhanced, content=content, command=command)


# Peers say the same to most commands.
_parse_common = lru_cache(maxsize=1024)(_parse_reply)


def result_of(response: Response) -> Result:
    """
    What a reply means by its code alone. A code that no RFC knows never bounces mail: it is taken
    as transient. 503 says that we, or the peer, lost count of the commands; a new session helps.
    """
    if 200 <= response.code < 300:
        return Result.DELIVERED
    if 500 <= response.code < 600 and response.code != 503:
        return Result.PERMANENT
    return Result.TRANSIENT


def is_accepted(response: Response) -> bool:
    """Whether the command was accepted: any 2xx, so 251 and 252 to RCPT too."""
    return 200 <= response.code < 300


def ends_connection(response: Response) -> bool:
    """Whether the peer is closing: 421 (RFC 5321 section 4.2.2)."""
    return response.code == 421


def too_many_recipients(response: Response) -> TooMany:
    """
    Whether a reply to RCPT says that the transaction is full. RFC 5321 section 4.5.3.1.10 gives
    452 for it and allows for 552; RFC 3463 gives it the enhanced code 4.5.3 (5.5.3).
    """
    if response.enhanced_code is not None:
        return TooMany.YES if response.enhanced_code[1:] == (5, 3) else TooMany.NO
    return TooMany.MAYBE if response.code in (452, 552) else TooMany.NO


def classify(replies: Replies, *, suspected: frozenset[str] = frozenset()) -> list[RecipientResult]:
    """
    Turn the replies to one transaction into a result a recipient, in order. *suspected* are the
    recipients that already got a bare 452 or 552 once: they are not sent again at once.
    """
    if not is_accepted(replies.mail):
        return [_refused(recipient, replies.mail) for recipient in replies.recipients]
    return [
        _classify_recipient(place, replies, suspected) for place in range(len(replies.recipients))
    ]


def _classify_recipient(place: int, replies: Replies, suspected: frozenset[str]) -> RecipientResult:
    recipient = replies.recipients[place]
    rcpt = _at(replies.rcpt, place)
    if rcpt is None:
        return _refused(recipient, replies.failure or internal.NOT_ASKED)
    if is_accepted(rcpt):
        return _classify_accepted(recipient, replies, place)
    if place > 0 and _is_sent_again(recipient, rcpt, suspected):
        return RecipientResult(recipient=recipient, result=Result.AGAIN, response=rcpt)
    if result_of(rcpt) is Result.PERMANENT and too_many_recipients(rcpt) is not TooMany.NO:
        # A bare 552 is ambiguous, and 5.5.3 speaks of the transaction, not of the mailbox.
        return RecipientResult(recipient=recipient, result=Result.TRANSIENT, response=rcpt)
    return _refused(recipient, rcpt)


def _is_sent_again(recipient: str, rcpt: Response, suspected: frozenset[str]) -> bool:
    match too_many_recipients(rcpt):
        case TooMany.YES:
            return True
        case TooMany.MAYBE:
            return recipient not in suspected
        case TooMany.NO:
            return False


def _classify_accepted(recipient: str, replies: Replies, place: int) -> RecipientResult:
    """An accepted recipient has the fate of the message, over LMTP a fate of its own."""
    end = _end_of(replies, place)
    if end is not None:
        return RecipientResult(recipient=recipient, result=result_of(end), response=end)
    return _refused(recipient, replies.failure or replies.data or internal.NOT_ASKED)


def _end_of(replies: Replies, place: int) -> Response | None:
    if not replies.is_lmtp:
        return _at(replies.ends, 0)
    return _at(replies.ends, sum(map(is_accepted, replies.rcpt[:place])))


def _refused(recipient: str, response: Response) -> RecipientResult:
    result = result_of(response)
    if result is Result.DELIVERED:
        # 2xx where the message itself was never taken: nothing was delivered.
        result, response = Result.TRANSIENT, _unexpected(response)
    return RecipientResult(recipient=recipient, result=result, response=response)


def _unexpected(response: Response) -> Response:
    return replace(
        internal.UNEXPECTED_REPLY,
        content=on_one_line(
            f"{internal.UNEXPECTED_REPLY.content}: {response.code} {response.content}"
        ),
        command=response.command,
    )


def _at(responses: Sequence[Response], place: int) -> Response | None:
    return responses[place] if place < len(responses) else None
