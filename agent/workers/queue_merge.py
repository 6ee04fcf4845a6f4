"""
QueueMerge: the queues, paths and orders of an agent out of those of its processes. Pure but for the
wire's own values.

Each process numbers its orders itself. The agent's number of an order is made of the process that
has it and of its number there; the same order in other processes is known by its request id.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from agent.workers.limit_table import MOST_WORKERS
from penstock.v1 import queue_service_pb2 as pb

_Row = TypeVar("_Row", pb.ScheduledQueue, pb.ReadyQueue)

#: What a queue or a path waits for: so many things are listed.
_MOST_WAITS = 20
_PAGE, _LONGEST_PAGE = 100, 1000
_SCHEDULED_SUMS = ("scheduled_count", "due_count", "ready_count")
_READY_SUMS = (
    "queued_count",
    "in_flight_count",
    "waiting_count",
    "connection_count",
    "delivered_count",
    "transient_count",
    "bounced_count",
)


def agent_order_id(worker: int, order_id: int) -> int:
    """The number that the agent gives to order *order_id* of a process."""
    return order_id * MOST_WORKERS + worker


def worker_order_id(order_id: int) -> tuple[int, int]:
    """
    The process and its own number of an order of the agent.

    >>> worker_order_id(agent_order_id(3, 17))
    (3, 17)
    """
    return order_id % MOST_WORKERS, order_id // MOST_WORKERS


def merge_scheduled(
    answers: Mapping[int, pb.ListScheduledQueuesResponse], page_size: int
) -> pb.ListScheduledQueuesResponse:
    """One page out of the same page of every process."""
    merged: dict[str, pb.ScheduledQueue] = {}
    for worker in sorted(answers):
        for queue in answers[worker].queues:
            _number_waits(queue.waits, worker)
            known = merged.setdefault(queue.name, queue)
            if known is not queue:
                _add(known, queue, _SCHEDULED_SUMS)
                _keep_earliest(known, queue, "oldest_time")
                _keep_earliest(known, queue, "next_due_time")
    has_more = any(answer.next_page_token for answer in answers.values())
    names, token = _page(sorted(merged), page_size, has_more=has_more)
    return pb.ListScheduledQueuesResponse(
        queues=[merged[name] for name in names], next_page_token=token
    )


def merge_ready(
    answers: Mapping[int, pb.ListReadyQueuesResponse], page_size: int
) -> pb.ListReadyQueuesResponse:
    """One page out of the same page of every process."""
    merged: dict[str, pb.ReadyQueue] = {}
    for worker in sorted(answers):
        for queue in answers[worker].queues:
            _number_waits(queue.waits, worker)
            known = merged.setdefault(queue.path_name, queue)
            if known is not queue:
                _add(known, queue, _READY_SUMS)
                _merge_path(known, queue)
    has_more = any(answer.next_page_token for answer in answers.values())
    names, token = _page(sorted(merged), page_size, has_more=has_more)
    return pb.ListReadyQueuesResponse(
        queues=[merged[name] for name in names], next_page_token=token
    )


def merge_orders(orders: Mapping[int, Sequence[pb.QueueOrder]]) -> list[pb.QueueOrder]:
    """Every order of the agent once, by its number; those of processes by their numbers."""
    merged: dict[str, pb.QueueOrder] = {}
    for worker in sorted(orders):
        for order in orders[worker]:
            numbered = numbered_order(worker, order)
            known = merged.setdefault(order.request_id or f"{worker} {order.id}", numbered)
            if known is not numbered:
                known.bounced_count += order.bounced_count
    return sorted(merged.values(), key=lambda order: order.id)


def page_of_orders(
    orders: Sequence[pb.QueueOrder], request: pb.ListQueueOrdersRequest
) -> pb.ListQueueOrdersResponse:
    """One page of all orders."""
    by_key = {f"{order.id:020}": order for order in orders}
    after = request.page_token.removeprefix("after:")
    names, token = _page([key for key in by_key if key > after], request.page_size, has_more=False)
    return pb.ListQueueOrdersResponse(
        orders=[by_key[name] for name in names], next_page_token=token
    )


def numbered_order(worker: int, order: pb.QueueOrder) -> pb.QueueOrder:
    """An order of a process under the agent's number."""
    numbered = pb.QueueOrder()
    numbered.CopyFrom(order)
    numbered.id = agent_order_id(worker, order.id)
    return numbered


def numbered_message(worker: int, message: pb.GetMessageResponse) -> pb.GetMessageResponse:
    """A message of a process, whose waits name orders by the agent's numbers."""
    for entry in message.entries:
        _number_waits(entry.waits, worker)
    return message


def _merge_path(known: pb.ReadyQueue, other: pb.ReadyQueue) -> None:
    _keep_earliest(known, other, "oldest_time")
    known.connection_failure_count = max(
        known.connection_failure_count, other.connection_failure_count
    )
    # Connections under a limit are counted over all processes already.
    for limit in known.limits:
        for same in other.limits:
            if (same.option, same.name) == (limit.option, limit.name):
                limit.in_use_count = max(limit.in_use_count, same.in_use_count)
    if _is_later(other.last_reply.event_time, known.last_reply.event_time):
        known.last_reply.CopyFrom(other.last_reply)


def _add(known: _Row, other: _Row, sums: Sequence[str]) -> None:
    for name in sums:
        setattr(known, name, getattr(known, name) + getattr(other, name))
    for wait in other.waits:
        if len(known.waits) < _MOST_WAITS and wait not in known.waits:
            known.waits.append(wait)


def _keep_earliest(known: _Row, other: _Row, field: str) -> None:
    if other.HasField(field) and (
        not known.HasField(field) or _is_later(getattr(known, field), getattr(other, field))
    ):
        getattr(known, field).CopyFrom(getattr(other, field))


def _is_later(one: Timestamp, other: Timestamp) -> bool:
    return (one.seconds, one.nanos) > (other.seconds, other.nanos)


def _number_waits(waits: Iterable[pb.QueueWait], worker: int) -> None:
    for wait in waits:
        if wait.reason == pb.WAIT_REASON_ORDER and wait.id:
            wait.id = agent_order_id(worker, wait.id)


def _page(names: Sequence[str], size: int, *, has_more: bool) -> tuple[Sequence[str], str]:
    most = min(size or _PAGE, _LONGEST_PAGE)
    page = names[:most]
    return page, f"after:{page[-1]}" if page and (has_more or len(names) > most) else ""
