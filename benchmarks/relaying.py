"""
Messages a second from SMTP in to SMTP out: our agent beside other mail servers.

Every one takes the same messages from Postfix's `smtp-source`, has them on disk before it says so,
and hands them on to the same `smtp-sink`, which counts them. The clock runs from the start of the
first until the last has arrived. Rounds alternate, so that what else the machine does falls on
all; the next one begins once the server of the last has nothing left to do, which counts to its
CPU time. The figures are medians. Configurations are in `benchmarks/peers/`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent_process import delivering
from benchmarks.mail_servers import (
    MAIL_SERVERS,
    NotHere,
    RunningServer,
    find_program,
    free_port,
    relaying,
)
from benchmarks.report import Report
from benchmarks.server_process import serving

SIZES = (4096, 102_400)
_MESSAGES = {4096: 4000, 102_400: 1000}
_ROUNDS = 3
_SESSIONS = 20
_WORKERS = (1, 2)
_LONGEST_SECONDS = 120
#: A server is at rest when it uses less of a core than this for so long.
_REST_SECONDS, _REST_PART = 0.3, 0.03
_LONGEST_REST = 20
_DOMAIN = "big.example"

_RULES = """
["default"]
smtp_port = {port}
prohibited_hosts = []
enable_tls = "Disabled"
connection_limit = 20
max_deliveries_per_connection = 1000
"""
_AGENT = """
[agent]
name = "measured"
workers = {workers}
[[source]]
name = "ip-1"
source_address = "127.0.0.1"
[[pool]]
name = "default"
sources = [{{ name = "ip-1" }}]
[queue]
egress_pool = "default"
"""
_NAMES = """
[dns]
listen = "127.0.0.1:{port}"
[dns.mx]
"{domain}" = [[10, "mx.{domain}"]]
[dns.a]
"mx.{domain}" = ["127.0.0.1"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    seconds: float
    cpu_seconds: float


def measure() -> Report:
    """Measure whatever is installed, with each size of message."""
    report = Report(
        name="relaying",
        title=f"Messages a second from SMTP in to SMTP out, fsynced; {_SESSIONS} clients",
        columns=("server", "bytes", "messages/s", "ours to it", "CPU us a message"),
        notes=["ours to it: messages a second of our agent with two workers to those of the other"],
    )
    try:
        programs = {name: find_program(name) for name in ("smtp-source", "smtp-sink")}
    except NotHere as error:
        report.notes.append(f"not measured: {error}; both come with Postfix")
        return report
    with ExitStack() as stack:
        sink = stack.enter_context(_sink(programs["smtp-sink"]))
        servers = dict(_start_all(stack, sink.port, report))
        for size in SIZES:
            rounds: dict[str, list[_Round]] = {name: [] for name in servers}
            for _ in range(_ROUNDS):
                for name, server in servers.items():
                    rounds[name].append(_send(programs["smtp-source"], server, sink, size))
            report.rows.extend(_describe(rounds, size))
    return report


def _start_all(
    stack: ExitStack, next_hop: int, report: Report
) -> Iterator[tuple[str, RunningServer]]:
    for workers in _WORKERS:
        name = f"penstock-agent, {workers} worker{'s' if workers > 1 else ''}"
        yield name, stack.enter_context(_agent(next_hop, workers=workers))
    for server in MAIL_SERVERS:
        try:
            yield server.version(), stack.enter_context(relaying(server, next_hop=next_hop))
        except NotHere as error:
            report.notes.append(f"left out: {server.name}: {error}")


def _describe(rounds: dict[str, list[_Round]], size: int) -> Iterator[dict[str, object]]:
    count = _MESSAGES[size]
    speeds = {
        name: count / statistics.median(one.seconds for one in found)
        for name, found in rounds.items()
    }
    ours = next(speed for name, speed in speeds.items() if f"{_WORKERS[-1]} worker" in name)
    for name, found in rounds.items():
        yield {
            "server": name,
            "bytes": size,
            "messages/s": speeds[name],
            "ours to it": ours / speeds[name],
            "CPU us a message": statistics.median(one.cpu_seconds for one in found) / count * 1e6,
        }


@dataclass(frozen=True, slots=True)
class _Sink:
    port: int
    output: Path

    def count(self) -> int:
        """How many messages it has taken: the last of its counts."""
        with self.output.open("rb") as lines:
            lines.seek(max(0, self.output.stat().st_size - 100))
            words = lines.read().split()
        counts = [word for word in words if word.startswith(b"mesg=")]
        return int(counts[-1].removeprefix(b"mesg=")) if counts else 0


@contextmanager
def _sink(program: str) -> Iterator[_Sink]:
    port = free_port()
    command = [program, "-c", f"127.0.0.1:{port}", "1000"]
    if os.geteuid() == 0:
        command[1:1] = ["-u", "root"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "counts"
        with path.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield _Sink(port, path)
        finally:
            process.terminate()
            process.wait(10)


def _send(program: str, server: RunningServer, sink: _Sink, size: int) -> _Round:
    count, before, used = _MESSAGES[size], sink.count(), server.cpu_seconds()
    command = [
        program, "-s", str(_SESSIONS), "-m", str(count), "-l", str(size), "-d",
        "-f", "from@sender.example", "-t", f"to@{_DOMAIN}", f"127.0.0.1:{server.port}",
    ]  # fmt: skip
    begin = time.perf_counter()
    subprocess.run(command, check=True, timeout=_LONGEST_SECONDS)
    while sink.count() < before + count:
        if time.perf_counter() - begin > _LONGEST_SECONDS:
            raise RuntimeError(f"{sink.count() - before} of {count} messages have arrived")
        time.sleep(0.005)
    seconds = time.perf_counter() - begin
    _wait_for_rest(server)
    return _Round(seconds=seconds, cpu_seconds=server.cpu_seconds() - used)


def _wait_for_rest(server: RunningServer) -> None:
    """Wait until a server has done what it does after the last message has gone."""
    until = time.perf_counter() + _LONGEST_REST
    while time.perf_counter() < until:
        before = server.cpu_seconds()
        time.sleep(_REST_SECONDS)
        if server.cpu_seconds() - before < _REST_PART * _REST_SECONDS:
            return


@contextmanager
def _agent(next_hop: int, *, workers: int) -> Iterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        url = f"sqlite:///{directory / 'penstock.db'}"
        rules, config = directory / "rules.toml", directory / "agent.toml"
        rules.write_text(_RULES.format(port=next_hop))
        config.write_text(_AGENT.format(workers=workers))
        _import_rules(url, rules)
        policy = stack.enter_context(serving(url))
        names = stack.enter_context(_name_server(directory))
        settings = {
            "POLICY_SERVER": f"127.0.0.1:{policy.port}",
            "DNS_NAMESERVERS": f"127.0.0.1:{names}",
        }
        agent = stack.enter_context(delivering(directory / "agent", settings, config=config))
        yield RunningServer(pid=agent.process.pid, port=agent.smtp)


def _import_rules(url: str, rules: Path) -> None:
    command = (sys.executable, "-m", "policy_server.cli.main", "rules", "import", str(rules))
    environment = os.environ | {"PENSTOCK_DATABASE_URL": url}
    subprocess.run(command, env=environment, check=True, capture_output=True)


@contextmanager
def _name_server(directory: Path) -> Iterator[int]:
    port = free_port()
    config = directory / "names.toml"
    config.write_text(_NAMES.format(port=port, domain=_DOMAIN))
    program = "from agent.cli.main import main; main()"
    command = (sys.executable, "-c", program, "sink", "--config", str(config), "--json")
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with process.stdout as ready:
            ready.readline()
            yield port
    finally:
        process.terminate()
        process.wait(10)
