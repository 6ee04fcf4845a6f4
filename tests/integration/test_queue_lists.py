"""What operators are shown of queues and messages: where mail is, and why it waits."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from agent.delivery.record import RecordType
from penstock.v1 import queue_service_pb2 as pb
from tests.integration.dispatch_world import DOMAIN, World, make_config, suspend
from tests.integration.queue_world import queue_world

PATH = "default->mx.big.example"
LATER = {"recipient": [{"pattern": "^later", "reply": "451 4.2.0 come back later"}]}


async def _scheduled(stub: Any, **selector: str) -> dict[str, pb.ScheduledQueue]:
    request = pb.ListScheduledQueuesRequest(selector=pb.QueueSelector(**selector))
    answer = await stub.ListScheduledQueues(request)
    return {queue.name: queue for queue in answer.queues}


async def _path(stub: Any) -> pb.ReadyQueue:
    (queue,) = (await stub.ListReadyQueues(pb.ListReadyQueuesRequest())).queues
    return queue


def _message_ids(here: World) -> list[str]:
    """The ids of all messages in the spool."""
    with closing(sqlite3.connect(here.directory / "spool" / "spool.db")) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM messages")]


async def _message(here: World, stub: Any) -> pb.GetMessageResponse:
    (message_id,) = _message_ids(here)
    return await stub.GetMessage(pb.GetMessageRequest(message_id=message_id))


async def _until_path_waits(stub: Any, reason: int) -> pb.QueueWait:
    """The path's wait for *reason*, as soon as there is one."""
    while True:
        answer = await stub.ListReadyQueues(pb.ListReadyQueuesRequest())
        for wait in (one for queue in answer.queues for one in queue.waits):
            if wait.reason == reason:
                return wait


async def test_scheduled_queues_are_listed_with_counts_and_times(tmp_path: Path) -> None:
    async with queue_world(tmp_path, provider=LATER) as (here, stub):
        begun = time.time()
        await here.send(3, queue=f"acme@{DOMAIN}", recipients=("later",))
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 3)
        await stub.SuspendQueue(
            pb.SuspendQueueRequest(
                selector=pb.QueueSelector(tenant="other"),
                duration=Duration(seconds=600),
                reason="complaints",
            )
        )
        await here.send(2, queue=f"news:other@{DOMAIN}")
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 2)
        queues = await _scheduled(stub)

        acme, other = queues[f"acme@{DOMAIN}"], queues[f"news:other@{DOMAIN}"]
        assert (acme.scheduled_count, acme.due_count, acme.ready_count) == (3, 0, 0)
        assert (acme.domain, acme.tenant, acme.routing_domain) == (DOMAIN, "acme", DOMAIN)
        assert begun <= acme.oldest_time.seconds + 1 <= time.time() + 1
        assert acme.next_due_time.seconds > begun + 3000
        assert [wait.reason for wait in acme.waits] == [pb.WAIT_REASON_RETRY]
        assert (other.scheduled_count, other.due_count) == (0, 2)
        assert (other.campaign, other.HasField("next_due_time")) == ("news", False)
        (wait,) = other.waits
        assert wait.text == "its mail is held by order 1 of an operator: complaints"
        assert (wait.reason, wait.id) == (pb.WAIT_REASON_ORDER, 1)
        assert 500 < wait.end_time.seconds - time.time() <= 600
        assert set(await _scheduled(stub, tenant="acme")) == {f"acme@{DOMAIN}"}


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        await stub.SuspendQueue(pb.SuspendQueueRequest(selector=pb.QueueSelector(all_mail=True)))
        for number in range(5):
            await here.send(1, queue=f"t{number}@{DOMAIN}")
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 5)
        names, token, pages = [], "", 0
        while pages == 0 or token:
            answer = await stub.ListScheduledQueues(
                pb.ListScheduledQueuesRequest(page_size=2, page_token=token)
            )
            names += [queue.name for queue in answer.queues]
            token, pages = answer.next_page_token, pages + 1

        assert names == [f"t{number}@{DOMAIN}" for number in range(5)]
        assert pages == 3


async def test_a_message_that_was_put_off_shows_the_reply_and_the_next_attempt(
    tmp_path: Path,
) -> None:
    async with queue_world(tmp_path, provider=LATER) as (here, stub):
        await here.send(1, recipients=("later", "now"), tenant="acme")
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)
        message = await _message(here, stub)

        (entry,) = message.entries
        assert (message.sender, message.tenant) == ("from@sender.example", "acme")
        assert message.size > 20
        assert entry.state == pb.ENTRY_STATE_SCHEDULED
        assert list(entry.recipients) == [f"later@{DOMAIN}"]
        assert entry.attempt_count == 1
        assert entry.due_time.seconds > time.time() + 3000
        assert entry.expire_time.seconds - message.arrival_time.seconds == 7 * 86_400
        (wait,) = entry.waits
        assert (wait.reason, wait.end_time) == (pb.WAIT_REASON_RETRY, entry.due_time)
        assert wait.text == "it was put off once; the next attempt is later"
        reply = entry.last_reply
        assert (reply.response.code, reply.response.content) == (451, "come back later")
        assert (reply.host, reply.internal) == ("mx.big.example", False)
        assert abs(reply.event_time.seconds - time.time()) < 60
        assert (await _path(stub)).last_reply.response.content == "come back later"


async def test_the_last_reply_survives_a_restart(tmp_path: Path) -> None:
    async with queue_world(tmp_path, provider=LATER) as (here, _):
        await here.send(1, recipients=("later",))
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)
        await here.stop()
        await here.start()
        stored = await here.spool.find(*_message_ids(here))

        assert stored.entries[0].last_reply.response.content == "come back later"


async def test_a_message_held_by_the_policy_server_says_so(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        await here.send(1)
        await here.until_records(RecordType.DELIVERY, 1)
        suspend(here.policies, here.policies.lookup(DOMAIN, "default"))
        here.policies.change()
        await here.send(1)
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 1)
        (entry,) = (await _message(here, stub)).entries
        path = await _path(stub)

        (wait,) = entry.waits
        assert entry.state == pb.ENTRY_STATE_DUE
        assert (wait.reason, wait.id, wait.egress_source) == (pb.WAIT_REASON_ACTION, 1, "default")
        assert (
            wait.text == "what leaves from default is held by action 1 of the policy server: test"
        )
        assert wait.end_time.seconds > time.time() + 3000
        assert (path.waiting_count, path.queued_count) == (1, 0)
        assert path.waits[0].reason == pb.WAIT_REASON_ACTION


async def test_a_message_whose_policy_is_not_known_says_so(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        here.policies.is_away = True
        await here.send(1)
        await here.until_records(RecordType.DELAYED, 1)
        (entry,) = (await _message(here, stub)).entries

        assert entry.waits[0].reason == pb.WAIT_REASON_POLICY
        assert f"how mail to {DOMAIN} may leave from default is not known" in entry.waits[0].text


async def test_a_paced_path_says_until_when(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        here.policies.change(make_config(here.port, max_message_rate=(1, 600, 1)))
        await here.send(3)
        await here.until_records(RecordType.DELIVERY, 1)
        wait = await _until_path_waits(stub, pb.WAIT_REASON_MESSAGE_RATE)
        path = await _path(stub)
        states = set()
        for message_id in _message_ids(here):
            request = pb.GetMessageRequest(message_id=message_id)
            (entry,) = (await stub.GetMessage(request)).entries
            states.add((entry.state, entry.path_name))

        assert wait.text.startswith("the message rate is used up (")
        assert 500 < wait.end_time.seconds - time.time() <= 601
        assert (path.path_name, path.egress_source) == (PATH, "default")
        assert path.delivered_count == 1
        limits = {limit.option: limit.value for limit in path.limits}
        assert limits == {"connection_limit": "5", "max_message_rate": "1/600s,max_burst=1"}
        assert states == {(pb.ENTRY_STATE_READY, PATH)}


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        ([{"at": "data_end", "action": "silence"}], pb.WAIT_REASON_CONNECTION_LIMIT),
        ([{"at": "banner", "action": "silence"}], pb.WAIT_REASON_CONNECTING),
    ],
)
async def test_a_path_says_what_its_connections_wait_for(
    tmp_path: Path, misbehave: list[dict[str, str]], reason: int
) -> None:
    async with queue_world(tmp_path, provider={"misbehave": misbehave}) as (here, stub):
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(3)
        await here.until(lambda: here.seen.open_connections > 0)
        wait = await _until_path_waits(stub, reason)
        path = await _path(stub)

        assert path.connection_count == 1
        assert path.in_flight_count + path.queued_count == 3
        assert {limit.option: limit.in_use_count for limit in path.limits} == {
            "connection_limit": 1
        }
        assert wait.text
        await here.stop(0.1)
        await here.start()


async def test_a_message_under_way_says_so(tmp_path: Path) -> None:
    silent = {"misbehave": [{"at": "data_end", "action": "silence"}]}
    async with queue_world(tmp_path, provider=silent) as (here, stub):
        await here.send(1)
        await here.until(lambda: here.seen.open_connections > 0)
        while (entry := (await _message(here, stub)).entries[0]).path_name == "":
            pass

        assert entry.state == pb.ENTRY_STATE_UNDER_WAY
        assert entry.waits[0].reason == pb.WAIT_REASON_UNDER_WAY
        assert entry.path_name == PATH
        await here.stop(0.1)
        await here.start()
