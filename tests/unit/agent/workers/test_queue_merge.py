from hypothesis import given
from hypothesis import strategies as st

from agent.workers.queue_merge import (
    agent_order_id,
    merge_orders,
    merge_ready,
    merge_scheduled,
    page_of_orders,
    worker_order_id,
)
from penstock.v1 import queue_service_pb2 as pb

NAMES = st.lists(st.sampled_from([f"{letter}.example" for letter in "abcdefghijkl"]), unique=True)


def page_of(names: list[str], size: int, token: str) -> pb.ListScheduledQueuesResponse:
    """What a process answers, as `QueueService` does."""
    left = sorted(name for name in names if name > token.removeprefix("after:"))
    page = left[:size]
    return pb.ListScheduledQueuesResponse(
        queues=[pb.ScheduledQueue(name=name, due_count=1) for name in page],
        next_page_token=f"after:{page[-1]}" if len(left) > size else "",
    )


@given(st.lists(NAMES, min_size=1, max_size=4), st.integers(1, 5))
def test_pages_of_the_agent_name_every_queue_once_in_order(workers, size):
    token, found = "", list[pb.ScheduledQueue]()
    while True:
        answers = {number: page_of(names, size, token) for number, names in enumerate(workers)}
        page = merge_scheduled(answers, size)
        assert len(page.queues) <= size
        found += page.queues
        token = page.next_page_token
        if not token:
            break

    names = [queue.name for queue in found]
    assert names == sorted({name for names in workers for name in names})
    for queue in found:
        assert queue.due_count == sum(queue.name in names for names in workers)


def test_counts_are_added_up_and_the_oldest_mail_is_that_of_all():
    one = pb.ScheduledQueue(name="a", scheduled_count=1, ready_count=2)
    other = pb.ScheduledQueue(name="a", scheduled_count=10, due_count=3)
    one.oldest_time.seconds, other.oldest_time.seconds = 200, 100
    other.next_due_time.seconds = 300
    for queue in (one, other):
        queue.waits.add(reason=pb.WAIT_REASON_ACTION, id=5, text="suspended")
        queue.waits.add(reason=pb.WAIT_REASON_ORDER, id=1, text="held")

    answers = {
        number: pb.ListScheduledQueuesResponse(queues=[queue])
        for number, queue in enumerate((one, other))
    }
    (queue,) = merge_scheduled(answers, 0).queues

    assert (queue.scheduled_count, queue.due_count, queue.ready_count) == (11, 3, 2)
    assert (queue.oldest_time.seconds, queue.next_due_time.seconds) == (100, 300)
    orders = [wait.id for wait in queue.waits if wait.reason == pb.WAIT_REASON_ORDER]
    assert orders == [agent_order_id(0, 1), agent_order_id(1, 1)]
    assert len(queue.waits) == 3, "the action holds it once"


def test_connections_under_a_limit_are_not_counted_twice():
    paths = [
        pb.ReadyQueue(
            path_name="p",
            connection_count=count,
            limits=[pb.QueueLimit(option="connection_limit", value="5", in_use_count=4)],
        )
        for count in (1, 3)
    ]
    paths[1].last_reply.event_time.seconds = 10
    paths[1].last_reply.host = "mx"

    answers = {n: pb.ListReadyQueuesResponse(queues=[path]) for n, path in enumerate(paths)}
    (path,) = merge_ready(answers, 0).queues

    assert (path.connection_count, path.limits[0].in_use_count) == (4, 4)
    assert path.last_reply.host == "mx"


def test_an_order_is_one_however_many_processes_have_it():
    orders = {
        0: [pb.QueueOrder(id=1, request_id="x", bounced_count=2), pb.QueueOrder(id=2)],
        1: [pb.QueueOrder(id=7, request_id="x", bounced_count=3), pb.QueueOrder(id=2)],
    }

    merged = merge_orders(orders)

    expected = [agent_order_id(0, 1), agent_order_id(0, 2), agent_order_id(1, 2)]
    assert [order.id for order in merged] == expected
    assert [order.bounced_count for order in merged] == [5, 0, 0]
    first = page_of_orders(merged, pb.ListQueueOrdersRequest(page_size=2))
    token = first.next_page_token
    second = page_of_orders(merged, pb.ListQueueOrdersRequest(page_size=2, page_token=token))
    assert [order.id for order in (*first.orders, *second.orders)] == expected
    assert second.next_page_token == ""


@given(st.integers(0, 31), st.integers(1, 2**50))
def test_numbers_of_orders_can_be_read_back(worker, order_id):
    assert worker_order_id(agent_order_id(worker, order_id)) == (worker, order_id)
