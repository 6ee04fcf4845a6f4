"""
Throttles: every rate throttle of this agent by name, so that paths which name one share it.
"""

from collections.abc import Mapping

from agent.throttle.permit import try_take
from agent.throttle.rate import Rate, RateThrottle


class Throttles:
    """Rate throttles by name. A changed rate keeps what the throttle has counted."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        self._by_name: dict[str, RateThrottle] = {}

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
            throttle = self._by_name[name] = RateThrottle(rate)
        elif throttle.rate != rate:
            throttle.set_rate(rate, now_ns)
        return throttle
