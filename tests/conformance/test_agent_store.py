"""The table of agents that watch, in a real database."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from penstock.v1.policy_service_pb2 import AgentInfo
from policy_server.known_agents import KnownAgent
from policy_server.metrics import ServerMetrics
from policy_server.services.agent_directory import AgentDirectory
from policy_server.store.agents import (
    AgentStore,
    note_revisions_applied,
    read_agents,
    save_agents,
)

_NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
_LATER = _NOW + timedelta(seconds=1)


@pytest.fixture
def saved(database):
    rows = {
        "a": _agent("a"),
        "b": _agent("b"),
        "elsewhere": _agent("elsewhere", server="two"),
        "gone": _agent("gone", disconnect_time=_NOW),
    }
    database.write_now(lambda connection: save_agents(connection, rows=[*rows.values()], now=_NOW))
    return rows


def _agent(name, server="one", disconnect_time=None):
    return KnownAgent(
        name=name,
        version="1",
        egress_sources=("ip-1",),
        server=server,
        connect_time=_NOW,
        seen_time=_NOW,
        disconnect_time=disconnect_time,
        applied_revision=3,
        subscribed_paths=2,
        reject_time=_NOW,
        reject_reason="no",
    )


def test_what_agents_have_applied_is_written_of_those_that_the_server_has(database, saved):
    applied = {7: ["a", "elsewhere", "gone", "unknown"], 8: ["b"]}

    known = database.write_now(
        lambda connection: note_revisions_applied(
            connection, server="one", applied=applied, now=_LATER
        )
    )

    assert known == {"a", "b"}
    kept = database.read_now(lambda connection: read_agents(connection, limit=10))
    assert {agent.name: agent for agent in kept} == saved | {
        "a": replace(saved["a"], applied_revision=7, seen_time=_LATER),
        "b": replace(saved["b"], applied_revision=8, seen_time=_LATER),
    }


@dataclass
class _Stream:
    agent: str
    heard: int = 0
    rejected_at: datetime | None = None
    reject_reason: str = ""
    applied_revision: int = 1
    subscribed: int = 0
    unacknowledged: int = 0


async def test_an_agent_that_the_database_refuses_keeps_no_other_from_being_written(database):
    newest = 1
    directory = AgentDirectory(
        AgentStore(database),
        server="one",
        metrics=ServerMetrics(),
        revision=lambda: newest,
        clock=lambda: _NOW,
    )
    # PostgreSQL keeps no NUL; SQLite does, and has all three.
    streams = [_Stream("a"), _Stream("b\0"), _Stream("c", reject_reason="\0 is no good")]
    for stream in streams:
        directory.connect(stream, AgentInfo())

    for newest in (1, 2, 3):
        for stream in streams:
            stream.heard, stream.applied_revision = newest, newest
        await directory.write()

    kept = {agent.name: agent for agent in await AgentStore(database).list(10)}
    assert kept.keys() - {"b\0"} == {"a", "c"}
    assert {kept[name].applied_revision for name in ("a", "c")} == {3}
    assert kept["c"].reject_reason == "\N{REPLACEMENT CHARACTER} is no good"
