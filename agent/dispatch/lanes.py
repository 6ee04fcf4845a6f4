"""
Lanes: due mail on its way from the scheduled queues to the ready queues.

A lane holds the due entries of one scheduled queue, oldest first, and lets them go into ready
queues as far as there is room. What keeps it waiting (a full ready queue, a suspension, a policy
that is not known yet) uses up no attempt, holds the lane as a whole, and ends for all its mail at
the same moment; only age can end an entry here.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

from agent.delivery.record import Response
from agent.dispatch.holds import HoldKind, MailHold
from agent.dispatch.settling import Way
from agent.policy.answer import MxHost
from agent.queue.entry import Entry
from agent.queue.names import QueueName, parse_queue_name


@dataclass(slots=True, eq=False)
class Lane:
    """The due entries of one scheduled queue. Small, for there may be a lane to each entry."""

    queue_name: str
    #: Never empty but for a moment: an empty lane is forgotten.
    heap: list[Entry]
    #: Being looked up, or to be looked at: not to be woken again.
    is_busy: bool = False
    #: When a waiting lane is looked at again, seconds since the epoch; 0: it does not wait.
    wake_at: float = 0.0
    #: The path that was considered last; its room is what the lane waits for.
    path_name: str = ""
    #: A source that was chosen while its policy was not known yet.
    chosen: str = ""
    #: Sources without a known policy, until when they are not asked about again.
    unknown: dict[str, float] | None = None
    #: Paths whose selection rate the lane waits for.
    paced_by: tuple[str, ...] = ()
    #: What holds it, whichever sources it could go by; None: nothing does.
    held_by: MailHold | None = None
    #: Ids up to this one have a Delayed record for the present wait.
    logged_up_to: int = 0

    def __len__(self) -> int:
        return len(self.heap)

    def __lt__(self, other: "Lane") -> bool:
        """Lanes that wake at the same time do so in any order."""
        return False

    @property
    def queue(self) -> QueueName:
        """The parts of the queue's name."""
        return parse_queue_name(self.queue_name)

    def unknown_until(self, source: str) -> float:
        """Until when *source* is not asked about again; 0: it may be."""
        return self.unknown.get(source, 0.0) if self.unknown else 0.0

    def set_unknown(self, source: str, until: float) -> None:
        """Do not ask about *source* again before *until*; 0: ask at once."""
        unknown = self.unknown or {}
        unknown.pop(source, None)
        if until:
            unknown[source] = until
        self.unknown = unknown or None

    def add(self, entry: Entry) -> None:
        """Add a due entry."""
        heappush(self.heap, entry)

    def oldest(self) -> Entry | None:
        """The oldest entry, left in place."""
        return self.heap[0] if self.heap else None

    def pop(self) -> Entry:
        """Take the oldest entry."""
        return heappop(self.heap)

    def drain(self) -> list[Entry]:
        """Take all entries, in no special order: sorting many would hold up everything else."""
        entries = self.heap.copy()
        self.heap.clear()
        return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Entries that end, or are put off, without a peer."""

    entries: list[Entry]
    way: Way
    #: None: they have grown too old.
    response: Response | None
    #: Whether it is recorded.
    is_recorded: bool = True


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
    #: What holds it on all ways; None: something else keeps it from one.
    held_by: MailHold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldQueue:
    """A scheduled queue whose due mail a suspension holds, at one moment."""

    queue_name: str
    #: Due messages, which would go if they might.
    due: int
    #: Messages that wait for their next attempt besides.
    scheduled: int
    #: Of the policy server; 0: an operator's order holds it.
    action_id: int
    #: Of an operator; 0: an action holds it.
    order_id: int
    kind: HoldKind
    reason: str
    #: Seconds since the epoch; infinity: pinned.
    until: float
