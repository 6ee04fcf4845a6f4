"""Answers: what operators are shown, written for the wire."""

from google.protobuf.timestamp_pb2 import Timestamp

from agent.convert import response_message, timestamp
from agent.dispatch.inspection import EntryState, QueueCounts, Whereabouts
from agent.dispatch.path import Path
from agent.dispatch.waits import QueueWait, WaitReason
from agent.limits.limit import Kind
from agent.orders.order import Order, OrderKind
from agent.queue.names import parse_queue_name
from agent.spool.messages import LastReply, StoredEntry, StoredMessage
from penstock.v1 import queue_service_pb2 as pb

_KINDS = {
    OrderKind.SUSPEND: pb.QUEUE_ORDER_KIND_SUSPEND,
    OrderKind.BOUNCE: pb.QUEUE_ORDER_KIND_BOUNCE,
}
_STATES = {
    EntryState.SCHEDULED: pb.ENTRY_STATE_SCHEDULED,
    EntryState.DUE: pb.ENTRY_STATE_DUE,
    EntryState.READY: pb.ENTRY_STATE_READY,
    EntryState.UNDER_WAY: pb.ENTRY_STATE_UNDER_WAY,
}
_REASONS = {reason: getattr(pb, f"WAIT_REASON_{reason.name}") for reason in WaitReason}


def order_of(order: Order, *, bounced: int) -> pb.QueueOrder:
    """An order, with how many entries it bounced."""
    selector = pb.QueueSelector(**order.scope._asdict(), all_mail=not any(order.scope))
    return pb.QueueOrder(
        id=order.order_id,
        kind=_KINDS[order.kind],
        selector=selector,
        reason=order.reason,
        create_time=timestamp(order.create_time),
        expire_time=timestamp(order.expire_time),
        suppress_records=order.is_silent,
        bounced_count=bounced,
        request_id=order.request_id,
    )


def wait_of(wait: QueueWait) -> pb.QueueWait:
    """One thing that mail waits for."""
    return pb.QueueWait(
        reason=_REASONS[wait.reason],
        text=wait.text,
        end_time=_time(wait.until),
        id=wait.id,
        egress_source=wait.source,
    )


def scheduled_queue_of(
    name: str, counts: QueueCounts, waits: tuple[QueueWait, ...]
) -> pb.ScheduledQueue:
    """One scheduled queue."""
    queue = parse_queue_name(name)
    return pb.ScheduledQueue(
        name=name,
        domain=queue.domain,
        routing_domain=queue.next_domain,
        tenant=queue.tenant,
        campaign=queue.campaign,
        scheduled_count=counts.scheduled,
        due_count=counts.due,
        ready_count=counts.ready,
        oldest_time=_time(counts.oldest),
        next_due_time=_time(counts.next_due),
        waits=map(wait_of, waits),
    )


def ready_queue_of(path: Path, waiting: int) -> pb.ReadyQueue:
    """One path, for which *waiting* due entries wait."""
    policy, oldest = path.policy, path.queued.oldest()
    return pb.ReadyQueue(
        path_name=path.name,
        egress_source=policy.egress_source,
        site_name=policy.site_name,
        provider_name=policy.provider_name,
        queued_count=len(path.queued),
        in_flight_count=path.in_hand,
        waiting_count=waiting,
        connection_count=path.connection_count,
        limits=_limits(path),
        max_ready=path.options.max_ready,
        oldest_time=_time(oldest.created if oldest is not None else None),
        waits=map(wait_of, path.waits()),
        last_reply=_reply(path.last_reply),
        delivered_count=path.counters.delivered,
        transient_count=path.counters.transient,
        bounced_count=path.counters.bounced,
        connection_failure_count=path.failures,
    )


def entry_of(stored: StoredEntry, found: Whereabouts, *, expire_time: float) -> pb.MessageEntry:
    """What is left to do for the recipients of one domain."""
    return pb.MessageEntry(
        queue_name=stored.queue_name,
        state=_STATES[found.state],
        recipients=stored.recipients,
        attempt_count=stored.attempts,
        due_time=timestamp(stored.due),
        expire_time=timestamp(expire_time),
        path_name=found.path_name,
        waits=map(wait_of, found.waits),
        last_reply=_reply(stored.last_reply),
    )


def message_of(stored: StoredMessage, entries: list[pb.MessageEntry]) -> pb.GetMessageResponse:
    """A message with its entries."""
    return pb.GetMessageResponse(
        message_id=stored.id,
        sender=stored.sender,
        arrival_time=timestamp(stored.created),
        size=stored.size,
        tenant=stored.tenant,
        campaign=stored.campaign,
        reception_protocol=stored.reception_protocol,
        entries=entries,
    )


def _limits(path: Path) -> list[pb.QueueLimit]:
    options = path.options
    kinds = (
        ("connection_limit", "additional_connection_limits", options.connection_limits),
        ("max_connection_rate", "", options.connection_rates),
        ("max_message_rate", "additional_message_rate_throttles", options.message_rates),
        ("source_selection_rate", "additional_source_selection_rates", options.selection_rates),
    )
    found = []
    for own, shared, limits in kinds:
        for key, value in limits.items():
            is_own = key.endswith(f" {path.name}")
            limit = pb.QueueLimit(
                option=own if is_own else shared,
                name="" if is_own else key.rpartition(" ")[2],
                value=str(value),
                in_use_count=_in_use(path, key),
            )
            found.append(limit)
    return found


def _in_use(path: Path, key: str) -> int:
    """How many connections are open under a limit, whoever keeps it; 0 of a rate."""
    limits = path.services.limits
    leased = path.options.fleet[Kind.CONNECTIONS].get(key)
    return limits.slots.in_use(key) or (limits.fleet.in_use(leased.key) if leased else 0)


def _reply(reply: LastReply | None) -> pb.LastReply | None:
    if reply is None:
        return None
    return pb.LastReply(
        response=response_message(reply.response),
        internal=reply.response.internal,
        event_time=timestamp(reply.time),
        host=reply.peer,
    )


def _time(seconds: float | None) -> Timestamp | None:
    return None if seconds is None or seconds == float("inf") else timestamp(seconds)
