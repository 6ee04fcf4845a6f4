"""
How long leases hold by the agent's own clock.

It may be fast or slow, and yet they never hold for longer than the server waits.
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderTimes:
    """Spans in nanoseconds, as a clock that is fast by one part in `drift` must count them."""

    session: int
    floor: int
    drain: int
    drift: int

    @classmethod
    def of(cls, *, session: int, floor: int, drain: int, drift: int) -> Self:
        """Shorten the spans that the server states."""
        return cls(
            session=session - session // drift,
            floor=floor - floor // drift,
            drain=drain - drain // drift,
            drift=drift,
        )


#: Before the server has said any: nothing holds for any time.
UNKNOWN_TIMES = HolderTimes(session=0, floor=0, drain=0, drift=1000)
