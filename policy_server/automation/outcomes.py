"""
Outcomes: what one delivery attempt led to, as automation sees it.

Also the text that patterns are tried on, and how replies are stripped of recipients before they
are kept. Which rules an outcome concerns is not known here (see `policy_server.rules.resolve`).
"""

import functools
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import re2

#: Longest text a pattern is tried on, in characters; RFC 5321 replies are far shorter.
MAX_REPLY_LENGTH = 2048
#: More than an address has (RFC 5321 4.5.3.1 allows 64 octets before the "@").
_LONGEST_LOCAL_PART = 320


class OutcomeType(StrEnum):
    """What a delivery attempt, or the lack of one, led to."""

    DELIVERY = "Delivery"
    TRANSIENT_FAILURE = "TransientFailure"
    BOUNCE = "Bounce"
    EXPIRATION = "Expiration"
    ADMIN_BOUNCE = "AdminBounce"
    OUT_OF_BAND = "OutOfBand"
    FEEDBACK_REPORT = "FeedbackReport"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply of the peer, or the text the agent made where no peer replied."""

    #: Three digits; 0 if there is none.
    code: int = 0
    #: (class, subject, detail) of RFC 3463.
    enhanced_code: tuple[int, int, int] | None = None
    content: str = ""
    command: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one delivery attempt led to."""

    event_id: str
    event_time: datetime
    type: OutcomeType
    recipient_domain: str
    #: The domain that was looked up; never empty.
    routing_domain: str
    site_name: str = ""
    path_name: str = ""
    egress_source: str = ""
    egress_pool: str = ""
    tenant: str = ""
    campaign: str = ""
    reply: Reply = Reply()
    #: Made by the agent, not by the peer.
    internal: bool = False
    num_attempts: int = 0
    provider_name: str = ""

    @property
    def counted_path(self) -> str:
        """The path name that matches are counted under; the site's where the agent gave none."""
        return self.path_name or f"{self.egress_source}->{self.site_name}"


def reply_text(reply: Reply, *, longest: int = MAX_REPLY_LENGTH) -> str:
    """
    Write a reply as patterns see it: code, enhanced code and content on one line.

    >>> reply_text(Reply(code=421, enhanced_code=(4, 7, 0), content="[TS01]\\r\\n deferred"))
    '421 4.7.0 [TS01] deferred'
    """
    parts = [str(reply.code)] if reply.code else []
    if reply.enhanced_code is not None:
        parts.append(".".join(map(str, reply.enhanced_code)))
    # Cut first: a reply of megabytes must cost no more than a long one.
    content = " ".join(line.strip() for line in reply.content[:longest].splitlines())
    if content:
        parts.append(content)
    return " ".join(parts)[:longest]


def evidence_text(reply: Reply) -> str:
    """Write a reply as it is kept: on one line, the local parts of addresses removed."""
    # Read on beyond what is kept: an address must not be cut before its "@" is seen.
    text = reply_text(reply, longest=MAX_REPLY_LENGTH + _LONGEST_LOCAL_PART)
    return cut_bare(text, longest=MAX_REPLY_LENGTH)


def cut_bare(text: str, *, longest: int) -> str:
    """
    Cut *text* after *longest* characters, and remove the local parts of the addresses before.

    >>> cut_bare("<joe@a.example> and <jim@b.example>", longest=22)
    '<@a.example> and <'
    """
    if len(text) <= longest:
        return remove_local_parts(text)
    # Cut first: a reply of megabytes must cost no more than a long one. What is kept ends where
    # it did before parts of it were removed: behind that an address may be cut before its "@".
    text = text[: longest + _LONGEST_LOCAL_PART]
    kept, position = [], 0
    for found in _local_part().finditer(text):
        if found.start() >= longest:
            break
        kept.append(text[position : found.start()])
        position = found.end() - 1
    kept.append(text[position:longest])
    return "".join(kept)


#: What ends the local part of an address that is not quoted.
_NO_LOCAL = frozenset('\t\n\f\r <>()[],;:"@')


@functools.cache
def _local_part() -> Any:
    # RE2 takes linear time, whatever a peer wrote. Words and quoted strings in any mixture (RFC
    # 5321 4.1.2, RFC 5322 4.4); whatever else is no sign that ends a word, so that addresses in
    # UTF-8 (RFC 6531) and those that are no good go as well.
    return re2.compile(r'("(\\.|[^"\\])*"|[^\s<>()\[\],;:"@])+@')


def remove_local_parts(text: str) -> str:
    """
    Strip the local part from each address of *text*.

    >>> remove_local_parts('550 <john.doe@example.com>, <"j. doe"@example.com>: unknown')
    '550 <@example.com>, <@example.com>: unknown'
    """
    if "@" not in text:
        return text
    if '"' in text:
        return str(_local_part().sub("@", text))
    # The same without quotes, in a fraction of the time: each reply that is kept comes by here.
    *before, rest = text.split("@")
    return "@".join((*map(_without_local, before), rest))


def _without_local(text: str) -> str:
    end = len(text)
    while end and text[end - 1] not in _NO_LOCAL:
        end -= 1
    return text[:end]
