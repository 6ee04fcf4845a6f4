"""A look at a spool from outside, whether an agent runs on it or not; it changes nothing."""

import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent.errors import SpoolUnavailable
from agent.spool import rows
from agent.spool.schema import version_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolState:
    """What a spool looks like."""

    exists: bool
    #: Whether an agent has it.
    is_in_use: bool = False
    entries: int = 0
    #: Outcomes that the policy server has not been told of.
    records: int = 0


def look_at_spool(data_dir: Path) -> SpoolState:
    """Look at the spool under *data_dir*. Errors: `SpoolRefused`, `SpoolUnavailable`."""
    place = data_dir / "spool"
    path = place / "spool.db"
    try:
        if not path.exists():
            return SpoolState(exists=False)
        if is_locked(place):
            return SpoolState(exists=True, is_in_use=True)
        entries, records = _count(path)
    except (sqlite3.Error, OSError) as error:
        raise SpoolUnavailable(f"{place}: the spool can't be opened: {error}") from error
    if not os.access(path, os.W_OK):
        raise SpoolUnavailable(f"{path}: can't be written to")
    return SpoolState(exists=True, entries=entries, records=records)


def is_locked(place: Path) -> bool:
    """Whether an agent has the spool in *place*. Errors: `OSError`."""
    try:
        descriptor = os.open(place / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, and for no longer than this: an agent that starts meanwhile finds it free.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _count(path: Path) -> tuple[int, int]:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        if not version_of(connection, path):
            return 0, 0
        return rows.count_entries(connection), rows.count_records(connection)
    finally:
        connection.close()
