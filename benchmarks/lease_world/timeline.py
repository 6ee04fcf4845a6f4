"""Virtual time: steps are taken in order, and between them no time passes."""

from collections.abc import Callable
from heapq import heappop, heappush

from benchmarks.lease_world.scenario import SECOND

Step = Callable[[], None]


class Timeline:
    """What is still to happen, and what time it is: nanoseconds that no clock shows exactly."""

    def __init__(self) -> None:
        self.now = 0
        self._steps: list[tuple[int, int, Step]] = []
        self._number = 0

    def at(self, when: int, step: Step) -> None:
        """Have *step* taken at a time; those of one time in the order in which they came."""
        self._number += 1
        heappush(self._steps, (max(when, self.now), self._number, step))

    def after(self, seconds: float, step: Step) -> None:
        """Have *step* taken so many seconds from now."""
        self.at(self.now + int(seconds * SECOND), step)

    def take_next(self, end: int) -> tuple[int, Step] | None:
        """Take out what is next, with its time; None: nothing is, up to *end*."""
        if not self._steps or self._steps[0][0] > end:
            return None
        when, _, step = heappop(self._steps)
        return when, step
