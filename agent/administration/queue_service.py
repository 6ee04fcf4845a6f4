"""QueueService: the queues of this agent, shown and changed over gRPC."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest as BadRequestDetail
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from agent.administration import answers, requests
from agent.background import end
from agent.dispatch.dispatcher import Dispatcher
from agent.errors import (
    AgentError,
    BadRequest,
    NotHere,
    NotReady,
    OrdersUnavailable,
    RebindUnderWay,
    SpoolUnavailable,
    TooManyOrders,
)
from agent.orders.book import OrderBook
from agent.orders.order import OrderKind, scope_of_queue
from agent.queue.names import parse_queue_name
from agent.settings import Settings
from agent.spool.messages import Spool
from penstock.v1 import queue_service_pb2 as pb
from penstock.v1.queue_service_pb2_grpc import QueueServiceServicer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CODES: dict[type[AgentError], int] = {
    BadRequest: code_pb2.INVALID_ARGUMENT,
    NotHere: code_pb2.NOT_FOUND,
    TooManyOrders: code_pb2.RESOURCE_EXHAUSTED,
    RebindUnderWay: code_pb2.ABORTED,
    NotReady: code_pb2.UNAVAILABLE,
    OrdersUnavailable: code_pb2.UNAVAILABLE,
    SpoolUnavailable: code_pb2.UNAVAILABLE,
}
_RETRY_AFTER = Duration(seconds=5)
#: Details travel in a trailer, whose size peers bound to 8 KiB.
_MOST_VIOLATIONS = 50


class QueueService(QueueServiceServicer):
    """Answers for one agent."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        dispatcher: Dispatcher,
        orders: OrderBook,
        *,
        clock: Callable[[], float],
        unread: Callable[[], int],
    ) -> None:
        """
        *clock* gives seconds since the epoch, *unread* how many entries of the spool are in no
        queue yet, after a start.
        """
        self._settings = settings
        self._spool = spool
        self._dispatcher = dispatcher
        self._orders = orders
        self._clock = clock
        self._unread = unread
        self._tasks: set[asyncio.Task[Any]] = set()

    async def ListScheduledQueues(
        self, request: pb.ListScheduledQueuesRequest, context: Any
    ) -> pb.ListScheduledQueuesResponse:
        """List the scheduled queues that hold mail."""
        return await _answered(context, self._list_scheduled(request))

    async def ListReadyQueues(
        self, request: pb.ListReadyQueuesRequest, context: Any
    ) -> pb.ListReadyQueuesResponse:
        """List the egress paths in use."""
        return await _answered(context, self._list_ready(request))

    async def ListQueueOrders(
        self, request: pb.ListQueueOrdersRequest, context: Any
    ) -> pb.ListQueueOrdersResponse:
        """List the orders in force."""
        return await _answered(context, self._list_orders(request))

    async def GetMessage(
        self, request: pb.GetMessageRequest, context: Any
    ) -> pb.GetMessageResponse:
        """Say where a message is."""
        return await _answered(context, self._get_message(request))

    async def SuspendQueue(
        self, request: pb.SuspendQueueRequest, context: Any
    ) -> pb.SuspendQueueResponse:
        """Hold mail."""
        order = await _answered(context, self._give(request, OrderKind.SUSPEND))
        return pb.SuspendQueueResponse(order=order)

    async def BounceQueue(
        self, request: pb.BounceQueueRequest, context: Any
    ) -> pb.BounceQueueResponse:
        """Bounce mail."""
        order = await _answered(context, self._give(request, OrderKind.BOUNCE))
        return pb.BounceQueueResponse(order=order)

    async def ResumeQueue(
        self, request: pb.ResumeQueueRequest, context: Any
    ) -> pb.ResumeQueueResponse:
        """End an order."""
        return await _answered(context, self._resume(request))

    async def RebindQueue(
        self, request: pb.RebindQueueRequest, context: Any
    ) -> pb.RebindQueueResponse:
        """Move queued mail to another queue."""
        return await _answered(context, self._rebind(request))

    async def close(self) -> None:
        """End what is under way; what has moved has moved."""
        await end(self._tasks)

    async def _list_scheduled(
        self, request: pb.ListScheduledQueuesRequest
    ) -> pb.ListScheduledQueuesResponse:
        scope = requests.read_filter(request.selector)
        inspection = self._dispatcher.inspection
        counts = await inspection.counts()
        names = sorted(
            name for name in counts if scope.covers(scope_of_queue(parse_queue_name(name)))
        )
        page, next_page_token = requests.read_page(
            names, size=request.page_size, token=request.page_token
        )
        return pb.ListScheduledQueuesResponse(
            queues=[
                answers.scheduled_queue_of(
                    name, counts[name], inspection.waits_of_queue(name, counts[name])
                )
                for name in page
            ],
            next_page_token=next_page_token,
        )

    async def _list_ready(self, request: pb.ListReadyQueuesRequest) -> pb.ListReadyQueuesResponse:
        paths = self._dispatcher.paths()
        names = [name for name in paths if request.path_name in ("", name)]
        page, next_page_token = requests.read_page(
            names, size=request.page_size, token=request.page_token
        )
        return pb.ListReadyQueuesResponse(
            queues=[answers.ready_queue_of(*paths[name]) for name in page],
            next_page_token=next_page_token,
        )

    async def _list_orders(self, request: pb.ListQueueOrdersRequest) -> pb.ListQueueOrdersResponse:
        in_force = self._orders.in_force
        # Written with zeros, ids sort as numbers do.
        by_key = {f"{order.order_id:020}": order for order in in_force.orders()}
        page, next_page_token = requests.read_page(
            list(by_key), size=request.page_size, token=request.page_token
        )
        return pb.ListQueueOrdersResponse(
            orders=[
                answers.order_of(by_key[key], bounced=in_force.bounced(by_key[key].order_id))
                for key in page
            ],
            next_page_token=next_page_token,
        )

    async def _get_message(self, request: pb.GetMessageRequest) -> pb.GetMessageResponse:
        if not request.message_id:
            raise BadRequest([("message_id", "is required: an id as in the delivery log")])
        stored = await self._spool.find(request.message_id)
        if stored is None:
            raise NotHere(f"no message {request.message_id} is queued here")
        entries = []
        for entry in stored.entries:
            queue = parse_queue_name(entry.queue_name)
            max_age = self._settings.queue_for(queue.domain).max_age.total_seconds()
            found = self._dispatcher.inspection.find(entry)
            entries.append(answers.entry_of(entry, found, expire_time=stored.created + max_age))
        return answers.message_of(stored, entries)

    async def _give(
        self, request: pb.SuspendQueueRequest | pb.BounceQueueRequest, kind: OrderKind
    ) -> pb.QueueOrder:
        order = requests.read_order(request, kind=kind, now=self._clock())
        # By it processes of one agent know the order as the same.
        order = replace(order, request_id=order.request_id or uuid4().hex)
        given = await self._undisturbed(self._orders.give(order))
        return answers.order_of(given, bounced=self._orders.in_force.bounced(given.order_id))

    async def _resume(self, request: pb.ResumeQueueRequest) -> pb.ResumeQueueResponse:
        bounced = self._orders.in_force.bounced(request.order_id)
        ended = await self._undisturbed(self._orders.end(request.order_id))
        return pb.ResumeQueueResponse(order=answers.order_of(ended, bounced=bounced))

    async def _rebind(self, request: pb.RebindQueueRequest) -> pb.RebindQueueResponse:
        scope, rebinding = requests.read_rebinding(request)
        if unread := self._unread():
            raise NotReady(
                f"{unread} messages are still being read after the start; try again soon"
            )
        moved = await self._undisturbed(self._dispatcher.rebind(scope, rebinding))
        logger.info(
            "mail moved between queues",
            extra={"moved": moved.moved, "unchanged": moved.unchanged, "reason": rebinding.reason},
        )
        return pb.RebindQueueResponse(moved_count=moved.moved, unchanged_count=moved.unchanged)

    async def _undisturbed(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish *work* even if the client gives up: half of an order is worse than all of it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


async def _answered(context: Any, work: Awaitable[T]) -> T:
    """The result of *work*; its errors become statuses."""
    try:
        return await work
    except AgentError as error:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
        raise


def status_of(error: AgentError) -> Status:
    """The status, with details, that says what the proto promises."""
    code = _CODES.get(type(error), code_pb2.INTERNAL)
    if code == code_pb2.INTERNAL:
        logger.error("queue request failed", exc_info=error)
    status = Status(
        code=code, message=str(error) if code != code_pb2.INTERNAL else "internal error"
    )
    if isinstance(error, BadRequest):
        violations = [
            BadRequestDetail.FieldViolation(field=field, description=mistake)
            for field, mistake in error.violations[:_MOST_VIOLATIONS]
        ]
        _add_detail(status, BadRequestDetail(field_violations=violations))
    if code == code_pb2.UNAVAILABLE:
        _add_detail(status, RetryInfo(retry_delay=_RETRY_AFTER))
    return status


def _add_detail(status: Status, message: Message) -> None:
    detail = AnyMessage()
    detail.Pack(message)
    status.details.append(detail)
