"""The clock of leases: it only goes forward, and goes on while the host sleeps."""

import time

#: A version begins with its epoch, of 32 bits; some are left for a clock that is far ahead.
_LATEST = (1 << 32) - (1 << 24)

#: Where there is no such clock, one that stands still while the host sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime_ns() -> int:
    """Read the clock, in nanoseconds."""
    return time.clock_gettime_ns(_CLOCK)


def least_epoch() -> int:
    """
    Above which the next epoch of a book is to be: in seconds since 1970, so that an epoch comes no
    second time where the database has forgotten the last ones, as an older copy of it.
    """
    return min(int(time.time()), _LATEST)
