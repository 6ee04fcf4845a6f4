"""
Staleness: how far the agent's knowledge of the policy lags, and how long to wait before trying
the server again. Pure; time and chance are arguments.
"""

from enum import StrEnum

#: The server says at least this often that nothing has changed; longer silence is a lag.
FRESH_SECONDS = 15.0
#: A stream that broke off is back within this time unless something is wrong.
LAGGING_SECONDS = 60.0
_QUICK_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 30.0


class Staleness(StrEnum):
    """How old the newest word of the server is."""

    FRESH = "fresh"
    #: A stream broke off or moves to another server.
    LAGGING = "lagging"
    #: The server is away: what is known holds on.
    STALE = "stale"
    #: For so long that limits are conservative now.
    EXPIRED = "expired"


def staleness(age: float, max_stale: float) -> Staleness:
    """Name the state of knowledge that was confirmed *age* seconds ago."""
    if age > max_stale:
        return Staleness.EXPIRED
    if age <= FRESH_SECONDS:
        return Staleness.FRESH
    return Staleness.LAGGING if age <= LAGGING_SECONDS else Staleness.STALE


def retry_delay(failures: int, chance: float) -> float:
    """
    Return the seconds to wait after *failures* tries in a row, *chance* between 0 and 1.

    Full jitter, so that a fleet that lost its server does not come back as one; the first retry
    is quick, because most streams end for a server that is there again at once.

    >>> [retry_delay(failures, 1.0) for failures in range(8)]
    [0.25, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """
    if failures == 0:
        return _QUICK_RETRY_SECONDS * chance
    return min(_LONGEST_RETRY_SECONDS, 2.0 ** (min(failures, 16) - 1)) * chance
