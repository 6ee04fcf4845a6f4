"""
Disks that fail, for tests: a process that may write no more, a file system that is full, and
SQLite and fsync errors that a test switches on and off from outside by a file with the kind's name.
"""

import errno
import os
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: What SQLite says, and at which statement.
ERRORS = {
    "read-only": ("BEGIN IMMEDIATE", "attempt to write a readonly database"),
    "full": ("COMMIT", "database or disk is full"),
    "i/o": ("COMMIT", "disk I/O error"),
}


class _Failing(sqlite3.Connection):
    switch: Path

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if self.switch.exists():
            at, message = ERRORS[self.switch.read_text()]
            if sql == at:
                raise sqlite3.OperationalError(message)
        return super().execute(sql, *args)


def install_faults(switch: Path) -> None:
    """Make writes of this process to a spool fail, as *switch* says, while it exists."""
    connect, fsync = sqlite3.connect, os.fsync

    def connect_failing(path: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        if not str(path).endswith("spool.db"):
            return connect(path, *args, **kwargs)
        connection = connect(path, *args, factory=_Failing, **kwargs)
        connection.switch = switch
        return connection

    def fsync_failing(descriptor: int) -> None:
        if switch.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    sqlite3.connect = connect_failing  # type: ignore[assignment]
    os.fsync = fsync_failing  # type: ignore[assignment]


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    """A file system of *size* at *directory*. Errors: `PermissionError` where none can be made."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "penstock-test", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def filled(directory: Path, *, leaving: int = 0) -> Iterator[None]:
    """Take all the space of the file system at *directory* but *leaving* bytes."""
    ballast = directory / "ballast"
    try:
        with ballast.open("wb") as file:
            # The agent writes meanwhile, so there may be less than there was a moment ago.
            while not _fills(file.fileno(), leaving):
                pass
        yield
    finally:
        ballast.unlink()


def _fills(file: int, leaving: int) -> bool:
    disk = os.fstatvfs(file)
    try:
        os.posix_fallocate(file, 0, max(1, disk.f_bavail * disk.f_frsize - leaving))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


@contextmanager
def no_file_grows(pid: int, size: int) -> Iterator[None]:
    """Let no file of the process *pid* grow beyond *size*."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def switched_on(switch: Path, kind: str) -> Iterator[None]:
    """Have the process that `install_faults` was called in fail."""
    # In one step: who reads it must not find it empty.
    written = switch.with_suffix(".new")
    written.write_text(kind)
    written.rename(switch)
    try:
        yield
    finally:
        switch.unlink()
