"""
The agent directory: keeps the table of agents true to the streams that are open.

Streams change many times a second; the table is written at most once a second, and only what
differs. An agent that connects again before its old stream was seen to end has two: the newer one
speaks for it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from penstock.v1 import policy_service_pb2 as pb
from policy_server.errors import PolicyServerError
from policy_server.metrics import ServerMetrics
from policy_server.store.agents import AgentStore, KnownAgent

logger = logging.getLogger(__name__)

_WRITE_SECONDS = 1.0
#: How often it is written that an agent is still there.
_SEEN_EVERY = timedelta(seconds=10)
#: Most names of sources that are kept of an agent, and the length of its version.
_MOST_SOURCES = 1000
_LONGEST_VERSION = 100


class Watcher(Protocol):
    """What the directory looks at of a stream."""

    agent: str
    applied_revision: int
    rejected_at: datetime | None
    reject_reason: str

    @property
    def subscribed(self) -> int:
        """How many paths it watches."""


@dataclass(slots=True)
class _Entry:
    stream: Watcher
    info: pb.AgentInfo
    since: datetime


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
        """*server* names this process; *revision* tells the newest revision."""
        self._store = store
        self._server = server
        self._metrics = metrics
        self._revision = revision
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._gone: dict[str, KnownAgent] = {}
        self._written: dict[str, KnownAgent] = {}

    def connect(self, stream: Watcher, info: pb.AgentInfo) -> None:
        """An agent began to watch; clients without a name are nobody's."""
        if stream.agent:
            self._entries[stream.agent] = _Entry(stream, info, self._clock())
            self._gone.pop(stream.agent, None)

    def disconnect(self, stream: Watcher) -> None:
        """A stream has ended."""
        entry = self._entries.get(stream.agent)
        if entry is not None and entry.stream is stream:
            now = self._clock()
            self._gone[stream.agent] = replace(self._describe(entry, now), disconnect_time=now)
            del self._entries[stream.agent]

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
        present = {name: self._describe(entry, now) for name, entry in self._entries.items()}
        self._note_lag(present)
        gone = dict(self._gone)
        due = [row for name, row in present.items() if self._is_due(row, self._written.get(name))]
        if due or gone:
            await self._store.save([*gone.values(), *due], now)
        self._written = {name: self._written.get(name, row) for name, row in present.items()}
        self._written |= {row.name: row for row in due}
        for name, row in gone.items():
            if self._gone.get(name) is row:
                del self._gone[name]

    def _describe(self, entry: _Entry, now: datetime) -> KnownAgent:
        stream, info = entry.stream, entry.info
        return KnownAgent(
            name=stream.agent,
            version=info.version[:_LONGEST_VERSION],
            egress_sources=tuple(info.egress_sources[:_MOST_SOURCES]),
            server=self._server,
            connect_time=entry.since,
            seen_time=now,
            disconnect_time=None,
            applied_revision=stream.applied_revision,
            subscribed_paths=stream.subscribed,
            reject_time=stream.rejected_at,
            reject_reason=stream.reject_reason,
        )

    def _is_due(self, row: KnownAgent, written: KnownAgent | None) -> bool:
        if written is None or row.seen_time - written.seen_time >= _SEEN_EVERY:
            return True
        return replace(row, seen_time=written.seen_time) != written

    def _note_lag(self, present: dict[str, KnownAgent]) -> None:
        newest = self._revision()
        behind = [newest - row.applied_revision for row in present.values()]
        self._metrics.watch_lag.set(max(behind, default=0))
