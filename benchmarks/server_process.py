"""A policy server in a process of its own, as an operator runs it; and what it uses."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """One server."""

    process: subprocess.Popen[str]
    port: int

    def cpu_seconds(self) -> float:
        """Read what it has used of the CPU; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Read how much memory it holds; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def serving(
    url: str, *, port: int = 0, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[ServerProcess]:
    """
    Run `penstock-server serve` on a database; 0 lets the system choose the port. Further *settings*
    are as the environment has them.
    """
    environment = os.environ | {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SERVER_GRPC_LISTEN": f"127.0.0.1:{port}",
        "PENSTOCK_SERVER_HTTP_LISTEN": "127.0.0.1:0",
        # Nobody answers there: no name is asked for.
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
        "PENSTOCK_DNS_TIMEOUT": "0.2s",
        **settings,
    }
    command = (sys.executable, "-m", "policy_server.cli.main", "serve", "--log-level", "error")
    with listening(command, environment) as server:
        yield server


@contextmanager
def listening(command: tuple[str, ...], environment: dict[str, str]) -> Iterator[ServerProcess]:
    """Run a program that says on its first line `listening grpc=HOST:PORT …`."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        words = process.stdout.readline().split()
        if len(words) < 2:
            raise RuntimeError("the server did not start")
        yield ServerProcess(process=process, port=int(words[1].rpartition(":")[2]))
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
