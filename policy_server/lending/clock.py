"""The clock of leases: it only goes forward, and goes on while the host sleeps."""

import time

#: Where there is no such clock, one that stands still while the host sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_ns() -> int:
    """Read the clock, in nanoseconds."""
    return time.clock_gettime_ns(_CLOCK)
