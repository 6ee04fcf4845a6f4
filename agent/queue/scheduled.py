"""
ScheduledQueues: all mail that waits for its time, by queue.

One heap by due time serves every queue, so that asking "what is due?" costs nothing for queues
that are quiet. A held queue keeps its mail: entries that come due while it is held are set aside
and come out at once when it is released. Attempts are not touched.

Entries leave the heap lazily: what was removed, or got another due time, stays in it as a dead
pair until it comes up or until dead pairs are the larger half.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from agent.queue.entry import Entry

#: A heap of up to this many pairs is left as it is, dead ones and all.
_SMALL_HEAP = 1024

#: Due time and id of an entry: of those due at one time the oldest comes first.
_Item = tuple[float, int]


class ScheduledQueues:
    """Waiting entries of every scheduled queue of the agent."""

    __slots__ = ("_aside", "_by_id", "_counts", "_heap", "_held")

    def __init__(self) -> None:
        self._heap: list[_Item] = []
        self._by_id: dict[int, Entry] = {}
        self._counts: Counter[str] = Counter()
        self._held: set[str] = set()
        #: Held entries whose time has come, by queue.
        self._aside: dict[str, list[_Item]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, entry: Entry) -> None:
        """Let *entry* wait for `entry.due`; an entry that waits already gets its new due time."""
        if entry.id not in self._by_id:
            self._counts[entry.queue_name] += 1
        self._by_id[entry.id] = entry
        heappush(self._heap, (entry.due, entry.id))
        self._tidy()

    def remove(self, entry: Entry) -> bool:
        """Forget *entry*; False if it was not waiting."""
        if self._by_id.pop(entry.id, None) is None:
            return False
        self._counts[entry.queue_name] -= 1
        if not self._counts[entry.queue_name]:
            del self._counts[entry.queue_name]
        self._tidy()
        return True

    def pop_due(self, now: float, limit: int) -> list[Entry]:
        """Take out at most *limit* entries whose time has come, longest overdue first."""
        due: list[Entry] = []
        while self._heap and self._heap[0][0] <= now and len(due) < limit:
            item = heappop(self._heap)
            entry = self._live(item)
            if entry is None:
                continue
            if entry.queue_name in self._held:
                self._set_aside(item, entry.queue_name)
                continue
            self.remove(entry)
            due.append(entry)
        return due

    def next_due(self) -> float | None:
        """When the next entry that is not held comes due, in seconds since the epoch."""
        while self._heap:
            item = self._heap[0]
            entry = self._live(item)
            if entry is not None and entry.queue_name not in self._held:
                return item[0]
            heappop(self._heap)
            if entry is not None:
                self._set_aside(item, entry.queue_name)
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

    def ids(self) -> list[int]:
        """The ids of all entries, to be looked at a few at a time."""
        return list(self._by_id)

    def take(self, ids: Iterable[int], is_wanted: Callable[[str], bool]) -> list[Entry]:
        """Take out those of these entries whose queue *is_wanted*; the others wait on."""
        taken = []
        for entry_id in ids:
            entry = self._by_id.get(entry_id)
            if entry is not None and is_wanted(entry.queue_name):
                self.remove(entry)
                taken.append(entry)
        return taken

    def counts(self) -> dict[str, int]:
        """How many entries wait in each queue."""
        return dict(self._counts)

    def entries_of(self, queue_name: str) -> list[Entry]:
        """The entries that wait in one queue, in no special order; looks at every entry."""
        return [entry for entry in self._by_id.values() if entry.queue_name == queue_name]

    def _live(self, item: _Item) -> Entry | None:
        due, entry_id = item
        entry = self._by_id.get(entry_id)
        return entry if entry is not None and entry.due == due else None

    def _set_aside(self, item: _Item, queue_name: str) -> None:
        aside = self._aside.setdefault(queue_name, [])
        aside.append(item)
        if len(aside) > max(_SMALL_HEAP, 2 * self._counts[queue_name]):
            aside[:] = [item for item in dict.fromkeys(aside) if self._live(item)]

    def _tidy(self) -> None:
        if len(self._heap) > max(_SMALL_HEAP, 2 * len(self._by_id)):
            self._heap = [item for item in dict.fromkeys(self._heap) if self._live(item)]
            heapify(self._heap)
