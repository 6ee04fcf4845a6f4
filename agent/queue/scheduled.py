"""
ScheduledQueues: all mail that waits for its time, by queue.

One heap by due time serves every queue, so that asking "what is due?" costs nothing for queues
that are quiet. A held queue keeps its mail: entries that come due while it is held are set aside
and come out at once when it is released. Attempts are not touched.

Entries leave the heap lazily: what was removed, or got another due time, stays in it as a dead
pair until it comes up or until dead pairs are the larger half.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from agent.queue.entry import Entry

#: A heap of up to this many pairs is left as it is, dead ones and all.
_SMALL_HEAP = 1024

#: Due time, order of adding (so that entries are never compared), entry.
_Item = tuple[float, int, Entry]


class ScheduledQueues:
    """Waiting entries of every scheduled queue of the agent."""

    __slots__ = ("_aside", "_heap", "_held", "_queues", "_serial", "_size")

    def __init__(self) -> None:
        self._heap: list[_Item] = []
        self._queues: dict[str, dict[int, Entry]] = {}
        self._held: set[str] = set()
        #: Held entries whose time has come, by queue.
        self._aside: dict[str, list[_Item]] = {}
        self._size = 0
        self._serial = count()

    def __len__(self) -> int:
        return self._size

    def add(self, entry: Entry) -> None:
        """Let *entry* wait for `entry.due`; an entry that waits already gets its new due time."""
        queue = self._queues.setdefault(entry.queue_name, {})
        if entry.id not in queue:
            self._size += 1
        queue[entry.id] = entry
        heappush(self._heap, (entry.due, next(self._serial), entry))
        self._tidy()

    def remove(self, entry: Entry) -> bool:
        """Forget *entry*; False if it was not waiting."""
        queue = self._queues.get(entry.queue_name, {})
        if queue.pop(entry.id, None) is None:
            return False
        self._size -= 1
        if not queue:
            del self._queues[entry.queue_name]
        self._tidy()
        return True

    def pop_due(self, now: float, limit: int) -> list[Entry]:
        """Take out at most *limit* entries whose time has come, longest overdue first."""
        due: list[Entry] = []
        while self._heap and self._heap[0][0] <= now and len(due) < limit:
            item = heappop(self._heap)
            entry = item[2]
            if not self._is_live(item):
                continue
            if entry.queue_name in self._held:
                self._set_aside(item)
                continue
            self.remove(entry)
            due.append(entry)
        return due

    def next_due(self) -> float | None:
        """When the next entry that is not held comes due, in seconds since the epoch."""
        while self._heap:
            item = self._heap[0]
            is_live = self._is_live(item)
            if is_live and item[2].queue_name not in self._held:
                return item[0]
            heappop(self._heap)
            if is_live:
                self._set_aside(item)
        return None

    def hold(self, queue_name: str) -> None:
        """Let nothing of this queue come due until it is released."""
        self._held.add(queue_name)

    def release(self, queue_name: str) -> None:
        """End a hold: what came due meanwhile is due at once."""
        self._held.discard(queue_name)
        for item in self._aside.pop(queue_name, ()):
            heappush(self._heap, item)

    def is_held(self, queue_name: str) -> bool:
        """Whether the queue is held."""
        return queue_name in self._held

    def counts(self) -> dict[str, int]:
        """How many entries wait in each queue."""
        return {name: len(entries) for name, entries in self._queues.items()}

    def entries_of(self, queue_name: str) -> Iterator[Entry]:
        """The entries that wait in one queue, in no special order."""
        yield from self._queues.get(queue_name, {}).values()

    def _is_live(self, item: _Item) -> bool:
        due, _, entry = item
        queue = self._queues.get(entry.queue_name)
        return queue is not None and queue.get(entry.id) is entry and entry.due == due

    def _set_aside(self, item: _Item) -> None:
        name = item[2].queue_name
        aside = self._aside.setdefault(name, [])
        aside.append(item)
        if len(aside) > max(_SMALL_HEAP, 2 * len(self._queues[name])):
            aside[:] = [item for item in aside if self._is_live(item)]

    def _tidy(self) -> None:
        if len(self._heap) > max(_SMALL_HEAP, 2 * self._size):
            self._heap = [item for item in self._heap if self._is_live(item)]
            heapify(self._heap)
