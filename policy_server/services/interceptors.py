"""
What surrounds every RPC: errors become statuses by one table, and each call is counted.
"""

import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from policy_server.errors import (
    Aborted,
    InvalidRequest,
    NotFound,
    NotInForce,
    PolicyServerError,
    StoreRefused,
    Unavailable,
    WrongSchema,
)
from policy_server.metrics import ServerMetrics

logger = logging.getLogger(__name__)

#: First match wins, so a subclass stands before its parent.
STATUS_CODES: tuple[tuple[type[PolicyServerError], grpc.StatusCode], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Aborted, grpc.StatusCode.ABORTED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (NotInForce, grpc.StatusCode.FAILED_PRECONDITION),
    (WrongSchema, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreRefused, grpc.StatusCode.INTERNAL),
)
#: Details travel in a trailer, whose size peers bound to 8 KiB.
_MOST_VIOLATIONS = 50
_INTERNAL_TEXT = "internal error; the server's log has the details"


def status_code(error: BaseException) -> grpc.StatusCode:
    """Find the status of an error; INTERNAL for those that nobody foresaw."""
    for kind, code in STATUS_CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def status_message(error: BaseException) -> str:
    """Say what a client may know of an error."""
    if status_code(error) is grpc.StatusCode.INTERNAL:
        return _INTERNAL_TEXT
    return str(error)


def status_number(error: BaseException) -> int:
    """Find the google.rpc.Code of an error."""
    return int(code_pb2.Code.Value(status_code(error).name))


def build_status(error: BaseException) -> status_pb2.Status:
    """Make the google.rpc.Status of an error, with details that clients can act on."""
    status = status_pb2.Status(code=status_number(error), message=status_message(error))
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in error.violations[:_MOST_VIOLATIONS]
        ]
        _add_detail(status, error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, Unavailable):
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_delay)
        _add_detail(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _add_detail(status: status_pb2.Status, message: Any) -> None:
    detail = any_pb2.Any()
    detail.Pack(message)
    status.details.append(detail)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Maps errors and counts calls, for every method."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        # Handlers are made once a method, so that a call costs no wrapping; the methods that
        # exist bound it.
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    # Annotations are quoted where the class can be subscripted in its type stubs alone.
    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Hand out the method's handler, wrapped."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        wrapped = self._wrap(handler, method)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, handler: Any, method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            answer = self._unary(handler.unary_unary, method)
            return grpc.unary_unary_rpc_method_handler(answer, **coders)
        if handler.unary_stream is not None:
            answer = self._stream(handler.unary_stream, method)
            return grpc.unary_stream_rpc_method_handler(answer, **coders)
        if handler.stream_stream is not None:
            answer = self._stream(handler.stream_stream, method)
            return grpc.stream_stream_rpc_method_handler(answer, **coders)
        answer = self._unary(handler.stream_unary, method)
        return grpc.stream_unary_rpc_method_handler(answer, **coders)

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Any:
        seconds = self._metrics.call_seconds.labels(method)
        succeeded = self._metrics.calls.labels(method, "OK")

        async def answer(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                response = await behaviour(request, context)
            # The supervisor of every unary call: nothing may reach the client unmapped.
            except Exception as error:
                await self._fail(error, context, method)
            else:
                succeeded.inc()
                return response
            finally:
                seconds.observe(time.perf_counter() - started)

        return answer

    def _stream(self, behaviour: Callable[..., Any], method: str) -> Any:
        if inspect.isasyncgenfunction(behaviour):
            return self._generated(behaviour, method)
        return self._written(behaviour, method)

    def _generated(self, behaviour: Callable[..., Any], method: str) -> Any:
        is_open = self._metrics.streams.labels(method)

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            is_open.inc()
            try:
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
                self._metrics.calls.labels(method, "OK").inc()
            # The supervisor of every stream, likewise; a cancelled stream stays cancelled.
            except Exception as error:
                await self._fail(error, context, method)
            finally:
                is_open.dec()

        return generate

    def _written(self, behaviour: Callable[..., Any], method: str) -> Any:
        is_open = self._metrics.streams.labels(method)

        async def serve(request: Any, context: Any) -> None:
            is_open.inc()
            try:
                await behaviour(request, context)
                self._metrics.calls.labels(method, "OK").inc()
            # The supervisor of every stream, likewise; a cancelled stream stays cancelled.
            except Exception as error:
                await self._fail(error, context, method)
            finally:
                is_open.dec()

        return serve

    async def _fail(self, error: Exception, context: Any, method: str) -> None:
        if isinstance(error, grpc.aio.AbortError):
            self._metrics.calls.labels(method, "ABORTED_BY_METHOD").inc()
            raise error
        code = status_code(error)
        self._metrics.calls.labels(method, code.name).inc()
        if code is grpc.StatusCode.INTERNAL:
            logger.error("rpc failed", extra={"method": method}, exc_info=error)
        await context.abort_with_status(rpc_status.to_status(build_status(error)))
