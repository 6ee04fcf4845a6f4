"""
WordOrder: which word on an action is newer than which.

Each word of the server on an action bears a revision. Within one history of the server's database
a word that is older than what was heard of the action since, or that repeats what was taken
back meanwhile, is late: it must bring nothing back. No input or output and no clock.
"""

import math
from collections import OrderedDict
from dataclasses import replace

from agent.policy.answer import Bounce, Suspension

#: Actions that were taken back and still remembered; the ones that went first are forgotten first.
MOST_GONE = 10_000
#: Two ends of one action no further apart are told from one: each is reckoned on arrival.
_SAME_END_SECONDS = 1.0


class WordOrder:
    """The revisions of the newest words on actions that are held, or were taken back."""

    def __init__(self, most_gone: int = MOST_GONE) -> None:
        """Remember at most *most_gone* actions that were taken back."""
        self._most_gone = most_gone
        self._held: dict[int, int] = {}
        self._gone: OrderedDict[int, int] = OrderedDict()

    def note(self, action_id: int, revision: int) -> None:
        """An action was taken in as of *revision*; 0: the server does not tell."""
        self._gone.pop(action_id, None)
        if revision:
            self._held[action_id] = revision

    def note_ended(self, action_id: int) -> None:
        """An action is over by its own end, which any later word on it has as well."""
        self._held.pop(action_id, None)

    def note_lifted(self, action_id: int, revision: int = 0) -> None:
        """An action was taken back as of *revision*; 0: the server does not tell."""
        newest = max(revision, self._held.pop(action_id, 0), self._gone.get(action_id, 0))
        if not newest:
            return
        self._gone[action_id] = newest
        self._gone.move_to_end(action_id)
        while len(self._gone) > self._most_gone:
            self._gone.popitem(last=False)

    def forget(self) -> None:
        """The server's history may be another: nothing that was heard before can be compared."""
        self._held.clear()
        self._gone.clear()

    def is_late(
        self, action: Suspension | Bounce, revision: int, held: Suspension | Bounce | None
    ) -> bool:
        """Whether *action*, as of *revision*, is older than what was heard since; *held*: of it."""
        if not revision:
            return False
        if held is None:
            return revision <= self._gone.get(action.action_id, 0)
        # A server may tell again what has not changed in words that it had written before.
        return revision < self._held.get(action.action_id, 0) and not _is_same(action, held)

    def is_late_removal(self, action_id: int, revision: int) -> bool:
        """Whether that an action is gone as of *revision* is older than a word that it is there."""
        return 0 < revision < self._held.get(action_id, 0)

    def __len__(self) -> int:
        return len(self._held) + len(self._gone)


def _is_same(one: Suspension | Bounce, other: Suspension | Bounce) -> bool:
    if replace(one, expire_time=0.0) != replace(other, expire_time=0.0):
        return False
    ends = one.expire_time, other.expire_time
    return ends[0] == ends[1] or math.dist(ends[:1], ends[1:]) < _SAME_END_SECONDS
