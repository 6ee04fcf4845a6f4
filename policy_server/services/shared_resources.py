"""
What many streams are sent, written down once: the bytes of a resource are the same for all.

The wire form of a message is the sum of its fields, and repeated fields add up wherever they
stand (Protocol Buffers, Encoding). So a response is its own nonce, followed by parts that all
streams share: a head with kind, token and time, and each resource.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from penstock.v1 import policy_service_pb2 as pb
from policy_server.answering.answers import Answer
from policy_server.answering.wire_form import write_field
from policy_server.automation.actions import BOUNCES, ActionInForce
from policy_server.conversions.actions import to_bounce, to_suspension

_NO_TIME = timedelta()
#: How long a written time or ttl is near enough.
_TIME_KEPT = timedelta(seconds=0.25)
#: Most actions whose bytes are kept.
_MOST_ACTIONS = 10_000
_MOST_HEADS = 100

_NONCE = pb.WatchPolicyResponse.DESCRIPTOR.fields_by_name["nonce"].number
_RESOURCES = pb.WatchPolicyResponse.DESCRIPTOR.fields_by_name["resources"].number
_EGRESS_PATH = pb.PolicyResource.DESCRIPTOR.fields_by_name["egress_path"].number


class Outgoing(msgspec.Struct):
    """A response on its way, in parts."""

    parts: list[bytes]
    #: Whether it ends a snapshot.
    is_end: bool = False

    def SerializeToString(self) -> bytes:  # as messages are asked for their bytes
        """Return the wire form."""
        return b"".join(self.parts)


class SharedResources:
    """Writes heads and resources down once for all streams."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._heads: dict[tuple[int, bytes], tuple[datetime, bytes]] = {}
        self._actions: dict[int, tuple[ActionInForce, datetime, bytes]] = {}

    def forget(self) -> None:
        """Write everything down anew: what revisions meant has changed."""
        self._heads.clear()
        self._actions.clear()

    def write_head(self, kind: pb.WatchPolicyResponse.Kind, token: bytes) -> bytes:
        """Write what begins a response: its kind, its token and the server's time."""
        now = self._clock()
        known = self._heads.get((kind, token))
        if known is not None and abs(now - known[0]) < _TIME_KEPT:
            return known[1]
        head = pb.WatchPolicyResponse(kind=kind, token=token)
        head.server_time.FromDatetime(now)
        written = head.SerializeToString()
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        self._heads[kind, token] = now, written
        return written

    def write_action(self, action: ActionInForce, revision: int) -> bytes:
        """Write an action that holds or bounces mail, as one entry of `resources`."""
        now = self._clock()
        known = self._actions.get(action.id)
        if known is not None and known[0] is action and abs(now - known[1]) < _TIME_KEPT:
            return known[2]
        written = write_field(_RESOURCES, _to_resource(action, revision, now).SerializeToString())
        self._actions.pop(action.id, None)
        self._actions[action.id] = action, now, written
        while len(self._actions) > _MOST_ACTIONS:
            del self._actions[next(iter(self._actions))]
        return written


def write_nonce(nonce: int) -> bytes:
    """Write the nonce of a response."""
    return write_field(_NONCE, b"%d" % nonce)


def write_path(name: str, answer: Answer) -> bytes:
    """Write the answer for a subscribed path, as one entry of `resources`."""
    resource = pb.PolicyResource(
        name=name,
        type=pb.ResourceType.RESOURCE_TYPE_EGRESS_PATH,
        etag=answer.etag,
        revision=answer.revision,
    )
    body = resource.SerializeToString() + write_field(_EGRESS_PATH, answer.payload)
    return write_field(_RESOURCES, body)


def write_removed(name: str, resource_type: pb.ResourceType, revision: int) -> bytes:
    """Write that something is gone as of *revision*, as one entry of `removed`."""
    removed = pb.ResourceRef(name=name, type=resource_type, revision=revision)
    return bytes(pb.WatchPolicyResponse(removed=[removed]).SerializeToString())


def write_end() -> bytes:
    """Write that the snapshot ends."""
    return bytes(pb.WatchPolicyResponse(snapshot_end=True).SerializeToString())


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
