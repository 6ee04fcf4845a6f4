"""
The agent directory: keeps the table of agents true to the streams that are open.

Streams change many times a second; the table is written at most once a second, and only what
differs; that all are still there is one statement, and so is that many have applied a revision.
An agent that connects again before its old stream was seen to end has two: the newer one speaks for
it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from penstock.v1 import policy_service_pb2 as pb
from policy_server.errors import PolicyServerError, StoreRefused
from policy_server.known_agents import KnownAgent
from policy_server.metrics import ServerMetrics
from policy_server.store.agents import AgentStore
from policy_server.store.rows import storable

logger = logging.getLogger(__name__)

_WRITE_SECONDS = 1.0
#: How often it is written that an agent is still there.
_SEEN_EVERY = timedelta(seconds=10)
#: How often it is looked for agents that were not seen for very long.
_FORGET_EVERY = timedelta(hours=1)
#: Most names of sources that are kept of an agent, and the most characters of names.
_MOST_SOURCES = 1000
_LONGEST_NAME = 255
_LONGEST_VERSION = 100
#: Agents that have gone are remembered for as long as the database is away, so many of them.
_MOST_GONE = 10_000


class Watcher(Protocol):
    """What the directory looks at of a stream."""

    agent: str
    #: How many requests it has heard; without another one, what its client watches stays as it is.
    heard: int
    rejected_at: datetime | None
    reject_reason: str

    @property
    def applied_revision(self) -> int:
        """Up to which revision its client has applied all that concerns it; 0: not known yet."""

    @property
    def subscribed(self) -> int:
        """How many paths it watches."""

    @property
    def unacknowledged(self) -> int:
        """How many responses wait to be acknowledged."""


#: What of a stream changes while it is open.
_Progress = tuple[int, int, datetime | None]


@dataclass(slots=True)
class _Entry:
    stream: Watcher
    version: str
    sources: tuple[str, ...]
    since: datetime
    #: As it was written last; None: not yet.
    written: _Progress | None = None
    #: What the stream had heard when that was found to be so still.
    heard: int = -1

    def is_written(self, newest: int) -> bool:
        """Whether it is plain without a closer look that nothing differs."""
        is_newest = self.written is not None and self.written[0] == newest
        return is_newest and self.heard == self.stream.heard

    @property
    def progress(self) -> _Progress:
        stream = self.stream
        return stream.applied_revision, stream.subscribed, stream.rejected_at

    def differs_by_revision(self, progress: _Progress) -> bool:
        """Whether *progress* differs from what was written by the revision alone."""
        return self.written is not None and progress[1:] == self.written[1:]


class AgentDirectory:
    """Writes down who watches; let `run` run beside."""

    def __init__(
        self,
        store: AgentStore,
        *,
        server: str,
        metrics: ServerMetrics,
        revision: Callable[[], int],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """*server* names this process, again after a restart; *revision* is the newest one."""
        self._store = store
        self._server = server
        self._metrics = metrics
        self._revision = revision
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._gone: dict[str, KnownAgent] = {}
        self._has_taken_over = False
        self._seen_time: datetime | None = None
        self._forget_time: datetime | None = None
        metrics.watch_unacknowledged.set_function(self._count_unacknowledged)
        metrics.watch_furthest.set_function(self._find_furthest)

    def connect(self, stream: Watcher, info: pb.AgentInfo) -> None:
        """An agent began to watch; clients without a name are nobody's."""
        if stream.agent:
            self._entries[stream.agent] = _Entry(
                stream=stream,
                version=info.version[:_LONGEST_VERSION],
                sources=tuple(name[:_LONGEST_NAME] for name in info.egress_sources[:_MOST_SOURCES]),
                since=self._clock(),
            )
            self._gone.pop(stream.agent, None)

    def disconnect(self, stream: Watcher) -> None:
        """A stream has ended."""
        entry = self._entries.get(stream.agent)
        if entry is not None and entry.stream is stream:
            now = self._clock()
            self._gone[stream.agent] = replace(self._describe(entry, now), disconnect_time=now)
            del self._entries[stream.agent]
            while len(self._gone) > _MOST_GONE:
                del self._gone[next(iter(self._gone))]

    async def run(self) -> None:
        """Write what differs, for ever."""
        failure = ""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            try:
                await self.write()
                failure = ""
            except PolicyServerError as error:
                # Once, not each second for as long as the database is away.
                if str(error) != failure:
                    failure = str(error)
                    logger.warning("agents can't be written down", extra={"why": failure})

    async def write(self) -> None:
        """Write what differs from what was written last."""
        now = self._clock()
        await self._look_back(now)
        due: list[tuple[_Entry, _Progress]] = []
        followed: list[tuple[_Entry, _Progress]] = []
        newest = self._revision() if self._entries else 0
        for entry in self._entries.values():
            # Of very many agents most have applied the newest revision, and say nothing.
            if entry.is_written(newest):
                continue
            heard, progress = entry.stream.heard, entry.progress
            if progress == entry.written:
                entry.heard = heard
            else:
                (followed if entry.differs_by_revision(progress) else due).append((entry, progress))
        gone = dict(self._gone)
        if due or gone:
            present = [self._describe(entry, now) for entry, _ in due]
            await self._save([*gone.values(), *present], now)
        for entry, progress in due:
            entry.written = progress
        for name, row in gone.items():
            if self._gone.get(name) is row:
                del self._gone[name]
        await self._note_applied(followed, now)

    async def _save(self, rows: Sequence[KnownAgent], now: datetime) -> None:
        try:
            await self._store.save(rows, now)
        except StoreRefused:
            # What is wrong with one agent must not keep the others from being written.
            for row in rows:
                await self._save_one(row, now)

    async def _save_one(self, row: KnownAgent, now: datetime) -> None:
        try:
            await self._store.save([row], now)
        except StoreRefused as error:
            # It is left out from now on, or it would be in the way of all that are written with it.
            self._entries.pop(row.name, None)
            facts = {"agent": row.name, "why": str(error)}
            logger.warning("agent can't be written down", extra=facts)

    async def _note_applied(
        self, followed: Sequence[tuple[_Entry, _Progress]], now: datetime
    ) -> None:
        """Write down how far these have followed, of whom nothing else is different."""
        if not followed:
            return
        applied: defaultdict[int, list[str]] = defaultdict(list)
        for entry, (revision, *_) in followed:
            applied[revision].append(entry.stream.agent)
        known = await self._store.note_applied(self._server, applied, now)
        for entry, progress in followed:
            # Otherwise its row is gone, or another server has it: all of it is written next time.
            entry.written = progress if entry.stream.agent in known else None

    async def _look_back(self, now: datetime) -> None:
        """Do what is due now and then."""
        if not self._has_taken_over:
            await self._store.take_over(self._server)
            self._has_taken_over = True
        if self._seen_time is None or now - self._seen_time >= _SEEN_EVERY:
            await self._note_seen(now)
            self._seen_time = now
        if self._forget_time is None or now >= self._forget_time:
            await self._store.forget(now)
            self._forget_time = now + _FORGET_EVERY

    async def _note_seen(self, now: datetime) -> None:
        # Those that have only just come are written after this.
        present = {name: entry for name, entry in self._entries.items() if entry.written}
        known = await self._store.note_seen(self._server, present.keys(), now)
        for name in present.keys() - known:
            # Its row is gone, or another server had it and did not know better.
            present[name].written = None

    def _describe(self, entry: _Entry, now: datetime) -> KnownAgent:
        stream = entry.stream
        return KnownAgent(
            name=stream.agent,
            version=entry.version,
            egress_sources=entry.sources,
            server=self._server,
            connect_time=entry.since,
            seen_time=now,
            disconnect_time=None,
            applied_revision=stream.applied_revision,
            subscribed_paths=stream.subscribed,
            reject_time=stream.rejected_at,
            reject_reason=storable(stream.reject_reason),
        )

    def _count_unacknowledged(self) -> int:
        return sum(entry.stream.unacknowledged for entry in self._entries.values())

    def _find_furthest(self) -> int:
        """Find how many revisions the agent that is furthest behind has yet to apply."""
        applied = [entry.stream.applied_revision for entry in self._entries.values()]
        newest = self._revision()
        # One that has just come has acknowledged nothing yet.
        return max((newest - revision for revision in applied if revision), default=0)
