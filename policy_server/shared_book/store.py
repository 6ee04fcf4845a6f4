"""
This server's part in the book of limits that several servers keep together in Valkey.

1. A report is taken in when every shard in which its agent has leases has taken it in. Only then
   is it answered: the answer renews all leases of the agent at once. Which shards these are may
   have changed while the agent was with another server, so they are looked up whenever it comes
   anew: it attaches first.
2. Whichever server decides, the one that an agent reports to gives it its grants, with the newest
   report that it has taken in so.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import Any

from policy_server.errors import PolicyServerError, Unavailable
from policy_server.lending.clock import boottime_ns
from policy_server.lending.port import BookView, Heard, Taken
from policy_server.limits.messages import Demand, Grant, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.calls import Argument, Reply, TakenPart, read_synced
from policy_server.shared_book.delivery import Decided, Delivery
from policy_server.shared_book.epoch import VALID, BookEpoch
from policy_server.shared_book.errors import BookFenced, BookLost
from policy_server.shared_book.shard import MOST_DEMANDS, Shard
from policy_server.shared_book.valkey import SHARDS, Valkey, shard_of
from policy_server.shared_book.views import read_limit_view, read_limit_views
from policy_server.store.datastore import read_datastore_id
from policy_server.store.shared_leases import SharedLeases
from policy_server.supervisor import end, keep_running

#: Agents whose shards are remembered; of others Valkey is asked again.
_MOST_AGENTS = 20_000
_MOST_HOLDERS = 1000
_SHOW_SECONDS = 1.0


@dataclass(slots=True)
class _Agent:
    """What this server knows of an agent that reports to it."""

    incarnation: int
    #: In which it may have a session. None is dropped: a report may be on its way there.
    shards: set[int] = field(default_factory=set)
    #: The newest report that every shard has taken in.
    heard: int = 0
    #: How often it came anew, and how often it had when its shards were last looked up.
    arrivals: int = 1
    known_since: int = 0

    def is_past(self, report: Report) -> bool:
        """Whether a report is too late, comes twice or is of an incarnation that is gone."""
        return (report.incarnation, report.sequence) <= (self.incarnation, self.heard)


@dataclass(slots=True)
class _Listener:
    """Who is told of one agent's grants."""

    wake: Callable[[], None]
    #: The newest of each key.
    grants: dict[str, Decided] = field(default_factory=dict)


class SharedLimitStore:
    """Keeps a book together with other servers; see `LimitStore`."""

    def __init__(
        self,
        valkey: Valkey,
        leases: SharedLeases,
        *,
        server: str,
        address: str,
        metrics: ServerMetrics | None = None,
        timing: LeaseTiming | None = None,
        clock: Callable[[], int] = boottime_ns,
        valid: int = VALID,
    ) -> None:
        """
        Keep the book as *server*, a name that no other one has, which is reached at *address*; go
        by an epoch for *valid* nanoseconds after it was in force.
        """
        self._valkey = valkey
        self._leases = leases
        self._server = server
        self._metrics = metrics or ServerMetrics()
        self._timing = timing or LeaseTiming()
        self._agents: OrderedDict[str, _Agent] = OrderedDict()
        self._listeners: dict[str, _Listener] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = BookEpoch(
            valkey,
            leases,
            self._timing,
            address=address,
            clock=clock,
            on_change=self._begin_anew,
            metrics=self._metrics,
            valid=valid,
        )
        self._delivery = Delivery(
            valkey,
            leases,
            self._epoch,
            server=server,
            metrics=self._metrics,
            deliver=self._deliver,
        )
        self._shards = [
            Shard(
                number,
                valkey,
                leases,
                self._epoch,
                timing=self._timing,
                server=server,
                clock=clock,
                act=self._delivery.act,
            )
            for number in range(SHARDS)
        ]

    @property
    def timing(self) -> LeaseTiming:
        """The spans of leases."""
        return self._timing

    async def start(self) -> None:
        """Begin to keep the book, in the background."""
        if not self._valkey.book:
            # Each database has a book of its own, wherever that is.
            self._valkey.book = await read_datastore_id(self._leases.database)
        for work in (
            self._epoch.run,
            self._show_state,
            self._delivery.run,
            self._listen,
            *(shard.run for shard in self._shards),
        ):
            self._begin(keep_running(work))

    async def close(self) -> None:
        """Stop; the other servers go on, and leases stay as they are."""
        self._epoch.close()
        for shard in self._shards:
            shard.close()
        self._delivery.close()
        await end(self._tasks)
        self._epoch.release_file()
        await self._valkey.close()

    # Reports.

    async def receive(self, report: Report, specs: Mapping[str, LimitSpec]) -> Heard:
        """Take in a report."""
        epoch = self._epoch.current
        known = self._agents.get(report.agent)
        if known is not None and known.is_past(report):
            return Heard(epoch=epoch, is_new=False)
        agent = await self._find_agent(epoch, report)
        by_shard: dict[int, list[Demand]] = {shard: [] for shard in agent.shards}
        for demand in report.demands:
            by_shard.setdefault(shard_of(demand.key), []).append(demand)
        # A call that fails may have been made.
        agent.shards |= by_shard.keys()
        taken = await asyncio.gather(
            *(
                self._take(shard, report, demands[first : first + MOST_DEMANDS], first, specs)
                for shard, demands in by_shard.items()
                for first in range(0, max(1, len(demands)), MOST_DEMANDS)
            )
        )
        self._epoch.require(epoch)
        is_new = all(one.is_new for one in taken)
        if is_new:
            agent.heard = max(agent.heard, report.sequence)
        elif report.sequence > agent.heard:
            # Another server has heard a later start, or let this one go: it is to be told so.
            agent.heard = 0
        unknown = [key for one in taken for key in one.unknown]
        return Heard(epoch=epoch, is_new=is_new, unknown=tuple(unknown))

    async def _take(
        self,
        shard: int,
        report: Report,
        demands: list[Demand],
        first: int,
        specs: Mapping[str, LimitSpec],
    ) -> TakenPart:
        part = replace(report, demands=tuple(demands))
        named = {one.key: specs[one.key] for one in demands if one.key in specs}
        return await self._shards[shard].take(part, first // MOST_DEMANDS, named)

    async def configure(self, specs: Mapping[str, LimitSpec]) -> None:
        """Change limits that are lent."""
        by_shard: dict[int, dict[str, LimitSpec]] = {}
        for key, spec in specs.items():
            by_shard.setdefault(shard_of(key), {})[key] = spec
        for shard, some in by_shard.items():
            keys = list(some)
            for first in range(0, len(keys), MOST_DEMANDS):
                chunk = {key: some[key] for key in keys[first : first + MOST_DEMANDS]}
                await self._shards[shard].configure(chunk)

    async def release(self, agent: str, incarnation: int) -> None:
        """End all leases of an agent, up to *incarnation*."""
        epoch = self._epoch.current
        for shard in await self._shards_of(epoch, agent):
            await self._call(shard, epoch, "release", agent, incarnation)
        self._agents.pop(agent, None)

    async def hears(self, agent: str) -> bool | None:
        """Whether an agent has reported lately; None: it is not known."""
        replies = await self._call_all(self._epoch.current, "session", agent)
        heard = [bool(is_heard) for _, is_known, is_heard in replies if is_known]
        return any(heard) if heard else None

    async def settled(self) -> None:
        """Return once what was received before can be taken."""
        await asyncio.gather(*(shard.settled() for shard in self._shards))
        await self._delivery.idle()

    # Grants.

    def attach(self, agent: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* whenever there is something to be taken for *agent*."""
        listener = self._listeners[agent] = _Listener(wake)
        if (known := self._agents.get(agent)) is not None:
            known.arrivals += 1
        self._begin(self._repeat(agent))

        def detach() -> None:
            if self._listeners.get(agent) is listener:
                del self._listeners[agent]

        return detach

    async def take(self, agent: str, incarnation: int, most: int) -> Taken:
        """Take up to *most* grants for an agent whose listener is attached."""
        epoch = self._epoch.current
        listener, known = self._listeners.get(agent), self._agents.get(agent)
        is_present = known is not None and known.incarnation == incarnation
        taken: list[Grant] = []
        if listener is not None and is_present:
            while listener.grants and len(taken) < most:
                decided = listener.grants.pop(next(iter(listener.grants)))
                is_theirs = decided.grant.incarnation == incarnation and decided.epoch == epoch
                if is_theirs and self._delivery.is_in_time(decided):
                    taken.append(decided.grant)
        return Taken(
            epoch=epoch,
            sequence=known.heard if known is not None and is_present else 0,
            grants=tuple(taken),
            has_more=listener is not None and bool(listener.grants),
            is_recovering=self._is_recovering,
        )

    def _deliver(self, decided: Decided) -> None:
        grant = decided.grant
        listener = self._listeners.get(grant.agent)
        if listener is None:
            return
        present = listener.grants.pop(grant.key, None)
        if present is not None and present.grant.version > grant.version:
            decided = present
        listener.grants[grant.key] = decided
        listener.wake()

    async def _repeat(self, agent: str) -> None:
        """Deliver what an agent that connects anew has not confirmed."""
        try:
            epoch = self._epoch.current
            for shard in await self._shards_of(epoch, agent):
                reply = await self._call(shard, epoch, "unconfirmed", agent, self._server)
                self._delivery.act(self._shards[shard], epoch, read_synced(reply, self._epoch.sign))
        except PolicyServerError:
            # It comes again a while after a report.
            return

    async def _listen(self) -> None:
        try:
            await self._delivery.listen(self._shards)
        except Unavailable:
            # The shards find out, and say so; what was missed comes again.
            return

    # Looking.

    async def list_limits(self, after: str, limit: int) -> BookView:
        """List up to *limit* limits by key, from the one after *after* on."""
        epoch = self._epoch.current
        replies = await self._call_all(epoch, "list", after, limit)
        views = [view for reply in replies for view in read_limit_views(reply)]
        first = nsmallest(limit, views, key=lambda view: view.key)
        return BookView(
            server=self._server,
            epoch=epoch,
            is_recovering=self._is_recovering,
            limits=tuple(first),
        )

    async def find_limit(self, key: str) -> BookView:
        """Find one limit with its holders."""
        epoch = self._epoch.current
        reply = await self._call(shard_of(key), epoch, "show", key, _MOST_HOLDERS)
        return BookView(
            server=self._server,
            epoch=epoch,
            is_recovering=self._is_recovering,
            limits=read_limit_view(reply),
        )

    # Shards.

    @property
    def _is_recovering(self) -> bool:
        return self._epoch.is_recovering or any(shard.last.recovering for shard in self._shards)

    async def _show_state(self) -> None:
        while True:
            state = "recovering" if self._is_recovering else "open"
            if not self._epoch.is_open:
                state = "elsewhere"
            for one in ("open", "recovering", "elsewhere"):
                self._metrics.limit_book.labels(one).set(one == state)
            self._metrics.limits_lent.set(sum(shard.last.limits for shard in self._shards))
            self._metrics.limits_scarce.set(sum(shard.last.scarce for shard in self._shards))
            self._metrics.limit_workers.set(len(self._listeners))
            await asyncio.sleep(_SHOW_SECONDS)

    def _begin_anew(self) -> None:
        """The epoch is another one: nothing that was known before counts."""
        self._agents.clear()
        for listener in self._listeners.values():
            listener.grants.clear()

    async def _find_agent(self, epoch: int, report: Report) -> _Agent:
        known = self._agents.get(report.agent)
        if known is None or known.incarnation != report.incarnation:
            known = self._agents[report.agent] = _Agent(report.incarnation)
            if len(self._agents) > _MOST_AGENTS:
                self._agents.popitem(last=False)
        self._agents.move_to_end(report.agent)
        while known.known_since < known.arrivals:
            arrivals = known.arrivals
            known.shards |= set(await self._shards_of(epoch, report.agent))
            known.known_since = max(known.known_since, arrivals)
        return known

    async def _shards_of(self, epoch: int, agent: str) -> list[int]:
        """In which shards an agent has a session."""
        replies = await self._call_all(epoch, "session", agent)
        return [shard for shard, reply in enumerate(replies) if reply[1]]

    async def _call(self, shard: int, epoch: int, operation: str, *arguments: Argument) -> Reply:
        (reply,) = await self._made(epoch, self._valkey.call(shard, epoch, (operation, arguments)))
        return reply

    async def _call_all(self, epoch: int, operation: str, *arguments: Argument) -> list[Reply]:
        return await self._made(epoch, self._valkey.call_all(epoch, operation, *arguments))

    async def _made(self, epoch: int, calls: Awaitable[list[Reply]]) -> list[Reply]:
        try:
            replies = await calls
        except (BookLost, BookFenced) as error:
            self._epoch.leave(epoch, error)
            raise
        self._epoch.require(epoch)
        return replies

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
