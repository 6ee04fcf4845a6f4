"""InjectionService: mail in over gRPC, with the checks of the SMTP port."""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from agent.errors import OverLimit, Refusal, TryLater
from agent.smtp.content import normalise_line_ends
from agent.smtp.intake import IncomingMessage, Intake
from penstock.v1.injection_service_pb2 import InjectRequest, InjectResponse
from penstock.v1.injection_service_pb2_grpc import InjectionServiceServicer

_RETRY_AFTER = Duration(seconds=5)


class InjectionService(InjectionServiceServicer):
    """Answers `Inject`."""

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
            if self._calls > self._most_calls:
                raise TryLater("too many calls at one time; try again later")
            message_id = await self._intake.receive(
                IncomingMessage(
                    sender=request.sender,
                    recipients=tuple(request.recipients),
                    content=normalise_line_ends(request.content),
                    protocol="gRPC",
                    smtp_utf8=True,
                    tenant=request.tenant,
                    campaign=request.campaign,
                    peer=_address_of(context.peer()),
                )
            )
        except Refusal as refusal:
            self._intake.refusals.count(refusal.reply)
            await context.abort_with_status(rpc_status.to_status(status_of(refusal)))
        finally:
            self._calls -= 1
        return InjectResponse(message_id=message_id)


def status_of(refusal: Refusal) -> Status:
    """The status, with details, that says what the proto promises."""
    if isinstance(refusal, TryLater):
        return _status(UNAVAILABLE, refusal, RetryInfo(retry_delay=_RETRY_AFTER))
    violation = BadRequest.FieldViolation(field=refusal.field, description=refusal.text)
    code = RESOURCE_EXHAUSTED if isinstance(refusal, OverLimit) else INVALID_ARGUMENT
    return _status(code, refusal, BadRequest(field_violations=[violation]))


def _status(code: int, refusal: Refusal, detail: Message) -> Status:
    packed = Any()
    packed.Pack(detail)
    return Status(code=code, message=refusal.text, details=[packed])


def _address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, such as `ipv4:127.0.0.1:50000`; else empty."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
