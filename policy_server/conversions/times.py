"""
Times as they go over the wire.
"""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def read_time(message: Timestamp) -> datetime | None:
    """Read a time; None where it is none of the calendar's."""
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return None


def write_time(time: datetime) -> Timestamp:
    """Write a time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def write_bound(time: datetime | None) -> Timestamp | None:
    """Write when something begins or ends; None is never, and stays None."""
    return None if time is None else write_time(time)
