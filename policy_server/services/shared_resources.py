"""
What many streams are sent, written down once: the bytes of a resource are the same for all.

A message's wire form is the sum of its fields, so a response is its own small part (nonce, token)
followed by the shared bytes of the resources in it (Protocol Buffers, Encoding: last one wins and
repeated fields add up).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from penstock.v1 import policy_service_pb2 as pb
from policy_server.answers import Answer
from policy_server.automation.actions import BOUNCES, ActionInForce
from policy_server.convert import to_bounce, to_suspension

_NO_TIME = timedelta()
#: How long a written ttl is near enough.
_TTL_KEPT = timedelta(seconds=0.25)
#: Most actions whose bytes are kept.
_MOST_KEPT = 10_000

_RESOURCES = pb.WatchPolicyResponse.DESCRIPTOR.fields_by_name["resources"].number
_EGRESS_PATH = pb.PolicyResource.DESCRIPTOR.fields_by_name["egress_path"].number


@dataclass(slots=True)
class Outgoing:
    """A response on its way: what is this stream's own, and the shared bytes of its resources."""

    own: pb.WatchPolicyResponse
    shared: list[bytes] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the shared part."""
        return sum(map(len, self.shared))

    @property
    def says_something(self) -> bool:
        """Whether there is anything in it that is new to the client."""
        return bool(self.shared or self.own.removed)

    def SerializeToString(self) -> bytes:  # as messages are asked for their bytes
        """Return the wire form."""
        return bytes(self.own.SerializeToString()) + b"".join(self.shared)


class SharedResources:
    """Writes resources down once for all streams."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._written: dict[int, tuple[ActionInForce, datetime, bytes]] = {}

    def write_action(self, action: ActionInForce, revision: int) -> bytes:
        """Write an action that holds or bounces mail, as one entry of `resources`."""
        now = self._clock()
        known = self._written.get(action.id)
        if known is not None and known[0] == action and now - known[1] < _TTL_KEPT:
            return known[2]
        written = _as_field(_RESOURCES, _to_resource(action, revision, now).SerializeToString())
        self._written.pop(action.id, None)
        self._written[action.id] = (action, now, written)
        while len(self._written) > _MOST_KEPT:
            del self._written[next(iter(self._written))]
        return written


def write_path(name: str, answer: Answer) -> bytes:
    """Write the answer for a subscribed path, as one entry of `resources`."""
    resource = pb.PolicyResource(
        name=name,
        type=pb.ResourceType.RESOURCE_TYPE_EGRESS_PATH,
        etag=answer.etag,
        revision=answer.response.revision,
    )
    body = resource.SerializeToString() + _as_field(_EGRESS_PATH, answer.payload)
    return _as_field(_RESOURCES, body)


def _to_resource(action: ActionInForce, revision: int, now: datetime) -> pb.PolicyResource:
    end = "pinned" if action.end is None else f"{action.end.timestamp():.6f}"
    resource = pb.PolicyResource(name=str(action.id), etag=f"{action.id}-{end}", revision=revision)
    if action.kind in BOUNCES:
        resource.type = pb.ResourceType.RESOURCE_TYPE_BOUNCE
        resource.bounce.CopyFrom(to_bounce(action))
    else:
        resource.type = pb.ResourceType.RESOURCE_TYPE_SUSPENSION
        resource.suspension.CopyFrom(to_suspension(action))
    if action.end is not None:
        # Of a pinned one there is no end that a client could come to by itself.
        resource.ttl.FromTimedelta(max(action.end - now, _NO_TIME))
    return resource


def _as_field(number: int, body: bytes) -> bytes:
    """Write a length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
