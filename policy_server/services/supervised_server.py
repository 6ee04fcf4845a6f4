"""
What surrounds every RPC: errors become statuses, and each call is counted.
"""

import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

import grpc
from grpc_status import rpc_status

from policy_server.metrics import ServerMetrics
from policy_server.services.statuses import build_status, status_code

logger = logging.getLogger(__name__)


class SupervisedServer:
    """
    A server as services register at it: their errors become statuses, and their calls are counted.

    Methods are wrapped once, and no interceptor is asked at each call, which costs as much as a
    known answer does.
    """

    def __init__(
        self, server: Any, metrics: ServerMetrics, check: Callable[[], None] = lambda: None
    ) -> None:
        """*check* raises why no call can be served now."""
        self._server = server
        self._metrics = metrics
        self._check = check

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Register handlers, as generated code does."""
        wrapped = tuple(
            _SupervisedHandler(handler, self._metrics, self._check) for handler in handlers
        )
        self._server.add_generic_rpc_handlers(wrapped)

    def add_registered_method_handlers(self, service_name: str, handlers: Any) -> None:
        """Generated code says the same in this other way, which grpc.aio does not use."""


class _SupervisedHandler(grpc.GenericRpcHandler):
    """Hands out the methods of another handler, wrapped."""

    def __init__(
        self, handler: grpc.GenericRpcHandler, metrics: ServerMetrics, check: Callable[[], None]
    ) -> None:
        self._handler = handler
        self._metrics = metrics
        self._check = check
        #: Those that exist bound it.
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    # Annotations are quoted where the class can be subscripted in its type stubs alone.
    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Find the method that is called."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = self._handler.service(handler_call_details)
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
        calls = self._metrics.calls.of(method)

        async def answer(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                self._check()
                response = await behaviour(request, context)
            # The supervisor of every unary call: nothing may reach the client unmapped.
            except Exception as error:
                await self._fail(error, context, method)
            else:
                calls.end("OK")
                return response
            finally:
                calls.took(time.perf_counter() - started)

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
                self._check()
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
                self._metrics.calls.of(method).end("OK")
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
                self._check()
                await behaviour(request, context)
                self._metrics.calls.of(method).end("OK")
            # The supervisor of every stream, likewise; a cancelled stream stays cancelled.
            except Exception as error:
                await self._fail(error, context, method)
            finally:
                is_open.dec()

        return serve

    async def _fail(self, error: Exception, context: Any, method: str) -> None:
        if isinstance(error, grpc.aio.AbortError):
            self._metrics.calls.of(method).end("ABORTED_BY_METHOD")
            raise error
        code = status_code(error)
        self._metrics.calls.of(method).end(code.name)
        if code is grpc.StatusCode.INTERNAL:
            logger.error("rpc failed", extra={"method": method}, exc_info=error)
        await context.abort_with_status(rpc_status.to_status(build_status(error)))
