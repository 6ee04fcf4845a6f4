"""
The watch hub: tells every stream what changed, once, and each stream tells its client.

How one client is kept current stands in `watch_stream`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from penstock.v1 import policy_service_pb2 as pb
from policy_server.automation.actions import OVERRIDES, ActionInForce
from policy_server.errors import InvalidRequest, PolicyServerError, RulesNotLoaded, Unavailable
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.resolve import Question
from policy_server.rules.snapshot import Snapshot
from policy_server.services.action_changes import ResourceTypes, compare_actions, types_of
from policy_server.services.agent_directory import AgentDirectory
from policy_server.services.announced_sources import MAX_SOURCES, AnnouncedSources
from policy_server.services.caller import read_caller, read_process
from policy_server.services.canary import Canaries, CanaryShare
from policy_server.services.resume_token import (
    ResumeToken,
    decode_token,
    encode_token,
    hash_filter,
)
from policy_server.services.shared_resources import Outgoing, SharedResources
from policy_server.services.watch_stream import WatchStream
from policy_server.services.watch_timing import WatchTiming
from policy_server.store.actions import ActionStore

logger = logging.getLogger(__name__)

#: Most streams open at a time.
MAX_STREAMS = 4000
#: A client that missed more changed actions than this starts anew.
_MOST_MISSED = 1000
#: Streams watch this besides their paths.
_FILTER = hash_filter("suspensions of all sources")
#: When the server stops, clients come back spread over some seconds, more for a larger fleet.
_SOONEST = 0.5
_SPREAD = 2.0
_SPREAD_PER_STREAM = 0.01
_MOST_SPREAD = 10.0
#: Clients that are turned away try again within this time.
_TURNED_AWAY = timedelta(seconds=5)
#: A client that knows more than its server waits for the database no longer.
_CATCH_UP_SECONDS = 5.0
#: Clients whose full state is made and sent at one time.
_SNAPSHOTS_AT_ONCE = 32
#: One that takes longer to take its state in is not waited for by the others.
_SNAPSHOT_SECONDS = 10.0


class WatchHub:
    """Serves `PolicyService.WatchPolicy`; close it with `drain` before the server stops."""

    def __init__(
        self,
        policy: Policy,
        actions: ActionStore,
        *,
        directory: AgentDirectory,
        datastore_id: str = "",
        metrics: ServerMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        timing: WatchTiming | None = None,
        canaries: CanaryShare | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self._policy = policy
        self._store = actions
        self._directory = directory
        self._datastore_id = datastore_id
        self._metrics = metrics
        self._sources = AnnouncedSources()
        metrics.shared_sources.set_function(self._sources.count_shared)
        self._clock = clock
        self._timing = timing or WatchTiming()
        #: As keys, so that they are told of changes in the order in which they came.
        self._streams: dict[WatchStream, None] = {}
        self._is_draining = False
        self._known_actions: dict[int, ActionInForce] = {}
        #: Those of them that hold or bounce mail.
        self._known_held: dict[int, ActionInForce] = {}
        self._shared = SharedResources(clock)
        self._snapshots = asyncio.Semaphore(_SNAPSHOTS_AT_ONCE)
        #: Streams by the agent that they are of; the newest of each.
        self._by_agent: dict[str, WatchStream] = {}
        self._token: tuple[tuple[int, str], bytes] = ((-1, ""), b"")
        #: Streams are woken when it is over.
        self._gathering: asyncio.TimerHandle | None = None
        self._random = random or Random().random
        self._known_rules: Snapshot | None = None
        self._known_past = policy.past
        self._canaries = Canaries(
            canaries or CanaryShare(),
            streams=lambda: self._streams,
            random=self._random,
            metrics=metrics,
        )
        self._unsubscribe = policy.subscribe(self._hear_change)
        if policy.is_loaded:
            self._hear_change()

    def use_datastore(self, datastore_id: str) -> None:
        """Take clients from now on: the database, which tokens name, is known."""
        self._datastore_id = datastore_id
        self._token = ((-1, ""), b"")

    @property
    def streams(self) -> int:
        """How many clients watch."""
        return len(self._streams)

    async def watch(
        self, request_iterator: AsyncIterator[pb.WatchPolicyRequest], context: Any
    ) -> None:
        """
        Keep one client current, from its first request until either side ends; what it is sent is
        written to *context*.

        Errors: `InvalidRequest` for requests out of order, `Aborted` for a client that
        acknowledges nothing, `Unavailable` when the server stops or has no room.
        """
        if not self._datastore_id:
            raise RulesNotLoaded
        if self._is_draining or len(self._streams) >= MAX_STREAMS:
            raise Unavailable(
                "no more streams are taken now; connect again",
                retry_delay=_TURNED_AWAY * (0.1 + self._random()),
            )
        stream = WatchStream(
            self._policy,
            held=self._held,
            shared=self._shared,
            write_token=self._write_token,
            clock=self._clock,
            metrics=self._metrics,
            timing=self._timing,
        )
        self._streams[stream] = None
        tasks: list[asyncio.Task[None]] = []
        agent, sources = "", frozenset[str]()
        try:
            start = await self._read_start(request_iterator)
            stream.start(start, caller=read_process(context))
            # The workers of one agent share its sources as a matter of course.
            agent = read_caller(context) or stream.agent
            sources = self._announce(agent, start.agent_info.egress_sources)
            self._directory.connect(stream, start.agent_info)
            self._by_agent[stream.agent] = stream
            tasks = [
                _run(stream, _listen(stream, request_iterator)),
                _run(stream, stream.find_sites()),
            ]
            logger.info("watch began", extra={"agent": stream.agent})
            opening: AsyncGenerator[Outgoing, None] | None
            opening = self._open(stream, start.resume_token)
            while opening is not None:
                for part in (opening, stream.changes()):
                    async with contextlib.aclosing(part):
                        async for response in part:
                            # Not handed on by generators around this one: it is done for every
                            # client and message.
                            await context.write(response)
                opening = self._begin_anew(stream) if stream.must_reset else None
        finally:
            # A cancelled stream stays cancelled: nothing is caught here.
            self._streams.pop(stream, None)
            stream.retire()
            if self._by_agent.get(stream.agent) is stream:
                del self._by_agent[stream.agent]
            self._directory.disconnect(stream)
            self._sources.remove(agent, sources)
            for task in tasks:
                task.cancel()
            logger.info("watch ended", extra={"agent": stream.agent})

    def drain(self) -> None:
        """Ask every client to come back later, end the streams and take no more."""
        self._is_draining = True
        self._unsubscribe()
        if self._gathering is not None:
            self._gathering.cancel()
        self._canaries.close()
        for _ in self._streams:
            # Nobody waits for a turn any more.
            self._snapshots.release()
        spread = min(max(_SPREAD, len(self._streams) * _SPREAD_PER_STREAM), _MOST_SPREAD)
        for stream in tuple(self._streams):
            stream.end(_SOONEST + self._random() * spread)

    def note_fetched(self, agent: str, question: Question, etag: str) -> None:
        """An agent's process asked for an answer by itself, as it does after an invalidation."""
        stream = self._by_agent.get(agent)
        if stream is not None:
            stream.note_fetched(question, etag)

    def _announce(self, agent: str, announced: Sequence[str]) -> frozenset[str]:
        sources = frozenset(announced[:MAX_SOURCES])
        shared = self._sources.add(agent, sources)
        if shared:
            source, others = next(iter(shared.items()))
            facts = {"agent": agent, "sources": len(shared), "one": source, "others": others[:5]}
            logger.info("agents share egress sources, and their limits", extra=facts)
        return sources

    async def _open(self, stream: WatchStream, raw_token: bytes) -> AsyncGenerator[Outgoing, None]:
        """Send a client what it lacks: after a token a little, else the full state."""
        missed = await self._find_missed(raw_token)
        if missed is not None:
            self._metrics.watch_openings.labels("resumed").inc()
            opening = stream.opening(kind=pb.WatchPolicyResponse.KIND_DELTA, actions=missed)
        else:
            self._metrics.watch_openings.labels("reset" if raw_token else "new").inc()
            if raw_token:
                yield Outgoing([self._shared.write_head(pb.WatchPolicyResponse.KIND_RESET, b"")])
            opening = self._snapshot(stream)
        async with contextlib.aclosing(opening):
            async for response in opening:
                yield response

    async def _begin_anew(self, stream: WatchStream) -> AsyncGenerator[Outgoing, None]:
        """Send a client that watches the full state, as the database has another past now."""
        self._metrics.watch_openings.labels("reset").inc()
        yield stream.write_reset()
        async with contextlib.aclosing(self._snapshot(stream)) as opening:
            async for response in opening:
                yield response

    async def _snapshot(self, stream: WatchStream) -> AsyncGenerator[Outgoing, None]:
        """Send the full state; only so many clients are sent theirs at once."""
        async for bookmark in self._wait_for_turn(stream):
            yield bookmark
        turn = _Turn(self._snapshots)
        try:
            held = {action.id: types_of(action.kind) for action in self._held().values()}
            opening = stream.opening(kind=pb.WatchPolicyResponse.KIND_SNAPSHOT, actions=held)
            async with contextlib.aclosing(opening):
                async for response in opening:
                    yield response
                    if response.is_end:
                        self._metrics.watch_snapshots.inc()
        finally:
            turn.end()

    async def _wait_for_turn(self, stream: WatchStream) -> AsyncGenerator[Outgoing, None]:
        """Take a place among those that are sent their full state; say meanwhile that we live."""
        while True:
            try:
                async with asyncio.timeout(self._timing.bookmark):
                    await self._snapshots.acquire()
            except TimeoutError:
                yield stream.write_bookmark()
            else:
                return

    async def _find_missed(self, raw_token: bytes) -> dict[int, ResourceTypes] | None:
        """List the actions changed since the client's token; None if it can't go on from it."""
        token = decode_token(raw_token)
        if token is None or (token.datastore, token.filter_hash) != (self._datastore_id, _FILTER):
            # What is known here serves while the database is away.
            with contextlib.suppress(PolicyServerError):
                await self._policy.reload()
            return None
        if token.revision >= self._policy.revision and token.stamp != self._policy.stamp:
            await self._catch_up()
        if not 0 <= token.revision <= self._policy.revision:
            # It was read: a backup has been put back.
            return None
        if (token.revision, token.stamp) == (self._policy.revision, self._policy.stamp):
            # After a restart nearly all come with the newest: the database need not be asked.
            return {}
        touched = await self._store.touched_since(token.revision, token.stamp, _MOST_MISSED)
        if touched is None:
            return None
        return {
            action_id: types_of(kind)
            for action_id, kind in touched.items()
            if kind not in OVERRIDES
        }

    async def _catch_up(self) -> None:
        """
        Read what a client knows already, of another server on this database or from before it was
        put back. Errors: `Unavailable`, as what is known here would bring back what was cancelled.
        """
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                await self._policy.reload()
        except (TimeoutError, PolicyServerError) as error:
            raise Unavailable(
                f"this server can't read what the client knows already ({error or 'no answer'}); "
                "connect again with the same token, here or to another server",
                retry_delay=_TURNED_AWAY * (0.1 + self._random()),
            ) from error

    async def _read_start(
        self, request_iterator: AsyncIterator[pb.WatchPolicyRequest]
    ) -> pb.WatchStart:
        try:
            async with asyncio.timeout(self._timing.ack):
                first = await anext(request_iterator)
        except (StopAsyncIteration, TimeoutError):
            raise InvalidRequest("the first request of a stream is start", field="start") from None
        if first.WhichOneof("request") != "start":
            raise InvalidRequest("the first request of a stream is start", field="start")
        return first.start

    def _hear_change(self) -> None:
        """Work out what changed, once for all streams."""
        if self._policy.past != self._known_past:
            self._known_past = self._policy.past
            self._shared.forget()
            for stream in self._streams:
                stream.reset()
        known = self._known_actions
        # What is equal stays the same object: its bytes are known.
        actions = {
            action.id: known[action.id] if known.get(action.id) == action else action
            for action in self._policy.actions()
        }
        changes = compare_actions(known, actions, self._clock())
        has_new_rules = self._policy.snapshot is not self._known_rules
        # Without rules before, all that clients hold is to be looked at.
        change = self._policy.last_change if self._known_rules is not None else None
        self._known_actions, self._known_rules = actions, self._policy.snapshot
        self._known_held = {
            action_id: action
            for action_id, action in actions.items()
            if action.kind not in OVERRIDES
        }
        for stream in self._streams:
            if changes:
                stream.touch_actions(changes)
            if has_new_rules and not self._canaries.is_on:
                stream.touch_rules(change)
        if has_new_rules and self._canaries.is_on:
            self._canaries.tell(change, self._policy.revision)
        if (changes or has_new_rules) and self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(self._timing.gather, self._wake_streams)

    def _wake_streams(self) -> None:
        self._gathering = None
        for stream in self._streams:
            stream.wake()

    def _held(self) -> dict[int, ActionInForce]:
        return self._known_held

    def _write_token(self) -> bytes:
        # The same for nearly all streams at a time.
        place = self._policy.revision, self._policy.stamp
        if self._token[0] != place:
            token = ResumeToken(
                datastore=self._datastore_id,
                revision=place[0],
                stamp=place[1],
                filter_hash=_FILTER,
            )
            self._token = place, encode_token(token)
        return self._token[1]


class _Turn:
    """A place among the streams that are sent their full state; given up once, or in time."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places: asyncio.Semaphore | None = places
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_SNAPSHOT_SECONDS, self.end)

    def end(self) -> None:
        """Let another stream have the place."""
        if self._places is not None:
            self._timer.cancel()
            self._places.release()
            self._places = None


def _run(stream: WatchStream, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a part of a stream beside it; if it fails the stream ends with its error."""

    def finish(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            stream.close(error)

    task = asyncio.create_task(work)
    task.add_done_callback(finish)
    return task


async def _listen(
    stream: WatchStream, request_iterator: AsyncIterator[pb.WatchPolicyRequest]
) -> None:
    """Hand the client's requests to its stream, until it has no more."""
    async for request in request_iterator:
        stream.hear(request)
    stream.close()
