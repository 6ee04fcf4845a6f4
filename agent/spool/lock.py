"""The lock that keeps a second agent out of a spool."""

import fcntl
import os
from pathlib import Path

from agent.durable_files import make_directory
from agent.errors import SpoolRefused


def lock_file(directory: Path) -> Path:
    """The file that is locked."""
    return directory / "lock"


def take_lock(directory: Path) -> int:
    """
    Lock *directory*, making it if need be; the lock lasts until the returned descriptor is closed
    or the process ends. Errors: `SpoolRefused` if another process holds it; `OSError`.
    """
    make_directory(directory)
    descriptor = os.open(lock_file(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SpoolRefused(
            f"{directory}: another agent uses this spool; stop it, or set another agent.data_dir"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
