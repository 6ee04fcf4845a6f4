"""
Throttles: every rate throttle of this agent by name, so that paths which name one share it.

What was used of a burst must not be forgotten with the process. `save` and `restore` carry the
buckets over a clean stop. After a crash nobody knows them, so each counts as full at the start of
the process (`spent_since`): it can't have held more, so no window ever sees more than its rate.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

from agent.throttle.permit import try_take
from agent.throttle.rate import Rate, RateThrottle


class Throttles:
    """Rate throttles by name. A changed rate keeps what the throttle has counted."""

    __slots__ = ("_by_name", "_spent_since")

    def __init__(self, *, spent_since: int | None = None) -> None:
        """*spent_since*: when every bucket counts as full, in nanoseconds; None: all are empty."""
        self._by_name: dict[str, RateThrottle] = {}
        self._spent_since = spent_since

    @classmethod
    def restore(cls, saved: Mapping[str, Any], *, elapsed_ns: int, now_ns: int) -> Self:
        """Make them as they were when `save` was called *elapsed_ns* ago."""
        throttles = cls()
        for name, state in saved.items():
            rate = Rate(**state["rate"])
            parts = state["held"] - max(0, elapsed_ns) * rate.count
            throttles._by_name[name] = RateThrottle.holding(rate, parts, now_ns)
        return throttles

    def save(self, now_ns: int) -> dict[str, Any]:
        """Describe what every bucket holds, JSON-ready."""
        return {
            name: {"rate": asdict(throttle.rate), "held": throttle.held(now_ns)}
            for name, throttle in self._by_name.items()
            if throttle.held(now_ns)
        }

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
