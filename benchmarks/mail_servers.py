"""
Other mail servers as relays to one next hop, with the configurations in `benchmarks/peers/`.

Each runs on loopback in a directory of its own. Debian's mail servers exclude each other as
packages: unpack the others with `dpkg -x` and name that directory by PENSTOCK_PEERS. Haraka comes
from npm: name the directory with its `node_modules` by PENSTOCK_HARAKA.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_CONFIGURATIONS = Path(__file__).parent / "peers"
_PROGRAM_DIRECTORIES = ("/usr/sbin", "/usr/lib/postfix/sbin", "/usr/bin", "/usr/local/bin")
_START_SECONDS = 30
_STOP_SECONDS = 20
_TICKS = os.sysconf("SC_CLK_TCK")


class NotHere(Exception):
    """A mail server is not installed, or needs to be started by root."""


class MailServer(Protocol):
    """Another mail server."""

    name: str
    #: Whom it becomes once started; empty: it stays who it was.
    user: str

    @abstractmethod
    def prepare(self, directory: Path, *, port: int, next_hop: int) -> list[str]:
        """Write its configuration for a listening port and the next hop's; return the command."""

    @abstractmethod
    def version(self) -> str:
        """Name and version; raises `NotHere`."""


class Postfix:
    """Postfix, from Debian."""

    name, user = "Postfix", "postfix"

    def prepare(self, directory: Path, *, port: int, next_hop: int) -> list[str]:
        for part in ("main", "master"):
            _write_configuration(
                _CONFIGURATIONS / f"postfix-{part}.cf",
                directory / f"{part}.cf",
                port=port,
                next_hop=next_hop,
            )
        for part in ("spool", "data"):
            (directory / part).mkdir()
        shutil.chown(directory / "data", self.user)
        return [find_program("postfix"), "-c", str(directory), "start-fg"]

    def version(self) -> str:
        return f"Postfix {_output(find_program('postconf'), '-d', '-h', 'mail_version')}"


class Exim:
    """Exim, from Debian."""

    name, user = "Exim", "Debian-exim"

    def prepare(self, directory: Path, *, port: int, next_hop: int) -> list[str]:
        target = directory / "exim.conf"
        program = find_program("exim4")
        _write_configuration(_CONFIGURATIONS / "exim.conf", target, port=port, next_hop=next_hop)
        # It starts itself anew for each delivery.
        target.write_text(f"exim_path = {program}\n{target.read_text()}")
        (directory / "spool").mkdir()
        for path in (directory, directory / "spool"):
            shutil.chown(path, self.user, self.user)
        return [program, "-C", str(target), "-bdf"]

    def version(self) -> str:
        # Without a configuration of its own it would look for the host's.
        return " ".join(_output(find_program("exim4"), "-C", "/dev/null", "-bV").split()[:3])


class Haraka:
    """Haraka, from npm, as a cluster of two processes."""

    name, user = "Haraka", ""

    def prepare(self, directory: Path, *, port: int, next_hop: int) -> list[str]:
        # Its own defaults, over which ours are put.
        _output(find_program("node"), str(self._program()), "-i", str(directory))
        source = _CONFIGURATIONS / "haraka"
        for path in (source / "config").iterdir():
            _write_configuration(
                path, directory / "config" / path.name, port=port, next_hop=next_hop
            )
        (directory / "queue").mkdir(exist_ok=True)
        return [find_program("node"), str(self._program()), "-c", str(directory)]

    def version(self) -> str:
        return f"Haraka {_output(find_program('node'), str(self._program()), '-v').split()[-1]}"

    def _program(self) -> Path:
        root = Path(os.environ.get("PENSTOCK_HARAKA", "."))
        program = root / "node_modules" / "Haraka" / "bin" / "haraka"
        if not program.exists():
            raise NotHere("Haraka: `npm install Haraka`, then name that directory: PENSTOCK_HARAKA")
        return program


MAIL_SERVERS: tuple[MailServer, ...] = (Postfix(), Exim(), Haraka())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A mail server that runs."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """CPU time of all its processes, also of those that have ended."""
        return sum(_cpu_seconds_of_tree(self.pid))


@contextmanager
def relaying(server: MailServer, *, next_hop: int) -> Iterator[RunningServer]:
    """Run a mail server that hands all mail on to a port of this host; raises `NotHere`."""
    server.version()
    if server.user and os.geteuid() != 0:
        raise NotHere(f"{server.name} has to be started by root")
    directory = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    # The users that servers change to have to find their files.
    directory.chmod(0o755)
    port = free_port()
    try:
        command = server.prepare(directory, port=port, next_hop=next_hop)
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_for_greeting(port, process, directory)
            yield RunningServer(pid=process.pid, port=port)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(name: str) -> str:
    """The path of a program; raises `NotHere`."""
    roots = ("", os.environ.get("PENSTOCK_PEERS", ""))
    places = (root + place for root in roots for place in _PROGRAM_DIRECTORIES)
    found = shutil.which(name, path=os.pathsep.join(places)) or shutil.which(name)
    if found is None:
        raise NotHere(f"{name} is not installed")
    return found


def _write_configuration(source: Path, target: Path, *, port: int, next_hop: int) -> None:
    target.parent.mkdir(exist_ok=True)
    text = source.read_text()
    for name, value in (("dir", target.parent), ("port", port), ("next", next_hop)):
        text = text.replace(f"{{{name}}}", str(value))
    target.write_text(text)


def _output(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def _wait_for_greeting(port: int, process: "subprocess.Popen[bytes]", directory: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                greeting = client.recv(200)
                client.sendall(b"QUIT\r\n")
            if greeting.startswith(b"220"):
                return
        time.sleep(0.1)
    raise NotHere(f"it did not start: {(directory / 'output').read_text(errors='replace')[-500:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            return


def _cpu_seconds_of_tree(root: int) -> Iterator[float]:
    """CPU seconds of a process and all that came of it, with those that were waited for."""
    stats: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            stats[int(path.parent.name)] = [int(fields[1]), *map(int, fields[11:15])]
    for pid, (_, *ticks) in stats.items():
        above = pid
        while above in stats and above != root:
            above = stats[above][0]
        if above == root:
            yield sum(ticks) / _TICKS
