"""
Worker: builds the agent and runs it until it is told to stop.

Order at start: spool, last-known policy, delivery log (with the lines that a crash kept out of
it), the first of the queued mail, then the ports; the rest of the mail is read beside. At the end
the other way round: no more mail in, transactions in flight finish, and everything else is on disk
already.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from agent.administration.queue_service import QueueService
from agent.collector import set_apart
from agent.dispatch.dispatcher import Dispatcher
from agent.dispatch.limits import lease_clock_ns
from agent.dispatch.recovery import Recovery
from agent.dns import Resolver
from agent.durable_files import make_directory
from agent.errors import DispatchFailed
from agent.http import HttpServer
from agent.leases.access import LeaseAccess, open_leases
from agent.leases.client import Parts
from agent.limits.limit import LimitPath
from agent.loop_lag import LoopLag
from agent.metrics import AgentMetrics
from agent.mta_sts.disk import PolicyDisk
from agent.mta_sts.fetch import PolicyFetcher
from agent.mta_sts.policies import MtaStsPolicies
from agent.orders.book import FILE_NAME as ORDERS_FILE_NAME
from agent.orders.book import OrderBook
from agent.orders.inheritance import inherit_orders
from agent.outcomes.delivery_log import DeliveryLog
from agent.outcomes.lines import node_id_of
from agent.outcomes.uploader import OutcomeUploader
from agent.policy.access import PolicyAccess, open_policy
from agent.policy.channel import open_channel
from agent.policy.effective import PathKey
from agent.ports import listening_on
from agent.rpc import PrivateRpcServer, RpcServer
from agent.settings import Settings
from agent.smtp.certificate import load_context
from agent.smtp.injection_service import InjectionService
from agent.smtp.intake import Intake
from agent.smtp.listener import SmtpListener
from agent.spool.sqlite import SqliteSpool
from agent.status import OneProcess
from agent.workers.limit_file import LIMITS_FILE, agent_limits
from agent.workers.limit_table import LimitTable
from agent.workers.place import Place, settings_of
from agent.workers.queue_gateway import QueueGateway
from agent.workers.ready import Ports
from agent.workers.shared_limits import SharedSlots, SharedThrottles
from penstock.v1.queue_service_pb2_grpc import QueueServiceServicer

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: How long the newest outcomes may take to reach the policy server at the end, in seconds.
_LAST_REPORT_SECONDS = 2.0
_LAST_CALLS_SECONDS = 5.0
#: How often a process that drains its spool looks whether it is done, in seconds.
_DRAINED_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivery:
    """The parts that mail leaves by, open."""

    dispatcher: Dispatcher
    leases: LeaseAccess
    orders: OrderBook
    queues: QueueService


async def run(
    settings: Settings,
    *,
    place: Place | None = None,
    on_ready: Callable[[Ports], None] | None = None,
    lifeline: int | None = None,
) -> None:
    """
    Run until SIGTERM or SIGINT, then stop gracefully; a second signal ends the process at once.
    *place* is that of the process in its agent; *on_ready* is told the ports; *lifeline* is a
    descriptor whose end of file says that the parent wants a stop, or is gone. Errors:
    `SettingsError` for a certificate that can't be used, `SpoolRefused`, `SpoolUnavailable`,
    `PortUnavailable`; `DispatchFailed` so that a supervisor starts the agent anew rather than let
    mail pile up.
    """
    stop = asyncio.Event()
    failures: list[BaseException] = []

    def on_failure(error: BaseException) -> None:
        failures.append(error)
        stop.set()

    with _signals(stop), _lifeline(lifeline, stop):
        async with open_agent(
            settings, place=place, on_failure=on_failure, on_drained=stop.set
        ) as ports:
            if on_ready is not None:
                on_ready(ports)
            await stop.wait()
            logger.info("agent stops")
    logger.info("agent stopped")
    if failures:
        raise DispatchFailed(f"delivery stopped by an error: {failures[0]}") from failures[0]


@asynccontextmanager
async def open_agent(
    settings: Settings,
    *,
    place: Place | None = None,
    on_failure: Callable[[BaseException], None] | None = None,
    on_drained: Callable[[], None] = lambda: None,
) -> AsyncIterator[Ports]:
    """
    Build the agent, or the process of it at *place*, and start it; at the end stop it.
    *on_drained* is told when a process that only drains its spool has done so.
    """
    place = place or Place()
    agent_dir, settings = settings.agent.data_dir, settings_of(settings, place)
    clock, random = time.time, Random()
    if (files := settings.listen.certificate_files) is not None:
        # Told before anything is opened.
        load_context(files)
    make_directory(settings.agent.data_dir)
    async with AsyncExitStack() as stack:
        table = _open_limits(agent_dir, place, stack)
        spool = await SqliteSpool.open(settings.agent.data_dir)
        stack.push_async_callback(spool.close)
        channel = open_channel(settings.policy.server)
        stack.push_async_callback(channel.close)
        policy = await open_policy(settings, channel, clock=clock, random=random, worker=place.name)
        stack.push_async_callback(policy.close)
        node_id = node_id_of(settings.agent.name)
        log = DeliveryLog(settings.agent.data_dir / "log", node_id=node_id, clock=clock)
        await log.open(spool)
        stack.push_async_callback(log.close)
        uploader = OutcomeUploader(
            spool,
            channel,
            agent_name=settings.agent.name,
            clock=clock,
            random=random,
            before_forget=log.flush,
            filters=settings.policy.filter_outcomes,
        )
        stack.push_async_callback(uploader.close, _LAST_REPORT_SECONDS)
        metrics = AgentMetrics()
        lag = LoopLag(metrics.on_lag)
        lag.start()
        stack.push_async_callback(lag.stop)
        log.subscribe(metrics.on_records)
        log.subscribe(uploader.on_records)
        uploader.start()
        if place.number:
            own_orders = settings.agent.data_dir / ORDERS_FILE_NAME
            await asyncio.to_thread(inherit_orders, agent_dir / ORDERS_FILE_NAME, own_orders)
        orders = OrderBook(settings.agent.data_dir / ORDERS_FILE_NAME, clock=clock)
        stack.push_async_callback(orders.close)
        await orders.open()
        delivery = await _open_delivery(
            settings,
            spool,
            policy,
            log,
            metrics,
            orders=orders,
            place=place,
            throttles=SharedThrottles(table),
            slots=SharedSlots(table, place.number),
            random=random,
            stack=stack,
            on_failure=on_failure,
        )
        _show(metrics, policy, log, uploader, delivery)
        ports = await _open_ports(settings, place, spool, log, policy, delivery, metrics, stack)
        if place.is_draining:
            _watch_drain(spool, on_drained, stack)
        yield ports


def _open_limits(agent_dir: Path, place: Place, stack: AsyncExitStack) -> LimitTable:
    """Open what the agent's processes share; the only one of them begins and ends its use too."""
    if place.has_parent:
        table = LimitTable(agent_dir / LIMITS_FILE)
        stack.callback(table.close)
        return table
    return stack.enter_context(agent_limits(agent_dir)).table


def _watch_drain(spool: SqliteSpool, on_drained: Callable[[], None], stack: AsyncExitStack) -> None:
    async def watch() -> None:
        while spool.entry_count or spool.record_count:  # noqa: ASYNC110  # counts have no event
            await asyncio.sleep(_DRAINED_SECONDS)
        logger.info("spool drained")
        on_drained()

    task = asyncio.create_task(watch(), name="drain")
    stack.callback(task.cancel)


async def _open_delivery(
    settings: Settings,
    spool: SqliteSpool,
    policy: PolicyAccess,
    log: DeliveryLog,
    metrics: AgentMetrics,
    *,
    orders: OrderBook,
    place: Place,
    throttles: SharedThrottles,
    slots: SharedSlots,
    random: Random,
    stack: AsyncExitStack,
    on_failure: Callable[[BaseException], None] | None,
) -> _Delivery:
    resolver = Resolver(
        tuple(str(address) for address in settings.dns.nameservers),
        timeout=settings.dns.timeout.total_seconds(),
        trust_ad=settings.dns.trust_ad,
    )
    stack.push_async_callback(resolver.close)
    mta_sts = MtaStsPolicies(
        resolver,
        PolicyFetcher(resolver),
        PolicyDisk(settings.agent.data_dir / "mta_sts.db"),
    )
    await mta_sts.open()
    stack.push_async_callback(mta_sts.close)
    metrics.add_tls(mta_sts)
    leases = open_leases(
        settings,
        worker=place.lease_name,
        clock=time.time,
        clock_ns=lease_clock_ns,
        random=random,
    )
    dispatcher = Dispatcher(
        settings,
        spool,
        policy.client,
        resolver,
        log,
        mta_sts=mta_sts,
        random=random,
        throttles=throttles,
        fleet=leases.fleet,
        orders=orders.in_force,
        slots=slots,
        on_failure=on_failure,
    )
    metrics.add_tls_demands(dispatcher.tls_demands)
    _join(leases, dispatcher, policy)
    metrics.add_leases(
        leases, lambda: sum(state.waits_for is not None for state in dispatcher.snapshot())
    )
    # Given back once nothing is used any more.
    stack.push_async_callback(leases.client.close)
    stack.push_async_callback(dispatcher.stop, settings.agent.shutdown_timeout.total_seconds())
    dispatcher.start()
    leases.client.start()

    def recovered() -> None:
        dispatcher.recovered()
        set_apart()

    recovery = Recovery(spool, dispatcher.accept, on_end=recovered, clock=time.time)
    stack.push_async_callback(recovery.stop)
    await recovery.start()
    metrics.add_gauge(
        "penstock_agent_recovering",
        "Entries of the spool that are not yet in a queue after a start.",
        lambda: recovery.remaining,
    )
    queues = QueueService(
        settings, spool, dispatcher, orders, clock=time.time, unread=lambda: recovery.remaining
    )
    stack.push_async_callback(queues.close)
    return _Delivery(dispatcher=dispatcher, leases=leases, orders=orders, queues=queues)


def _join(leases: LeaseAccess, dispatcher: Dispatcher, policy: PolicyAccess) -> None:
    """Have dispatch say what it needs of the fleet's limits, and hear what it gets."""

    def ask_again(path: LimitPath) -> None:
        key = PathKey(routing_domain=path.routing_domain, egress_source=path.egress_source)
        policy.client.refresh([key])

    leases.client.parts = Parts(
        tell_demand=dispatcher.tell_demand,
        on_change=dispatcher.leases_changed,
        on_unknown=ask_again,
    )
    dispatcher.limits.on_shortage = leases.client.nudge


async def _open_ports(
    settings: Settings,
    place: Place,
    spool: SqliteSpool,
    log: DeliveryLog,
    policy: PolicyAccess,
    delivery: _Delivery,
    metrics: AgentMetrics,
    stack: AsyncExitStack,
) -> Ports:
    dispatcher = delivery.dispatcher
    intake = Intake(settings, spool, accept=dispatcher.accept, log=log.write)
    stack.push_async_callback(intake.drain)
    listener = SmtpListener(settings, intake)
    metrics.add_intake(listener, spool)
    process = OneProcess(
        settings.agent.name,
        metrics=metrics,
        intake=intake,
        spool=spool,
        dispatcher=dispatcher,
        policy=policy,
        leases=delivery.leases,
    )
    http = HttpServer(process)
    stack.push_async_callback(http.close)
    listen = settings.listen
    if place.http_socket:
        await http.start_private(place.http_socket)
    else:
        with listening_on("listen.http", listen.http):
            await http.start(listen.http.host, listen.http.port)
    grpc_port = 0
    if place.queue_sockets:
        private = PrivateRpcServer(place.queue_sockets[place.number], delivery.queues)
        await private.start()
        stack.push_async_callback(private.stop, _LAST_CALLS_SECONDS)
    if not place.is_draining:
        grpc_port = await _open_grpc(settings, place, intake, delivery, stack)
        with listening_on("listen.smtp", listen.smtp):
            await listener.start(is_shared=place.has_parent)
        stack.push_async_callback(listener.stop)
    ports = Ports(smtp=listener.port, grpc=grpc_port, http=http.port)
    logger.info("agent ready", extra=asdict(ports))
    return ports


async def _open_grpc(
    settings: Settings, place: Place, intake: Intake, delivery: _Delivery, stack: AsyncExitStack
) -> int:
    listen = settings.listen
    queues: QueueServiceServicer = delivery.queues
    if place.queue_sockets:
        queues = gateway = QueueGateway(place.queue_sockets)
        stack.push_async_callback(gateway.close)
    server = RpcServer(
        listen,
        injection=InjectionService(intake, most_calls=listen.max_connections),
        queues=queues,
        is_shared=place.has_parent,
    )
    grpc_port = await server.start()
    stack.push_async_callback(server.stop, _LAST_CALLS_SECONDS)
    return grpc_port


def _show(
    metrics: AgentMetrics,
    policy: PolicyAccess,
    log: DeliveryLog,
    uploader: OutcomeUploader,
    delivery: _Delivery,
) -> None:
    dispatcher = delivery.dispatcher
    metrics.add_policy(policy)
    metrics.add_outcomes(log, uploader)
    metrics.add_gauge(
        "penstock_agent_queued",
        "Queued entries by where they are.",
        dispatcher.queue_counts,
        label="queue",
    )
    metrics.add_counter(
        "penstock_agent_watchdog_aborts",
        "Sessions that were ended because nothing happened in them.",
        lambda: dispatcher.counts.watchdog_aborts,
    )
    metrics.add_gauge(
        "penstock_agent_sources_failing",
        "Egress sources that can't be used: this host does not have their address.",
        lambda: dispatcher.failing_sources,
    )
    metrics.add_gauge(
        "penstock_agent_queue_orders",
        "Operators' orders in force, to hold or to bounce mail.",
        lambda: len(delivery.orders.in_force),
    )
    metrics.add_gauge(
        "penstock_agent_held",
        "Due entries that are held, by what is held: path, domain, tenant, campaign or all.",
        lambda: {kind.value: float(count) for kind, count in dispatcher.held_counts().items()},
        label="kind",
    )
    metrics.add_gauge(
        "penstock_agent_connections",
        "Open connections to receiving hosts.",
        lambda: sum(state.connections for state in dispatcher.snapshot()),
    )
    metrics.add_gauge(
        "penstock_agent_paths", "Egress paths in use.", lambda: len(dispatcher.snapshot())
    )
    metrics.add_gauge(
        "penstock_agent_paths_suspended",
        "Egress paths that are suspended.",
        lambda: sum(state.suspended_until > 0 for state in dispatcher.snapshot()),
    )


@contextlib.contextmanager
def _lifeline(descriptor: int | None, stop: asyncio.Event) -> Iterator[None]:
    """Set *stop* once the other end of *descriptor* is closed."""
    if descriptor is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(descriptor)
        stop.set()

    loop.add_reader(descriptor, on_end)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first signal sets *stop*, the second ends the process: what counts is on disk."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
