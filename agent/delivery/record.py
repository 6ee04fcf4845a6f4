"""
Record: what happened to a message at one moment; one line of the delivery log and, for the types
that automation learns from, one outcome for the policy server. Field names are the log's.
"""

import re
from enum import StrEnum

import msgspec

#: Longest text of a response that is kept.
LONGEST_CONTENT = 1024
# Controls, what some programs take for a line end, and what came as no UTF-8.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def on_one_line(text: str) -> str:
    """
    *text* as the content of a response: on one line, without controls, of a bounded length.

    >>> on_one_line("what\\r\\n is\\x1b[2J this ")
    'what  is [2J this'
    """
    return _UNSAFE.sub(" ", text).strip()[:LONGEST_CONTENT]


class RecordType(StrEnum):
    """Kinds of records, spelt as in the log."""

    RECEPTION = "Reception"
    DELIVERY = "Delivery"
    TRANSIENT_FAILURE = "TransientFailure"
    BOUNCE = "Bounce"
    EXPIRATION = "Expiration"
    ADMIN_BOUNCE = "AdminBounce"
    ADMIN_REBIND = "AdminRebind"
    DELAYED = "Delayed"
    REJECTION = "Rejection"


#: Records that are reported to the policy server.
REPORTED = frozenset(
    {
        RecordType.DELIVERY,
        RecordType.TRANSIENT_FAILURE,
        RecordType.BOUNCE,
        RecordType.EXPIRATION,
        RecordType.ADMIN_BOUNCE,
    }
)


class Response(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A reply of the peer, or the text that the agent made where no peer replied."""

    code: int
    #: (class, subject, detail) of RFC 3463.
    enhanced_code: tuple[int, int, int] | None = None
    #: On one line, without the codes.
    content: str = ""
    #: The command that was answered; empty if none was.
    command: str = ""
    #: Made by the agent, not by the peer.
    internal: bool = False


class Peer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The host at the other end."""

    name: str
    addr: str


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to a message, for recipients that met the same reply."""

    type: RecordType
    #: Unique, for counting once.
    event_id: str
    #: Seconds since the epoch.
    timestamp: float
    #: The message's id.
    id: str
    sender: str
    recipients: tuple[str, ...]
    response: Response
    created: float
    queue: str = ""
    #: Path name for delivery records.
    site: str = ""
    site_name: str = ""
    routing_domain: str = ""
    recipient_domain: str = ""
    size: int = 0
    num_attempts: int = 0
    egress_pool: str = ""
    egress_source: str = ""
    source_address: str = ""
    provider_name: str = ""
    tenant: str = ""
    campaign: str = ""
    peer_address: Peer | None = None
    delivery_protocol: str = ""
    reception_protocol: str = ""
    session_id: str = ""
    tls_protocol_version: str = ""
    tls_cipher: str = ""
