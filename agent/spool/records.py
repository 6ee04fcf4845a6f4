"""How records are written in the outbox: compact JSON that leaves out what is at its default."""

import json
from dataclasses import MISSING, fields
from typing import Any

from agent.delivery.record import Peer, Record, RecordType, Response
from agent.spool.messages import LastReply

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Record) if field.default is not MISSING
}
_REQUIRED = tuple(field.name for field in fields(Record) if field.default is MISSING)


def encode_record(record: Record) -> bytes:
    """Write *record* down; `decode_record` gives an equal one back."""
    table = {name: getattr(record, name) for name in _REQUIRED}
    for name, default in _DEFAULTS.items():
        value = getattr(record, name)
        if value != default:
            table[name] = value
    table["response"] = _write_response(record.response)
    if record.peer_address is not None:
        table["peer_address"] = [record.peer_address.name, record.peer_address.addr]
    return json.dumps(table, separators=(",", ":")).encode()


def decode_record(data: bytes) -> Record:
    """Read a record that `encode_record` wrote."""
    table = json.loads(data)
    table["response"] = _read_response(table["response"])
    table["type"] = RecordType(table["type"])
    table["recipients"] = tuple(table["recipients"])
    if "peer_address" in table:
        table["peer_address"] = Peer(name=table["peer_address"][0], addr=table["peer_address"][1])
    return Record(**table)


def encode_reply(reply: LastReply) -> str:
    """Write down what put an entry off; `decode_reply` gives an equal value back."""
    table = [_write_response(reply.response), reply.time, reply.peer]
    return json.dumps(table, separators=(",", ":"))


def decode_reply(text: str) -> LastReply | None:
    """Read what `encode_reply` wrote; empty: None."""
    if not text:
        return None
    response, time, peer = json.loads(text)
    return LastReply(response=_read_response(response), time=time, peer=peer)


def _write_response(response: Response) -> list[Any]:
    return [
        response.code,
        response.enhanced_code,
        response.content,
        response.command,
        response.internal,
    ]


def _read_response(row: list[Any]) -> Response:
    code, enhanced_code, content, command, internal = row
    return Response(
        code=code,
        enhanced_code=None if enhanced_code is None else tuple(enhanced_code),
        content=content,
        command=command,
        internal=internal,
    )
