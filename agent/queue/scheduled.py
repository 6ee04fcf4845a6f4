"""
ScheduledQueues: all mail that waits for its time, by queue.

Time is cut into spans of a second. Mail of a span that has not begun lies in a list, in no order,
so that an entry that waits costs one reference. When its span begins, the list goes into one heap
by due time, which serves every queue: asking "what is due?" costs nothing for queues that are
quiet. A held queue keeps its mail: entries that come due while it is held are set aside and come
out at once when it is released. Attempts are not touched.

References leave lazily: one to an entry that was removed, or got another due time, is dead, and
stays until its time comes or until there are more dead ones than entries.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import chain

from agent.queue.entry import Entry

#: So many dead references are left where they are.
_SMALL = 1024
#: Length of a span, in seconds.
_SPAN = 1.0
#: Later times than this are taken for this one; seconds since the epoch.
_LAST_TIME = 1e15

#: Due time and id of an entry: of those due at one time the oldest comes first.
_Item = tuple[float, int, Entry]


class ScheduledQueues:
    """
    Waiting entries of every scheduled queue of the agent. An entry is known by the object; while
    it waits its queue name must not change.
    """

    __slots__ = (
        "_aside",
        "_counts",
        "_dead",
        "_held",
        "_later",
        "_near",
        "_opened",
        "_size",
        "_spans",
    )

    def __init__(self) -> None:
        self._size = 0
        #: Entries of spans that have begun.
        self._near: list[_Item] = []
        #: Entries of the other spans, and the numbers of those spans, as a heap.
        self._later: dict[int, list[Entry]] = {}
        self._spans: list[int] = []
        #: The latest span that has begun.
        self._opened = -1
        self._counts: Counter[str] = Counter()
        self._held: set[str] = set()
        #: Held entries whose time has come, by queue.
        self._aside: dict[str, list[Entry]] = {}
        #: References to entries that are gone or due at another time.
        self._dead = 0

    def __len__(self) -> int:
        return self._size

    def add(self, entry: Entry) -> None:
        """Let *entry* wait for `entry.due`; an entry that waits already gets its new due time."""
        if entry.is_waiting:
            self._dead += 1
        else:
            entry.is_waiting = True
            self._size += 1
            self._counts[entry.queue_name] += 1
        self._place(entry)
        self._tidy()

    def remove(self, entry: Entry) -> bool:
        """Forget *entry*; False if it was not waiting."""
        if not entry.is_waiting:
            return False
        self._forget(entry)
        self._dead += 1
        self._tidy()
        return True

    def pop_due(self, now: float, limit: int) -> list[Entry]:
        """Take out at most *limit* entries whose time has come, longest overdue first."""
        self._begin_spans(now)
        due: list[Entry] = []
        while self._near and self._near[0][0] <= now and len(due) < limit:
            item = heappop(self._near)
            if not _is_live(item):
                self._dead -= 1
            elif (entry := item[2]).queue_name in self._held:
                self._set_aside(entry)
            else:
                self._forget(entry)
                due.append(entry)
        return due

    def next_due(self) -> float | None:
        """
        When to look for due entries again, in seconds since the epoch: when the next one that is
        not held comes due, or less than a second before that.
        """
        while self._near:
            item = self._near[0]
            is_live = _is_live(item)
            if is_live and item[2].queue_name not in self._held:
                return item[0]
            heappop(self._near)
            if is_live:
                self._set_aside(item[2])
            else:
                self._dead -= 1
        return self._spans[0] * _SPAN if self._spans else None

    def hold(self, queue_name: str) -> None:
        """Let nothing of this queue come due until it is released."""
        self._held.add(queue_name)

    def release(self, queue_name: str) -> None:
        """End a hold: what came due meanwhile is due at once."""
        self._held.discard(queue_name)
        for entry in self._aside.pop(queue_name, ()):
            self._place(entry)

    def is_held(self, queue_name: str) -> bool:
        """Whether the queue is held."""
        return queue_name in self._held

    def snapshot(self) -> list[Entry]:
        """All entries, to be looked at a few at a time meanwhile; one may be named twice."""
        return [entry for entry in self._references() if entry.is_waiting]

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take out those of *entries* that still wait."""
        return [entry for entry in entries if self.remove(entry)]

    def counts(self) -> dict[str, int]:
        """How many entries wait in each queue."""
        return dict(self._counts)

    def count_of(self, queue_name: str) -> int:
        """How many entries wait in one queue."""
        return self._counts.get(queue_name, 0)

    def entries_of(self, queue_name: str) -> list[Entry]:
        """The entries that wait in one queue, in no special order; looks at every entry."""
        found = (entry for entry in self._references() if entry.queue_name == queue_name)
        return list({entry.id: entry for entry in found if entry.is_waiting}.values())

    def _references(self) -> Iterator[Entry]:
        near = (item[2] for item in self._near)
        return chain(near, *self._later.values(), *self._aside.values())

    def _forget(self, entry: Entry) -> None:
        entry.is_waiting = False
        self._size -= 1
        if self._counts[entry.queue_name] == 1:
            del self._counts[entry.queue_name]
        else:
            self._counts[entry.queue_name] -= 1

    def _place(self, entry: Entry) -> None:
        span = _span_of(entry)
        if span <= self._opened:
            heappush(self._near, (entry.due, entry.id, entry))
        elif (entries := self._later.get(span)) is not None:
            entries.append(entry)
        else:
            self._later[span] = [entry]
            heappush(self._spans, span)

    def _begin_spans(self, now: float) -> None:
        while self._spans and self._spans[0] * _SPAN <= now:
            span = heappop(self._spans)
            self._opened = max(self._opened, span)
            entries = self._later.pop(span)
            items = [(one.due, one.id, one) for one in entries if _belongs(one, span)]
            self._dead -= len(entries) - len(items)
            if len(items) * 8 < len(self._near):
                for item in items:
                    heappush(self._near, item)
            else:
                self._near += items
                heapify(self._near)

    def _set_aside(self, entry: Entry) -> None:
        aside = self._aside.setdefault(entry.queue_name, [])
        aside.append(entry)
        if len(aside) > max(_SMALL, 2 * self._counts[entry.queue_name]):
            self._dead -= len(aside)
            aside[:] = {entry.id: entry for entry in aside if entry.is_waiting}.values()
            self._dead += len(aside)

    def _tidy(self) -> None:
        if self._dead <= max(_SMALL, self._size):
            return
        self._near = list({item[:2]: item for item in self._near if _is_live(item)}.values())
        heapify(self._near)
        for span in self._spans:
            found = (one for one in self._later[span] if _belongs(one, span))
            self._later[span] = list({entry.id: entry for entry in found}.values())
        for queue_name, aside in self._aside.items():
            found = (one for one in aside if one.is_waiting)
            self._aside[queue_name] = list({entry.id: entry for entry in found}.values())
        self._dead = 0


def _span_of(entry: Entry) -> int:
    return int(min(entry.due, _LAST_TIME) // _SPAN)


def _belongs(entry: Entry, span: int) -> bool:
    return entry.is_waiting and _span_of(entry) == span


def _is_live(item: _Item) -> bool:
    return item[2].is_waiting and item[2].due == item[0]
