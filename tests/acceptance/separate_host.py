"""
A host of its own: a network namespace with two lines to ours. Over one it sends mail and is looked
at, over the other it reaches the policy server, until what is sent there is lost, both ways and
without a word to either side.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

#: A network for tests between devices (RFC 2544), which is no part of any other.
_NETWORK = "198.18"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, by its two ends."""

    our_device: str
    their_device: str
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateHost:
    """The host."""

    name: str
    line: Line
    server_line: Line

    def command(self, *command: str) -> list[str]:
        """A command as it is run there."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut_off_from_server(self) -> None:
        """Lose what is sent to the server, and what it answers."""
        # A queue that has room for nothing.
        nothing = ("root", "pfifo", "limit", "0")
        _run("tc", "qdisc", "replace", "dev", self.server_line.our_device, *nothing)
        _run(
            "tc",
            "-n",
            self.name,
            "qdisc",
            "replace",
            "dev",
            self.server_line.their_device,
            *nothing,
        )

    def reach_server(self) -> None:
        """Let everything through again."""
        _run("tc", "qdisc", "delete", "dev", self.server_line.our_device, "root")
        _run("tc", "-n", self.name, "qdisc", "delete", "dev", self.server_line.their_device, "root")


@contextmanager
def open_host() -> Iterator[SeparateHost]:
    """Make a host; skips the test where that is not permitted."""
    if not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("a host of its own needs ip and tc (iproute2)")
    number = os.getpid()
    name = f"penstock-{number}"
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield SeparateHost(
            name=name,
            line=_draw_line(name, number, 0),
            server_line=_draw_line(name, number, 1),
        )
    finally:
        # Its lines end with it.
        _run("ip", "netns", "delete", name)


def _draw_line(host: str, number: int, place: int) -> Line:
    subnet = f"{_NETWORK}.{number % 250}"
    line = Line(
        our_device=f"ps{number}-{place}a",
        their_device=f"ps{number}-{place}b",
        ours=f"{subnet}.{4 * place + 1}",
        theirs=f"{subnet}.{4 * place + 2}",
    )
    ours, theirs = line.our_device, line.their_device
    _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", host)
    _run("ip", "address", "add", f"{line.ours}/30", "dev", ours)
    _run("ip", "link", "set", ours, "up")
    _run("ip", "-n", host, "address", "add", f"{line.theirs}/30", "dev", theirs)
    _run("ip", "-n", host, "link", "set", theirs, "up")
    return line


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
