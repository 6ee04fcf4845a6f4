"""
The watch hub: tells every stream what changed, once, and each stream tells its client.

How one client is kept current stands in `watch_stream`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from penstock.v1 import policy_service_pb2 as pb
from policy_server.automation.actions import OVERRIDES, ActionInForce, ActionKind
from policy_server.errors import InvalidRequest, RulesNotLoaded, Unavailable
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.snapshot import Snapshot
from policy_server.services.announced_sources import MAX_SOURCES, AnnouncedSources
from policy_server.services.caller import read_caller
from policy_server.services.resume_token import (
    ResumeToken,
    decode_token,
    encode_token,
    hash_filter,
)
from policy_server.services.watch_stream import WatchStream, WatchTiming
from policy_server.store.actions import ActionStore

logger = logging.getLogger(__name__)

#: Most streams open at a time.
MAX_STREAMS = 4000
#: A client that missed more changed actions than this starts anew.
_MOST_MISSED = 1000
#: Streams watch this besides their paths.
_FILTER = hash_filter("suspensions of all sources")
#: When the server stops, clients come back spread over this many seconds.
_SPREAD = 2.0
_SOONEST = 0.5


class WatchHub:
    """Serves `PolicyService.WatchPolicy`; close it with `drain` before the server stops."""

    def __init__(
        self,
        policy: Policy,
        actions: ActionStore,
        *,
        datastore_id: str = "",
        metrics: ServerMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        timing: WatchTiming | None = None,
    ) -> None:
        self._policy = policy
        self._store = actions
        self._datastore_id = datastore_id
        self._metrics = metrics
        self._sources = AnnouncedSources()
        self._clock = clock
        self._timing = timing or WatchTiming()
        self._streams: set[WatchStream] = set()
        self._is_draining = False
        self._known_actions: dict[int, ActionInForce] = {}
        self._known_suspensions: dict[int, ActionInForce] = {}
        self._known_rules: Snapshot | None = None
        self._unsubscribe = policy.subscribe(self._hear_change)
        if policy.is_loaded:
            self._hear_change()

    def use_datastore(self, datastore_id: str) -> None:
        """Take clients from now on: the database, which tokens name, is known."""
        self._datastore_id = datastore_id

    @property
    def streams(self) -> int:
        """How many clients watch."""
        return len(self._streams)

    async def watch(
        self, request_iterator: AsyncIterator[pb.WatchPolicyRequest], context: Any
    ) -> AsyncGenerator[pb.WatchPolicyResponse, None]:
        """
        Keep one client current, from its first request until either side ends.

        Errors: `InvalidRequest` for requests out of order, `Aborted` for a client that
        acknowledges nothing, `Unavailable` when the server stops or has no room.
        """
        if not self._datastore_id:
            raise RulesNotLoaded
        if self._is_draining or len(self._streams) >= MAX_STREAMS:
            raise Unavailable("no more streams are taken now; connect again")
        stream = WatchStream(
            self._policy,
            suspensions=self._suspensions,
            write_token=self._write_token,
            clock=self._clock,
            timing=self._timing,
        )
        self._streams.add(stream)
        tasks: list[asyncio.Task[None]] = []
        sources: frozenset[str] = frozenset()
        try:
            start = await self._read_start(request_iterator)
            stream.start(start, caller=read_caller(context))
            sources = self._announce(stream.agent, start.agent_info.egress_sources)
            tasks = [
                _run(stream, _listen(stream, request_iterator)),
                _run(stream, stream.find_sites()),
            ]
            logger.info("watch began", extra={"agent": stream.agent})
            async with contextlib.aclosing(self._serve(stream, start.resume_token)) as responses:
                async for response in responses:
                    yield response
        finally:
            # A cancelled stream stays cancelled: nothing is caught here.
            self._streams.discard(stream)
            self._sources.remove(stream.agent, sources)
            self._metrics.shared_sources.set(self._sources.count_shared())
            for task in tasks:
                task.cancel()
            logger.info("watch ended", extra={"agent": stream.agent})

    def drain(self) -> None:
        """Ask every client to come back later, end the streams and take no more."""
        self._is_draining = True
        self._unsubscribe()
        for number, stream in enumerate(tuple(self._streams)):
            stream.end(_SOONEST + number % 100 * (_SPREAD / 100))

    def _announce(self, agent: str, announced: Sequence[str]) -> frozenset[str]:
        sources = frozenset(announced[:MAX_SOURCES])
        shared = self._sources.add(agent, sources)
        self._metrics.shared_sources.set(self._sources.count_shared())
        if shared:
            source, others = next(iter(shared.items()))
            facts = {"agent": agent, "sources": len(shared), "one": source, "others": others[:5]}
            logger.warning("agents share egress sources, each keeps the limits alone", extra=facts)
        return sources

    async def _serve(
        self, stream: WatchStream, raw_token: bytes
    ) -> AsyncGenerator[pb.WatchPolicyResponse, None]:
        missed = await self._find_missed(raw_token)
        kind = pb.WatchPolicyResponse.KIND_DELTA
        if missed is None:
            kind = pb.WatchPolicyResponse.KIND_SNAPSHOT
            missed = tuple(self._suspensions())
            if raw_token:
                reset = pb.WatchPolicyResponse(kind=pb.WatchPolicyResponse.KIND_RESET)
                reset.server_time.FromDatetime(self._clock())
                yield reset
        async with contextlib.aclosing(stream.responses(kind=kind, actions=missed)) as responses:
            async for response in responses:
                yield response

    async def _find_missed(self, raw_token: bytes) -> tuple[int, ...] | None:
        """List the actions changed since the client's token; None if it can't go on from it."""
        token = decode_token(raw_token)
        if (
            token is None
            or token.datastore != self._datastore_id
            or token.filter_hash != _FILTER
            or not 0 <= token.revision <= self._policy.revision
        ):
            return None
        return await self._store.touched_since(token.revision, _MOST_MISSED)

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
        actions = {action.id: action for action in self._policy.actions()}
        changed = [
            action
            for action_id in actions.keys() | self._known_actions.keys()
            if actions.get(action_id) != self._known_actions.get(action_id)
            for action in (actions.get(action_id) or self._known_actions[action_id],)
        ]
        has_new_rules = self._policy.snapshot is not self._known_rules
        # Without rules before, all that clients hold is to be looked at.
        change = self._policy.last_change if self._known_rules is not None else None
        self._known_actions, self._known_rules = actions, self._policy.snapshot
        self._known_suspensions = {
            action_id: action
            for action_id, action in actions.items()
            if action.kind is ActionKind.SUSPEND
        }
        suspensions = [action.id for action in changed if action.kind is ActionKind.SUSPEND]
        scopes = {action.scope for action in changed if action.kind in OVERRIDES}
        for stream in self._streams:
            if suspensions or scopes:
                stream.touch_actions(suspensions, scopes)
            if has_new_rules:
                stream.touch_rules(change)

    def _suspensions(self) -> dict[int, ActionInForce]:
        return self._known_suspensions

    def _write_token(self, revision: int) -> bytes:
        return encode_token(
            ResumeToken(datastore=self._datastore_id, revision=revision, filter_hash=_FILTER)
        )


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
