"""Peers that take leave: 421 in all its forms, with the connection closed behind it or not."""

from pathlib import Path
from typing import Any

import pytest

from agent.delivery.record import RecordType
from tests.integration.dispatch_world import World, make_config, world

COMMANDS = {"mail": "MAIL FROM", "rcpt": "RCPT TO", "data": "DATA", "data_end": "."}


def _says(at: str, reply: str, *, close: bool) -> dict[str, Any]:
    return {"misbehave": [{"at": at, "action": "reply", "reply": reply, "close": close}]}


async def _attempts(here: World) -> list[int]:
    return [entry.attempts for entry in await here.spool.entries()]


@pytest.mark.parametrize("close", [True, False], ids=["closes", "stays"])
@pytest.mark.parametrize("at", COMMANDS)
async def test_421_to_a_command_that_was_sent_alone_ends_the_use_of_the_connection(
    tmp_path: Path, at: str, close: bool
) -> None:
    provider = _says(at, "421 4.3.2 closing", close=close)
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(make_config(here.port, connection_limit=1, enable_pipelining=False))
        await here.send(3)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 3)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 3)
        await here.until(lambda: here.seen.open_connections == 0)

        for record in here.log.records:
            response = record.response
            assert (response.code, response.enhanced_code) == (421, (4, 3, 2))
            assert (response.content, response.internal) == ("closing", False)
            assert response.command == COMMANDS[at]
        assert await _attempts(here) == [1, 1, 1]
        assert here.seen.total_connections == 3


@pytest.mark.parametrize("close", [True, False], ids=["closes", "stays"])
@pytest.mark.parametrize("at", ["rset", "quit"])
async def test_421_between_messages_costs_no_attempt(tmp_path: Path, at: str, close: bool) -> None:
    async with world(tmp_path, provider=_says(at, "421 4.3.2 closing", close=close)) as here:
        here.policies.change(
            make_config(here.port, connection_limit=1, max_deliveries_per_connection=2)
        )
        await here.send(4)
        await here.until_records(RecordType.DELIVERY, 4)

        assert {record.type for record in here.log.records} == {RecordType.DELIVERY}
        assert {record.num_attempts for record in here.log.records} == {0}
        assert here.seen.messages_accepted == 4


async def test_421_of_the_last_host_does_not_hurt_the_messages_behind(tmp_path: Path) -> None:
    """A plan that is used up ends its session; the next message gets a plan of its own."""
    rules = [{"pattern": "^first", "reply": "421 4.7.0 deferred"}]
    async with world(tmp_path, provider={"recipient": rules}) as here:
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(1, recipients=("first",))
        await here.send(2)
        await here.until_records(RecordType.DELIVERY, 2)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)

        assert len(here.log.records) == 3
        assert not any("no candidates" in one.response.content for one in here.log.records)
