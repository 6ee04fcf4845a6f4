"""
Dispatcher: delivers the agent's mail. It joins the scheduler, the paths and their sessions.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

from agent.background import end
from agent.dispatch.connector import BrokenTls, Connector
from agent.dispatch.holds import HoldKind, Holds
from agent.dispatch.inspection import Inspection
from agent.dispatch.lanes import Ending, HeldQueue
from agent.dispatch.limits import Limits, without_leases
from agent.dispatch.path import Path
from agent.dispatch.path_state import PathState
from agent.dispatch.rebinding import Moved, Rebinder, Rebinding
from agent.dispatch.results import RecordSink, Results
from agent.dispatch.scheduler import Scheduler
from agent.dispatch.services import DispatchCounts, Services
from agent.dispatch.session import Session
from agent.dispatch.settling import Way
from agent.dispatch.sources import SourceHealth
from agent.dispatch.throttles import RateLimits, Throttles
from agent.dispatch.tls_contexts import TlsContexts
from agent.dispatch.tls_demands import TlsDemands
from agent.dns import Resolver
from agent.limits.fleet import FleetLimits, Wish
from agent.mta_sts.policies import MtaStsPolicies
from agent.orders.order import QueueScope
from agent.orders.order_set import OrderSet
from agent.policy.answer import PathPolicy, PolicySource
from agent.queue.entry import Entry
from agent.queue.names import parse_queue_name
from agent.settings import Settings
from agent.spool.messages import Spool
from agent.throttle.slots import ConnectionSlots, Slots

logger = logging.getLogger(__name__)

#: A path that is unused for so long is forgotten, in seconds.
_REAP_SECONDS = 600.0
_SWEEP_SECONDS = 15.0
#: How often other processes are given what they wait for, in seconds.
_SHARE_SECONDS = 0.5
#: Changes of policy that follow each other are looked at together, this far apart, in seconds.
_APPLY_SECONDS = 0.1
#: How often due mail is counted by path for the limit service, in seconds.
_COUNT_SECONDS = 2.0


class Dispatcher:
    """Takes entries that are safe in the spool and sees them to their end."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        policy: PolicySource,
        resolver: Resolver,
        log: RecordSink,
        *,
        mta_sts: MtaStsPolicies | None = None,
        trusted: Callable[[], ssl.SSLContext] | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.time,
        throttles: RateLimits | None = None,
        slots: Slots | None = None,
        fleet: FleetLimits | None = None,
        orders: OrderSet | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        """
        *mta_sts*: None: MTA-STS is not asked about; *trusted* makes the TLS context that
        certificates are checked with; *throttles* and *slots* are those that processes of the
        agent share, None: there are no others; *fleet* what is lent of limits that agents share,
        None: each keeps them for itself; *orders* are an operator's; *on_failure* is told of an
        error that ends dispatch.
        """
        random = random or Random()
        self._host_name = socket.gethostname() or "localhost"
        self._results = Results(
            settings,
            spool,
            log,
            accept=self.accept,
            host_name=self._host_name,
            clock=clock,
            random=random,
        )
        contexts = TlsContexts(clock=time.monotonic, trusted=trusted)
        self.tls_demands = TlsDemands(resolver, mta_sts)
        connector = Connector(contexts, BrokenTls(time.monotonic), self.tls_demands, clock=clock)
        sources = SourceHealth(clock=clock)
        self._services = Services(
            settings=settings,
            policies=policy,
            holds=Holds(policy, orders if orders is not None else OrderSet(), sources, clock=clock),
            sources=sources,
            resolver=resolver,
            results=self._results,
            connector=connector,
            limits=Limits(
                throttles or Throttles(), slots or ConnectionSlots(), fleet or without_leases()
            ),
            holding=self,
            random=random,
            clock=clock,
        )
        self._paths: dict[str, Path] = {}
        #: Paths that wait for a connection slot, the longest first.
        self._starving: dict[Path, None] = {}
        self._applied = float("-inf")
        self._scheduler = Scheduler(self._services, self._find_path, on_failure)
        self.inspection = Inspection(self._services, self._scheduler, self._paths)
        self._rebinder = Rebinder(
            self._services, spool, log, self._scheduler, paths=lambda: list(self._paths.values())
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._is_applying = False
        self._is_stopping = False
        self._waiting: Mapping[str, int] = {}
        self._waiting_counted = float("-inf")

    def accept(self, entries: Sequence[Entry]) -> None:
        """Take entries that are in the spool: new ones, or all of them at start."""
        for entry in entries:
            self._scheduler.add(entry)

    def recovered(self) -> None:
        """All mail of the spool is here: orders to bounce may concern some that came after them."""
        self._scheduler.sweep_bounces()

    def start(self) -> None:
        """Begin to deliver."""
        self._services.holds.subscribe(self._on_policy_change)
        self._scheduler.start()
        self._tasks = [
            asyncio.create_task(self._sweep(), name="path sweeper"),
            asyncio.create_task(self._share(), name="connection sharing"),
        ]

    async def stop(self, deadline: float | None = None) -> None:
        """
        Deliver nothing more: idle connections close, transactions in flight may end, each within
        its path's system_shutdown_timeout and *deadline* seconds.
        """
        self._is_stopping = True
        await end(self._tasks)
        # First of all: no mail for a path that is closing, and no new path beside it.
        await self._scheduler.stop()
        await asyncio.gather(*(path.stop(deadline) for path in self._paths.values()))
        await self._services.results.drain()

    def snapshot(self) -> list[PathState]:
        """Every path as it is now, by name."""
        waiting = self._scheduler.waiting_by_path()
        return [path.state(waiting.get(name, 0)) for name, path in sorted(self._paths.items())]

    @property
    def failing_sources(self) -> int:
        """How many egress sources can't be used now."""
        return self._services.sources.failing

    @property
    def counts(self) -> DispatchCounts:
        """What happened since the start, over all paths."""
        return self._services.counts

    def paths(self) -> dict[str, tuple[Path, int]]:
        """Every path, by name, and how many due entries wait for it."""
        waiting = self._scheduler.waiting_by_path()
        return {name: (path, waiting.get(name, 0)) for name, path in sorted(self._paths.items())}

    async def rebind(self, scope: QueueScope, rebinding: Rebinding) -> Moved:
        """
        Move the mail that *scope* covers to other queues. Errors: `RebindUnderWay`;
        `SpoolUnavailable`, after none or some of it has moved.
        """
        try:
            return await self._rebinder.rebind(scope, rebinding)
        finally:
            self.inspection.forget_counts()

    def queue_counts(self) -> dict[str, int]:
        """Entries by where they are: `scheduled`, `due` (on no path yet) and `ready`."""
        return {
            "scheduled": self._scheduler.scheduled_count,
            "due": self._scheduler.lane_count + self._rebinder.moving,
            "ready": sum(path.ready_count for path in self._paths.values()),
        }

    # What the client of the limit service asks for.

    @property
    def limits(self) -> Limits:
        """The limits that paths draw on."""
        return self._services.limits

    def tell_demand(self) -> None:
        """Say what all mail could use now of the limits that the fleet keeps."""
        wishes: list[Wish] = []
        for name, path in self._paths.items() if not self._is_stopping else ():
            wishes += path.wishes(self._waiting_lately().get(name, 0))
            path.look_at_wait()
        limits = self._services.limits
        limits.fleet.want(wishes, limits.lease_ns())

    def _waiting_lately(self) -> Mapping[str, int]:
        """Due entries by the path they wait for, counted anew every other second."""
        now = asyncio.get_running_loop().time()
        if now - self._waiting_counted > _COUNT_SECONDS:
            self._waiting, self._waiting_counted = self._scheduler.waiting_by_path(), now
        return self._waiting

    def leases_changed(self, keys: Collection[str] | None) -> None:
        """More or less is lent of *keys*, or of any; None."""
        self._services.limits.enforce(keys)
        if self._is_stopping:
            return
        self.slots_freed()
        for path in list(self._paths.values()):
            own = path.options.fleet_keys
            if own and (keys is None or not own.isdisjoint(keys)):
                path.leases_changed()
                self._scheduler.selection_changed(path.name)

    def held_queues(self, most: int) -> list[HeldQueue]:
        """The queues that suspensions hold, those with the most mail first, *most* at most."""
        return self._scheduler.held_queues(most)

    def held_counts(self) -> dict[HoldKind, int]:
        """Due entries that suspensions hold, by how much of the mail those hold."""
        return self._scheduler.held_counts()

    # What paths ask for: `agent.dispatch.services.Holding`

    def take_back(self, entry: Entry) -> None:
        """Let *entry* wait again."""
        self._scheduler.add(entry)

    def give_up(self, entry: Entry, path: Path) -> None:
        """End an entry that has grown too old."""
        domain = parse_queue_name(entry.queue_name).domain
        pool = self._services.settings.queue_for(domain).egress_pool
        way = Way(pool=pool, source=path.policy.egress_source, policy=path.policy)
        self._scheduler.end_entries(Ending(entries=[entry], way=way, response=None))

    def has_room(self, path: Path) -> None:
        """Room was made in the ready queue."""
        self._scheduler.path_has_room(path)

    def starves(self, path: Path) -> None:
        """Remember that *path* waits for a slot."""
        self._starving[path] = None

    def slots_freed(self) -> None:
        """Whoever starved for a slot tries again, the longest first, so that all get a turn."""
        starving, self._starving = self._starving, {}
        for path in starving:
            path.maintain()

    def _find_path(self, policy: PathPolicy) -> Path:
        path = self._paths.get(policy.path_name)
        if path is None:
            path = Path(policy, self._services, self._new_session)
            self._paths[policy.path_name] = path
        else:
            path.adopt(policy)
        return path

    def _new_session(self, path: Path) -> Session:
        return Session(path, host_name=self._host_name)

    def _on_policy_change(self) -> None:
        """
        Many changes come together: look once for all of them. No transaction begins meanwhile
        that a change forbids, for each asks the policy itself.
        """
        if not self._is_applying and not self._is_stopping:
            self._is_applying = True
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._applied + _APPLY_SECONDS), self._apply_policy)

    def _apply_policy(self) -> None:
        self._is_applying = False
        if self._is_stopping:
            return
        try:
            for path in list(self._paths.values()):
                path.apply_policy()
        finally:
            self._scheduler.look_again()
            self._applied = asyncio.get_running_loop().time()

    async def _share(self) -> None:
        """Give other processes of the agent their share of the connections that they wait for."""
        while True:
            await asyncio.sleep(_SHARE_SECONDS)
            try:
                if contended := set(self._services.limits.slots.contended()):
                    for path in list(self._paths.values()):
                        path.share(contended)
            except Exception:
                # Supervisor: what can't be shared now is shared later.
                logger.exception("connections can't be shared")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self._sweep_once()
            except Exception:
                # Supervisor: what can't be swept now must not keep the rest from it for ever.
                logger.exception("sweep failed")

    async def _sweep_once(self) -> None:
        for path in list(self._paths.values()):
            path.sweep()
            # Others go on between two paths that hold much mail.
            await asyncio.sleep(0)
        now = self._services.clock()
        waiting = self._scheduler.waiting_by_path()
        for name, path in list(self._paths.items()):
            is_idle = path.is_unused and name not in waiting
            if is_idle and now - path.last_used > _REAP_SECONDS:
                del self._paths[name]
                self._starving.pop(path, None)
        self._services.limits.forget_idle()
