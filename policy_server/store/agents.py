"""
The table of agents that watch, or have watched.

A row is written when it changes, and now and then to say that its agent is still there; of most
agents only the revision changes that they have applied. None of it is a revision: nothing that
answers depend on is changed.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, or_, select, update

from policy_server.known_agents import SEEN_FOR, KnownAgent
from policy_server.store.database import Database
from policy_server.store.rows import insert_or
from policy_server.store.tables import agents

#: Rows of agents that were not seen for so long go; and the least recently seen beyond so many.
KEPT_FOR = timedelta(days=30)
MOST_KEPT = 100_000

_agents = agents.c


class AgentStore:
    """The table of agents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, rows: Sequence[KnownAgent], now: datetime) -> None:
        """Write *rows* in the place of what was known of their agents."""
        await self._database.write(partial(save_agents, rows=rows, now=now))

    async def note_seen(
        self, server: str, present: Collection[str], now: datetime
    ) -> frozenset[str]:
        """Say that the agents *present* at *server* are still there; return whom it has there."""
        return await self._database.write(
            partial(note_agents_seen, server=server, present=present, now=now)
        )

    async def note_applied(
        self, server: str, applied: Mapping[int, Collection[str]], now: datetime
    ) -> frozenset[str]:
        """
        Say which revisions agents at *server* have *applied*; return those whom it has there, of
        whom alone that is written.
        """
        return await self._database.write(
            partial(note_revisions_applied, server=server, applied=applied, now=now)
        )

    async def take_over(self, server: str) -> None:
        """Say of the agents that an earlier run of *server* left behind that they are gone."""
        await self._database.write(partial(take_over_agents, server=server))

    async def forget(self, now: datetime) -> None:
        """Forget agents that were not seen for very long."""
        await self._database.write(partial(forget_agents, now=now))

    async def list(
        self, limit: int, after: str = "", *, seen_after: datetime | None = None
    ) -> tuple[KnownAgent, ...]:
        """List up to *limit* agents by name; with *seen_after* only those that watch."""
        return await self._database.read(
            partial(read_agents, limit=limit, after=after, seen_after=seen_after)
        )


def save_agents(connection: Connection, *, rows: Sequence[KnownAgent], now: datetime) -> None:
    """Write *rows* in the place of what was known of their agents."""
    statement = insert_or(connection, agents)
    new = statement.excluded
    is_arrival = new["disconnect_time"].is_(None)
    statement = statement.on_conflict_do_update(
        index_elements=[_agents.name],
        set_={column.name: new[column.name] for column in _agents if column.name != "name"},
        # Of two servers that both had it, the one that it came to last knows; the other one's
        # word that it has gone counts no more. Their clocks may differ.
        where=or_(
            _agents.server == new["server"],
            is_arrival & _agents.disconnect_time.is_not(None),
            is_arrival & (_agents.connect_time <= new["connect_time"]),
            is_arrival & (_agents.seen_time < bindparam("stale_time", now - SEEN_FOR)),
        ),
    )
    connection.execute(statement, [_to_row(row) | {"stale_time": now - SEEN_FOR} for row in rows])


def note_agents_seen(
    connection: Connection, *, server: str, present: Collection[str], now: datetime
) -> frozenset[str]:
    """Say that the agents *present* at *server* are still there; return whom it has there."""
    # One statement for all of them, whose number is large; of the others there are few.
    statement = (
        update(agents)
        .where(_agents.server == server, _agents.disconnect_time.is_(None))
        .values(seen_time=now)
        .returning(_agents.name)
    )
    names = frozenset(connection.execute(statement).scalars())
    if strays := sorted(names.difference(present)):
        stray: BindParameter[str] = bindparam("stray_name")
        leave = update(agents).where(_agents.name == stray, _agents.server == server)
        connection.execute(
            leave.values(disconnect_time=now), [{"stray_name": name} for name in strays]
        )
    return names.intersection(present)


def note_revisions_applied(
    connection: Connection, *, server: str, applied: Mapping[int, Collection[str]], now: datetime
) -> frozenset[str]:
    """Say which revisions agents at *server* have *applied*; return those whom it has there."""
    known: set[str] = set()
    for revision, names in applied.items():
        # One statement for very many: after a change most agents apply the same one.
        statement = (
            update(agents)
            .where(
                _agents.server == server,
                _agents.disconnect_time.is_(None),
                _agents.name.in_(sorted(names)),
            )
            .values(applied_revision=revision, seen_time=now)
            .returning(_agents.name)
        )
        known.update(connection.execute(statement).scalars())
    return frozenset(known)


def take_over_agents(connection: Connection, *, server: str) -> None:
    """Say of the agents that an earlier run of *server* left behind that they are gone."""
    connection.execute(
        update(agents)
        .where(_agents.server == server, _agents.disconnect_time.is_(None))
        .values(disconnect_time=_agents.seen_time)
    )


def forget_agents(connection: Connection, *, now: datetime, most: int = MOST_KEPT) -> None:
    """Forget agents that were not seen for very long, and those beyond *most*."""
    connection.execute(delete(agents).where(_agents.seen_time < now - KEPT_FOR))
    surplus = select(_agents.name).order_by(_agents.seen_time.desc(), _agents.name).offset(most)
    names = connection.execute(surplus.limit(most)).scalars().all()
    if names:
        oldest: BindParameter[str] = bindparam("gone_name")
        connection.execute(
            delete(agents).where(_agents.name == oldest), [{"gone_name": name} for name in names]
        )


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
