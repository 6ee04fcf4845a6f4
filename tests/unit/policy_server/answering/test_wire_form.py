"""Fields written by hand are the fields that the library writes."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse
from policy_server.answering.wire_form import serialise, write_field, write_number, write_text

_Response = GetEgressPathConfigResponse
#: Lengths and numbers of one, two and more bytes, and those beside them.
_SIZES = st.integers(0, 300) | st.integers(0x3FF0, 0x4010) | st.integers(0, 70_000)


@given(_SIZES)
def test_a_text_of_any_length_is_a_field_of_its_length(length: int) -> None:
    text = "x" * length

    for number, name in ((2, "site_name"), (5, "etag")):
        assert write_text(number, text) == serialise(_Response(**{name: text}))


@given(_SIZES)
def test_a_field_with_a_number_beyond_one_byte_is_written_likewise(length: int) -> None:
    inner = bytes(length)

    written = write_field(31, inner)

    # 31 << 3 | 2, as a varint of two bytes.
    assert written[:2] == b"\xfa\x01"
    assert written[2:] == write_field(1, inner)[1:]


@given(st.integers(0, 2**63 - 1) | _SIZES)
def test_a_number_is_written_as_the_library_does(value: int) -> None:
    assert write_number(6, value) == serialise(_Response(revision=value))
