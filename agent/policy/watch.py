"""
Watch: the stream by which the server keeps the agent's policy current.

1. A stream starts with the token of the last response that was applied, the paths in use and the
   etags held for them; paths that come into or fall out of use follow as they do.
2. Responses are applied in their order. What can't be applied is refused by name in the
   acknowledgement, and the last good one stays; the rest of the response is applied.
   An action that had ended and is told again as it was, or one that is older than what was heard
   of it since, is late: nothing of its response is applied, and a new stream goes on from the token
   before it. Should that bring the same again, the next one starts anew.
3. A reset begins a snapshot. Suspensions that are not in it end with the snapshot's end, not
   before: between the two nothing is released that the server still wants held.
4. Invalidated answers serve on and are asked for again, the ones in most use first, spread over a
   few seconds so that a fleet does not ask as one.
5. Silence longer than the dead man's time, an error or the server's own wish end the stream; it is
   opened again, quickly at first and then with full jitter up to 30 s. A resumption that the
   server can't begin is not tried again: the next stream starts anew, with a snapshot.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from agent.background import end
from agent.policy.answer import Bounce, MxHost, Suspension
from agent.policy.book import PolicyBook, Rejection
from agent.policy.channel import identity, raise_failure
from agent.policy.client import PolicyClient
from agent.policy.effective import PathKey, StoredAnswer
from agent.policy.server_clock import ServerClock
from agent.policy.staleness import retry_delay
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub

logger = logging.getLogger(__name__)

#: A stream silent for longer is dead; the server speaks every 5 s.
DEADMAN_SECONDS = 17.0
#: A stream that lived as long clears the count of failures.
_SETTLED_SECONDS = 10.0
#: Responses of a stream that are known again, should one come twice.
_NONCES_KEPT = 64
#: Most subscriptions in one message, and their bytes: well under the 4 MiB of a message.
_CHUNK = 2000
_CHUNK_BYTES = 1024 * 1024
#: Codes of a server that is away, busy or waits for its database to be migrated; after others, what
#: we resumed with may be at fault.
_AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)
#: Names longer than this may not be subscribed to; such paths age by time alone.
_LONGEST_NAME_BYTES = 512
#: Over how long the refresh of invalidated answers is spread at most, and by how much each batch.
_SPREAD_SECONDS = 5.0
_SPREAD_STEP_SECONDS = 0.25
_REFRESH_BATCH = 100


def path_name(key: PathKey) -> str:
    """Return the name under which a path is subscribed to."""
    return f"{key.routing_domain} {key.egress_source}"


def _key_of(name: str) -> PathKey:
    domain, _, source = name.partition(" ")
    return PathKey(routing_domain=domain, egress_source=source)


class _LateWord(Exception):  # it ends the stream; nothing went wrong here
    """The server said something of an action that is older than what it had said before."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What a resource says of an action."""

    action: Suspension | Bounce
    revision: int


class PolicyWatch:
    """Keeps a policy book current, for as long as the agent runs."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        book: PolicyBook,
        client: PolicyClient,
        *,
        agent_info: pb.AgentInfo,
        clock: Callable[[], float],
        random: Random,
        worker: str = "",
        deadman: float = DEADMAN_SECONDS,
    ) -> None:
        """Watch over *channel* for *book*; ask again by *client*; *deadman* in seconds."""
        self._stub = PolicyServiceStub(channel)
        self._book = book
        self._client = client
        self._info = agent_info
        self._worker = worker
        self._clock = clock
        self._random = random
        self._deadman = deadman
        self._task: asyncio.Task[None] | None = None
        #: Subscription changes to send on the open stream: the key, or None to remove the name.
        self._changes: OrderedDict[str, PathKey | None] = OrderedDict()
        self._acks: list[pb.WatchAck] = []
        self._to_send = asyncio.Event()
        self._timers: set[asyncio.TimerHandle] = set()
        #: Names in the snapshot that is being received; None: no snapshot is.
        self._snapshot: set[int] | None = None
        #: Whether its beginning has come.
        self._has_begun = False
        #: Nonces of the newest responses of the stream.
        self._applied: dict[str, None] = {}
        self._server_clock = ServerClock()
        #: Streams in a row that ended for a late word.
        self._doubts = 0
        self._leave_at: float | None = None
        #: Whether the server has answered on the newest stream.
        self._is_answered = False
        #: Whether a stream is open, streams opened, and resources refused, for metrics.
        self.connected = False
        self.streams = 0
        self.rejections = 0
        #: Responses with a late word, which were not applied.
        self.late = 0

    def start(self) -> None:
        """Begin to watch, in the background."""
        self._book.on_held = self._subscribe
        self._book.on_evicted = self._unsubscribe
        self._task = asyncio.get_running_loop().create_task(self._run(), name="policy-watch")

    async def close(self) -> None:
        """End the stream."""
        for timer in self._timers:
            timer.cancel()
        if self._task is not None:
            await end([self._task])

    async def _run(self) -> None:
        failures = 0
        while True:
            opened = asyncio.get_running_loop().time()
            try:
                await self._one_stream()
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                if not self._is_answered and error.code() not in _AWAY:
                    self._book.keep_token(b"")
            except _LateWord as word:
                reason = str(word)
                self._doubt(asyncio.get_running_loop().time() - opened)
            except TimeoutError:
                reason = "the server was silent for too long"
            except asyncio.InvalidStateError:
                reason = "the stream was over before it began"
            except Exception as error:  # the watch must outlive whatever a response does to it
                logger.exception("policy watch failed")
                reason = repr(error)
            else:
                reason = "the server ended it"
            lived = asyncio.get_running_loop().time() - opened
            failures = 0 if lived >= _SETTLED_SECONDS else failures
            logger.info("policy watch ended", extra={"reason": reason, "failures": failures})
            await asyncio.sleep(retry_delay(failures, self._random.random()))
            failures += 1

    async def _one_stream(self) -> None:
        self._changes, self._acks = OrderedDict(), []
        self._snapshot = set() if not self._book.token else None
        self._has_begun = False
        self._applied = {}
        self._server_clock = ServerClock()
        self._leave_at = None
        self._is_answered = False
        call = self._stub.WatchPolicy(metadata=identity(self._info.name, self._worker))
        writer: asyncio.Task[None] | None = None
        try:
            await self._greet(call)
            writer = asyncio.get_running_loop().create_task(self._write(call))
            while (response := await self._read(call)) is not None:
                self.connected = self._is_answered = True
                self._apply(response)
        finally:
            # An abandoned call is never collected by grpc.
            self.connected = False
            call.cancel()
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _greet(self, call: Any) -> None:
        for answer in self._book.hottest_first():
            self._subscribe(answer.key)
        first = self._next_changes()
        start = pb.WatchStart(
            resume_token=self._book.token, agent_info=self._info, subscribe=first.add
        )
        # Of the paths in this message alone: all of them could be more than a message may hold.
        for subscription in first.add:
            held = self._book.peek(_key_of(subscription.name))
            start.known[subscription.name] = held.response.etag if held else ""
        async with asyncio.timeout(self._deadman):
            await call.write(pb.WatchPolicyRequest(start=start))
        self.streams += 1

    async def _read(self, call: Any) -> pb.WatchPolicyResponse | None:
        """Return the next response; None once the stream is at its end."""
        wait = self._deadman
        if self._leave_at is not None:
            wait = min(wait, self._leave_at - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(max(0.0, wait)):
                response = await call.read()
        except TimeoutError:
            if self._leave_at is not None:
                return None
            raise
        if response is not grpc.aio.EOF:
            return response  # type: ignore[no-any-return] # the stub is untyped
        await raise_failure(call)
        return None

    async def _write(self, call: Any) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._acks:
                await call.write(pb.WatchPolicyRequest(ack=self._acks.pop(0)))
            if self._changes:
                await call.write(pb.WatchPolicyRequest(subscribe=self._next_changes()))
                self._to_send.set()

    def _next_changes(self) -> pb.WatchSubscribe:
        """Take the oldest changes, as many as one message may have."""
        changes = pb.WatchSubscribe()
        size = 0
        while self._changes and size < _CHUNK_BYTES and len(changes.add) < _CHUNK:
            name, key = self._changes.popitem(last=False)
            size += len(name)
            if key is None:
                changes.remove.append(name)
            elif (held := self._book.peek(key)) is not None:
                changes.add.append(_subscription(held))
                size += changes.add[-1].ByteSize()
        return changes

    def _subscribe(self, key: PathKey) -> None:
        self._change(key, key)

    def _unsubscribe(self, key: PathKey) -> None:
        self._change(key, None)

    def _change(self, key: PathKey, wanted: PathKey | None) -> None:
        name = path_name(key)
        if len(name.encode()) <= _LONGEST_NAME_BYTES:
            self._changes[name] = wanted
            self._to_send.set()

    def _doubt(self, lived: float) -> None:
        """A word was late, after *lived* seconds; of two in a row the server is to say it all."""
        self.late += 1
        self._doubts = 1 if lived >= _SETTLED_SECONDS else self._doubts + 1
        if self._doubts > 1:
            self._book.keep_token(b"")
            self._doubts = 0

    def _apply(self, response: pb.WatchPolicyResponse) -> None:
        self._note_time(response)
        if response.nonce in self._applied:
            # It is acknowledged once more, and taken in once.
            self._acknowledge(response, [])
            return
        if response.kind == pb.WatchPolicyResponse.KIND_RESET or (
            response.kind == pb.WatchPolicyResponse.KIND_SNAPSHOT and not self._has_begun
        ):
            self._begin_snapshot()
        words = self._read_words(response)
        rejected = [
            pb.RejectedResource(
                name=resource.name, etag=resource.etag, code=why.code, message=why.message
            )
            for resource, word in zip(response.resources, words, strict=True)
            if (why := self._apply_resource(resource, word)) is not None
        ]
        for ref in response.removed:
            self._remove(ref)
        if response.snapshot_end and self._snapshot is not None:
            self._book.lift_others(self._snapshot)
            self._snapshot, self._has_begun = None, False
        if response.invalidate:
            self._invalidate([invalid.selector for invalid in response.invalidate])
        if response.HasField("reconnect_after"):
            after = response.reconnect_after.seconds + response.reconnect_after.nanos / 1e9
            self._leave_at = asyncio.get_running_loop().time() + after
        if self._snapshot is None:
            self._book.note_confirmed()
        self._acknowledge(response, rejected)

    def _acknowledge(
        self, response: pb.WatchPolicyResponse, rejected: list[pb.RejectedResource]
    ) -> None:
        if response.token:
            # Last of all: what it stands for has been taken in.
            self._book.keep_token(response.token)
        if rejected:
            self.rejections += len(rejected)
            names = [resource.name for resource in rejected]
            logger.warning("policy resources refused", extra={"resources": names})
        if response.nonce:
            self._applied[response.nonce] = None
            if len(self._applied) > _NONCES_KEPT:
                del self._applied[next(iter(self._applied))]
            ack = pb.WatchAck(nonce=response.nonce, token=response.token, rejected=rejected)
            if rejected:
                ack.error = f"{len(rejected)} resources can't be applied"
            self._acks.append(ack)
            self._to_send.set()

    def _note_time(self, response: pb.WatchPolicyResponse) -> None:
        if response.HasField("server_time"):
            now = asyncio.get_running_loop().time()
            self._server_clock.note(_seconds(response.server_time), now)

    def _begin_snapshot(self) -> None:
        self._snapshot, self._has_begun = set(), True
        self._book.forget_order()
        # Until its end there is nothing to go on from: what is held is neither old nor new.
        self._book.keep_token(b"")

    def _read_words(self, response: pb.WatchPolicyResponse) -> list[_Word | None]:
        """Read what is said of actions, one a resource. Errors: `_LateWord`."""
        words = [self._read_word(resource) for resource in response.resources]
        if self._snapshot is None:
            for word in words:
                if word is not None and self._book.is_late(word.action, word.revision):
                    raise _LateWord(f"a late word on action {word.action.action_id}")
            for ref in response.removed:
                number = _action_id(ref)
                if number is not None and self._book.is_late_removal(number, ref.revision):
                    raise _LateWord(f"a late word that action {number} is gone")
        return words

    def _read_word(self, resource: pb.PolicyResource) -> _Word | None:
        match resource.WhichOneof("body"):
            case "suspension":
                end = self._end_of(resource, resource.suspension)
                return _Word(_suspension(resource.suspension, end), resource.revision)
            case "bounce":
                end = self._end_of(resource, resource.bounce)
                return _Word(_bounce(resource.bounce, end), resource.revision)
            case _:
                return None

    def _end_of(self, resource: pb.PolicyResource, body: pb.Suspension | pb.Bounce) -> float:
        """
        Say when an action ends by our clock: reckoned from the ttl where there is one, so that it
        does not hang on the clocks being alike, and no later than the server's own end, should
        the word have been long on its way. Without either it is pinned, and has no end.
        """
        end = _seconds(body.expire_time) if body.HasField("expire_time") else math.inf
        if not resource.HasField("ttl"):
            return end
        left = resource.ttl.seconds + resource.ttl.nanos / 1e9
        now = asyncio.get_running_loop().time()
        return self._clock() + min(left, self._server_clock.seconds_until(end, now))

    def _apply_resource(self, resource: pb.PolicyResource, word: _Word | None) -> Rejection | None:
        if word is not None:
            return self._apply_action(word)
        if resource.WhichOneof("body") == "egress_path":
            return self._apply_path(resource)
        return Rejection(code=12, message="the agent does not know this type of resource")

    def _apply_path(self, resource: pb.PolicyResource) -> Rejection | None:
        key = _key_of(resource.name)
        held = self._book.peek(key)
        if held is None:
            # It fell out of use while the response was on its way.
            return None
        return self._book.apply_answer(key, held.mx_hosts, resource.egress_path)

    def _apply_action(self, word: _Word) -> Rejection | None:
        if self._snapshot is not None:
            self._snapshot.add(word.action.action_id)
        return self._book.apply_action(word.action, word.revision)

    def _remove(self, ref: pb.ResourceRef) -> None:
        if ref.type in (pb.RESOURCE_TYPE_SUSPENSION, pb.RESOURCE_TYPE_BOUNCE):
            number = _action_id(ref)
            if number is not None:
                self._book.lift_action(number, ref.revision)
            return
        # The server has no answer for the path just now; the last one serves until it has.
        self._client.refresh([_key_of(ref.name)])

    def _invalidate(self, selectors: list[str]) -> None:
        keys = [
            answer.key
            for answer in self._book.hottest_first()
            if any(path_name(answer.key).startswith(selector) for selector in selectors)
        ]
        for number, begin in enumerate(range(0, len(keys), _REFRESH_BATCH), 1):
            longest = min(_SPREAD_SECONDS, _SPREAD_STEP_SECONDS * number)
            batch = keys[begin : begin + _REFRESH_BATCH]
            self._refresh_later(batch, longest * self._random.random())

    def _refresh_later(self, keys: list[PathKey], delay: float) -> None:
        def refresh() -> None:
            self._timers.discard(timer)
            self._client.refresh(keys)

        timer = asyncio.get_running_loop().call_later(delay, refresh)
        self._timers.add(timer)


def _action_id(ref: pb.ResourceRef) -> int | None:
    """Return the number of the action that is gone; None if it is no action."""
    is_action = ref.type in (pb.RESOURCE_TYPE_SUSPENSION, pb.RESOURCE_TYPE_BOUNCE)
    return int(ref.name) if is_action and ref.name.isdecimal() else None


def _suspension(body: pb.Suspension, end: float) -> Suspension:
    return Suspension(
        action_id=body.action_id,
        egress_source=body.egress_source,
        site_name=body.site_name,
        routing_domain=body.routing_domain,
        tenant=body.tenant,
        campaign=body.campaign,
        reason=" ".join(body.reason.split()),
        expire_time=end,
    )


def _bounce(body: pb.Bounce, end: float) -> Bounce:
    return Bounce(
        action_id=body.action_id,
        routing_domain=body.routing_domain,
        tenant=body.tenant,
        campaign=body.campaign,
        # It is told to senders, and must not end a line of theirs.
        reason=" ".join(body.reason.split()),
        expire_time=end,
    )


def _seconds(time: Timestamp) -> float:
    return float(time.seconds) + time.nanos / 1e9


def _subscription(answer: StoredAnswer) -> pb.PathSubscription:
    return pb.PathSubscription(
        name=path_name(answer.key),
        routing_domain=answer.key.routing_domain,
        egress_source=answer.key.egress_source,
        mx_hosts=[_mx(host) for host in answer.mx_hosts],
    )


def _mx(host: MxHost) -> pb.MxHost:
    return pb.MxHost(host=host.host, preference=host.preference)
