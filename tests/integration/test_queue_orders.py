"""Operators' orders: what is held, bounced and moved, and what survives a restart."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from agent.delivery.record import RecordType
from agent.orders.book import OrderBook
from penstock.v1 import queue_service_pb2 as pb
from tests.integration.dispatch_world import DOMAIN, World, make_config
from tests.integration.queue_world import queue_world, served

ACME = f"acme@{DOMAIN}"
NEWS = f"news:acme@{DOMAIN}"
OTHER = f"other@{DOMAIN}"
SITE = "mx.big.example"


def _request(seconds: float = 600, **selector: str) -> pb.SuspendQueueRequest:
    return pb.SuspendQueueRequest(
        selector=pb.QueueSelector(**selector),
        duration=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)),
        reason="blocked by them",
    )


def _queues_of(here: World, type_: RecordType) -> set[str]:
    return {record.queue for record in here.log.of(type_)}


@pytest.mark.parametrize(
    ("selector", "held", "others"),
    [
        pytest.param({"tenant": "acme"}, (ACME, NEWS), (OTHER, DOMAIN), id="tenant"),
        pytest.param({"campaign": "news"}, (NEWS,), (ACME, OTHER), id="campaign"),
        pytest.param({"queue_name": DOMAIN}, (DOMAIN,), (ACME, NEWS), id="exactly one queue"),
        pytest.param({"domain": DOMAIN}, (ACME, DOMAIN), (), id="domain"),
        pytest.param({"routing_domain": DOMAIN}, (ACME, DOMAIN), (), id="routing domain"),
        pytest.param({"egress_source": "default"}, (ACME, OTHER), (), id="source"),
        pytest.param({"path_name": f"default->{SITE}"}, (ACME, OTHER), (), id="path"),
        pytest.param({"all_mail": True}, (ACME, OTHER), (), id="everything"),
    ],
)
async def test_an_order_holds_what_it_selects_until_it_is_ended(
    tmp_path: Path, selector: dict[str, str], held: tuple[str, ...], others: tuple[str, ...]
) -> None:
    async with queue_world(tmp_path) as (here, stub):
        given = await stub.SuspendQueue(_request(**selector))
        for queue in (*held, *others):
            await here.send(2, queue=queue)
        await here.until_records(RecordType.DELIVERY, 2 * len(others))
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 2 * len(held))
        assert _queues_of(here, RecordType.DELIVERY) == set(others)

        ended = await stub.ResumeQueue(pb.ResumeQueueRequest(order_id=given.order.id))
        await here.until_records(RecordType.DELIVERY, 2 * len(held + others), seconds=5)

        assert ended.order.id == given.order.id
        assert {record.num_attempts for record in here.log.records} == {0}
        assert not (await stub.ListQueueOrders(pb.ListQueueOrdersRequest())).orders


async def test_an_order_ends_by_itself_and_its_mail_goes_at_once(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        await stub.SuspendQueue(_request(0.5, domain=DOMAIN))
        await here.send(2)
        begun = time.time()
        await here.until_records(RecordType.DELIVERY, 2)

        assert time.time() - begun >= 0.3
        assert not (await stub.ListQueueOrders(pb.ListQueueOrdersRequest())).orders


async def test_an_order_on_one_source_leaves_the_others_of_its_pool_at_work(
    tmp_path: Path,
) -> None:
    agent = {
        "source": [
            {"name": "one", "source_address": "127.0.0.2"},
            {"name": "two", "source_address": "127.0.0.3"},
        ]
    }
    async with queue_world(tmp_path, agent=agent) as (here, stub):
        await stub.SuspendQueue(_request(egress_source="one"))
        await here.send(10)
        await here.until_records(RecordType.DELIVERY, 10)

        assert {record.egress_source for record in here.log.records} == {"two"}


async def test_orders_survive_a_restart_until_they_end(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        long = await stub.SuspendQueue(_request(600, tenant="acme"))
        await stub.SuspendQueue(_request(0.2, tenant="other"))
        await here.stop()
        orders = OrderBook(tmp_path / "orders.db", clock=lambda: time.time() + 1)
        await orders.open()
        try:
            await here.start(orders=orders.in_force)
            async with served(here, orders) as again:
                await here.send(1, queue=ACME)
                await here.send(1, queue=OTHER)
                await here.until_records(RecordType.DELIVERY, 1)
                listed = await again.ListQueueOrders(pb.ListQueueOrdersRequest())

            assert _queues_of(here, RecordType.DELIVERY) == {OTHER}
            assert list(listed.orders) == [long.order]
        finally:
            await orders.close()


async def test_a_request_that_is_sent_again_makes_no_second_order(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (_, stub):
        request = _request(tenant="acme")
        request.request_id = "r1"
        made = await asyncio.gather(*(stub.SuspendQueue(request) for _ in range(5)))
        listed = await stub.ListQueueOrders(pb.ListQueueOrdersRequest())

        assert {one.order.id for one in made} == {one.id for one in listed.orders}
        assert len(listed.orders) == 1


async def test_a_bounce_ends_mail_wherever_it_waits_and_counts_it(tmp_path: Path) -> None:
    refused = [{"pattern": "^later", "reply": "451 4.2.0 later"}]
    async with queue_world(tmp_path, provider={"recipient": refused}) as (here, stub):
        await here.send(3, queue=ACME, recipients=("later",))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 3)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 3)
        given = await stub.BounceQueue(
            pb.BounceQueueRequest(selector=pb.QueueSelector(tenant="acme"), reason="customer left")
        )
        await here.send(2, queue=ACME)
        await here.send(1, queue=OTHER)
        await here.until_records(RecordType.ADMIN_BOUNCE, 5)
        await here.until_records(RecordType.DELIVERY, 1)
        (order,) = (await stub.ListQueueOrders(pb.ListQueueOrdersRequest())).orders

        bounced = here.log.of(RecordType.ADMIN_BOUNCE)
        assert {record.queue for record in bounced} == {ACME}
        assert {(one.response.code, one.response.enhanced_code) for one in bounced} == {
            (551, (5, 7, 1))
        }
        assert bounced[0].response.content == "Administrator bounced with reason: customer left"
        assert (order.id, order.bounced_count) == (given.order.id, 5)
        assert order.expire_time.seconds - order.create_time.seconds == 300


async def test_a_bounce_may_leave_no_record(tmp_path: Path) -> None:
    async with queue_world(tmp_path, dsn=True) as (here, stub):
        await stub.BounceQueue(
            pb.BounceQueueRequest(selector=pb.QueueSelector(domain=DOMAIN), suppress_records=True)
        )
        await here.send(3)
        await here.until(lambda: here.spool.entry_count == 0)

        assert here.log.records == []
        assert await here.spool.pending_records(0, 10) == []


async def test_mail_is_moved_to_another_queue_and_goes_at_once(tmp_path: Path) -> None:
    """From a scheduled queue after a failure, and from a queue that is held."""
    refused = [{"pattern": "^later", "reply": "451 4.2.0 later"}]
    hosts = {
        "mx": {"relay.example": [[10, "relay.example"]]},
        "a": {"relay.example": ["127.0.0.1"]},
    }
    async with queue_world(tmp_path, provider={"recipient": refused}, records=hosts) as (
        here,
        stub,
    ):
        await here.send(3, queue=ACME, recipients=("later",))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 3)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 3)
        await stub.SuspendQueue(_request(queue_name=NEWS))
        await here.send(2, queue=NEWS)
        await here.send(1, queue=OTHER, recipients=("later",))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 4)
        provider = next(iter(here.sink.providers.values()))
        provider.settings = provider.settings.model_copy(update={"recipient": ()})

        answer = await stub.RebindQueue(
            pb.RebindQueueRequest(
                selector=pb.QueueSelector(tenant="acme"),
                routing_domain="relay.example",
                reason="their MX is down",
            )
        )
        await here.until_records(RecordType.DELIVERY, 5)

        assert (answer.moved_count, answer.unchanged_count) == (5, 0)
        moved = here.log.of(RecordType.ADMIN_REBIND)
        assert {record.response.content for record in moved} == {
            f"Rebound from {ACME} to {ACME}!relay.example: their MX is down",
            f"Rebound from {NEWS} to {NEWS}!relay.example: their MX is down",
        }
        delivered = here.log.of(RecordType.DELIVERY)
        assert sorted((one.queue, one.num_attempts) for one in delivered) == [
            *[(f"{ACME}!relay.example", 1)] * 3,
            *[(f"{NEWS}!relay.example", 0)] * 2,
        ]
        assert {one.routing_domain for one in delivered} == {"relay.example"}
        assert [entry.queue_name for entry in await here.spool.entries()] == [OTHER]


async def test_moved_mail_is_in_its_new_queue_after_a_restart(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        await stub.SuspendQueue(_request(all_mail=True))
        await here.send(3, queue=ACME)
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 3)
        await stub.RebindQueue(
            pb.RebindQueueRequest(
                selector=pb.QueueSelector(queue_name=ACME), tenant="beta", campaign="spring"
            )
        )
        await here.stop()
        await here.start()
        await here.until_records(RecordType.DELIVERY, 3)

        assert {
            (one.queue, one.tenant, one.campaign) for one in here.log.of(RecordType.DELIVERY)
        } == {(f"spring:beta@{DOMAIN}", "beta", "spring")}


async def test_always_flush_makes_mail_due_where_it_is(tmp_path: Path) -> None:
    refused = [{"pattern": "^later", "reply": "451 4.2.0 later"}]
    async with queue_world(tmp_path, provider={"recipient": refused}) as (here, stub):
        await here.send(2, recipients=("later",))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 2)
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 2)
        selector = pb.QueueSelector(domain=DOMAIN)
        same = await stub.RebindQueue(pb.RebindQueueRequest(selector=selector, tenant=""))
        answer = await stub.RebindQueue(pb.RebindQueueRequest(selector=selector, always_flush=True))
        await here.until_records(RecordType.TRANSIENT_FAILURE, 4)

        assert (same.moved_count, same.unchanged_count) == (0, 2)
        assert (answer.moved_count, answer.unchanged_count) == (2, 0)
        assert not here.log.of(RecordType.ADMIN_REBIND)


async def test_a_large_queue_is_moved_in_steps_that_let_others_work(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        await stub.SuspendQueue(_request(tenant="acme"))
        await here.send(20_000, queue=ACME, body=b"\r\nx\r\n")
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 20_000)
        moving = asyncio.ensure_future(
            stub.RebindQueue(
                pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="acme"), tenant="beta")
            )
        )
        await here.send(5, queue=OTHER)
        await here.until_records(RecordType.DELIVERY, 5)
        assert not moving.done()
        with pytest.raises(grpc.aio.AioRpcError, match="moved already") as refused:
            await stub.RebindQueue(
                pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="beta"), tenant="c")
            )
        await stub.SuspendQueue(_request(tenant="beta"))
        answer = await moving

        assert refused.value.code() is grpc.StatusCode.ABORTED
        assert answer.moved_count == 20_000
        assert {entry.queue_name for entry in await here.spool.entries()} <= {
            f"beta@{DOMAIN}",
            OTHER,
        }


async def test_mail_stays_where_it_is_while_the_disk_takes_nothing(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (here, stub):
        held = await stub.SuspendQueue(_request(tenant="acme"))
        await here.send(3, queue=ACME)
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 3)
        here.spool._writer._connection.execute("PRAGMA query_only = 1")
        request = pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="acme"), tenant="beta")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.RebindQueue(request)

        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert here.dispatcher.queue_counts()["due"] == 3
        answer = await stub.RebindQueue(request)
        assert answer.moved_count == 3
        await stub.ResumeQueue(pb.ResumeQueueRequest(order_id=held.order.id))
        await here.until_records(RecordType.DELIVERY, 3)
        assert {record.tenant for record in here.log.of(RecordType.DELIVERY)} == {"beta"}


async def test_mail_in_a_transaction_stays_and_the_rest_moves(tmp_path: Path) -> None:
    silent = {"misbehave": [{"at": "data_end", "action": "silence"}]}
    async with queue_world(tmp_path, provider=silent) as (here, stub):
        here.policies.change(make_config(here.port, connection_limit=1))
        await here.send(4, queue=ACME)
        await here.until(lambda: here.seen.open_connections == 1)
        await here.until(lambda: here.dispatcher.queue_counts()["ready"] == 4)
        await stub.SuspendQueue(_request(tenant="beta"))
        answer = await stub.RebindQueue(
            pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="acme"), tenant="beta")
        )

        assert answer.moved_count == 3
        names = [entry.queue_name for entry in await here.spool.entries()]
        assert sorted(names) == [ACME, *[f"beta@{DOMAIN}"] * 3]
        await here.stop(0.1)
        await here.start()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SuspendQueueRequest(), "selector"),
        (_request(domain="no domain"), "selector.domain"),
        (_request(tenant="a@b"), "selector.tenant"),
        (_request(tenant="a", all_mail=True), "selector.all_mail"),
        (_request(0, tenant="a"), "duration"),
        (_request(400 * 86_400, tenant="a"), "duration"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_order_with_mistakes_is_refused_with_the_field_at_fault(
    tmp_path: Path, request_: pb.SuspendQueueRequest, field: str
) -> None:
    async with queue_world(tmp_path) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SuspendQueue(request_)

        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"{field}: " in (refused.value.details() or "")


async def test_other_requests_with_mistakes_are_refused(tmp_path: Path) -> None:
    async with queue_world(tmp_path) as (_, stub):
        for call, code in (
            (
                stub.BounceQueue(
                    pb.BounceQueueRequest(selector=pb.QueueSelector(egress_source="default"))
                ),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
            (
                stub.RebindQueue(pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="a"))),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
            (
                stub.RebindQueue(
                    pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="a"), domain="")
                ),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
            (stub.ResumeQueue(pb.ResumeQueueRequest(order_id=7)), grpc.StatusCode.NOT_FOUND),
            (stub.GetMessage(pb.GetMessageRequest()), grpc.StatusCode.INVALID_ARGUMENT),
            (stub.GetMessage(pb.GetMessageRequest(message_id="x")), grpc.StatusCode.NOT_FOUND),
            (
                stub.ListReadyQueues(pb.ListReadyQueuesRequest(page_token="x")),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is code
