"""
Starts: what tells one start of a worker from those before, and its data directory from others.

The number of a start grows even where the file is lost or put back from a copy, for it is never
less than the time. Its last bits are drawn: two processes that have one name by mistake, and start
in the same second, have different ones. The caller holds the lock of the data directory.
"""

import json
import logging
import os
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from agent.durable_files import sync_directory

logger = logging.getLogger(__name__)

#: The file, under the data directory.
FILE_NAME = "starts.json"
#: Below the seconds. A server whose book is in Valkey reckons with 53 bits: enough until 2242.
_DRAWN_BITS = 20
_DIRECTORY_BITS = 64


class Start(NamedTuple):
    """One start of a worker."""

    incarnation: int
    #: Drawn when the data directory was first used.
    directory: str


def count_start(path: Path, now: float, random: Random) -> Start:
    """
    Count a start in the file at *path*; *now* is in seconds since the epoch. What is returned is
    durable before. Errors: `OSError`.
    """
    known = _read(path)
    seconds = max((known.incarnation >> _DRAWN_BITS) + 1, int(now))
    start = Start(
        incarnation=seconds << _DRAWN_BITS | random.getrandbits(_DRAWN_BITS),
        directory=known.directory or f"{random.getrandbits(_DIRECTORY_BITS):016x}",
    )
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(start._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_directory(path.parent)
    return start


def _read(path: Path) -> Start:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # Older versions have not drawn any.
        incarnation, directory = content["incarnation"], content.get("directory", "")
        if not isinstance(incarnation, int) or not isinstance(directory, str):
            raise TypeError(f"not a number and a text: {incarnation!r}, {directory!r}")
        return Start(incarnation, directory)
    except FileNotFoundError:
        return Start(0, "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("file of starts unreadable", extra={"reason": str(error)})
        return Start(0, "")
