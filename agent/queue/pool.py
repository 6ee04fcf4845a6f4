"""
SourcePool: which egress source the next message leaves from.

Smooth weighted round robin: each source has its turns, spread evenly over a round, as many as it
has weight, and the next message leaves from the source whose turn comes first. One that is not
usable then loses that turn. So no more sources are asked than have to be, however many there are:
two for each message while half of them are suspended. One pool serves the whole agent, so that
queues of a few messages add up to the weights as well.
"""

import math
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush, heapreplace


class SourcePool:
    """Sources by weight; a source of weight 0 is never chosen."""

    __slots__ = ("_names", "_strides", "_turns")

    def __init__(self, weights: Mapping[str, int]) -> None:
        usable = {name: weight for name, weight in weights.items() if weight > 0}
        self._names = tuple(usable)
        # So long that all turns are whole numbers: those of one source a stride apart, and where
        # they begin within it differs from source to source, so that they do not fall together.
        parts = 2 * len(usable)
        round_length = parts * math.lcm(*usable.values())
        self._strides = tuple(round_length // weight for weight in usable.values())
        #: A heap of when each source has its next turn, and which source it is.
        self._turns = [
            (stride // parts * (2 * index + 1), index) for index, stride in enumerate(self._strides)
        ]
        heapify(self._turns)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that can be chosen at all."""
        return self._names

    def choose(self, is_usable: Callable[[str], bool]) -> str | None:
        """
        The source for the next message, or None while none is usable; each is asked about once at
        most. One that is not usable loses its turns, so it does not catch up with a burst later.
        """
        if len(self._names) == 1:
            return self._names[0] if is_usable(self._names[0]) else None
        turns = self._turns
        passed_over: list[tuple[int, int]] = []
        now = -1
        try:
            while turns:
                due, index = turns[0]
                if is_usable(self._names[index]):
                    now = due
                    heapreplace(turns, (due + self._strides[index], index))
                    return self._names[index]
                passed_over.append(heappop(turns))
            return None
        finally:
            for due, index in passed_over:
                stride = self._strides[index]
                # None of them has lost anything where nothing was chosen.
                lost = (now - due) // stride + 1 if now >= due else 0
                heappush(turns, (due + lost * stride, index))
