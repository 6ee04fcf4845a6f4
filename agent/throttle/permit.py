"""Permit: leave of several throttles at once, or of none."""

from collections.abc import Sequence

from agent.throttle.rate import RateThrottle


def try_take(throttles: Sequence[RateThrottle], now_ns: int) -> int:
    """
    Let one event pass all *throttles* if every one allows it: 0. Else take nothing, and say how
    long until all of them would, in nanoseconds. No throttle may be given twice.
    """
    wait = 0
    # Asked for each message: a generator for the few that there are would take as long again.
    for throttle in throttles:
        wait = max(wait, throttle.wait_ns(now_ns))
    if wait == 0:
        for throttle in throttles:
            throttle.take(now_ns)
    return wait
