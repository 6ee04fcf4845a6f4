"""
How records are written in the outbox: compact JSON that leaves out what is at its default. A
response, a peer and a last reply are lists of their fields, in order.
"""

import json
from typing import TypeVar

import msgspec

from agent.delivery.record import Record
from agent.spool.messages import LastReply

_Written = TypeVar("_Written", Record, LastReply)

_ENCODER = msgspec.json.Encoder()
_RECORDS = msgspec.json.Decoder(Record)
_REPLIES = msgspec.json.Decoder(LastReply)


def encode_record(record: Record) -> bytes:
    """Write *record* down; `decode_record` gives an equal one back."""
    return _encode(record)


def decode_record(data: bytes) -> Record:
    """Read a record that `encode_record` wrote."""
    return _decode(_RECORDS, data)


def encode_reply(reply: LastReply) -> str:
    """Write down what put an entry off; `decode_reply` gives an equal value back."""
    return _encode(reply).decode()


def decode_reply(text: str) -> LastReply | None:
    """Read what `encode_reply` wrote; empty: None."""
    return _decode(_REPLIES, text) if text else None


# A peer may reply with any bytes: of those that are no UTF-8 only `json` makes text, and back.


def _encode(value: Record | LastReply) -> bytes:
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def _decode(decoder: msgspec.json.Decoder[_Written], data: bytes | str) -> _Written:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(data), decoder.type)
