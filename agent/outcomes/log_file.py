"""
Log file: the file that the delivery log is appended to, rotated by size.

`delivery.jsonl` is the one being written; full ones become `delivery-<time>-<number>.jsonl`, of
which the newest are kept. Used from one thread.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

CURRENT = "delivery.jsonl"
#: A file is rotated when it has grown to this size.
ROTATE_BYTES = 64 * 1024 * 1024
#: How many rotated files are kept.
KEPT_FILES = 100
_TAIL_BYTES = 16 * 1024 * 1024


class LogFile:
    """The current file of the delivery log."""

    def __init__(self, directory: Path, *, rotate_bytes: int, kept_files: int) -> None:
        """Write under *directory*; nothing is opened yet."""
        self._directory = directory
        self._rotate_bytes = rotate_bytes
        self._kept_files = kept_files
        self._file: BinaryIO | None = None
        self._torn = False

    def append(self, data: bytes, now: float) -> None:
        """Append all lines, handed to the system, or none. Errors: `OSError`."""
        file = self._file or self._open()
        begin = file.seek(0, os.SEEK_END)
        if self._torn:
            # A write broke off in the middle of a line: end it, so that the next stands alone.
            data = b"\n" + data
        try:
            _write_all(file, data)
        except OSError:
            self._take_back(file, begin)
            raise
        self._torn = False
        if file.tell() >= self._rotate_bytes:
            self._try_rotate(now)

    def _take_back(self, file: BinaryIO, begin: int) -> None:
        """Remove what a broken write left: its lines come again, and each shall stand once."""
        try:
            file.truncate(begin)
        except OSError:
            self._torn = True

    def close(self) -> None:
        """Close, with everything on the disk itself."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.closing(file):
                os.fsync(file.fileno())

    def _open(self) -> BinaryIO:
        self._directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._directory / CURRENT, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o640)
        file = os.fdopen(handle, "ab+", buffering=0)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            self._torn = file.read(1) != b"\n"
            file.seek(0, os.SEEK_END)
        self._file = file
        return file

    def _try_rotate(self, now: float) -> None:
        try:
            self._rotate(now)
        except (OSError, ValueError) as error:
            # The lines are in the file already: they must not be taken for unwritten.
            logger.warning("delivery log not rotated", extra={"error": str(error)})

    def _rotate(self, now: float) -> None:
        self.close()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        # Above the highest of this second, not the first that is free: older ones may be gone.
        taken = sorted(self._directory.glob(f"delivery-{stamp}-*.jsonl"))
        number = int(taken[-1].stem.rpartition("-")[2]) + 1 if taken else 0
        full = self._directory / f"delivery-{stamp}-{number:06}.jsonl"
        (self._directory / CURRENT).rename(full)
        for old in rotated_files(self._directory)[: -self._kept_files]:
            old.unlink(missing_ok=True)


def rotated_files(directory: Path) -> list[Path]:
    """Return the full files, oldest first."""
    return sorted(directory.glob("delivery-*.jsonl"))


def written_lately(directory: Path) -> tuple[set[str], float]:
    """
    Return the event ids in the last lines of the log and the time of the oldest of these lines,
    0 if the whole log was read.
    """
    event_ids: set[str] = set()
    oldest = 0.0
    files = rotated_files(directory)
    left = _TAIL_BYTES
    for path in [directory / CURRENT, *reversed(files)]:
        if not path.exists():
            continue
        if left <= 0:
            return event_ids, oldest
        size = path.stat().st_size
        for event_id, timestamp in _events(path, max(0, size - left)):
            event_ids.add(event_id)
            oldest = min(oldest or timestamp, timestamp)
        if size > left:
            return event_ids, oldest
        left -= size
    return event_ids, 0.0


def _events(path: Path, begin: int) -> Iterator[tuple[str, float]]:
    with path.open("rb") as file:
        file.seek(begin)
        if begin:
            file.readline()
        for line in file:
            try:
                fields = json.loads(line)
                yield str(fields["event_id"]), float(fields["timestamp"])
            except (ValueError, KeyError, TypeError):
                continue


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
