"""
Lanes: due mail on its way from the scheduled queues to the ready queues.

A lane holds the due entries of one scheduled queue, oldest first, and lets them go into ready
queues as far as there is room. What keeps it waiting (a full ready queue, a suspension, a policy
that is not known yet) uses up no attempt, holds the lane as a whole, and ends for all its mail at
the same moment; only age can end an entry here.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from agent.policy.answer import MxHost
from agent.queue.entry import Entry
from agent.queue.names import QueueName


@dataclass(slots=True, eq=False)
class Lane:
    """The due entries of one scheduled queue."""

    queue_name: str
    queue: QueueName
    heap: list[tuple[float, int, Entry]] = field(default_factory=list)
    #: Being looked up, or to be looked at: not to be woken again.
    is_busy: bool = False
    #: When a waiting lane is looked at again, seconds since the epoch; 0: it does not wait.
    wake_at: float = 0.0
    #: The path that was considered last; its room is what the lane waits for.
    path_name: str = ""
    #: A source that was chosen while its policy was not known yet.
    chosen: str = ""
    #: Sources without a known policy, until when they are not asked about again.
    unknown: dict[str, float] = field(default_factory=dict)
    #: Paths whose selection rate the lane waits for.
    paced_by: set[str] = field(default_factory=set)
    #: Ids up to this one have a Delayed record for the present wait.
    logged_up_to: int = 0

    def __len__(self) -> int:
        return len(self.heap)

    def add(self, entry: Entry) -> None:
        """Add a due entry."""
        heappush(self.heap, (entry.created, entry.id, entry))

    def oldest(self) -> Entry | None:
        """The oldest entry, left in place."""
        return self.heap[0][2] if self.heap else None

    def pop(self) -> Entry:
        """Take the oldest entry."""
        return heappop(self.heap)[2]

    def drain(self) -> list[Entry]:
        """Take all entries, oldest first."""
        entries = [item[2] for item in sorted(self.heap, key=lambda item: item[:2])]
        self.heap.clear()
        return entries


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a lane needs to be looked up before it can go on."""

    #: None: the MX hosts themselves.
    source: str | None = None
    mx_hosts: tuple[MxHost, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be sent before this time, in seconds since the epoch, or before room is made."""

    until: float
