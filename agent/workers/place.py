"""
Place: where a process stands among those of its agent, and what of the settings is its part.

The process number 0 keeps its data where an agent of one process does, in the data directory
itself; the others in `worker-1/`, `worker-2/` … under it. So an agent of one process becomes one of
many, and back, without any mail being moved: a shard that has no worker any more is drained.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.settings import Settings
from agent.spool.look import look_at_spool

_SHARD = re.compile(r"worker-([1-9]\d?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One process of an agent; by default the only one."""

    number: int = 0
    #: How many take mail in.
    workers: int = 1
    #: Whether a parent supervises it and has reserved the ports.
    has_parent: bool = False
    #: Whether it only sends what it has, and ends then.
    is_draining: bool = False
    #: Where its HTTP server listens, for the parent alone; empty: on the port of the settings.
    http_socket: str = ""
    #: Where each process of the agent serves its own queues, by its number.
    queue_sockets: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells this process from the others of the agent where the server knows each."""
        return f"worker-{self.number}" if self.has_parent else ""

    @property
    def lease_name(self) -> str:
        """
        What tells it from the others where limits are lent: the first has none, however many there
        are, so that it takes over what was lent to it before `workers` was changed.
        """
        return f"worker-{self.number}" if self.number else ""


def shard_dir(data_dir: Path, number: int) -> Path:
    """Where process *number* of the agent under *data_dir* keeps its data."""
    return data_dir / f"worker-{number}" if number else data_dir


def find_shards(data_dir: Path) -> list[int]:
    """The numbers of all shards that there are, in order."""
    if not data_dir.is_dir():
        return []
    found = (_SHARD.fullmatch(path.name) for path in data_dir.iterdir())
    numbers = {0, *(int(match[1]) for match in found if match)}
    return sorted(
        number for number in numbers if (shard_dir(data_dir, number) / "spool/spool.db").exists()
    )


def find_left_over(data_dir: Path, workers: int) -> list[int]:
    """
    Shards beyond those of *workers* that still hold mail or outcomes. Errors: `SpoolRefused`,
    `SpoolUnavailable`.
    """
    numbers = [number for number in find_shards(data_dir) if number >= workers]
    return [number for number in numbers if _holds_something(shard_dir(data_dir, number))]


def settings_of(settings: Settings, place: Place) -> Settings:
    """The settings by which the process at *place* works: its shard, its part of the ceilings."""
    if not place.has_parent:
        return settings
    listen, spool, workers = settings.listen, settings.spool, place.workers
    return settings.model_copy(
        update={
            "agent": settings.agent.model_copy(
                update={"data_dir": shard_dir(settings.agent.data_dir, place.number)}
            ),
            "spool": spool.model_copy(update={"max_messages": -(-spool.max_messages // workers)}),
            "listen": listen.model_copy(
                update={
                    "max_connections": -(-listen.max_connections // workers),
                    "max_buffered_size": -(-listen.max_buffered_size // workers),
                }
            ),
        }
    )


def _holds_something(directory: Path) -> bool:
    state = look_at_spool(directory)
    return state.is_in_use or bool(state.entries or state.records)
