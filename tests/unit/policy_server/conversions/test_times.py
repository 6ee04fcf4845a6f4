"""Times as they go over the wire."""

from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from policy_server.conversions.times import read_time, write_time


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-10, 10**11), st.integers(-5, 10**9 + 5))
@example(-62_135_596_800, 0)
@example(-62_135_596_801, 999_999_999)
@example(253_402_300_799, 999_999_999)
@example(253_402_300_800, 0)
def test_what_is_a_time_of_the_calendar_is_read_as_the_library_reads_it(seconds, nanos):
    message = Timestamp(seconds=seconds, nanos=nanos)
    try:
        expected = message.ToDatetime(UTC)
    except ValueError:
        expected = None

    assert read_time(message) == expected


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_comes_back_as_it_was(time):
    assert read_time(write_time(time)) == time
