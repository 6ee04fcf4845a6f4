"""
RateThrottle: at most so many events per period, exact to the nanosecond.

The theory is GCRA, a leaky bucket kept as one number. A rate of `count` events per `period` lets
an event leak out every period / count nanoseconds. That quotient is seldom whole, so the throttle
counts in parts: one nanosecond is `count` parts and one event is `period_ns` parts. Every number
stays an integer and nothing is ever rounded:

1. `_full_until` is the moment, in parts, at which the bucket would be empty again.
2. An event is allowed if afterwards no more than `max_burst` events are in the bucket.
3. In any window of t nanoseconds at most max_burst + t * count / period_ns events pass, and an
   event that this bound allows is never refused.
4. A changed rate keeps the number of events that were free to go, capped by the new burst; so a
   change by itself frees nothing.

No clock in here: *now_ns* is any clock's nanoseconds, the same clock throughout.
"""

from dataclasses import dataclass
from typing import Self

_UNITS = {10**9: "s", 60 * 10**9: "m", 3600 * 10**9: "h", 86_400 * 10**9: "d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many events per period, and how many at once after a pause."""

    count: int
    period_ns: int
    #: None: the count, so the whole budget of a period may go at once.
    max_burst: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.period_ns < 1:
            raise ValueError("a rate needs a count and a period of at least 1")
        if self.max_burst is not None and self.max_burst < 1:
            raise ValueError("max_burst must be at least 1")

    @property
    def burst(self) -> int:
        """How many events may pass at once."""
        return self.count if self.max_burst is None else self.max_burst

    def __str__(self) -> str:
        """
        The operators' spelling.

        >>> str(Rate(count=3, period_ns=60 * 10**9, max_burst=1))
        '3/m,max_burst=1'
        >>> str(Rate(count=5, period_ns=300 * 10**9))
        '5/300s'
        """
        unit = _UNITS.get(self.period_ns) or f"{self.period_ns / 10**9:g}s"
        burst = "" if self.max_burst is None else f",max_burst={self.max_burst}"
        return f"{self.count}/{unit}{burst}"


class RateThrottle:
    """One bucket. It starts empty: a whole burst is free to go."""

    __slots__ = ("_capacity", "_full_until", "_rate")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._capacity = rate.burst * rate.period_ns
        self._full_until = 0

    @classmethod
    def holding(cls, rate: Rate, parts: int, now_ns: int) -> Self:
        """A bucket that `held` said *parts* of; more than a whole burst does not fit."""
        throttle = cls(rate)
        throttle._full_until = now_ns * rate.count + max(0, min(parts, throttle._capacity))
        return throttle

    @classmethod
    def at(cls, rate: Rate, full_until: int) -> Self:
        """A bucket as `full_until` said it was, by the same clock."""
        throttle = cls(rate)
        throttle._full_until = full_until
        return throttle

    @classmethod
    def spent(cls, rate: Rate, now_ns: int) -> Self:
        """A bucket that is full: nothing is free to go until it leaks."""
        return cls.holding(rate, rate.burst * rate.period_ns, now_ns)

    @property
    def rate(self) -> Rate:
        """The rate in force."""
        return self._rate

    @property
    def full_until(self) -> int:
        """When the bucket is empty again, in parts: with the rate all there is to know of it."""
        return self._full_until

    def held(self, now_ns: int) -> int:
        """How much is in the bucket, in parts."""
        return max(0, self._full_until - now_ns * self._rate.count)

    def wait_ns(self, now_ns: int, ahead: int = 0) -> int:
        """
        How long until an event may pass, in nanoseconds; 0: now.

        *ahead* is how many others will go first: so a row of waiting events can be given times
        along the rate.
        """
        rate = self._rate
        now = now_ns * rate.count
        excess = max(self._full_until, now) + (ahead + 1) * rate.period_ns - self._capacity - now
        return -(-excess // rate.count) if excess > 0 else 0

    def take(self, now_ns: int) -> None:
        """Let an event pass; to be called where `wait_ns` is 0."""
        rate = self._rate
        self._full_until = max(self._full_until, now_ns * rate.count) + rate.period_ns

    def try_take(self, now_ns: int) -> int:
        """Let an event pass if it may: 0, or how long to wait, in nanoseconds."""
        wait = self.wait_ns(now_ns)
        if wait == 0:
            self.take(now_ns)
        return wait

    def set_rate(self, rate: Rate, now_ns: int) -> None:
        """Change the rate; what was free to go stays so, and no more than that."""
        if rate == self._rate:
            return
        old = self._rate
        held = max(0, self._full_until - now_ns * old.count)
        # Round up: a part of a nanosecond too late rather than too early.
        rescaled = -(-held * rate.period_ns // old.period_ns)
        missing = (rate.burst - old.burst) * rate.period_ns
        self._rate = rate
        self._capacity = rate.burst * rate.period_ns
        self._full_until = now_ns * rate.count + max(0, rescaled + missing)
