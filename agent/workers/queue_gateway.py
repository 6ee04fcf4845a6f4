"""
QueueGateway: the QueueService of an agent of several processes. Whichever of them is called asks
all of them, itself among them, over their private sockets, and puts the answers together.

What is ordered is ordered everywhere, under one request id. Where a process is away for the moment
the call fails with UNAVAILABLE, and says so: to send it again changes nothing where it was done.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import grpc

from agent.workers.queue_merge import (
    merge_orders,
    merge_ready,
    merge_scheduled,
    numbered_message,
    numbered_order,
    page_of_orders,
    worker_order_id,
)
from penstock.v1 import queue_service_pb2 as pb
from penstock.v1.queue_service_pb2_grpc import QueueServiceServicer, QueueServiceStub

_ANSWER_SECONDS = 30.0
_LONGEST_SECONDS = 3600.0
_PAGE = 1000
#: A process that was started anew is found again soon.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class QueueGateway(QueueServiceServicer):
    """Asks all processes of the agent."""

    def __init__(self, sockets: Mapping[int, str]) -> None:
        """*sockets*: by number of the process, where it serves its own queues."""
        self._channels = {
            number: grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)
            for number, path in sockets.items()
        }
        self._stubs = {
            number: QueueServiceStub(channel) for number, channel in self._channels.items()
        }

    async def close(self) -> None:
        """Let go of the other processes."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def ListScheduledQueues(
        self, request: pb.ListScheduledQueuesRequest, context: Any
    ) -> pb.ListScheduledQueuesResponse:
        """List the scheduled queues that hold mail."""
        answers = await self._ask("ListScheduledQueues", request, context)
        return merge_scheduled(answers, request.page_size)

    async def ListReadyQueues(
        self, request: pb.ListReadyQueuesRequest, context: Any
    ) -> pb.ListReadyQueuesResponse:
        """List the egress paths in use."""
        return merge_ready(await self._ask("ListReadyQueues", request, context), request.page_size)

    async def ListQueueOrders(
        self, request: pb.ListQueueOrdersRequest, context: Any
    ) -> pb.ListQueueOrdersResponse:
        """List the orders in force."""
        return page_of_orders(merge_orders(await self._orders(context)), request)

    async def GetMessage(
        self, request: pb.GetMessageRequest, context: Any
    ) -> pb.GetMessageResponse:
        """Say where a message is."""
        results = await self._call("GetMessage", request, _ANSWER_SECONDS)
        for number, result in results.items():
            if not isinstance(result, grpc.aio.AioRpcError):
                return numbered_message(number, result)
        raise await self._failure(results, context)

    async def SuspendQueue(
        self, request: pb.SuspendQueueRequest, context: Any
    ) -> pb.SuspendQueueResponse:
        """Hold mail."""
        request.request_id = request.request_id or uuid4().hex
        answers = await self._ask("SuspendQueue", request, context)
        return pb.SuspendQueueResponse(order=_first_order(answers))

    async def BounceQueue(
        self, request: pb.BounceQueueRequest, context: Any
    ) -> pb.BounceQueueResponse:
        """Bounce mail."""
        request.request_id = request.request_id or uuid4().hex
        answers = await self._ask("BounceQueue", request, context)
        return pb.BounceQueueResponse(order=_first_order(answers))

    async def ResumeQueue(
        self, request: pb.ResumeQueueRequest, context: Any
    ) -> pb.ResumeQueueResponse:
        """End an order, in every process that has it."""
        orders = await self._orders(context)
        number, order_id = worker_order_id(request.order_id)
        named = next((one for one in orders.get(number, ()) if one.id == order_id), None)
        if named is None:
            text = f"no order {request.order_id} is in force"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
            raise AssertionError(text)
        ends = {
            worker: pb.ResumeQueueRequest(order_id=order.id)
            for worker, found in orders.items()
            for order in found
            if (worker, order.id) == (number, order_id)
            or (order.request_id and order.request_id == named.request_id)
        }
        results = await self._call("ResumeQueue", ends, _ANSWER_SECONDS)
        # One that has ended meanwhile has ended.
        gone = grpc.StatusCode.NOT_FOUND
        if any(_code(result) not in (None, gone) for result in results.values()):
            raise await self._failure(results, context)
        return pb.ResumeQueueResponse(order=numbered_order(number, named))

    async def RebindQueue(
        self, request: pb.RebindQueueRequest, context: Any
    ) -> pb.RebindQueueResponse:
        """Move queued mail to another queue."""
        answers = await self._ask("RebindQueue", request, context, seconds=_LONGEST_SECONDS)
        return pb.RebindQueueResponse(
            moved_count=sum(answer.moved_count for answer in answers.values()),
            unchanged_count=sum(answer.unchanged_count for answer in answers.values()),
        )

    async def _orders(self, context: Any) -> dict[int, list[pb.QueueOrder]]:
        """All orders of every process."""
        orders: dict[int, list[pb.QueueOrder]] = {number: [] for number in self._stubs}
        requests = {number: pb.ListQueueOrdersRequest(page_size=_PAGE) for number in self._stubs}
        while requests:
            answers = await self._ask("ListQueueOrders", requests, context)
            requests = {}
            for number, answer in answers.items():
                orders[number] += answer.orders
                if token := answer.next_page_token:
                    requests[number] = pb.ListQueueOrdersRequest(page_size=_PAGE, page_token=token)
        return orders

    async def _ask(
        self, method: str, request: Any, context: Any, seconds: float = _ANSWER_SECONDS
    ) -> dict[int, Any]:
        """The answers of all processes; if one fails, so does the call."""
        results = await self._call(method, request, seconds)
        if any(_code(result) is not None for result in results.values()):
            raise await self._failure(results, context)
        return results

    async def _call(self, method: str, request: Any, seconds: float) -> dict[int, Any]:
        """What each process answers, or the error; *request* is one for all, or one for each."""
        requests = request if isinstance(request, dict) else dict.fromkeys(self._stubs, request)
        calls = (
            getattr(self._stubs[number], method)(one, timeout=seconds)
            for number, one in requests.items()
        )
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, grpc.aio.AioRpcError):
                raise result
        return dict(zip(requests, results, strict=True))

    async def _failure(self, results: Mapping[int, Any], context: Any) -> AssertionError:
        """End the call, which raises, as a process did: first of all one that is away."""
        away = grpc.StatusCode.UNAVAILABLE
        failed = [(number, one) for number, one in results.items() if _code(one) is not None]
        if any(_code(error) is away for _, error in failed):
            failed = [one for one in failed if _code(one[1]) is away]
        number, error = failed[0]
        text = error.details() or ""
        if _code(error) is away and not error.trailing_metadata():
            text = f"worker {number} is away for the moment; try again"
        await context.abort(error.code(), text, tuple(error.trailing_metadata() or ()))
        return AssertionError("a call that was ended goes on")


def _code(result: Any) -> grpc.StatusCode | None:
    return result.code() if isinstance(result, grpc.aio.AioRpcError) else None


def _first_order(answers: Mapping[int, Any]) -> pb.QueueOrder:
    number = min(answers)
    return numbered_order(number, answers[number].order)
