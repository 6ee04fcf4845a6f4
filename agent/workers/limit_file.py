"""The limit table of an agent from its start to its stop, and the lock that keeps others out."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.spool.lock import take_lock
from agent.workers.limit_table import LimitTable, read_host_time

logger = logging.getLogger(__name__)

#: What the processes of an agent have used of its limits, under the data directory.
LIMITS_FILE = "limits.table"
#: Where versions with one process kept the use of rates.
_OLDER_FILE = "throttles.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """The table, and the descriptor that holds the agent's lock for as long as it is open."""

    table: LimitTable
    lock: int


@contextlib.contextmanager
def agent_limits(agent_dir: Path) -> Iterator[AgentLimits]:
    """
    Keep other agents out of *agent_dir*, and take up what the last run of this one has used of its
    limits; afterwards keep that. Errors: `SpoolRefused`; `OSError`.
    """
    lock = take_lock(agent_dir)
    try:
        table = LimitTable(agent_dir / LIMITS_FILE)
        try:
            _begin(table, agent_dir / _OLDER_FILE)
            yield AgentLimits(table=table, lock=lock)
            table.end(read_host_time())
        finally:
            table.close()
    finally:
        os.close(lock)


def _begin(table: LimitTable, older: Path) -> None:
    now = read_host_time()
    is_unknown = table.begin(now)
    if older.exists():
        # What it used is not read, so all of it was.
        table.spend_all(now.monotonic_ns)
        older.unlink()
        is_unknown = True
    if is_unknown:
        logger.warning("use of the rates before this start is not known, they start spent")
