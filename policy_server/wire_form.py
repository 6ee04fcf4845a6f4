"""
Fields as they go over the wire, written around bytes that are there already.

The wire form of a message is the sum of its fields (Protocol Buffers, Encoding). What many messages
share is serialised once, and then only put together.
"""

_LENGTH_DELIMITED = 2


def write_field(number: int, body: bytes) -> bytes:
    """Write a field that is a message, text or bytes: *body* is its serialised value."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
