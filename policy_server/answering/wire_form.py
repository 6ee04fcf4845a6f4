"""
Fields as they go over the wire, written around bytes that are there already.

The wire form of a message is the sum of its fields (Protocol Buffers, Encoding). What many messages
share is serialised once, and then only put together.
"""

from google.protobuf.message import Message

_VARINT = 0
_LENGTH_DELIMITED = 2
#: Numbers that are written as one byte, as nearly all tags and lengths are.
_SHORT = tuple(bytes((number,)) for number in range(0x80))
_LAST_SHORT_TAG = 15


def serialise(message: Message) -> bytes:
    """Write a message in the one form that equal ones have in common."""
    return bytes(message.SerializeToString(deterministic=True))


def write_field(number: int, body: bytes) -> bytes:
    """Write a field that is a message, text or bytes: *body* is its serialised value."""
    length = len(body)
    if number <= _LAST_SHORT_TAG and length < 0x80:
        return _SHORT[number << 3 | _LENGTH_DELIMITED] + _SHORT[length] + body
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length) + body


def write_text(number: int, text: str) -> bytes:
    """Write a field that is text; one without presence is left out where it is empty."""
    return write_field(number, text.encode()) if text else b""


def write_number(number: int, value: int) -> bytes:
    """Write a field that is a whole number from 0 on; it is left out where it is 0."""
    return _varint(number << 3 | _VARINT) + _varint(value) if value else b""


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        # As lengths of whole messages nearly all are.
        return bytes((number & 0x7F | 0x80, number >> 7))
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
