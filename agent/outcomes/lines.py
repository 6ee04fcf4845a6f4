"""
Lines: a record as one line of JSON in the delivery log.

Field names are those that operators' tools for KumoMTA read; `recipient` is a string if there is
one and a list if there are several. Ours beside them: `event_id`, `routing_domain`,
`recipient_domain`, `site_name`, and `internal` in the response. Pure.
"""

import json
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from agent.delivery.record import Record, Response

#: Left out where they are empty; every other field is always there.
_ONLY_IF_SET = ("tls_cipher", "tls_protocol_version", "provider_name", "session_id")
_META = ("tenant", "campaign")
#: Fixed for ever, so that an agent keeps its id over restarts and reinstallations.
_NODES = uuid.UUID("5c1a3a52-8d0e-5d0a-9f5e-0d8a6f2f7c31")
_ENCODER = msgspec.json.Encoder()


def node_id_of(agent_name: str) -> str:
    """
    Return the id under which an agent's lines are known, a UUID as tools expect it.

    >>> node_id_of("mta-1") == node_id_of("mta-1") != node_id_of("mta-2")
    True
    """
    return str(uuid.uuid5(_NODES, agent_name))


def format_line(record: Record, *, node_id: str) -> bytes:
    """Return *record* as one line in ASCII, with its line end."""
    fields = _fields(record, node_id)
    try:
        line = _ENCODER.encode(fields)
    except UnicodeEncodeError:
        line = b""
    if not line or not line.isascii():
        line = json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()
    return line + b"\n"


def _fields(record: Record, node_id: str) -> dict[str, Any]:
    recipients = record.recipients
    peer = record.peer_address
    fields: dict[str, Any] = {
        "type": record.type.value,
        "id": record.id,
        "event_id": record.event_id,
        "sender": record.sender,
        "recipient": recipients[0] if len(recipients) == 1 else list(recipients),
        "queue": record.queue,
        "site": record.site,
        "size": record.size,
        "response": _response(record.response),
        "peer_address": None if peer is None else {"name": peer.name, "addr": peer.addr},
        "timestamp": int(record.timestamp),
        "event_time": _rfc3339(record.timestamp),
        "created": int(record.created),
        "created_time": _rfc3339(record.created),
        "num_attempts": record.num_attempts,
        "bounce_classification": "Uncategorized",
        "egress_pool": record.egress_pool or None,
        "egress_source": record.egress_source or None,
        "source_address": {"address": record.source_address} if record.source_address else None,
        "feedback_report": None,
        "meta": {name: value for name in _META if (value := getattr(record, name))},
        "headers": {},
        "delivery_protocol": record.delivery_protocol or None,
        "reception_protocol": record.reception_protocol or None,
        "nodeid": node_id,
        "routing_domain": record.routing_domain,
        "recipient_domain": record.recipient_domain,
        "site_name": record.site_name,
    }
    fields.update({name: value for name in _ONLY_IF_SET if (value := getattr(record, name))})
    return fields


def _response(response: Response) -> dict[str, Any]:
    enhanced = response.enhanced_code
    return {
        "code": response.code,
        "enhanced_code": None
        if enhanced is None
        else dict(zip(("class", "subject", "detail"), enhanced, strict=True)),
        "content": response.content,
        "command": response.command or None,
        "internal": response.internal,
    }


def _rfc3339(seconds: float) -> str:
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_to_the_second(whole)}.{micros:06}+00:00"


@lru_cache(maxsize=256)
def _to_the_second(seconds: int) -> str:
    """Most of a time, which many lines have in common."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
