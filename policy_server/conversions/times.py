"""
Times as they go over the wire.
"""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Of the times that a timestamp may be, and that a `datetime` can.
_FIRST_SECOND = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_LAST_SECOND = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds())


def is_time(message: Timestamp) -> bool:
    """Whether it is a time of the calendar's."""
    return _FIRST_SECOND <= message.seconds <= _LAST_SECOND and 0 <= message.nanos < 10**9


def to_time(message: Timestamp) -> datetime:
    """Read a time that is one of the calendar's."""
    # What the library's own method does once it has looked at the bounds, in half the time.
    return _EPOCH + timedelta(0, message.seconds, message.nanos // 1000)


def read_time(message: Timestamp) -> datetime | None:
    """Read a time; None where it is none of the calendar's."""
    return to_time(message) if is_time(message) else None


def write_time(time: datetime) -> Timestamp:
    """Write a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def write_bound(time: datetime | None) -> Timestamp | None:
    """Write when something begins or ends; None is never, and stays None."""
    return None if time is None else write_time(time)
