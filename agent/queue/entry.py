"""
Entry: what the queues hold for one message to one scheduled queue. Small, because there may be a
million; the body and the recipients stay in the spool until a delivery needs them.
"""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Entry:
    """One message on its way to the recipients of one domain."""

    #: Row in the spool; grows with the order of arrival.
    id: int
    #: Id of the message, as in the logs; entries of one message share it.
    message_id: str
    #: Name of the scheduled queue, `campaign:tenant@domain!routing_domain`.
    queue_name: str
    #: Seconds since the epoch.
    created: float
    #: When the next attempt is due, seconds since the epoch.
    due: float
    #: Attempts made so far.
    attempts: int = 0
