"""
Throttles: every rate throttle by name, so that paths which name one share it.

Those of this module are of one process and end with it; `agent.workers.shared_limits` has those
that the processes of an agent share and that outlive them.
"""

from collections.abc import Mapping
from typing import Protocol

from agent.throttle.permit import try_take
from agent.throttle.rate import Rate, RateThrottle


class RateLimits(Protocol):
    """Rate throttles by name. A changed rate keeps what the throttle has counted."""

    def try_take(self, rates: Mapping[str, Rate], now_ns: int) -> int:
        """Let one event pass all of *rates*: 0. Else take nothing; the wait in nanoseconds."""

    def wait_ns(self, rates: Mapping[str, Rate], now_ns: int, ahead: int = 0) -> int:
        """How long until an event may pass, if *ahead* others go first; takes nothing."""

    def forget_idle(self, now_ns: int) -> None:
        """Drop throttles that hold nothing: a new one would be in the same state."""


class Throttles:
    """The throttles of one process; implements `RateLimits`."""

    __slots__ = ("_by_name", "_spent_since")

    def __init__(self, *, spent_since: int | None = None) -> None:
        """*spent_since*: when every bucket counts as full, in nanoseconds; None: all are empty."""
        self._by_name: dict[str, RateThrottle] = {}
        self._spent_since = spent_since

    def try_take(self, rates: Mapping[str, Rate], now_ns: int) -> int:
        """Let one event pass all of *rates*: 0. Else take nothing; the wait in nanoseconds."""
        if not rates:
            return 0
        return try_take(self._of(rates, now_ns), now_ns)

    def wait_ns(self, rates: Mapping[str, Rate], now_ns: int, ahead: int = 0) -> int:
        """How long until an event may pass, if *ahead* others go first; takes nothing."""
        throttles = self._of(rates, now_ns)
        return max((throttle.wait_ns(now_ns, ahead) for throttle in throttles), default=0)

    def forget_idle(self, now_ns: int) -> None:
        """Drop throttles that hold nothing: a new one would be in the same state."""
        idle = [
            name
            for name, throttle in self._by_name.items()
            if throttle.wait_ns(now_ns, throttle.rate.burst - 1) == 0
        ]
        for name in idle:
            del self._by_name[name]

    def _of(self, rates: Mapping[str, Rate], now_ns: int) -> list[RateThrottle]:
        return [self._get(name, rate, now_ns) for name, rate in rates.items()]

    def _get(self, name: str, rate: Rate, now_ns: int) -> RateThrottle:
        throttle = self._by_name.get(name)
        if throttle is None:
            since = self._spent_since
            throttle = RateThrottle(rate) if since is None else RateThrottle.spent(rate, since)
            self._by_name[name] = throttle
        elif throttle.rate != rate:
            throttle.set_rate(rate, now_ns)
        return throttle
