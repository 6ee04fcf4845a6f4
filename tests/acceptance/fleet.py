"""Real programs on loopback for acceptance tests: a policy server and agents as processes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.separate_host import SeparateHost

_BIN = Path(sys.executable).parent


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def fetch(url: str) -> str | None:
    """The body at *url*, or None if it does not answer 200 now."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError):
        return None


async def until(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "") -> Any:
    """Wait until *condition* gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = await asyncio.to_thread(condition)
        if found:
            return found
        await asyncio.sleep(0.05)
    raise TimeoutError(f"not within {seconds} s: {what or condition}")


@dataclass
class Program:
    """One process, with its ports and its output in a file."""

    name: str
    config: Path
    log: Path
    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    #: Where its ports are.
    host: str = "127.0.0.1"

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait(timeout=10)

    def freeze(self) -> None:
        """Have it stand still, as a host does that is short of memory, until it is thawed."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, seconds: float = 30.0) -> int:
        """Ask it to end, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)

    def status(self) -> dict[str, Any]:
        """The agent's status page."""
        body = fetch(f"http://{self.host}:{self.ports['http']}/status")
        return dict(json.loads(body)) if body else {}


@dataclass
class Fleet:
    """A policy server and agents that share a directory and a DNS server."""

    directory: Path
    dns_port: int
    dns_host: str = "127.0.0.1"
    server: Program | None = None
    agents: dict[str, Program] = field(default_factory=dict)
    _ports: dict[str, dict[str, int]] = field(default_factory=dict)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of our commands to its end."""
        program = [str(_BIN / arguments[0]), *arguments[1:]]
        return subprocess.run(
            program, cwd=self.directory, text=True, capture_output=True, timeout=60, check=False
        )

    async def start_server(self, more: str = "") -> Program:
        """
        Start the policy server, on the ports it had before if it ran before; *more* is added to
        its configuration.
        """
        ports = self._ports_of("server", "grpc", "http")
        config = self.directory / "penstock-server.toml"
        config.write_text(
            f"""
[server]
grpc_listen = "127.0.0.1:{ports["grpc"]}"
http_listen = "127.0.0.1:{ports["http"]}"
[database]
url = "sqlite:///{self.directory}/penstock.db"
[dns]
nameservers = ["{self.dns_host}:{self.dns_port}"]
timeout = "2s"
{more}
"""
        )
        self.server = await self._start("server", "penstock-server", "serve", config, ports)
        return self.server

    async def import_rules(self, text: str, name: str = "rules") -> None:
        """Import *text* as the layer *name*."""
        path = self.directory / f"{name}.toml"
        path.write_text(text)
        tomllib.loads(text)
        done = await asyncio.to_thread(
            self.command,
            "penstock-server",
            "rules",
            "import",
            "--config",
            str(self.directory / "penstock-server.toml"),
            str(path),
        )
        assert done.returncode == 0, done.stderr

    @property
    def server_port(self) -> int:
        """Where the policy server listens, or will."""
        return self._ports_of("server", "grpc", "http")["grpc"]

    async def start_agent(
        self,
        name: str,
        *,
        source: str,
        address: str,
        queue: str = 'retry_interval = "2s"',
        server_port: int = 0,
        workers: int = 1,
        host: SeparateHost | None = None,
        called: str = "",
    ) -> Program:
        """
        Start an agent with one source, on the ports and the spool it had before, if any;
        *server_port*: of what stands before the server; *host*: where it runs, if not here, and
        then that stands at our end of its line; *called*: what it says that it is, if not *name*.
        """
        ports = self._ports_of(name, "smtp", "grpc", "http")
        at = host.line.theirs if host else "127.0.0.1"
        server_host = host.server_line.ours if host else "127.0.0.1"
        mail_from = host.line.ours if host else "127.0.0.1"
        server_port = server_port or self.server_port
        config = self.directory / f"{name}.toml"
        config.write_text(
            f"""
[agent]
name = "{called or name}"
data_dir = "{self.directory}/{name}"
workers = {workers}
[policy]
server = "{server_host}:{server_port}"
[listen]
smtp = "{at}:{ports["smtp"]}"
relay_from = ["{mail_from}"]
grpc = "127.0.0.1:{ports["grpc"]}"
http = "{at}:{ports["http"]}"
[dns]
nameservers = ["{self.dns_host}:{self.dns_port}"]
[[source]]
name = "{source}"
source_address = "{address}"
ehlo_domain = "{name}.sender.example"
[[pool]]
name = "default"
sources = [{{ name = "{source}", weight = 1 }}]
[queue]
egress_pool = "default"
{queue}
"""
        )
        self.agents[name] = await self._start(
            name, "penstock-agent", "run", config, ports, host=host
        )
        return self.agents[name]

    def stop(self) -> None:
        """End every program that still runs."""
        for program in [*self.agents.values(), *([self.server] if self.server else [])]:
            with contextlib.suppress(ProcessLookupError):
                program.kill()

    def _ports_of(self, name: str, *kinds: str) -> dict[str, int]:
        return self._ports.setdefault(name, {kind: free_port() for kind in kinds})

    def _spawn(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def _start(
        self,
        name: str,
        script: str,
        verb: str,
        config: Path,
        ports: dict[str, int],
        *,
        host: SeparateHost | None = None,
    ) -> Program:
        log = self.directory / f"{name}.out"
        command = [str(_BIN / script), verb, "--config", str(config)]
        process = self._spawn(host.command(*command) if host else command, log)
        program = Program(name, config, log, process, ports)
        if host is not None:
            program.host = host.line.theirs
        url = f"http://{program.host}:{ports['http']}/readyz"

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return fetch(url) is not None

        await until(ready, what=f"{name} ready")
        return program
