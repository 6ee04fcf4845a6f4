"""
Unmatched: the replies that no rule matched, by kind, so that people see which rule to write next.

Replies of one kind differ by addresses, numbers and identifiers: these are left out of the text
that they are grouped by. The number of groups is bounded: where there are too many, the rarest
are forgotten, so that counts of rare kinds may be too low while those of frequent ones are right.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from policy_server.automation.outcomes import Outcome, OutcomeType, Reply, evidence_text

#: Longest text of a group, in characters.
MAX_TEXT = 100
#: Kinds that are counted at a time.
_GROUPS_KEPT = 10_000
#: So much of a reply is looked at.
_MOST_READ = 400
_LEFT_OUT = "…"
# Addresses of mail, whose local parts are gone; IPv4 and IPv6; times; words with many digits;
# numbers.
_VARIABLE = re.compile(
    r"@[\w.-]*"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b"
    r"|\b[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){3,7}(?![\w:])"
    r"|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\w.:+-]*"
    r"|\b(?=[\w.=+/-]*\d[\w.=+/-]*\d[\w.=+/-]*\d[\w.=+/-]*\d[\w.=+/-]*\d)[\w.=+-]{8,}"
    r"|(?<![.\w-])\d{3,}(?![.\w])"
)
_REPEATED = re.compile(f"{_LEFT_OUT}(?:[ ,;]*{_LEFT_OUT})+")

_Key = tuple[int, tuple[int, int, int] | None, str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmatchedReplies:
    """Replies of one kind that no rule matched."""

    code: int
    enhanced_code: tuple[int, int, int] | None
    #: What they have in common, shortened.
    text: str
    #: Made by the agent, not by the peer.
    internal: bool
    count: int
    #: Site of one of them.
    site_name: str


class UnmatchedCounter:
    """Counts replies by kind."""

    def __init__(self, *, groups_kept: int = _GROUPS_KEPT) -> None:
        self._groups_kept = groups_kept
        self._counts: dict[_Key, int] = {}
        self._sites: dict[_Key, str] = {}

    def add(self, outcome: Outcome) -> None:
        """Count an outcome; mail that was delivered asks for no rule."""
        if outcome.type is OutcomeType.DELIVERY:
            return
        reply = outcome.reply
        key = (reply.code, reply.enhanced_code, shorten_reply(reply), outcome.internal)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._sites.setdefault(key, outcome.site_name)
        if len(self._counts) >= 2 * self._groups_kept:
            self._forget_rarest()

    def most_frequent(self, limit: int) -> tuple[UnmatchedReplies, ...]:
        """List up to *limit* kinds, the most frequent first."""
        return tuple(
            UnmatchedReplies(
                code=key[0],
                enhanced_code=key[1],
                text=key[2],
                internal=key[3],
                count=self._counts[key],
                site_name=self._sites[key],
            )
            for key in self._order(self._counts)[:limit]
        )

    def _forget_rarest(self) -> None:
        for key in self._order(self._counts)[self._groups_kept :]:
            del self._counts[key], self._sites[key]

    def _order(self, keys: Iterable[_Key]) -> list[_Key]:
        # Those that came first stay before others of the same count.
        return sorted(keys, key=lambda key: -self._counts[key])


def shorten_reply(reply: Reply) -> str:
    """
    Write what a reply has in common with others of its kind.

    >>> shorten_reply(Reply(code=550, content="<joe@x.example>: 192.0.2.7 is listed, id 4XyZ88123"))
    '<…>: … is listed, id …'
    """
    # The codes are told beside it.
    text = evidence_text(Reply(content=reply.content))[:_MOST_READ]
    text = _REPEATED.sub(_LEFT_OUT, _VARIABLE.sub(_LEFT_OUT, text))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + _LEFT_OUT
