"""
What is known of an agent: who it is, where it watches, and how far it has followed the policy.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

#: An agent that no server has seen for so long does not watch any more, whatever its row says.
SEEN_FOR = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAgent:
    """One agent."""

    name: str
    version: str
    egress_sources: tuple[str, ...]
    #: The process that it watches or last watched.
    server: str
    connect_time: datetime
    seen_time: datetime
    #: None while it watches.
    disconnect_time: datetime | None
    #: Every change up to it that concerns the agent has been applied.
    applied_revision: int
    subscribed_paths: int
    #: When it last refused part of a response, and what it said.
    reject_time: datetime | None = None
    reject_reason: str = ""

    def is_connected(self, now: datetime) -> bool:
        """Whether it watches at *now*: a server that died does not say that it has gone."""
        return self.disconnect_time is None and now - self.seen_time <= SEEN_FOR
