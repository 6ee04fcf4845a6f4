"""A client that is slow costs no more memory than its names, and hears the newest of each."""

import asyncio

import pytest

from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.automation_service_pb2 import CancelActionRequest
from policy_server.services.watch_timing import WatchTiming
from tests.integration.watching import (
    automation,
    outcome,
    run_sql,
    serving,
    write_rules,
    yahoo,
)

_SUSPEND = automation(r"\[TS04\]", "Suspend")
_SLOW = automation("slow down", {"SetConfig": {"name": "idle_timeout", "value": 9}})
_PATHS = [f"d{number}.example" for number in range(5)]
_ROUNDS = 40
_WINDOW = WatchTiming().window


@pytest.fixture
def url(database_url):
    write_rules(database_url, yahoo(_SUSPEND, _SLOW, connection_limit=7))
    return database_url


async def _change_much(url, client):
    """Suspend and cancel, override, and change rules, again and again; return the last action."""
    action_id = 0
    for number in range(_ROUNDS):
        if action_id:
            await client.automation.CancelAction(CancelActionRequest(id=action_id))
        (action_id,) = (await client.report(outcome(f"s{number}"))).action_ids
        await client.report(outcome(f"o{number}", "slow down"))
        if number % 5 == 4:
            statement = f"UPDATE rule_options SET value = '{100 + number}'"
            await asyncio.to_thread(run_sql, url, statement)
    return action_id


async def test_what_a_client_did_not_take_in_is_sent_as_it_is_in_the_end(url):
    async with serving(url) as client, client.watch(*_PATHS, acknowledge=False) as watch:
        await watch.until(lambda: len(watch.paths) == len(_PATHS) and watch.token)
        await watch.send(ack=pb.WatchAck(nonce=watch.newest_nonce))
        hub = client.server._hub
        assert hub is not None
        (stream,) = hub._streams
        seen = len(watch.kinds)

        last = await _change_much(url, client)

        # Nothing piles up: names are kept once, and what came and went unseen is forgotten.
        assert stream.unacknowledged <= _WINDOW
        assert stream.size <= 4 * len(_PATHS) + 2 * _WINDOW
        newest = pb.WatchPolicyResponse.KIND_BOOKMARK

        def is_up_to_date():
            limits = {each.config.connection_limit.value for each in watch.paths.values()}
            times = {each.config.idle_timeout.seconds for each in watch.paths.values()}
            is_limited = (limits, times) == ({100 + _ROUNDS - 1}, {9})
            return is_limited and list(watch.suspensions) == [str(last)]

        async with asyncio.timeout(20):
            while not is_up_to_date():
                await watch.read()
                await watch.send(ack=pb.WatchAck(nonce=watch.newest_nonce))
        responses = [kind for kind in watch.kinds[seen:] if kind != newest]
        # Far fewer than the changes, of which there were more than twice as many as rounds.
        assert len(responses) <= 3 * _WINDOW


async def test_a_client_that_refuses_everything_is_told_of_each_change_once(url):
    async with serving(url) as client, client.watch("yahoo.com", acknowledge=False) as watch:
        await watch.until(lambda: watch.paths and watch.token)
        await watch.send(ack=pb.WatchAck(nonce=watch.newest_nonce))
        for number in range(10):
            await asyncio.to_thread(
                run_sql, url, f"UPDATE rule_options SET value = '{30 + number}'"
            )
            seen = len(watch.kinds)
            await watch.until(
                lambda n=number: watch.paths["yahoo.com"].config.connection_limit.value == 30 + n
            )
            await watch.send(ack=pb.WatchAck(nonce=watch.newest_nonce, error="no good"))
            kinds = [
                one for one in watch.kinds[seen:] if one != pb.WatchPolicyResponse.KIND_BOOKMARK
            ]
            assert len(kinds) == 1, "what was refused is not sent again by itself"
        (name,) = (await client.report(outcome("e1"))).action_ids
        await watch.until(lambda: watch.suspensions)

        assert list(watch.suspensions) == [str(name)]
        assert client.metric("penstock_server_watch_refusals_total") == 10
