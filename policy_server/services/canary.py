"""
Canaries: a change of rules is told to a few watching agents first, and to all once those have
applied it. Off unless a share is set.

1. Only what the server tells by itself waits, and only changes of rules: suspensions, bounces and
   overrides reach all at once, and who asks or begins to watch is answered by the rules in force.
2. Canaries are drawn among the streams that the change concerns. When all of them have applied it,
   the others are told. One that refuses any of it stops the change, until the rules change again.
3. One that ends is not waited for; without any left others are drawn. So a change that ends its
   agents ends few at a time. One that stays and neither applies nor refuses is waited for no longer
   than `wait`: an agent that is slow is no reason to keep the rules from all.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from policy_server.metrics import ServerMetrics
from policy_server.rules.book import RulesChange

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05


class Watcher(Protocol):
    """What is looked at of a stream."""

    agent: str
    rejected_at: datetime | None
    reject_reason: str

    @property
    def applied_revision(self) -> int:
        """Up to which revision its client has applied all that concerns it."""

    @property
    def is_held_back(self) -> bool:
        """Whether it is yet to be told of a change of rules."""

    def hold_rules(self, change: RulesChange | None) -> bool:
        """Note a change without telling of it; say whether anything is held back."""

    def release_rules(self) -> None:
        """Tell of what is held back."""


class Verdict(StrEnum):
    """What becomes of a change that canaries were told of."""

    WAIT = "wait"
    APPLIED = "applied"
    REFUSED = "refused"
    SILENT = "silent"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryShare:
    """How many are told first: a share of those concerned, at least one; 0: all are at once."""

    share: float = 0.0
    wait: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRound:
    """One change that few were told of."""

    revision: int
    #: By the loop's clock.
    until: float
    #: Each with the time of its last refusal before.
    canaries: Mapping[Watcher, datetime | None] = field(default_factory=dict)


def judge(tried: CanaryRound, present: Collection[Watcher], *, now: float) -> Verdict:
    """Say what becomes of a change, now that *present* still watch."""
    canaries = [one for one in tried.canaries if one in present]
    if any(one.rejected_at != tried.canaries[one] for one in canaries):
        return Verdict.REFUSED
    if not canaries:
        return Verdict.GONE
    if all(one.applied_revision >= tried.revision for one in canaries):
        return Verdict.APPLIED
    return Verdict.SILENT if now >= tried.until else Verdict.WAIT


class Canaries:
    """Tells streams of changes of rules, few of them first."""

    def __init__(
        self,
        share: CanaryShare,
        *,
        streams: Callable[[], Collection[Watcher]],
        random: Callable[[], float],
        metrics: ServerMetrics,
    ) -> None:
        self._share = share
        self._streams = streams
        self._random = random
        self._rounds = metrics.watch_canaries
        self._round: CanaryRound | None = None
        self._timer: asyncio.TimerHandle | None = None
        metrics.watch_held_back.set_function(lambda: len(self._held_back()))

    @property
    def is_on(self) -> bool:
        """Whether any are told first."""
        return self._share.share > 0

    def tell(self, change: RulesChange | None, revision: int) -> None:
        """Tell canaries of a change of rules; the others follow."""
        # All hear of it, so no generator that ends at the first.
        held_back = [stream for stream in self._streams() if stream.hold_rules(change)]
        if held_back:
            self._begin(held_back, revision)

    def close(self) -> None:
        """Look at nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self, held_back: Sequence[Watcher], revision: int) -> None:
        self.close()
        count = math.ceil(self._share.share * len(held_back))
        # One that refused the change before is the first to see whether the next one is better.
        known = self._round.canaries if self._round is not None else {}
        drawn = sorted(held_back, key=lambda one: (one not in known, self._random()))[:count]
        if count >= len(held_back):
            self._round = None
            self._release(held_back)
            return
        loop = asyncio.get_running_loop()
        self._round = CanaryRound(
            revision=revision,
            until=loop.time() + self._share.wait.total_seconds(),
            canaries={one: one.rejected_at for one in drawn},
        )
        self._release(drawn)
        self._timer = loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        tried = self._round
        if tried is None:
            return
        loop = asyncio.get_running_loop()
        verdict = judge(tried, self._streams(), now=loop.time())
        if verdict is Verdict.WAIT:
            self._timer = loop.call_later(_LOOK_SECONDS, self._look)
            return
        self._rounds.labels(verdict.value).inc()
        held_back = self._held_back()
        facts: dict[str, object] = {"revision": tried.revision, "held_back": len(held_back)}
        match verdict:
            case Verdict.REFUSED:
                refusing = [one for one in tried.canaries if one.rejected_at != tried.canaries[one]]
                facts |= {"agent": refusing[0].agent, "why": refusing[0].reject_reason}
                logger.error("an agent refused new rules; the others are not told", extra=facts)
                return
            case Verdict.GONE:
                logger.warning("agents left that were told of new rules first", extra=facts)
                if held_back:
                    self._begin(held_back, tried.revision)
                return
            case Verdict.SILENT:
                logger.warning("agents have not applied new rules in time", extra=facts)
        self._round = None
        self._release(held_back)

    def _held_back(self) -> list[Watcher]:
        return [stream for stream in self._streams() if stream.is_held_back]

    def _release(self, streams: Sequence[Watcher]) -> None:
        for stream in streams:
            stream.release_rules()
