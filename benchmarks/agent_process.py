"""A delivery agent in a process of its own, as an operator runs it; and what it uses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

_STOP_SECONDS = 60
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProcess:
    """One agent."""

    process: subprocess.Popen[str]
    smtp: int
    http: int
    #: From the start of the process until its ports were open.
    start_seconds: float

    def status(self) -> dict[str, Any]:
        """What `/status` says."""
        with urlopen(f"http://127.0.0.1:{self.http}/status", timeout=30) as answer:
            return dict(json.load(answer))

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where there is none."""
        with urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        found = (
            line.rpartition(" ") for line in lines if line.startswith((name + " ", name + "{"))
        )
        return sum(float(value) for _, _, value in found)

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of memory of all its processes together; `VmHWM` is the highest so far."""
        return sum(_memory(pid, field) for pid in self.pids())

    def cpu_seconds(self) -> float:
        """CPU time of all its processes together."""
        return sum(cpu_seconds(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        """The process and its children."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


def cpu_seconds(pid: int) -> float:
    """What one process has used of the CPU."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def delivering(
    data_dir: Path, settings: Mapping[str, str], *, config: Path | None = None
) -> Iterator[AgentProcess]:
    """
    Run `penstock-agent run`, with a configuration file or without.

    *settings* are overrides by the environment, short of PENSTOCK_.
    """
    environment = os.environ | {
        "PENSTOCK_AGENT_DATA_DIR": str(data_dir),
        "PENSTOCK_LISTEN_SMTP": "127.0.0.1:0",
        "PENSTOCK_LISTEN_GRPC": "127.0.0.1:0",
        "PENSTOCK_LISTEN_HTTP": "127.0.0.1:0",
        "PENSTOCK_SPOOL_MIN_FREE_SPACE": "1%",
        # Nobody answers there.
        "PENSTOCK_POLICY_SERVER": "127.0.0.1:9",
        "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:9",
        **{f"PENSTOCK_{name}": value for name, value in settings.items()},
    }
    program = "from agent.cli.main import main; main()"
    command: tuple[str, ...] = (
        sys.executable,
        "-c",
        program,
        "run",
        "--json",
        "--log-level",
        "error",
    )
    if config is not None:
        command += ("--config", str(config))
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        yield AgentProcess(
            process=process,
            smtp=ports["smtp"],
            http=ports["http"],
            start_seconds=time.perf_counter() - begin,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)


def _memory(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
