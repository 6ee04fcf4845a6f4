"""
The agents that watch, or have watched: who, at which server, and how far each has followed.

A row is written when it changes, and now and then to say that its agent is still there. None of
it is a revision: nothing that answers depend on is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, select

from policy_server.store.database import Database
from policy_server.store.rows import insert_or
from policy_server.store.tables import agents

#: An agent that no server has seen for so long does not watch any more, whatever its row says.
SEEN_FOR = timedelta(seconds=30)
#: Rows of agents that were not seen for so long go.
KEPT_FOR = timedelta(days=30)

_agents = agents.c


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


class AgentStore:
    """The table of agents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, rows: Sequence[KnownAgent], now: datetime) -> None:
        """Write *rows* in the place of what was known of their agents."""
        await self._database.write(partial(save_agents, rows=rows, now=now))

    async def list(
        self, limit: int, after: str = "", *, seen_after: datetime | None = None
    ) -> tuple[KnownAgent, ...]:
        """List up to *limit* agents by name; with *seen_after* only those that watch."""
        return await self._database.read(
            partial(read_agents, limit=limit, after=after, seen_after=seen_after)
        )


def save_agents(connection: Connection, *, rows: Sequence[KnownAgent], now: datetime) -> None:
    """Write *rows*, and forget agents that were not seen for very long."""
    statement = insert_or(connection, agents)
    changes = {
        column.name: statement.excluded[column.name] for column in _agents if column.name != "name"
    }
    statement = statement.on_conflict_do_update(
        index_elements=[_agents.name],
        set_=changes,
        # Of two servers that both had it, the one that it connected to last knows.
        where=_agents.connect_time <= statement.excluded["connect_time"],
    )
    connection.execute(statement, [_to_row(row) for row in rows])
    connection.execute(delete(agents).where(_agents.seen_time < now - KEPT_FOR))


def read_agents(
    connection: Connection, *, limit: int, after: str = "", seen_after: datetime | None = None
) -> tuple[KnownAgent, ...]:
    """Read up to *limit* agents by name."""
    statement = select(agents).where(_agents.name > after).order_by(_agents.name).limit(limit)
    if seen_after is not None:
        statement = statement.where(
            _agents.disconnect_time.is_(None), _agents.seen_time >= seen_after
        )
    return tuple(map(_to_agent, connection.execute(statement)))


def _to_row(agent: KnownAgent) -> dict[str, Any]:
    row = {column.name: getattr(agent, column.name) for column in _agents}
    row["egress_sources"] = list(agent.egress_sources)
    return row


def _to_agent(row: Any) -> KnownAgent:
    values = {column.name: getattr(row, column.name) for column in _agents}
    values["egress_sources"] = tuple(row.egress_sources)
    return KnownAgent(**values)
