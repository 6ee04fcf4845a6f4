"""Layout: where one run of the demo keeps its files, and which ports it uses."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

_HERE = Path(__file__).parent
RULES = _HERE / "rules.toml"
_MARK = ".penstock-demo"


class DemoError(Exception):
    """Something the demo needs did not happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlaces:
    """One agent's names and ports."""

    name: str
    source: str
    source_address: str
    smtp: int
    grpc: int
    http: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Everything that differs from run to run."""

    directory: Path
    server_grpc: int
    server_http: int
    agents: tuple[AgentPlaces, ...]
    #: The push-back's start, after the provider's first message, and its length; seconds.
    push_back_after: float
    push_back_duration: float
    #: Where the sink listens, as it said; by provider the port of all its addresses.
    sink_http: str = ""
    dns: str = ""
    smtp_ports: dict[str, int] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """A file of this run."""
        return self.directory / name

    def write(self, template: str, *, to: str, agent: AgentPlaces | None = None) -> Path:
        """Fill in one of the files beside this module and write it; an agent's with its names."""
        values: dict[str, object] = {
            "directory": self.directory,
            "server_grpc": self.server_grpc,
            "server_http": self.server_http,
            "dns": self.dns,
            "push_back_after": f"{self.push_back_after:g}s",
            "push_back_duration": f"{self.push_back_duration:g}s",
        }
        if agent is not None:
            values |= {
                "agent": agent.name,
                "agent_smtp": agent.smtp,
                "agent_grpc": agent.grpc,
                "agent_http": agent.http,
                "source": agent.source,
                "source_address": agent.source_address,
            }
        path = self.path(to)
        path.write_text(Template((_HERE / template).read_text()).substitute(values))
        return path

    def write_ports_layer(self) -> Path:
        """Write a second rule layer: the ports that the simulated providers listen on."""
        lines = ["# Made for this run: simulated providers have no port 25."]
        for provider, port in self.smtp_ports.items():
            lines += [f'[provider."{provider}"]', f"smtp_port = {port}", ""]
        path = self.path("ports.toml")
        path.write_text("\n".join(lines))
        return path


def plan_layout(directory: Path, *, seconds: float) -> Layout:
    """Choose free ports; the push-back suits a run of *seconds*."""
    ports = iter(free_ports(8))
    server_grpc, server_http = next(ports), next(ports)
    agents = tuple(
        AgentPlaces(
            name=f"mta-{number}",
            source=f"ip-{number}",
            source_address=f"127.0.1.{number}",
            smtp=next(ports),
            grpc=next(ports),
            http=next(ports),
        )
        for number in (1, 2)
    )
    return Layout(
        directory=directory.resolve(),
        server_grpc=server_grpc,
        server_http=server_http,
        agents=agents,
        push_back_after=round(seconds * 0.2, 1),
        push_back_duration=4.0,
    )


@contextlib.contextmanager
def claim(directory: Path) -> Iterator[None]:
    """
    Have an empty *directory* to ourselves; what an earlier run left goes, anything else is not ours
    to take. Errors: `DemoError`.
    """
    mark = directory / _MARK
    if directory.is_dir() and any(directory.iterdir()) and not mark.exists():
        raise DemoError(f"{directory} holds files that are not the demo's; name another one")
    directory.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(
                f"another demo is running in {directory}; wait for its end, or name another"
                " directory with --directory"
            ) from error
        _empty(directory)
        yield


def _empty(directory: Path) -> None:
    """Remove all but the mark, which is locked."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _MARK:
            path.unlink()


def free_ports(count: int) -> list[int]:
    """Find ports that are free now; held together, so that they differ."""
    sockets = []
    try:
        for _ in range(count):
            probe = socket.socket()
            sockets.append(probe)
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def child_environment() -> dict[str, str]:
    """The environment for our programs: overrides of their settings must not leak in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
