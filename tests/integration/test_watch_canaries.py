"""With a canary share, a change of rules reaches few agents first, and the rest after them."""

import asyncio
import contextlib

import pytest

from penstock.v1 import policy_service_pb2 as pb
from tests.integration.watching import automation, outcome, run_sql, serving, write_rules, yahoo

_AGENTS = 8
_SHARE = {"PENSTOCK_WATCH_CANARY_SHARE": "0.25"}
_CANARIES = 2
_SUSPEND = automation(r"\[TS04\]", "Suspend")


@pytest.fixture
def url(database_url):
    write_rules(database_url, yahoo(_SUSPEND, connection_limit=7))
    return database_url


class _Agent:
    """One that watches a path."""

    def __init__(self, watch):
        self.watch = watch
        #: Whether it finds answers good.
        self.is_applying = True
        #: Whether it ends at the limit that it is told of.
        self.is_ended_by = lambda limit: False

    @property
    def limit(self):
        answer = self.watch.paths.get("yahoo.com")
        return answer.config.connection_limit.value if answer else None

    async def run(self):
        """Take in what comes, and answer it."""
        while (response := await self.watch.read()) is not None:
            if self.is_ended_by(self.limit):
                self.watch.call.cancel()
                return
            if not response.nonce:
                continue
            ack = pb.WatchAck(nonce=response.nonce, token=response.token)
            has_answer = any(each.name == "yahoo.com" for each in response.resources)
            if has_answer and not self.is_applying:
                ack.error = "no good"
            await self.watch.send(ack=ack)


@contextlib.asynccontextmanager
async def _fleet(client, count=_AGENTS):
    async with contextlib.AsyncExitStack() as stack:
        agents, tasks = [], []
        for number in range(count):
            info = pb.AgentInfo(name=f"mta-{number}")
            watch = client.watch("yahoo.com", info=info, acknowledge=False)
            agents.append(_Agent(await stack.enter_async_context(watch)))
            tasks.append(asyncio.create_task(agents[-1].run()))
        try:
            await _until(lambda: all(agent.limit == 7 for agent in agents))
            yield agents
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def _set_limit(url, value):
    await asyncio.to_thread(run_sql, url, f"UPDATE rule_options SET value = '{value}'")


def _told(agents, limit):
    return [agent for agent in agents if agent.limit == limit]


def _rounds(client, verdict):
    return client.metric("penstock_server_watch_canaries_total", verdict=verdict)


async def test_all_hear_of_new_rules_once_the_first_have_applied_them(url):
    async with serving(url, **_SHARE) as client, _fleet(client) as agents:
        await _set_limit(url, 8)
        await _until(lambda: len(_told(agents, 8)) == _AGENTS)

        assert _rounds(client, "applied") == 1
        assert client.metric("penstock_server_watch_held_back") == 0


async def test_rules_that_the_first_refuse_reach_no_other_until_better_ones_come(url):
    async with serving(url, **_SHARE) as client, _fleet(client) as agents:
        for agent in agents:
            agent.is_applying = False
        await _set_limit(url, 8)
        await _until(lambda: _rounds(client, "refused") == 1)

        # A suspension goes to all, and what comes with it on each stream is in order.
        await client.report(outcome("e1"))
        await _until(lambda: all(agent.watch.suspensions for agent in agents))
        assert len(_told(agents, 8)) == _CANARIES
        assert client.metric("penstock_server_watch_held_back") == _AGENTS - _CANARIES
        # Who asks is answered by the rules in force.
        async with _fleet_of_one(client) as newcomer:
            await _until(lambda: newcomer.limit == 8)

        for agent in agents:
            agent.is_applying = True
        await _set_limit(url, 9)
        await _until(lambda: len(_told(agents, 9)) == _AGENTS)
        assert client.metric("penstock_server_watch_held_back") == 0


@contextlib.asynccontextmanager
async def _fleet_of_one(client):
    async with client.watch("yahoo.com", acknowledge=False) as watch:
        agent = _Agent(watch)
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_when_the_first_leave_others_are_told_first(url):
    async with serving(url, **_SHARE) as client, _fleet(client) as agents:
        ended: list[int] = []

        def is_ended_by(limit):
            if limit == 8 and len(ended) < 2 * _CANARIES:
                ended.append(limit)
                return True
            return False

        for agent in agents:
            agent.is_ended_by = is_ended_by
        await _set_limit(url, 8)
        await _until(lambda: _rounds(client, "gone") >= 1)
        await _until(lambda: len(_told(agents, 8)) == _AGENTS)

        assert _rounds(client, "applied") == 1
