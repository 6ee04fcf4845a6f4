"""InjectionService: mail in over gRPC, with the checks of the SMTP port."""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from agent.errors import OverLimit, Refusal, TryLater
from agent.smtp.content import normalise_line_ends
from agent.smtp.injection_stream import InjectionStream
from agent.smtp.intake import IncomingMessage, Intake
from penstock.v1.injection_service_pb2 import (
    InjectRefusal,
    InjectRequest,
    InjectResponse,
    InjectStreamRequest,
    InjectStreamResponse,
)
from penstock.v1.injection_service_pb2_grpc import InjectionServiceServicer

logger = logging.getLogger(__name__)

_RETRY_AFTER = Duration(seconds=5)


class InjectionService(InjectionServiceServicer):
    """Answers `Inject` and `InjectStream`."""

    def __init__(self, intake: Intake, *, most_calls: int = 1024) -> None:
        """Serve at most *most_calls* at one time."""
        self._intake = intake
        self._most_calls = most_calls
        self._calls = 0

    async def Inject(
        self,
        request: InjectRequest,
        context: grpc.aio.ServicerContext[InjectRequest, InjectResponse],
    ) -> InjectResponse:
        """Take one message: all of it or nothing."""
        self._calls += 1
        try:
            self._check_calls()
            return await self._take(request, _address_of(context.peer()))
        except Refusal as refusal:
            self._intake.refusals.count(refusal.reply)
            await context.abort_with_status(rpc_status.to_status(status_of(refusal)))
            raise AssertionError from None  # aborting raises; this tells the type checker
        finally:
            self._calls -= 1

    async def InjectStream(
        self,
        request_iterator: AsyncIterator[InjectStreamRequest],
        context: grpc.aio.ServicerContext[InjectStreamRequest, InjectStreamResponse],
    ) -> AsyncIterator[InjectStreamResponse]:
        """Take many messages, each by itself; answer each once it is safe."""
        peer = _address_of(context.peer())
        self._calls += 1
        try:
            self._check_calls()
            stream = InjectionStream(lambda request: self._answer(request, peer))
            # Closed with the call, however it ends.
            async with aclosing(stream.answers(request_iterator)) as responses:
                async for response in responses:
                    yield response
        except TryLater as refusal:
            self._intake.refusals.count(refusal.reply)
            await context.abort_with_status(rpc_status.to_status(status_of(refusal)))
        finally:
            self._calls -= 1

    def _check_calls(self) -> None:
        if self._calls > self._most_calls:
            raise TryLater("too many calls at one time; try again later")

    async def _take(self, request: InjectRequest, peer: str) -> InjectResponse:
        message_id = await self._intake.receive(
            IncomingMessage(
                sender=request.sender,
                recipients=tuple(request.recipients),
                content=normalise_line_ends(request.content),
                protocol="gRPC",
                smtp_utf8=True,
                tenant=request.tenant,
                campaign=request.campaign,
                peer=peer,
            )
        )
        return InjectResponse(message_id=message_id)

    async def _answer(self, request: InjectStreamRequest, peer: str) -> InjectStreamResponse:
        response = InjectStreamResponse(request_id=request.request_id)
        try:
            response.accepted.CopyFrom(await self._take(request.message, peer))
        except Refusal as refusal:
            self._intake.refusals.count(refusal.reply)
            response.refused.CopyFrom(_refusal_of(refusal))
        # Supervisor: a fault of ours must neither leave a message unanswered nor end the others.
        except Exception:
            logger.exception("message not taken")
            response.refused.code = INTERNAL
            response.refused.message = "something went wrong here; try again later"
            response.refused.retry_delay.CopyFrom(_RETRY_AFTER)
        return response


def status_of(refusal: Refusal) -> Status:
    """The status, with details, that says what the proto promises."""
    if isinstance(refusal, TryLater):
        return _status(refusal, RetryInfo(retry_delay=_RETRY_AFTER))
    violation = BadRequest.FieldViolation(field=refusal.field, description=refusal.text)
    return _status(refusal, BadRequest(field_violations=[violation]))


def _status(refusal: Refusal, detail: Message) -> Status:
    packed = Any()
    packed.Pack(detail)
    return Status(code=_code_of(refusal), message=refusal.text, details=[packed])


def _code_of(refusal: Refusal) -> int:
    if isinstance(refusal, TryLater):
        return int(UNAVAILABLE)
    return int(RESOURCE_EXHAUSTED if isinstance(refusal, OverLimit) else INVALID_ARGUMENT)


def _refusal_of(refusal: Refusal) -> InjectRefusal:
    delay = _RETRY_AFTER if isinstance(refusal, TryLater) else None
    return InjectRefusal(
        code=_code_of(refusal), message=refusal.text, field=refusal.field, retry_delay=delay
    )


def _address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, such as `ipv4:127.0.0.1:50000`; else empty."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
