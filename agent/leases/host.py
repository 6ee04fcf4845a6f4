"""
Host: what tells where a worker runs from anywhere else that one of its name may run.

The server frees what an earlier start of a worker had as soon as a later one of the same host
reports, for its data directory is locked, so that the earlier one is over. Of another host that
can't be known: the same disk may have been copied or moved, while the process that used it goes on
where only the network is gone. So the host is the lock on the machine; and on a machine that has no
name of its own, as in a container, the lock on the machine since it was booted. A host too many
costs a wait, one too few a limit.
"""

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple

from agent.leases.starts import Start

#: Of a process that shares them with the machine (PROC_PID_INIT_INO, include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_MACHINE_ID, _BOOT_ID = "etc/machine-id", "proc/sys/kernel/random/boot_id"
_LETTERS = 16


class Machine(NamedTuple):
    """What tells a machine from others, and for how long."""

    name: str
    #: Where that stands.
    source: str
    #: Whether it is the same after the machine was booted anew.
    lasts: bool


def find_machine(
    configured: str, *, environ: Mapping[str, str], root: Path = Path("/")
) -> Machine | None:
    """Find what names this machine: the settings, or else what is under *root*; None: nothing."""
    if configured:
        return Machine(configured, "agent.machine", lasts=True)
    if not _is_in_container(environ, root) and (name := _read(root / _MACHINE_ID)):
        return Machine(name, f"/{_MACHINE_ID}", lasts=True)
    if name := _read(root / _BOOT_ID):
        return Machine(name, f"/{_BOOT_ID}", lasts=False)
    return None


def name_host(start: Start, lock: Path, machine: Machine | None, random: Random) -> str:
    """
    Name the host of a start that holds *lock*: 16 hexadecimal digits. On a machine without a name
    each start has a host of its own. Errors: `OSError`.
    """
    place = machine.name if machine is not None else f"{random.getrandbits(128):032x}"
    found = lock.stat()
    # A copy has another inode, and what is made anew in its place another drawn name. The device is
    # known by another number at times once the machine was booted anew.
    device = 0 if machine is not None and machine.lasts else found.st_dev
    facts = (place, start.directory, lock.resolve(), found.st_ino, device)
    # machine-id(5): an application is not to show it as it is.
    whole = "\0".join(map(str, facts))
    return sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:_LETTERS]


def _is_in_container(environ: Mapping[str, str], root: Path) -> bool:
    """Whether /etc/machine-id may be that of an image, or go along to another machine."""
    signs = ("run/systemd/container", "run/.containerenv", ".dockerenv")
    return (
        "KUBERNETES_SERVICE_HOST" in environ
        or "container" in environ
        or any((root / sign).exists() for sign in signs)
        or not _is_first_namespace(root)
    )


def _is_first_namespace(root: Path) -> bool:
    try:
        return os.readlink(root / "proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    # What systemd has there before a first boot is over.
    return "" if text == "uninitialized" else text
