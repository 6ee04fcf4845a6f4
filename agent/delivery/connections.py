"""Connections: how many a path should have open for the mail it holds."""

from math import ceil, exp

#: How fast connections are added as mail piles up.
_STEEPNESS = 0.023


def wanted_connections(queued: int, limit: int) -> int:
    """
    The number of connections for *queued* messages where at most *limit* are allowed: few for a
    little mail, near the limit for a lot.

    >>> [wanted_connections(queued, 32) for queued in (1, 2, 10, 64, 256)]
    [1, 2, 7, 25, 32]
    """
    return min(queued, ceil(limit * (1 - exp(-_STEEPNESS * queued))))
