"""
Entry: what the queues hold for one message to one scheduled queue. Small, because there may be a
million; ids, the body and the recipients stay in the spool until a delivery needs them.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Entry:
    """One message on its way to the recipients of one domain."""

    #: Row in the spool; grows with the order of arrival.
    id: int
    #: Name of the scheduled queue, `campaign:tenant@domain!routing_domain`; entries of one queue
    #: share one text (`sys.intern`).
    queue_name: str
    #: Seconds since the epoch.
    created: float
    #: When the next attempt is due, seconds since the epoch.
    due: float
    #: Attempts made so far.
    attempts: int = 0
    #: Whether it waits in the scheduled queues; theirs to set.
    is_waiting: bool = field(default=False, compare=False, repr=False)

    def __lt__(self, other: "Entry") -> bool:
        """Whether this one is older."""
        return (self.created, self.id) < (other.created, other.id)
