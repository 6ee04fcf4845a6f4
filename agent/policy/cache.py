"""
Cache: the answers that the agent holds in memory.

No input or output and no clock: time is an argument. It is bounded.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from agent.policy.answer import PathPolicy
from agent.policy.effective import PathKey, StoredAnswer, effective_policy, next_override_end

#: A heap of up to this many ends is left as it is, those of gone answers and all.
_SMALL_HEAP = 1024

_Index = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class CachedAnswer:
    """A stored answer with the policy worked out from it."""

    answer: StoredAnswer
    policy: PathPolicy
    #: Until when *policy* is right, seconds since the epoch; an override ends then.
    policy_until: float
    #: From when on the answer is to be asked for again, seconds since the epoch.
    refresh_at: float
    #: Since when the watch looks after it: only a confirmation after that is one of this answer.
    held_since: float
    #: When it was last given or confirmed, in seconds of a clock that nobody sets; minus infinity:
    #: in an earlier run.
    taken_at: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Say whether the answer has aged so far that it is to be asked for again."""
        return now >= self.refresh_at


class AnswerCache:
    """The newest answers, least recently used out first."""

    def __init__(self, capacity: int) -> None:
        """Hold at most *capacity* answers."""
        self._capacity = capacity
        self._entries: OrderedDict[_Index, CachedAnswer] = OrderedDict()
        #: When overrides end, those of gone or changed answers among them.
        self._ends: list[tuple[float, _Index]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, routing_domain: str, egress_source: str, now: float) -> CachedAnswer | None:
        """Return the entry with its policy as of *now*, and count it as used."""
        entry = self._entries.get((routing_domain, egress_source))
        if entry is None:
            return None
        self._entries.move_to_end((routing_domain, egress_source))
        if now >= entry.policy_until:
            self._work_out(entry, now)
        return entry

    def peek(self, key: PathKey) -> CachedAnswer | None:
        """Return the entry as it is, without counting it as used."""
        return self._entries.get((key.routing_domain, key.egress_source))

    def put(
        self,
        answer: StoredAnswer,
        *,
        now: float,
        refresh_at: float,
        held_since: float | None = None,
        taken_at: float = -math.inf,
    ) -> list[CachedAnswer]:
        """Store *answer*; return the entries that had to make room for it."""
        index = (answer.key.routing_domain, answer.key.egress_source)
        self._entries[index] = CachedAnswer(
            answer=answer,
            policy=effective_policy(answer, now),
            policy_until=next_override_end(answer, now),
            refresh_at=refresh_at,
            held_since=now if held_since is None else held_since,
            taken_at=taken_at,
        )
        self._entries.move_to_end(index)
        self._note_end(index)
        evicted = []
        while len(self._entries) > self._capacity:
            evicted.append(self._entries.popitem(last=False)[1])
        return evicted

    def hottest_first(self) -> Iterator[CachedAnswer]:
        """All entries, the most recently used first."""
        return reversed(self._entries.values())

    def next_override_end(self, now: float) -> float:
        """Return when the next override in any answer ends; else infinity."""
        while self._ends:
            end, index = self._ends[0]
            entry = self._entries.get(index)
            if entry is None or entry.policy_until != end:
                heappop(self._ends)
            elif end <= now:
                heappop(self._ends)
                self._work_out(entry, now)
            else:
                return end
        return math.inf

    def _work_out(self, entry: CachedAnswer, now: float) -> None:
        entry.policy = effective_policy(entry.answer, now)
        entry.policy_until = next_override_end(entry.answer, now)
        self._note_end((entry.answer.key.routing_domain, entry.answer.key.egress_source))

    def _note_end(self, index: _Index) -> None:
        end = self._entries[index].policy_until
        if end == math.inf:
            return
        heappush(self._ends, (end, index))
        if len(self._ends) > max(_SMALL_HEAP, 2 * len(self._entries)):
            self._ends = [
                (entry.policy_until, each)
                for each, entry in self._entries.items()
                if entry.policy_until < math.inf
            ]
            heapify(self._ends)
