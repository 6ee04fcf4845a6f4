"""
Alarms: what is to be looked at again, and when.
"""

from heapq import heapify, heappop, heappush


class Alarms:
    """A time for each key; the soonest is at hand."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        #: May hold what was removed or set anew; `_times` counts.
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._times)

    def set(self, key: str, when: int) -> None:
        """Set the time of *key*, in the place of the one it had."""
        if self._times.get(key) == when:
            return
        self._times[key] = when
        heappush(self._heap, (when, key))
        if len(self._heap) > 2 * len(self._times) + 100:
            self._heap = [(at, name) for name, at in self._times.items()]
            heapify(self._heap)

    def remove(self, key: str) -> None:
        """Take a key out, if it is there."""
        self._times.pop(key, None)

    def has(self, key: str) -> bool:
        """Whether *key* has a time."""
        return key in self._times

    def take(self, now: int) -> list[str]:
        """Take out the keys whose time has come."""
        due = []
        while (soonest := self.soonest) is not None and soonest <= now:
            _, key = heappop(self._heap)
            del self._times[key]
            due.append(key)
        return due

    @property
    def soonest(self) -> int | None:
        """The soonest time; None: there is none."""
        while self._heap:
            when, key = self._heap[0]
            if self._times.get(key) == when:
                return when
            heappop(self._heap)
        return None
