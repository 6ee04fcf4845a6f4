"""
One client's watch: what it is sent, and when.

1. Nothing queues. What has to be looked at is kept as names alone, in `watch_backlog`; the content
   is read from the policy when a response is made. A slow client gets fewer and newer states, and
   costs no more memory than its names.
2. Two lanes: suspensions, bounces and overrides go out at once, after the hub's short gather; rule
   changes are debounced, and only answers whose etag differs are sent. When many differ the client
   is told to ask again. What merely lasts longer waits a moment, too.
3. At most `window` responses are unacknowledged. A client that acknowledges nothing is cut off
   and goes on from its token.
4. A token says up to which revision the *suspensions* are known; answers are compared by etag.
5. What the client has *applied* is decided in `acknowledgements`.
6. After an invalidation the client fetches answers by itself. Until it was seen to, an answer is
   *assumed* to be held: if an action touches it, it is sent in any case, and what was not fetched
   in time is sent little by little. Until then its revision has not been applied.
7. When the database turns out to have another past, what was said of it is not to be built upon:
   the stream begins anew, with a reset and the full state.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import datetime

from penstock.v1 import policy_service_pb2 as pb
from policy_server.automation.actions import ActionInForce
from policy_server.errors import Aborted, InvalidRequest
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.book import RulesChange
from policy_server.rules.resolve import Question
from policy_server.rules.values import has_control
from policy_server.services.acknowledgements import Acknowledgements, ResourceKey
from policy_server.services.action_changes import ActionChanges, ResourceTypes
from policy_server.services.alarm import Alarm
from policy_server.services.shared_resources import (
    Outgoing,
    SharedResources,
    write_end,
    write_nonce,
    write_path,
    write_removed,
)
from policy_server.services.subscriptions import Subscriptions
from policy_server.services.watch_backlog import MAX_CHANGED, NEVER, WatchBacklog
from policy_server.services.watch_timing import WatchTiming
from policy_server.services.watched_paths import WatchedPaths

logger = logging.getLogger(__name__)

_MAX_RESOURCES = 500
_MAX_BYTES = 256 * 1024
#: Answers compared before others get a turn on the event loop.
_STRIDE = 25
_LOGGED_LENGTH = 200

#: Times within the span of a bookmark at which bookmarks are sent.
_BOOKMARK_STEPS = 20

_Response = pb.WatchPolicyResponse
_EGRESS_PATH = pb.ResourceType.RESOURCE_TYPE_EGRESS_PATH


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
        self._backlog = WatchBacklog(self._paths, timing)
        self._subscriptions = Subscriptions(policy, self._paths, self._backlog)
        self._is_comparing = False
        self._invalidated_at = 0.0
        self._token = b""
        self._acknowledgements = Acknowledgements()
        #: Whether all that the client lacked when it came has been sent.
        self._is_open = False
        #: How many requests it has heard after the first.
        self.heard = 0
        #: When it last refused something, and what it said.
        self.rejected_at: datetime | None = None
        self.reject_reason = ""
        self._last_ack = self._now()
        self._last_sent = self._now()
        self._alarm = Alarm()
        self._failure: Exception | None = None
        self._is_closed = False
        #: Whether the client is to be told that a full state follows.
        self._must_reset = False
        self._reconnect_after: float | None = None
        #: Whether it ends, or begins anew.
        self._is_interrupted = False
        self.agent = ""

    # What the hub and the client tell the stream; none of it waits.

    def touch_actions(self, changes: ActionChanges) -> None:
        """Note what to look at; the hub calls `wake` when its gather is over."""
        self._backlog.note_actions(changes, self._now())

    def touch_rules(self, change: RulesChange | None = None) -> None:
        """Note that rules or sites changed; None: any answer may have."""
        self._backlog.note_rules(change, self._now())

    def hold_rules(self, change: RulesChange | None = None) -> bool:
        """Note that rules changed, for `release_rules`; say whether anything is held back."""
        return self._backlog.hold_rules(change, self._now())

    def release_rules(self) -> None:
        """Tell the client of the changes that were held back."""
        if self._backlog.release_rules(self._now()):
            self._alarm.ring()

    @property
    def is_held_back(self) -> bool:
        """Whether a change of rules is yet to be told, once others have applied it."""
        return self._backlog.is_held_back

    def note_fetched(self, question: Question, etag: str) -> None:
        """The client asked for an answer by itself, and was given it."""
        self._paths.note_fetched(question, etag)

    def wake(self) -> None:
        """Look at what there is to be looked at."""
        self._alarm.ring()

    @property
    def subscribed(self) -> int:
        """How many paths the client watches."""
        return len(self._paths)

    @property
    def unacknowledged(self) -> int:
        """How many responses wait to be acknowledged."""
        return self._acknowledgements.waiting

    @property
    def applied_revision(self) -> int:
        """Up to which revision the client has applied all that concerns it; 0: not known yet."""
        known = self._acknowledgements.applied
        # All agents are looked at each second, and most of the time all have all there is.
        if (known != self._policy.revision or self._backlog.since) and self._is_current():
            self._acknowledgements.note_current(self._policy.revision)
        return self._acknowledgements.applied

    @property
    def size(self) -> int:
        """How many names and numbers are kept for the client; what memory goes by."""
        refused = self._acknowledgements.refused
        return len(self._paths) + len(self._backlog) + self._subscriptions.open + len(refused)

    @property
    def must_reset(self) -> bool:
        """Whether the client is to begin anew, with a reset and the full state."""
        return self._must_reset and not self._is_ending()

    def reset(self) -> None:
        """Note that what was sent so far is of another past of the database than what follows."""
        self._must_reset = self._is_interrupted = True
        self._alarm.ring()

    def write_reset(self) -> Outgoing:
        """Write that a full state follows; until it is sent there is nothing to go on from."""
        self._must_reset = self._is_open = False
        self._is_interrupted = self._is_ending()
        self._token = b""
        self._backlog.forget_actions()
        self._acknowledgements.begin_anew()
        self._last_sent = self._now()
        return Outgoing([self._shared.write_head(pb.WatchPolicyResponse.KIND_RESET, b"")])

    def end(self, reconnect_after: float) -> None:
        """Ask the client to come back later, and end."""
        self._reconnect_after = reconnect_after
        self._is_interrupted = True
        self._alarm.ring()

    def close(self, failure: Exception | None = None) -> None:
        """End: the client has nothing more to say, or said something wrong."""
        self._failure = failure
        self._is_closed = self._is_interrupted = True
        self._alarm.ring()

    def start(self, start: pb.WatchStart, *, caller: str) -> None:
        """
        Take in the first request, of *caller* or of whoever it names itself. Errors:
        `InvalidRequest`.
        """
        _check_info(start.agent_info)
        self.agent = (caller or start.agent_info.name)[:_LOGGED_LENGTH]
        self._subscribe(start.subscribe, start.known)

    async def find_sites(self) -> None:
        """Make out the questions of subscriptions, for ever."""
        await self._subscriptions.find_sites(self.agent, self._alarm.ring)

    def hear(self, request: pb.WatchPolicyRequest) -> None:
        """Take in a later request. Errors: `InvalidRequest`."""
        self.heard += 1
        match request.WhichOneof("request"):
            case "subscribe":
                self._subscribe(request.subscribe.add, {})
                self._subscriptions.remove(request.subscribe.remove)
                self._acknowledgements.forget(frozenset(request.subscribe.remove))
                self._alarm.ring()
            case "ack":
                self._hear_ack(request.ack)
            case "start":
                raise InvalidRequest("start is only the first request of a stream", field="start")
            case _:
                raise InvalidRequest("a request has start, subscribe or ack", field="request")

    def _subscribe(
        self, subscriptions: Sequence[pb.PathSubscription], known: Mapping[str, str]
    ) -> None:
        self._acknowledgements.forget(self._subscriptions.add(subscriptions, known))

    def _hear_ack(self, ack: pb.WatchAck) -> None:
        is_refusal = ack.HasField("error") or bool(ack.rejected)
        if is_refusal:
            self._note_refusal(ack)
        was_full = self._acknowledgements.waiting >= self._timing.window
        heard = self._acknowledgements.hear(
            ack.nonce, (each.name for each in ack.rejected), is_refusal=is_refusal
        )
        if not heard:
            return
        self._last_ack = self._now()
        behind = self._policy.revision - self.applied_revision
        self._metrics.watch_lag.observe(behind)
        for sent in heard:
            if sent.since is not None:
                self._metrics.watch_seconds.observe(self._last_ack - sent.since)
        if was_full:
            self._alarm.ring()

    def _note_refusal(self, ack: pb.WatchAck) -> None:
        self.rejected_at, self.reject_reason = self._clock(), ack.error[:_LOGGED_LENGTH]
        if not self.reject_reason and ack.rejected:
            self.reject_reason = ack.rejected[0].message[:_LOGGED_LENGTH]
        self._metrics.watch_refusals.inc(max(1, len(ack.rejected)))
        facts = {
            "agent": self.agent,
            "why": self.reject_reason,
            "rejected": len(ack.rejected),
        }
        logger.warning("client refused part of a response", extra=facts)

    # What the client is sent.

    async def opening(
        self, *, kind: pb.WatchPolicyResponse.Kind, actions: Mapping[int, ResourceTypes]
    ) -> AsyncGenerator[Outgoing, None]:
        """Send the full state, or for a client that goes on from a token what it lacks."""
        is_snapshot = kind == pb.WatchPolicyResponse.KIND_SNAPSHOT
        self._backlog.begin(actions, is_snapshot=is_snapshot)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.opening):
                await self._subscriptions.wait()
        while not self._is_open and await self._may_send():
            # The first answer to a resumed stream is sent even if nothing changed: it says that
            # the token still held.
            response = self._pack(kind, is_snapshot=is_snapshot, is_opening=True)
            if response is not None:
                yield response

    async def changes(self) -> AsyncGenerator[Outgoing, None]:
        """Send whatever changes, until either side ends, or the client has to begin anew."""
        while not self._is_interrupted:
            if self._backlog.is_urgent:
                # Not by a generator of its own: this is what all streams do at once.
                self._backlog.take_touched()
                if await self._may_send() and (
                    response := self._pack(pb.WatchPolicyResponse.KIND_DELTA)
                ):
                    yield response
                continue
            due = min(self._backlog.rules_due, self._backlog.extended_due, self._bookmark_due())
            if self._now() < due:
                await self._sleep(due)
            elif (lane := self._choose_lane()) is not None:
                async with contextlib.aclosing(lane):
                    async for response in lane:
                        yield response
            else:
                # Nor this, which is all that there is to do for a stream that is idle. Nothing else
                # is due, so the client knows all suspensions up to the policy's revision.
                self._token = self._write_token()
                yield self.write_bookmark()
        if self._failure is not None:
            raise self._failure
        if self._reconnect_after is not None:
            yield self._write_farewell(self._reconnect_after)

    def retire(self) -> None:
        """Forget the timer: the stream is over."""
        self._alarm.close()

    def _choose_lane(self) -> AsyncGenerator[Outgoing, None] | None:
        """Choose what to do now that something is due; None: a bookmark."""
        now = self._now()
        if now >= self._backlog.rules_due:
            return self._compare()
        if now >= self._backlog.extended_due:
            return self._flush()
        if self._backlog.has_extended:
            # A token must not say that the client knows what waits here.
            return self._flush()
        if self._paths.assumed and now >= self._invalidated_at + self._timing.fetching:
            return self._send_assumed()
        return None

    async def _flush(self) -> AsyncGenerator[Outgoing, None]:
        """Send suspensions, bounces, overrides and what the client asked for."""
        self._backlog.take_touched()
        self._backlog.take_extended()
        while self._backlog.is_packable and await self._may_send():
            if response := self._pack(pb.WatchPolicyResponse.KIND_DELTA):
                yield response

    async def _compare(self) -> AsyncGenerator[Outgoing, None]:
        """Find the answers that differ after a change of rules; say so where many do."""
        self._is_comparing = True
        try:
            async for response in self._compare_all():
                yield response
        finally:
            self._is_comparing = False

    async def _compare_all(self) -> AsyncGenerator[Outgoing, None]:
        snapshot = self._policy.snapshot
        names, touched = self._backlog.take_comparison()
        for name in self._paths.open_among(names):
            self._subscriptions.ask(name)
        changed: list[str] = []
        is_invalidated = False
        for start in range(0, len(names), _STRIDE):
            part = names[start : start + _STRIDE]
            if is_invalidated:
                self._assume(part)
            else:
                changed += self._find_differing(part, touched)
            if not is_invalidated and len(changed) > MAX_CHANGED and await self._may_send():
                is_invalidated = self._policy.snapshot is snapshot
                if is_invalidated:
                    self._assume(changed)
                    yield self._write_invalidation()
            await asyncio.sleep(0)
            if self._backlog.has_actions:
                async for response in self._flush():
                    yield response
            if self._policy.snapshot is not snapshot:
                self._begin_again(names[start + _STRIDE :], touched, is_invalidated=is_invalidated)
                return
        if not is_invalidated:
            self._backlog.note_paths(changed)

    def _find_differing(self, names: Iterable[str], touched: Mapping[str, None]) -> list[str]:
        differing = []
        for name in names:
            path = self._paths.get(name)
            # What is to be looked at anyway needs no second look.
            if path is None or path.question is None or self._backlog.has_path(name):
                continue
            etag = self._policy.answer(path.question).etag
            if etag != path.etag or (name in touched and self._paths.is_assumed(path)):
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
        self._backlog.compare_again(touched, self._now())

    def _assume(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._paths.get(name)
            if path is not None and path.question is not None:
                self._paths.assume(path, self._policy.answer(path.question).etag)

    async def _send_assumed(self) -> AsyncGenerator[Outgoing, None]:
        """Send some of what the client should have asked for."""
        self._backlog.note_paths(self._paths.oldest_assumed(MAX_CHANGED))
        async for response in self._flush():
            yield response

    def write_bookmark(self) -> Outgoing:
        """Write that the stream is alive, and nothing more."""
        self._last_sent = self._now()
        head = self._shared.write_head(pb.WatchPolicyResponse.KIND_BOOKMARK, self._token)
        return Outgoing([head])

    def _write_farewell(self, reconnect_after: float) -> Outgoing:
        rest = _Response()
        rest.reconnect_after.FromMilliseconds(int(reconnect_after * 1000))
        response = self.write_bookmark()
        response.parts.append(rest.SerializeToString())
        return response

    def _write_invalidation(self) -> Outgoing:
        rest = _Response()
        rest.invalidate.add(selector="", revision=self._policy.revision)
        self._invalidated_at = self._now()
        head = self._shared.write_head(pb.WatchPolicyResponse.KIND_DELTA, self._token)
        return self._number([head, rest.SerializeToString()], [])

    def _pack(
        self,
        kind: pb.WatchPolicyResponse.Kind,
        *,
        is_snapshot: bool = False,
        is_opening: bool = False,
    ) -> Outgoing | None:
        """Make one response of as much as fits of what is to be looked at; None if it is none."""
        parts: list[bytes] = []
        keys: list[ResourceKey] = []
        size = 0
        self._backlog.take_extended()
        while size < _MAX_BYTES and len(keys) < _MAX_RESOURCES and self._backlog.is_packable:
            written = self._write_next(keys)
            size += sum(map(len, written))
            parts += written
        if not self._backlog.has_actions:
            self._token = self._write_token()
        if not parts and not is_opening:
            return None
        is_last = not self._backlog.is_packable
        self._is_open |= is_opening and is_last
        if is_snapshot and is_last:
            parts.append(write_end())
        token = b"" if is_snapshot and not is_last else self._token
        response = self._number([self._shared.write_head(kind, token), *parts], keys)
        response.is_end = is_snapshot and is_last
        return response

    def _write_next(self, keys: list[ResourceKey]) -> Sequence[bytes]:
        """Take one of what is to be looked at; note its key, and return what is to be sent."""
        revision = self._policy.revision
        if (next_action := self._backlog.take_action()) is not None:
            action_id, types = next_action
            keys.append(action_id)
            action = self._held().get(action_id)
            if action is None:
                return [write_removed(str(action_id), each, revision) for each in types]
            return [self._shared.write_action(action, revision)]
        if (gone := self._backlog.take_gone()) is not None:
            keys.append(gone)
            return [write_removed(gone, _EGRESS_PATH, revision)]
        return self._write_path(self._backlog.take_path(), keys)

    def _write_path(self, name: str, keys: list[ResourceKey]) -> Sequence[bytes]:
        path = self._paths.get(name)
        if path is None or path.question is None:
            return ()
        answer = self._policy.answer(path.question)
        if answer.etag == path.etag and not self._paths.is_assumed(path):
            return ()
        self._paths.hold(path, answer.etag)
        keys.append(name)
        return [write_path(name, answer)]

    def _number(self, parts: list[bytes], keys: Sequence[ResourceKey]) -> Outgoing:
        now = self._now()
        is_complete = self._is_quiet()
        since = self._backlog.since if is_complete else None
        if is_complete:
            self._backlog.note_all_told()
        nonce = self._acknowledgements.note_sent(
            now,
            frozenset(keys),
            completes=self._policy.revision if is_complete else 0,
            since=since,
        )
        self._last_sent = now
        return Outgoing([write_nonce(nonce), *parts])

    def _is_quiet(self) -> bool:
        """Whether nothing is left to be sent or found out."""
        return self._backlog.is_empty and not (
            self._is_comparing or not self._subscriptions.are_known or self._paths.assumed
        )

    def _is_current(self) -> bool:
        """Whether the client was sent all that there is."""
        is_current = self._is_open and self._is_quiet()
        if is_current:
            # What was looked at was as the client has it.
            self._backlog.note_all_told()
        return is_current

    # Waiting.

    def _is_ending(self) -> bool:
        return self._is_closed or self._reconnect_after is not None

    def _bookmark_due(self) -> float:
        # A little sooner, so that many streams have theirs in one turn of the loop: to wake it for
        # each would cost more than what is sent.
        step = self._timing.bookmark / _BOOKMARK_STEPS
        return (self._last_sent + self._timing.bookmark) // step * step

    async def _may_send(self) -> bool:
        """Wait for room in the window; False if the stream ends or begins anew instead."""
        while self.unacknowledged >= self._timing.window and not self._is_interrupted:
            await self._sleep(NEVER)
        return not self._is_interrupted

    async def _sleep(self, until: float) -> None:
        """Wait for something to do, at most until a time of the loop's. Errors: `Aborted`."""
        stalled, oldest = NEVER, self._acknowledgements.oldest_at
        if oldest is not None:
            stalled = max(self._last_ack, oldest) + self._timing.ack
            if self._now() >= stalled:
                raise Aborted(
                    f"nothing acknowledged for {self._timing.ack:g} s; connect again with the "
                    "last token"
                )
        await self._alarm.wait(min(until, stalled))


def _check_info(info: pb.AgentInfo) -> None:
    """Refuse names that no database keeps and no terminal shows as they are."""
    names = [("name", info.name), ("version", info.version)]
    names += [("egress_sources", source) for source in info.egress_sources]
    bad = dict.fromkeys(f"agent_info.{field}" for field, text in names if has_control(text))
    if bad:
        violations = [(field, "has a control character") for field in bad]
        field, problem = violations[0]
        raise InvalidRequest(f"{field} {problem}", field=field, violations=violations)
