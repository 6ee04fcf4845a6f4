"""A policy server that is told what to say, without a network: for tests of what agents hold."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from penstock.v1 import policy_service_pb2 as pb

Response = pb.WatchPolicyResponse


class HandSetLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on only when it is told to."""

    now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Action:
    """An action in force: None never ends."""

    tenant: str
    end: float | None
    is_bounce: bool = False


@dataclass(slots=True)
class Database:
    """What a server has; two of one name and stamp have one past."""

    name: str
    stamp: str = ""
    revision: int = 0
    next_id: int = 1
    actions: dict[int, Action] = field(default_factory=dict)
    #: The newest revision at which each action changed.
    changed: dict[int, int] = field(default_factory=dict)

    def change(self, action_id: int, action: Action | None) -> None:
        """Begin, change or end an action."""
        self.revision += 1
        self.stamp = f"{self.stamp[-40:]}.{self.revision}"
        self.changed[action_id] = self.revision
        if action is None:
            self.actions.pop(action_id, None)
        else:
            self.actions[action_id] = action

    def copy(self) -> "Database":
        """A backup."""
        return replace(self, actions=dict(self.actions), changed=dict(self.changed))

    @property
    def token(self) -> bytes:
        return json.dumps([self.name, self.revision, self.stamp]).encode()


class Call:
    """One watch stream, as the agent's end sees it."""

    def __init__(self, server: "WatchedServer") -> None:
        self.server = server
        self.inbox: asyncio.Queue[Response | None] = asyncio.Queue()
        self.number = 0
        #: Actions to be told of, and those that the client knows.
        self.dirty: dict[int, None] = {}
        self.parts_left = 0
        self.is_open = False
        self.acks: list[pb.WatchAck] = []

    async def write(self, request: pb.WatchPolicyRequest) -> None:
        if request.HasField("start"):
            self._open(request.start.resume_token)
        elif request.HasField("ack"):
            self.acks.append(request.ack)

    async def read(self) -> Any:
        response = await self.inbox.get()
        return grpc.aio.EOF if response is None else response

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def cancel(self) -> None:
        if self.server.call is self:
            self.server.call = None

    def _open(self, token: bytes) -> None:
        database = self.server.database
        known = json.loads(token) if token else None
        past = self.server.pasts
        if known and known[0] == database.name and past.get((known[0], known[1])) == known[2]:
            self.dirty = {each: None for each, when in database.changed.items() if when > known[1]}
            # A token says no more than has been sent.
            token = token if self.dirty else database.token
            self.put(Response(kind=Response.KIND_DELTA, token=token))
        else:
            if token:
                self.put(Response(kind=Response.KIND_RESET), nonce=False)
            self.dirty = dict.fromkeys(database.actions)
            self.parts_left = 2
        self.is_open = True

    def put(self, response: Response, *, nonce: bool = True) -> None:
        """Send a response."""
        if nonce:
            self.number += 1
            response.nonce = str(self.number)
        response.server_time.FromNanoseconds(round(self.server.clock() * 1e9))
        self.inbox.put_nowait(response)
        self.server.said.append(response)

    def send_next(self) -> None:
        """Send what there is to be told of; of a snapshot a part."""
        database = self.server.database
        response = Response(kind=Response.KIND_SNAPSHOT if self.parts_left else Response.KIND_DELTA)
        most = len(self.dirty) if self.parts_left == 1 else max(1, len(self.dirty) // 2)
        for action_id in list(self.dirty)[:most]:
            del self.dirty[action_id]
            action = database.actions.get(action_id)
            if action is not None:
                response.resources.append(self._resource(action_id, action))
                continue
            for kind in (pb.RESOURCE_TYPE_SUSPENSION, pb.RESOURCE_TYPE_BOUNCE):
                response.removed.add(name=str(action_id), type=kind)
        if self.parts_left:
            self.parts_left -= 1
            response.snapshot_end = self.parts_left == 0
        if not self.dirty and not self.parts_left:
            response.token = database.token
        self.put(response)

    def _resource(self, action_id: int, action: Action) -> pb.PolicyResource:
        resource = pb.PolicyResource(name=str(action_id), revision=self.server.database.revision)
        body = resource.bounce if action.is_bounce else resource.suspension
        body.action_id, body.tenant, body.reason = action_id, action.tenant, "told so"
        if action.end is not None:
            body.expire_time.FromNanoseconds(round(action.end * 1e9))
            left = max(0.0, action.end - self.server.clock())
            resource.ttl.FromNanoseconds(round(left * 1e9))
        return resource


class WatchedServer:
    """Takes the place of a channel, and of the server behind it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.database = Database("first")
        #: Stamps by database and revision: what a token is held against.
        self.pasts: dict[tuple[str, int], str] = {("first", 0): ""}
        self.call: Call | None = None
        #: Every response of every stream, in order.
        self.said: list[Response] = []

    def unary_unary(self, *_: Any, **__: Any) -> None:
        return None

    def stream_stream(self, *_: Any, **__: Any) -> Callable[..., Call]:
        def begin(**_: Any) -> Call:
            self.call = Call(self)
            return self.call

        return begin

    def change(self, action_id: int, action: Action | None) -> None:
        """Change an action, and have the client told of it."""
        self.database.change(action_id, action)
        self.pasts[self.database.name, self.database.revision] = self.database.stamp
        if self.call is not None and self.call.is_open:
            self.call.dirty[action_id] = None

    def expire(self) -> None:
        """End what is over."""
        for action_id, action in list(self.database.actions.items()):
            if action.end is not None and action.end <= self.clock():
                self.change(action_id, None)

    def put_in_place(self, database: Database, *, breaks_streams: bool) -> None:
        """Go on with another database."""
        before, self.database = self.database, database
        for name, revision in list(self.pasts):
            if name == database.name and revision > database.revision:
                del self.pasts[name, revision]
        self.pasts.setdefault((database.name, database.revision), database.stamp)
        call = self.call
        if call is None:
            return
        if breaks_streams:
            call.inbox.put_nowait(None)
        elif call.is_open:
            # It tells what differs, as it would after any other change.
            call.dirty |= dict.fromkeys([*before.actions, *database.actions])

    def hang_up(self) -> None:
        """End the stream."""
        if self.call is not None:
            self.call.inbox.put_nowait(None)
