"""
One client's watch: what it is sent, and when.

1. Nothing queues. What has to be looked at is kept as sets of names (a coalescing map); the
   content is read from the policy when a response is made. A slow client gets fewer and newer
   states, and costs no more memory than its names.
2. Two lanes: suspensions and overrides go out after a short gather; rule changes are debounced,
   and only answers whose etag differs are sent. When many differ the client is told to ask again.
3. At most `window` responses are unacknowledged. A client that acknowledges nothing is cut off
   and goes on from its token.
4. A token says up to which revision the *suspensions* are known; answers are compared by etag.
5. What a client has *applied* is the revision up to which every change that concerns it was sent
   and acknowledged, with nothing refused. What it refuses stays refused until it differs.
6. After an invalidation the client fetches answers by itself. Each is then taken to be held
   (`is_assumed`) as it was under the same rules; if an action touches one, it is sent in any case.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from penstock.v1 import policy_service_pb2 as pb
from policy_server.automation.actions import ActionInForce, ActionScope
from policy_server.convert import read_hosts
from policy_server.errors import Aborted, InvalidRequest, PolicyServerError
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.book import RulesChange
from policy_server.services.shared_resources import Outgoing, SharedResources, write_path
from policy_server.services.watched_paths import WatchedPath, WatchedPaths

logger = logging.getLogger(__name__)

#: Most names one stream may subscribe to.
MAX_SUBSCRIPTIONS = 100_000
#: Longest name of a subscription, in bytes.
MAX_NAME_BYTES = 512
_MAX_RESOURCES = 500
_MAX_BYTES = 256 * 1024
#: More changed answers than this are not sent but named in an invalidation.
_MAX_CHANGED = 50
#: Answers compared before others get a turn on the event loop.
_STRIDE = 25
_QUESTIONS_AT_ONCE = 32
_LOGGED_LENGTH = 200

_AT_ONCE = (0.0, 0.0)

_Response = pb.WatchPolicyResponse
_Key = TypeVar("_Key")
#: The types that a resource named by an action's number is, or may have been.
ResourceTypes = tuple[pb.ResourceType, ...]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A response that is to be acknowledged."""

    nonce: int
    at: float
    #: What the client has applied once it acknowledges; 0: more is to follow.
    completes: int
    #: When what it carries began to wait, by the loop's clock.
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTiming:
    """How long a stream waits for what, in seconds."""

    gather: float = 0.005
    debounce: float = 0.1
    debounce_most: float = 1.0
    bookmark: float = 5.0
    ack: float = 30.0
    #: For the sites of the paths named at the start; others follow when they are known.
    opening: float = 1.0
    #: Responses that may be unacknowledged.
    window: int = 4


class WatchStream:
    """What one client is sent."""

    def __init__(
        self,
        policy: Policy,
        *,
        held: Callable[[], dict[int, ActionInForce]],
        shared: SharedResources,
        write_token: Callable[[], bytes],
        clock: Callable[[], datetime],
        metrics: ServerMetrics,
        timing: WatchTiming,
    ) -> None:
        self._policy, self._metrics = policy, metrics
        self._held, self._shared = held, shared
        self._write_token = write_token
        self._clock = clock
        self._timing = timing
        self._now = asyncio.get_running_loop().time
        self._paths = WatchedPaths()
        #: To be looked at: actions by id, names by what is known of them.
        self._dirty_actions: dict[int, ResourceTypes] = {}
        self._dirty_names: dict[str, None] = {}
        self._touched_names: dict[str, None] = {}
        self._open_names: dict[str, None] = {}
        self._gone_names: dict[str, None] = {}
        self._rules_changed: tuple[float, float] | None = None
        #: Names to compare after a change of rules; None: all.
        self._concerned: set[str] | None = set()
        self._is_comparing = False
        self._token = b""
        self._nonce = 0
        self._unacked: deque[_Sent] = deque()
        #: Refused and not replaced since, by name.
        self._refused: set[str] = set()
        #: Up to which revision the client has applied all that concerns it.
        self.applied_revision = 0
        #: When it last refused something, and what it said.
        self.rejected_at: datetime | None = None
        self.reject_reason = ""
        self._last_ack = self._now()
        self._last_sent = self._now()
        #: Since when something has been to be looked at, by the loop's clock.
        self._dirty_since = float("inf")
        self._wake = asyncio.Event()
        self._open_changed = asyncio.Event()
        self._all_known = asyncio.Event()
        self._all_known.set()
        self._failure: Exception | None = None
        self._is_closed = False
        self._reconnect_after: float | None = None
        self.agent = ""

    # What the hub and the client tell the stream; none of it waits.

    def touch_actions(
        self, held: Mapping[int, ResourceTypes], scopes: Iterable[ActionScope]
    ) -> None:
        """Note that suspensions or bounces began, changed or ended, and where overrides did."""
        self._dirty_since = min(self._dirty_since, self._now())
        self._dirty_actions.update(held)
        self._touched_names.update(dict.fromkeys(self._paths.names_in(scopes)))
        if len(self._touched_names) > _MAX_CHANGED:
            # Too many to send one by one: compare all, at once.
            self._rules_changed, self._concerned = _AT_ONCE, None
        self._wake.set()

    def touch_rules(self, change: RulesChange | None = None) -> None:
        """Note that rules or sites changed; None: any answer may have."""
        if change is None or change.is_wide:
            self._concerned = None
        elif self._concerned is not None:
            self._concerned |= self._paths.names_concerned(change)
        if self._concerned is not None and not self._concerned:
            return
        now = self._now()
        self._dirty_since = min(self._dirty_since, now)
        first = self._rules_changed[0] if self._rules_changed else now
        self._rules_changed = (first, now)
        self._wake.set()

    @property
    def subscribed(self) -> int:
        """How many paths the client watches."""
        return len(self._paths)

    @property
    def unacknowledged(self) -> int:
        """How many responses wait to be acknowledged."""
        return len(self._unacked)

    def end(self, reconnect_after: float) -> None:
        """Ask the client to come back later, and end."""
        self._reconnect_after = reconnect_after
        self._wake.set()

    def close(self, failure: Exception | None = None) -> None:
        """End: the client has nothing more to say, or said something wrong."""
        self._failure = failure
        self._is_closed = True
        self._wake.set()

    def start(self, start: pb.WatchStart, *, caller: str) -> None:
        """Take in the first request, of *caller* or of whoever it names itself."""
        self.agent = (caller or start.agent_info.name)[:_LOGGED_LENGTH]
        self._subscribe(start.subscribe, start.known)

    def hear(self, request: pb.WatchPolicyRequest) -> None:
        """Take in a later request. Errors: `InvalidRequest`."""
        match request.WhichOneof("request"):
            case "subscribe":
                self._subscribe(request.subscribe.add, {})
                for name in request.subscribe.remove:
                    self._paths.remove(name)
                    self._gone_names[name] = None
                self._wake.set()
            case "ack":
                self._hear_ack(request.ack)
            case "start":
                raise InvalidRequest("start is only the first request of a stream", field="start")
            case _:
                raise InvalidRequest("a request has start, subscribe or ack", field="request")

    def _subscribe(
        self, subscriptions: Iterable[pb.PathSubscription], known: Mapping[str, str]
    ) -> None:
        for subscription in subscriptions:
            _check_subscription(subscription)
            self._paths.put(
                WatchedPath(
                    name=subscription.name,
                    routing_domain=subscription.routing_domain,
                    egress_source=subscription.egress_source,
                    site_name=subscription.site_name,
                    mx_hosts=read_hosts(subscription.mx_hosts),
                    etag=known.get(subscription.name, ""),
                )
            )
            self._gone_names.pop(subscription.name, None)
            self._ask_site(subscription.name)
        if len(self._paths) > MAX_SUBSCRIPTIONS:
            raise InvalidRequest(
                f"a stream may subscribe to at most {MAX_SUBSCRIPTIONS} paths", field="subscribe"
            )

    def _ask_site(self, name: str) -> None:
        self._open_names[name] = None
        self._all_known.clear()
        self._open_changed.set()

    def _hear_ack(self, ack: pb.WatchAck) -> None:
        if not ack.nonce.isdecimal() or len(ack.nonce) > 18:
            return
        if ack.HasField("error") or ack.rejected:
            self._note_refusal(ack)
        while self._unacked and self._unacked[0].nonce <= int(ack.nonce):
            sent = self._unacked.popleft()
            self._last_ack = self._now()
            self._metrics.watch_seconds.observe(self._last_ack - sent.since)
            if not self._refused:
                self.applied_revision = max(self.applied_revision, sent.completes)
        self._wake.set()

    def _note_refusal(self, ack: pb.WatchAck) -> None:
        self.rejected_at, self.reject_reason = self._clock(), ack.error[:_LOGGED_LENGTH]
        if not self.reject_reason and ack.rejected:
            self.reject_reason = ack.rejected[0].message[:_LOGGED_LENGTH]
        # A name that the client has no resource of is none that holds it back.
        self._refused.update(each.name for each in ack.rejected[:_MAX_RESOURCES])
        self._metrics.watch_refusals.inc(max(1, len(ack.rejected)))
        facts = {
            "agent": self.agent,
            "why": self.reject_reason,
            "rejected": len(ack.rejected),
        }
        logger.warning("client refused part of a response", extra=facts)

    # Finding out which question each name stands for; the DNS may be slow.

    async def find_sites(self) -> None:
        """Make out the questions of subscriptions, for ever."""
        while True:
            while self._open_names:
                names = list(self._open_names)[:_QUESTIONS_AT_ONCE]
                await asyncio.gather(*map(self._find_site, names))
                self._wake.set()
            self._all_known.set()
            self._open_changed.clear()
            await self._open_changed.wait()

    async def _find_site(self, name: str) -> None:
        self._open_names.pop(name, None)
        path = self._paths.get(name)
        if path is None:
            return
        try:
            question = await self._policy.question(
                path.routing_domain, path.egress_source, path.site_name, path.mx_hosts
            )
        except PolicyServerError as error:
            # Asked again when rules or sites change; a question that had an answer keeps it.
            if path.question is None:
                facts = {"agent": self.agent, "why": str(error)[:_LOGGED_LENGTH]}
                logger.info("subscribed path has no answer", extra=facts)
                self._gone_names[name] = None
            return
        if self._paths.get(name) is path:
            self._paths.settle(path, question)
            self._dirty_names[name] = None

    # What the client is sent.

    async def responses(
        self, *, kind: pb.WatchPolicyResponse.Kind, actions: Mapping[int, ResourceTypes]
    ) -> AsyncGenerator[Outgoing, None]:
        """Send what the client lacks of *actions* and its paths, then whatever changes."""
        self._dirty_actions.update(actions)
        async for response in self._open(kind):
            yield response
        while not self._is_ending():
            if self._is_urgent():
                await asyncio.sleep(self._timing.gather)
                lane = self._flush()
            elif self._now() >= self._rules_due():
                lane = self._compare()
            elif self._now() >= self._last_sent + self._timing.bookmark:
                lane = self._bookmark()
            else:
                if not self._unacked and self._is_quiet():
                    self._note_applied()
                await self._sleep(min(self._rules_due(), self._last_sent + self._timing.bookmark))
                continue
            async with contextlib.aclosing(lane):
                async for response in lane:
                    yield response
        if self._failure is not None:
            raise self._failure
        if self._reconnect_after is not None:
            farewell = self._new(pb.WatchPolicyResponse.KIND_BOOKMARK)
            farewell.token = self._token
            farewell.reconnect_after.FromMilliseconds(int(self._reconnect_after * 1000))
            yield Outgoing(farewell)

    async def _open(self, kind: pb.WatchPolicyResponse.Kind) -> AsyncGenerator[Outgoing, None]:
        """Send the full state, or for a client that goes on from a token what it lacks."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.opening):
                await self._all_known.wait()
        is_snapshot = kind == pb.WatchPolicyResponse.KIND_SNAPSHOT
        while await self._may_send():
            response = self._pack(kind)
            is_last = not self._has_packable()
            response.own.snapshot_end = is_snapshot and is_last
            if is_snapshot and not is_last:
                response.own.ClearField("token")
            # The first answer to a resumed stream is sent even if nothing changed: it says that
            # the token still held.
            yield self._number(response)
            if is_last:
                return

    async def _flush(self) -> AsyncGenerator[Outgoing, None]:
        """Send suspensions, overrides and what the client asked for."""
        if len(self._touched_names) <= _MAX_CHANGED:
            self._dirty_names.update(self._touched_names)
            self._touched_names.clear()
        while self._has_packable() and await self._may_send():
            response = self._pack(pb.WatchPolicyResponse.KIND_DELTA)
            if response.says_something:
                yield self._number(response)

    async def _compare(self) -> AsyncGenerator[Outgoing, None]:
        """Find the answers that differ after a change of rules; say so where many do."""
        self._rules_changed, self._is_comparing = None, True
        try:
            async for response in self._compare_all():
                yield response
        finally:
            self._is_comparing = False

    async def _compare_all(self) -> AsyncGenerator[Outgoing, None]:
        snapshot = self._policy.snapshot
        touched, self._touched_names = self._touched_names, {}
        names = self._take_concerned(touched)
        for name in self._paths.open_among(names):
            self._ask_site(name)
        changed: list[str] = []
        is_invalidated = False
        for start in range(0, len(names), _STRIDE):
            part = names[start : start + _STRIDE]
            if is_invalidated:
                self._assume(part)
            else:
                changed += self._find_differing(part, touched)
            if not is_invalidated and len(changed) > _MAX_CHANGED and await self._may_send():
                is_invalidated = self._policy.snapshot is snapshot
                if is_invalidated:
                    self._assume(changed)
                    yield self._number(self._invalidation())
            await asyncio.sleep(0)
            if self._dirty_actions:
                async for response in self._flush():
                    yield response
            if self._policy.snapshot is not snapshot:
                self._begin_again(names[start + _STRIDE :], touched, is_invalidated=is_invalidated)
                return
        if not is_invalidated:
            self._dirty_names.update(dict.fromkeys(changed))

    def _take_concerned(self, touched: Iterable[str]) -> list[str]:
        """List the names to compare; all of them where so many are that an invalidation may be."""
        concerned, self._concerned = self._concerned, set()
        if concerned is None or len(concerned) > _MAX_CHANGED:
            return self._paths.names()
        return list(dict.fromkeys([*concerned, *touched]))

    def _find_differing(self, names: Iterable[str], touched: Mapping[str, None]) -> list[str]:
        differing = []
        for name in names:
            path = self._paths.get(name)
            # What is to be looked at anyway needs no second look.
            if path is None or path.question is None or name in self._dirty_names:
                continue
            etag = self._policy.answer(path.question).etag
            if etag != path.etag or (path.is_assumed and name in touched):
                differing.append(name)
        return differing

    def _begin_again(
        self, unseen: list[str], touched: dict[str, None], *, is_invalidated: bool
    ) -> None:
        """Compare anew, as the rules changed on the way."""
        for name in unseen if is_invalidated else ():
            path = self._paths.get(name)
            if path is not None:
                # The client may hold any of the answers since the invalidation.
                path.etag = ""
        self._touched_names.update(touched)
        self.touch_rules()

    def _assume(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._paths.get(name)
            if path is not None and path.question is not None:
                path.etag, path.is_assumed = self._policy.answer(path.question).etag, True

    async def _bookmark(self) -> AsyncGenerator[Outgoing, None]:
        # Nothing is due, so the client knows all suspensions up to the policy's revision.
        self._token = self._write_token()
        response = self._new(pb.WatchPolicyResponse.KIND_BOOKMARK)
        response.token = self._token
        self._last_sent = self._now()
        yield Outgoing(response)

    def _pack(self, kind: pb.WatchPolicyResponse.Kind) -> Outgoing:
        """Make one response of as much as fits of what is to be looked at."""
        response = Outgoing(self._new(kind))
        size, own = 0, response.own
        live = self._held()
        while self._dirty_actions and len(response.shared) < _MAX_RESOURCES and size < _MAX_BYTES:
            action_id = next(iter(self._dirty_actions))
            types = self._dirty_actions.pop(action_id)
            action = live.get(action_id)
            self._refused.discard(str(action_id))
            if action is None:
                for resource_type in types:
                    own.removed.add(name=str(action_id), type=resource_type)
            else:
                response.shared.append(self._shared.write_action(action, self._policy.revision))
                size += len(response.shared[-1])
        if not self._dirty_actions:
            self._token = self._write_token()
        while self._gone_names and len(own.removed) < _MAX_RESOURCES:
            own.removed.add(
                name=_take(self._gone_names), type=pb.ResourceType.RESOURCE_TYPE_EGRESS_PATH
            )
        while self._dirty_names and len(response.shared) < _MAX_RESOURCES and size < _MAX_BYTES:
            written = self._write_path(_take(self._dirty_names))
            if written:
                response.shared.append(written)
                size += len(written)
        own.token = self._token
        return response

    def _write_path(self, name: str) -> bytes:
        path = self._paths.get(name)
        if path is None or path.question is None:
            return b""
        answer = self._policy.answer(path.question)
        if answer.etag == path.etag and not path.is_assumed:
            return b""
        path.etag, path.is_assumed = answer.etag, False
        self._refused.discard(name)
        return write_path(name, answer)

    def _invalidation(self) -> Outgoing:
        response = self._new(pb.WatchPolicyResponse.KIND_DELTA)
        response.token = self._token
        response.invalidate.add(selector="", revision=self._policy.revision)
        return Outgoing(response)

    def _new(self, kind: pb.WatchPolicyResponse.Kind) -> _Response:
        response = _Response(kind=kind)
        response.server_time.FromDatetime(self._clock())
        return response

    def _number(self, response: Outgoing) -> Outgoing:
        self._nonce += 1
        self._last_sent = self._now()
        completes = self._policy.revision if self._is_quiet() else 0
        since = min(self._dirty_since, self._last_sent)
        self._unacked.append(_Sent(self._nonce, self._last_sent, completes, since))
        response.own.nonce = str(self._nonce)
        if completes:
            self._dirty_since = float("inf")
        return response

    def _note_applied(self) -> None:
        """Nothing is under way and nothing to be looked at: the client has what there is."""
        self._dirty_since = float("inf")
        if not self._refused:
            self.applied_revision = max(self.applied_revision, self._policy.revision)

    def _is_quiet(self) -> bool:
        """Whether nothing is left to be looked at."""
        return not (
            self._has_packable()
            or self._touched_names
            or self._open_names
            or self._is_comparing
            or self._rules_changed is not None
        )

    # Waiting.

    def _is_urgent(self) -> bool:
        return self._has_packable() or 0 < len(self._touched_names) <= _MAX_CHANGED

    def _has_packable(self) -> bool:
        return bool(self._dirty_actions or self._dirty_names or self._gone_names)

    def _is_ending(self) -> bool:
        return self._is_closed or self._reconnect_after is not None

    def _rules_due(self) -> float:
        if self._rules_changed is None:
            return float("inf")
        first, last = self._rules_changed
        return min(last + self._timing.debounce, first + self._timing.debounce_most)

    async def _may_send(self) -> bool:
        """Wait for room in the window; False if the stream ends instead."""
        while len(self._unacked) >= self._timing.window and not self._is_ending():
            await self._sleep(float("inf"))
        return not self._is_ending()

    async def _sleep(self, until: float) -> None:
        """Wait for something to do, at most until a time of the loop's. Errors: `Aborted`."""
        stalled = float("inf")
        if self._unacked:
            stalled = max(self._last_ack, self._unacked[0].at) + self._timing.ack
            if self._now() >= stalled:
                raise Aborted(
                    f"nothing acknowledged for {self._timing.ack:g} s; connect again with the "
                    "last token"
                )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(until, stalled)):
                await self._wake.wait()
        self._wake.clear()


def _take(keys: dict[_Key, None]) -> _Key:
    """Take the oldest of *keys*."""
    key = next(iter(keys))
    del keys[key]
    return key


def _check_subscription(subscription: pb.PathSubscription) -> None:
    if not 0 < len(subscription.name.encode()) <= MAX_NAME_BYTES:
        raise InvalidRequest(
            f"the name of a subscription has 1 to {MAX_NAME_BYTES} bytes", field="name"
        )
    for field in ("routing_domain", "egress_source"):
        if not getattr(subscription, field):
            raise InvalidRequest(f"{field} is required", field=field)
