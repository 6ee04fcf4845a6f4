"""
Meter: how far a stream of arrivals goes over a rate, exactly. Time is an argument (nanoseconds).

A rate allows `burst + rate * window` arrivals in any window. The largest excess over that line,
in all windows, is found in one pass: the level of a bucket that drains at the rate and gains one
per arrival is, at each arrival, the fullest of all windows that end there. All are integers, in
units of one arrival divided by the period, so that nothing is lost to rounding.
"""

from collections import deque
from dataclasses import dataclass, field

_SECOND = 1_000_000_000
#: Arrivals looked back at for the busiest second; more than that in a second is counted as that.
_KEPT_ARRIVALS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRate:
    """At most `burst + count / period * window` arrivals in any window."""

    count: int
    #: Nanoseconds.
    period: int
    burst: int

    def __post_init__(self) -> None:
        """Refuse a rate that means nothing."""
        if min(self.count, self.period, self.burst) < 1:
            raise ValueError("a rate needs a count, a period and a burst of at least 1")


@dataclass(slots=True)
class RateMeter:
    """Refuses what goes over a rate, and remembers the worst that arrived, refused or not."""

    rate: SinkRate
    _offered: int = 0
    _admitted: int = 0
    _peak: int = 0
    _last: int | None = None

    def arrive(self, now: int) -> bool:
        """Count one arrival at *now*; whether the rate allows it. Only what it allows fills it."""
        drained = 0 if self._last is None else max(0, now - self._last) * self.rate.count
        self._last = now if self._last is None else max(now, self._last)
        self._offered = max(0, self._offered - drained) + self.rate.period
        self._peak = max(self._peak, self._offered)
        self._admitted = max(0, self._admitted - drained)
        if self._admitted + self.rate.period > self.rate.burst * self.rate.period:
            return False
        self._admitted += self.rate.period
        return True

    @property
    def excess(self) -> float:
        """Arrivals over what was allowed in the worst window; negative: that many to spare."""
        return self._peak / self.rate.period - self.rate.burst

    @property
    def exceeds(self) -> bool:
        """Whether any window held more than allowed."""
        return self._peak > self.rate.burst * self.rate.period


@dataclass(slots=True)
class SlidingSecond:
    """The most arrivals within any one second, for people to read."""

    peak: int = 0
    _arrivals: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT_ARRIVALS))

    def arrive(self, now: int) -> None:
        """Count one arrival at *now*."""
        self._arrivals.append(now)
        while self._arrivals[0] <= now - _SECOND:
            self._arrivals.popleft()
        self.peak = max(self.peak, len(self._arrivals))
