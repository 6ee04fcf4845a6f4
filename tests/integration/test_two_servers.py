"""
Two server processes on one PostgreSQL: what is reported to either is counted together, once, and
watchers of both hear what follows.
"""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from random import Random

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import func, select, text

from penstock.v1 import automation_service_pb2 as actions_pb
from penstock.v1 import feedback_service_pb2 as feedback_pb
from penstock.v1.automation_service_pb2 import (
    CancelActionRequest,
    ExtendActionRequest,
    GetActionRequest,
    ListActionsRequest,
)
from policy_server.store.database import Database
from policy_server.store.locks import Lock
from policy_server.store.tables import automation_matches, outcomes
from tests.integration.server_processes import running
from tests.integration.watching import (
    automation,
    outcome,
    write_rules,
    yahoo,
)

_THRESHOLD = 20
_COUNTED = automation("slow", "Suspend", trigger={"Threshold": f"{_THRESHOLD}/hr"})
_AT_ONCE = automation(r"\[TS04\]", "Suspend")


@pytest.fixture
def url(postgresql):
    url = postgresql.new_database()
    write_rules(url, yahoo(_COUNTED, _AT_ONCE))
    yield url
    postgresql.drop_database(url)


@pytest.fixture
def database(url):
    database = Database(url)
    yield database
    database.close()


@contextlib.asynccontextmanager
async def _two(url):
    async with running(url) as one, running(url) as other:
        yield one, other


@contextlib.asynccontextmanager
async def _watched(url):
    """Two servers, and a client that watches at each."""
    async with _two(url) as (one, other), one.client.watch() as near, other.client.watch() as far:
        for watch in (near, far):
            await watch.until(lambda watch=watch: watch.token)
        yield one, other, (near, far)


def _slow(*numbers, at=None):
    return [outcome(f"e{number}", "slow down", at=at) for number in numbers]


async def _actions(client):
    return list((await client.automation.ListActions(ListActionsRequest())).actions)


async def _action(client, number):
    return (await client.automation.GetAction(GetActionRequest(id=number))).action


def _count(database, table):
    return database.read_now(lambda c: c.execute(select(func.count()).select_from(table)).scalar())


async def _until(condition):
    async with asyncio.timeout(20):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.02)


async def test_a_threshold_reached_by_halves_is_one_action_that_all_watchers_hear_of(url):
    async with _watched(url) as (one, other, watches):
        await asyncio.gather(
            *(one.client.report(each) for each in _slow(*range(0, _THRESHOLD, 2))),
            *(other.client.report(each) for each in _slow(*range(1, _THRESHOLD, 2))),
        )
        for watch in watches:
            await watch.until(lambda watch=watch: watch.suspensions)

        (listed,), (again,) = await _actions(one.client), await _actions(other.client)
        assert listed == again
        assert listed.count == _THRESHOLD
        shown = await one.client.automation.GetAction(GetActionRequest(id=listed.id))
        assert {item.event_id for item in shown.evidence} == {f"e{n}" for n in range(_THRESHOLD)}
        for watch in watches:
            ((name, suspension),) = watch.suspensions.items()
            assert (name, suspension.egress_source) == (str(listed.id), "ip-1")


async def test_what_is_sent_to_both_counts_once(url, database):
    random = Random(4)
    sent = _slow(*range(_THRESHOLD - 1))
    async with _two(url) as (one, other):

        async def report(client):
            for each in random.sample(sent, len(sent)):
                await client.report(each)

        # Twice, and to both at once: each event counts, and none counts again.
        for _ in range(2):
            await asyncio.gather(report(one.client), report(other.client))
        assert await _actions(one.client) == []
        assert await asyncio.to_thread(_count, database, automation_matches) == len(sent)

        answers = await asyncio.gather(
            *(server.client.report(*_slow(_THRESHOLD)) for server in (one, other))
        )

        (action,) = await _actions(other.client)
        assert action.count == _THRESHOLD
        assert sum(answer.match_count for answer in answers) == 1, "it is new to one of them"


async def test_a_cancellation_at_one_reaches_watchers_of_the_other_and_wins(url):
    async with _two(url) as (one, other), other.client.watch() as watch:
        await watch.until(lambda: watch.token)
        made = datetime.now(UTC) - timedelta(seconds=5)
        (number,) = (await one.client.report(outcome("e1", at=made))).action_ids
        await watch.until(lambda: watch.suspensions)

        await one.client.automation.CancelAction(CancelActionRequest(id=number))
        # Of before the cancellation, and reported to the server that did not take it.
        late = await other.client.report(outcome("e0", at=made))
        await watch.until(lambda: not watch.suspensions)

        assert not late.action_ids
        action = await _action(other.client, number)
        assert (action.state, action.count) == (actions_pb.ACTION_STATE_CANCELLED, 1)


async def test_an_action_that_both_extend_ends_once_and_at_the_time_that_one_set(url):
    async with _watched(url) as (one, other, watches):
        (number,) = (await one.client.report(outcome("e1"))).action_ids
        assert (await other.client.report(outcome("e2"))).action_ids == [number]
        end = Timestamp()
        end.FromDatetime(datetime.now(UTC) + timedelta(seconds=3))
        await other.client.automation.ExtendAction(ExtendActionRequest(id=number, expire_time=end))
        name = str(number)
        for watch in watches:
            await watch.until(
                lambda w=watch: name in w.suspensions and w.suspensions[name].expire_time == end
            )
        for watch in watches:
            await watch.until(lambda w=watch: name not in w.suspensions)

        # The ledger says so a moment after whoever watches was told.
        async with asyncio.timeout(20):
            expired = actions_pb.ACTION_STATE_EXPIRED
            # The ledger tells nobody of its changes, it can only be asked.
            while (action := await _action(one.client, number)).state != expired:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert action.count == 2


async def _send_batch(call, *sent):
    await call.write(
        feedback_pb.StreamOutcomesRequest(batch=feedback_pb.OutcomeBatch(batch_id=1, outcomes=sent))
    )


async def _open(client):
    call = client.feedback.StreamOutcomes()
    await call.write(feedback_pb.StreamOutcomesRequest(start=feedback_pb.OutcomeStreamStart()))
    return call


async def _hear_ack(call):
    async with asyncio.timeout(20):
        while not (answer := await call.read()).HasField("ack"):
            pass
    return answer.ack


@pytest.mark.parametrize("is_committed", [True, False])
async def test_what_a_killed_server_did_not_acknowledge_counts_once_at_the_other(
    url, database, is_committed
):
    sent = _slow(*range(_THRESHOLD))
    async with _two(url) as (one, other), other.client.watch() as watch:
        await watch.until(lambda: watch.token)
        call = await _open(one.client)
        # Who holds this lock keeps the server from counting; it dies in its transaction.
        with contextlib.ExitStack() as held:
            if not is_committed:
                held.enter_context(_holding(database))
            await _send_batch(call, *sent)
            if is_committed:
                await _until(lambda: _count(database, outcomes) == len(sent))
            else:
                await _until(lambda: _is_waited_for(database))
            await one.kill()
        if is_committed:
            # It is in force, whoever lives to tell.
            await watch.until(lambda: watch.suspensions)
        else:
            await _until(lambda: not _is_waited_for(database))
            assert await asyncio.to_thread(_count, database, outcomes) == 0

        call = await _open(other.client)
        await _send_batch(call, *sent)
        ack = await _hear_ack(call)
        call.cancel()
        await watch.until(lambda: watch.suspensions)

        assert ack.match_count == (0 if is_committed else _THRESHOLD)
        (action,) = await _actions(other.client)
        assert action.count == _THRESHOLD
        assert await asyncio.to_thread(_count, database, automation_matches) == _THRESHOLD
        assert await asyncio.to_thread(_count, database, outcomes) == _THRESHOLD


@contextlib.contextmanager
def _holding(database):
    with psycopg.connect(database.url.render_as_string(hide_password=False)) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [int(Lock.COUNTING)])
        yield


def _is_waited_for(database):
    statement = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return bool(database.read_now(lambda c: c.execute(statement).scalar()))
