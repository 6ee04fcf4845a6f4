"""
Starts: the number that tells one start of a worker from those before.

It grows even where the file is lost or put back from a copy, for it is never less than the time.
Its last bits are drawn: two processes that have one name by mistake, and start in the same second,
have different ones. The caller holds the lock of the data directory.
"""

import json
import logging
import os
from pathlib import Path
from random import Random

from agent.durable_files import sync_directory

logger = logging.getLogger(__name__)

#: The file, under the data directory.
FILE_NAME = "starts.json"
#: Below the seconds. A server whose book is in Valkey reckons with 53 bits: enough until 2242.
_DRAWN_BITS = 20


def next_incarnation(path: Path, now: float, random: Random) -> int:
    """
    Count a start in the file at *path*; *now* is in seconds since the epoch. The number is durable
    before it is returned. Errors: `OSError`.
    """
    seconds = max((_read(path) >> _DRAWN_BITS) + 1, int(now))
    number = seconds << _DRAWN_BITS | random.getrandbits(_DRAWN_BITS)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"incarnation": number}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_directory(path.parent)
    return number


def _read(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["incarnation"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("file of starts unreadable", extra={"reason": str(error)})
        return 0
