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

import msgspec
from msgspec import UNSET, UnsetType

from agent.delivery.record import Record, Response

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
    fields = _line_of(record, node_id)
    try:
        line = _ENCODER.encode(fields)
    except UnicodeEncodeError:
        line = b""
    if not line or not line.isascii():
        plain = msgspec.to_builtins(fields)
        line = json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode()
    return line + b"\n"


class _Enhanced(msgspec.Struct, rename={"main": "class"}):
    main: int
    subject: int
    detail: int


class _Response(msgspec.Struct, kw_only=True):
    code: int
    enhanced_code: _Enhanced | None
    content: str
    command: str | None
    internal: bool


class _Peer(msgspec.Struct):
    name: str
    addr: str


class _Source(msgspec.Struct):
    address: str


class _Meta(msgspec.Struct, kw_only=True, omit_defaults=True):
    tenant: str = ""
    campaign: str = ""


class _Line(msgspec.Struct, kw_only=True):
    """The fields in their order; those that may be UNSET are left out then, all others stand."""

    type: str
    id: str
    event_id: str
    sender: str
    recipient: str | tuple[str, ...]
    queue: str
    site: str
    size: int
    response: _Response
    peer_address: _Peer | None
    timestamp: int
    event_time: str
    created: int
    created_time: str
    num_attempts: int
    bounce_classification: str = "Uncategorized"
    egress_pool: str | None
    egress_source: str | None
    source_address: _Source | None
    feedback_report: None = None
    meta: _Meta
    headers: dict[str, str] = {}
    delivery_protocol: str | None
    reception_protocol: str | None
    nodeid: str
    routing_domain: str
    recipient_domain: str
    site_name: str
    tls_cipher: str | UnsetType
    tls_protocol_version: str | UnsetType
    provider_name: str | UnsetType
    session_id: str | UnsetType


def _line_of(record: Record, node_id: str) -> _Line:
    recipients, peer, source = record.recipients, record.peer_address, record.source_address
    return _Line(
        type=record.type.value,
        id=record.id,
        event_id=record.event_id,
        sender=record.sender,
        recipient=recipients[0] if len(recipients) == 1 else recipients,
        queue=record.queue,
        site=record.site,
        size=record.size,
        response=_response_of(record.response),
        peer_address=None if peer is None else _Peer(peer.name, peer.addr),
        timestamp=int(record.timestamp),
        event_time=_rfc3339(record.timestamp),
        created=int(record.created),
        created_time=_rfc3339(record.created),
        num_attempts=record.num_attempts,
        egress_pool=record.egress_pool or None,
        egress_source=record.egress_source or None,
        source_address=_Source(source) if source else None,
        meta=_Meta(tenant=record.tenant, campaign=record.campaign),
        delivery_protocol=record.delivery_protocol or None,
        reception_protocol=record.reception_protocol or None,
        nodeid=node_id,
        routing_domain=record.routing_domain,
        recipient_domain=record.recipient_domain,
        site_name=record.site_name,
        tls_cipher=record.tls_cipher or UNSET,
        tls_protocol_version=record.tls_protocol_version or UNSET,
        provider_name=record.provider_name or UNSET,
        session_id=record.session_id or UNSET,
    )


def _response_of(response: Response) -> _Response:
    enhanced = response.enhanced_code
    return _Response(
        code=response.code,
        enhanced_code=None if enhanced is None else _Enhanced(*enhanced),
        content=response.content,
        command=response.command or None,
        internal=response.internal,
    )


def _rfc3339(seconds: float) -> str:
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_to_the_second(whole)}.{micros:06}+00:00"


@lru_cache(maxsize=256)
def _to_the_second(seconds: int) -> str:
    """Most of a time, which many lines have in common."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
