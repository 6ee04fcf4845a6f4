"""
The garbage collector of an agent: nearly all that an agent makes is gone with its last reference.

With Python's defaults the collector goes through everything again and again, and through a million
queued messages for a second at a time, in which nothing is delivered.
"""

import gc

#: Objects made beyond those gone before the youngest are looked through; how often that happens
#: before the older, and the oldest, are.
_THRESHOLDS = (50_000, 20, 50)


def look_seldom() -> None:
    """Collect less often; once, at the start of a process."""
    gc.set_threshold(*_THRESHOLDS)


def set_apart() -> None:
    """Look no more through what there is now: once a start has put its mail into queues."""
    gc.freeze()
