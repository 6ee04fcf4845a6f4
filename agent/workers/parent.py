"""
Parent: reserves the ports of an agent and supervises its worker processes.

1. Each worker opens the SMTP and the gRPC port for itself (SO_REUSEPORT), and the system deals
   connections to those that are there, evenly. The parent keeps the ports reserved by sockets that
   are bound and never listen.
2. HTTP is the parent's: it asks all workers, each on a private socket.
3. A worker that ends is started anew, after a pause that doubles while it ends soon; what it had of
   connection limits is free at once.
4. A worker stops when its lifeline, a pipe, is closed: by the parent that stops, or with it. So no
   worker outlives its parent for longer than it takes to finish what it is sending.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from agent.errors import SpoolRefused, WorkersFailed
from agent.http import HttpServer
from agent.ports import listening_on
from agent.setting_values import Address
from agent.settings import Settings
from agent.smtp.certificate import load_context
from agent.workers.child import Child, Launch
from agent.workers.limit_file import AgentLimits, agent_limits
from agent.workers.limit_table import Busy, LimitTable
from agent.workers.place import Place, find_left_over
from agent.workers.ready import Ports
from agent.workers.whole_agent import WholeAgent

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: A worker that has run for so long is well: the next pause is the first one again, in seconds.
_WELL_SECONDS = 60.0
#: Beyond the timeout of the settings, how long a worker may take to stop, in seconds.
_LAST_SECONDS = 30.0
_LOCK_SECONDS = 0.2


def restart_pause(failures: int, jitter: float) -> float:
    """
    Seconds before a worker is started anew that has ended soon *failures* times before; *jitter*
    from 0 up to 1.

    >>> [restart_pause(failures, 0.5) for failures in (0, 1, 2, 9)]
    [0.5, 1.0, 2.0, 30.0]
    """
    pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, 16))
    return pause * (0.75 + jitter / 2)


async def run(
    settings: Settings, launch: Launch, *, on_ready: Callable[[Ports], None] | None = None
) -> None:
    """
    Run an agent of several processes until SIGTERM or SIGINT, then stop gracefully; a second signal
    ends all of it at once. Errors: `SettingsError`, `SpoolRefused`, `SpoolUnavailable`,
    `PortUnavailable`; `WorkersFailed` if none of the workers could start.
    """
    if (files := settings.listen.certificate_files) is not None:
        # Told before anything is opened.
        load_context(files)
    async with AsyncExitStack() as stack:
        limits = stack.enter_context(await _take_over(settings))
        parent = Parent(settings, limits, launch)
        stack.callback(parent.close)
        await parent.start()
        stack.push_async_callback(parent.stop)
        with parent.listening_to_signals() as stopped:
            if await parent.wait_for_start(stopped) and on_ready is not None:
                on_ready(parent.ports)
            await stopped.wait()
            logger.info("agent stops")
            await parent.stop()
    logger.info("agent stopped")


async def _take_over(settings: Settings) -> contextlib.AbstractContextManager[AgentLimits]:
    """Lock the data directory, once workers whose parent has crashed have finished."""
    deadline = time.monotonic() + settings.agent.shutdown_timeout.total_seconds()
    has_told = False
    while True:
        limits = contextlib.ExitStack()
        try:
            opened = limits.enter_context(agent_limits(settings.agent.data_dir))
        except SpoolRefused:
            if time.monotonic() > deadline:
                raise
            if not has_told:
                logger.warning("waits for another agent, or workers of the last run, to stop")
                has_told = True
            await asyncio.sleep(_LOCK_SECONDS)
        else:
            return _Opened(limits, opened)


class _Opened(contextlib.AbstractContextManager[AgentLimits]):
    """A context that was entered already."""

    def __init__(self, stack: contextlib.ExitStack, opened: AgentLimits) -> None:
        self._stack, self._opened = stack, opened

    def __enter__(self) -> AgentLimits:
        return self._opened

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # as it came


class Parent:
    """The ports and the workers of one agent."""

    def __init__(self, settings: Settings, limits: AgentLimits, launch: Launch) -> None:
        self._settings = settings
        self._table: LimitTable = limits.table
        self._launch = replace(launch, kept=(limits.lock,))
        self._random = Random()
        self._reserved: list[socket.socket] = []
        self._http: HttpServer | None = None
        self._private = Path(tempfile.mkdtemp(prefix="penstock-"))
        self._children: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.ports = Ports(smtp=0, grpc=0, http=0)

    async def start(self) -> None:
        """Open the ports and start the workers. Errors: `PortUnavailable`; `SpoolRefused` …"""
        agent, listen = self._settings.agent, self._settings.listen
        left_over = find_left_over(agent.data_dir, agent.workers)
        environment = dict(self._launch.environment)
        for kind, address in (("smtp", listen.smtp), ("grpc", listen.grpc)):
            with listening_on(f"listen.{kind}", address):
                self._reserved.append(reserve(address))
            port = self._reserved[-1].getsockname()[1]
            environment[f"PENSTOCK_LISTEN_{kind.upper()}"] = str(Address(address.host, port))
        self._launch = replace(self._launch, environment=environment)
        numbers = (*range(agent.workers), *left_over)
        queues = {number: str(self._private / f"queues-{number}.sock") for number in numbers}
        self._children = [Child(self._place(number, queues), self._launch) for number in numbers]
        self._http = HttpServer(WholeAgent(self._children, self._own_metrics))
        with listening_on("listen.http", listen.http):
            await self._http.start(listen.http.host, listen.http.port)
        smtp, grpc = (one.getsockname()[1] for one in self._reserved)
        self.ports = Ports(smtp=smtp, grpc=grpc, http=self._http.port)
        self._tasks = [
            asyncio.create_task(self._keep(child), name=f"worker {child.number}")
            for child in self._children
        ]

    async def wait_for_start(self, stopped: asyncio.Event) -> bool:
        """
        Wait until each worker has opened its ports or has failed to; False: *stopped* came first.
        Errors: `WorkersFailed` if no worker is left that takes mail in.
        """
        tried = asyncio.gather(*(child.tried.wait() for child in self._children))
        stop = asyncio.ensure_future(stopped.wait())
        waits: list[asyncio.Future[Any]] = [tried, stop]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not tried.done():
            tried.cancel()
            return False
        if not any(child.is_ready for child in self._children if not child.place.is_draining):
            raise WorkersFailed
        logger.info("agent ready", extra={"workers": len(self._children)})
        return True

    async def stop(self) -> None:
        """Take no more mail, let the workers finish, end those that take too long."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for child in self._children:
            child.let_go()
        patience = self._settings.agent.shutdown_timeout.total_seconds() + _LAST_SECONDS
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            if late:
                logger.error("workers do not stop, and are killed", extra={"workers": len(late)})
                self.kill()
                await asyncio.wait(late)
        if self._http is not None:
            await self._http.close()

    def kill(self) -> None:
        """End all workers at once; what counts is on disk."""
        for child in self._children:
            child.kill()

    def close(self) -> None:
        """Let go of the ports."""
        for one in self._reserved:
            one.close()
        shutil.rmtree(self._private, ignore_errors=True)

    @contextlib.contextmanager
    def listening_to_signals(self) -> Iterator[asyncio.Event]:
        """An event that the first signal sets; the second ends everything at once."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def on_signal() -> None:
            if stopped.is_set():
                self.kill()
                os._exit(1)
            stopped.set()

        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, on_signal)
        try:
            yield stopped
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _place(self, number: int, queue_sockets: Mapping[int, str]) -> Place:
        workers = self._settings.agent.workers
        return Place(
            number=number,
            workers=workers,
            has_parent=True,
            is_draining=number >= workers,
            http_socket=str(self._private / f"worker-{number}.sock"),
            queue_sockets=queue_sockets,
        )

    async def _keep(self, child: Child) -> None:
        """Start a worker's process again and again, until the agent stops or its spool is empty."""
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                status = await child.run()
            except OSError as error:
                logger.error("worker can't be started", extra={"reason": str(error)})
                status = -1
            await self._free(child.number)
            if self._stopping.is_set() or (child.place.is_draining and status == 0):
                return
            failures = 0 if time.monotonic() - started > _WELL_SECONDS else failures + 1
            pause = restart_pause(failures - 1, self._random.random())
            facts = {"worker": child.number, "end": child.last_end, "pause": round(pause, 1)}
            logger.error("worker ended, to be started anew", extra=facts)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            child.restarts += 1

    async def _free(self, number: int) -> None:
        """Give back what a worker that has ended had of connection limits."""
        while True:
            try:
                with self._table.locked():
                    self._table.clear_worker(number)
                return
            except Busy:
                await asyncio.sleep(_LOCK_SECONDS)

    def _own_metrics(self) -> str:
        lines = [
            "# HELP penstock_agent_worker_up Whether the worker has opened its ports.",
            "# TYPE penstock_agent_worker_up gauge",
        ]
        for child in self._children:
            lines.append(f'penstock_agent_worker_up{{worker="{child.number}"}} {child.is_ready:d}')
        lines += [
            "# HELP penstock_agent_worker_restarts_total How often it was started anew.",
            "# TYPE penstock_agent_worker_restarts_total counter",
        ]
        for child in self._children:
            name = f'penstock_agent_worker_restarts_total{{worker="{child.number}"}}'
            lines.append(f"{name} {child.restarts}")
        return "\n".join(lines) + "\n"


def reserve(address: Address) -> socket.socket:
    """
    Bind a port that nobody listens on, so that our workers can and others can't by mistake.
    Errors: `OSError`.
    """
    family, _, _, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT: fails where anybody has the port, another agent too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(place)
    except BaseException:
        reserved.close()
        raise
    return reserved
