"""Child: one worker process of an agent, started by the parent and started anew when it ends."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

from agent.workers.place import Place

_MODULE = "agent.cli.worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How worker processes are started: alike, and by the same for as long as the agent runs."""

    #: The text of the configuration; None: there is none.
    config: bytes | None
    environment: dict[str, str]
    log_level: str
    #: Descriptors that a process is to keep open.
    kept: tuple[int, ...] = ()


class Child:
    """One process. It stops when its parent lets go of it, or is gone."""

    def __init__(self, place: Place, launch: Launch) -> None:
        self.number = place.number
        self.place = place
        self.http_socket = place.http_socket
        #: How often it was started anew.
        self.restarts = 0
        #: How its last process ended; empty: none has.
        self.last_end = ""
        #: Set once the first process has opened its ports, or has failed to.
        self.tried = asyncio.Event()
        self._launch = launch
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = -1
        self._is_ready = False

    @property
    def is_ready(self) -> bool:
        """Whether it has opened its ports."""
        return self._is_ready

    @property
    def was_tried(self) -> bool:
        """Whether its first process has opened its ports, or has failed to."""
        return self.tried.is_set()

    def describe(self) -> dict[str, Any]:
        """Show the process, JSON-ready."""
        state = "ready" if self._is_ready else "starting" if self._process else "ended"
        return {
            "worker": self.number,
            "pid": self._process.pid if self._process else None,
            "state": f"{state}, draining" if self.place.is_draining else state,
            "restarts": self.restarts,
            "last_end": self.last_end or None,
        }

    async def run(self) -> int:
        """Run one process to its end; its exit status. Errors: `OSError` if it can't be started."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.http_socket)
        try:
            process = self._process = await self._start()
            assert process.stdout is not None
            self._is_ready = bool(await process.stdout.readline())
            if self._is_ready:
                self.tried.set()
            status = await process.wait()
            self.last_end = _describe_end(status)
            return status
        finally:
            self._process, self._is_ready = None, False
            self.let_go()
            self.tried.set()

    def let_go(self) -> None:
        """Ask the process to stop gracefully."""
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        with contextlib.ExitStack() as stack:
            reading, self._lifeline = os.pipe()
            stack.callback(os.close, reading)
            kept = [reading, *self._launch.kept]
            order = {
                "place": asdict(self.place),
                "lifeline": reading,
                "config": None,
                "log_level": self._launch.log_level,
            }
            if self._launch.config is not None:
                config = stack.enter_context(tempfile.TemporaryFile())
                config.write(self._launch.config)
                config.flush()
                order["config"] = config.fileno()
                kept.append(config.fileno())
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _MODULE,
                json.dumps(order),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                env=self._launch.environment,
                pass_fds=kept,
                # What is typed at the terminal is for the parent, which then stops all in order.
                start_new_session=True,
            )


def place_of(order: dict[str, Any]) -> Place:
    """The place that a process was started for."""
    place = order["place"]
    # JSON has texts as keys.
    sockets = {int(number): path for number, path in place["queue_sockets"].items()}
    return Place(**{**place, "queue_sockets": sockets})


def _describe_end(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
