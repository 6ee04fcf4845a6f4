"""Held lanes: those whose mail a suspension holds, and how much mail that is."""

from collections import Counter
from collections.abc import Callable
from heapq import nlargest

from agent.dispatch.holds import HoldKind, MailHold
from agent.dispatch.lanes import HeldQueue, Lane


class HeldLanes:
    """Lanes that are held; `Lane.held_by` is theirs to set."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, None] = {}
        #: Their entries.
        self._counts: Counter[HoldKind] = Counter(dict.fromkeys(HoldKind, 0))

    def hold(self, lane: Lane, held: MailHold) -> None:
        """*held* holds the lane from now on, and nothing else does."""
        self.release(lane)
        lane.held_by = held
        self._counts[held.kind] += len(lane)
        self._lanes[lane] = None

    def release(self, lane: Lane) -> None:
        """Nothing holds the lane; to be said before entries are taken out of it."""
        if lane.held_by is not None:
            self._counts[lane.held_by.kind] -= len(lane)
            del self._lanes[lane]
            lane.held_by = None

    def count_added(self, lane: Lane) -> None:
        """An entry was added to the lane, which may be held."""
        if lane.held_by is not None:
            self._counts[lane.held_by.kind] += 1

    def counts(self) -> dict[HoldKind, int]:
        """Due entries that are held, by how much of the mail their suspensions hold."""
        return dict(self._counts)

    def largest(self, most: int, count_scheduled: Callable[[str], int]) -> list[HeldQueue]:
        """
        The queues that are held, those with the most due mail first, *most* at most;
        *count_scheduled* tells how much mail of a queue is not due.
        """
        return [
            HeldQueue(
                queue_name=lane.queue_name,
                due=len(lane),
                scheduled=count_scheduled(lane.queue_name),
                action_id=held.action_id,
                order_id=held.order_id,
                kind=held.kind,
                reason=held.reason,
                until=held.until,
            )
            for lane in nlargest(most, self._lanes, key=len)
            if (held := lane.held_by) is not None
        ]
