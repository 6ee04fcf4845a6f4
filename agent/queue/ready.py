"""
ReadyQueue: mail that may go over one egress path now.

Oldest first within a tenant; the tenants of the path take turns, so that none starves another.
The queue is bounded: what does not fit stays with its scheduled queue.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from agent.queue.entry import Entry


class ReadyQueue:
    """The entries of one path, at most *max_ready*."""

    __slots__ = ("_by_tenant", "_size", "max_ready")

    def __init__(self, max_ready: int) -> None:
        #: May be changed at any time; a smaller value drops nothing that is queued.
        self.max_ready = max_ready
        self._size = 0
        self._by_tenant: OrderedDict[str, list[tuple[int, Entry]]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in no special order."""
        return (entry for waiting in self._by_tenant.values() for _, entry in waiting)

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits in."""
        return self._size >= self.max_ready

    def put(self, entry: Entry, tenant: str = "") -> bool:
        """Queue *entry*; False if the queue is full."""
        if self.is_full:
            return False
        self.put_back(entry, tenant)
        return True

    def put_back(self, entry: Entry, tenant: str = "") -> None:
        """Queue an entry that was in the queue before, even if it is full by now."""
        heappush(self._by_tenant.setdefault(tenant, []), (entry.id, entry))
        self._size += 1

    def pop(self) -> Entry | None:
        """The oldest entry of the tenant whose turn it is, or None if the queue is empty."""
        if not self._by_tenant:
            return None
        tenant, waiting = next(iter(self._by_tenant.items()))
        _, entry = heappop(waiting)
        self._size -= 1
        if waiting:
            self._by_tenant.move_to_end(tenant)
        else:
            del self._by_tenant[tenant]
        return entry

    def remove(self, entry_id: int) -> Entry | None:
        """Take one entry out of its turn, or None if it is not here."""
        for tenant, waiting in self._by_tenant.items():
            for place, (id_, entry) in enumerate(waiting):
                if id_ == entry_id:
                    del waiting[place]
                    heapify(waiting)
                    self._size -= 1
                    if not waiting:
                        del self._by_tenant[tenant]
                    return entry
        return None

    def drain(self) -> list[Entry]:
        """Take everything out, oldest first: the path is held or gone."""
        entries = [entry for waiting in self._by_tenant.values() for _, entry in waiting]
        self._by_tenant.clear()
        self._size = 0
        return sorted(entries, key=lambda entry: entry.id)

    def holds(self, entry_id: int, tenant: str = "") -> bool:
        """Whether an entry of *tenant* is here; looks at all of the tenant's."""
        return any(id_ == entry_id for id_, _ in self._by_tenant.get(tenant, ()))

    def oldest(self) -> Entry | None:
        """The oldest entry of all tenants, left in place."""
        heads = [waiting[0] for waiting in self._by_tenant.values()]
        return min(heads)[1] if heads else None
