"""
Statuses: what of an error a client is told, by one table.
"""

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

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
