"""The table of agents that watch, in a real database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy_server.known_agents import KnownAgent
from policy_server.store.agents import note_revisions_applied, read_agents, save_agents

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
