"""
Log file: the file that the delivery log is appended to, rotated by size.

`delivery.jsonl` is the one being written; full ones become `delivery-<time>-<number>.jsonl.zst`,
compressed, of which the newest are kept (`zstdcat` reads them). Used from one thread.

A full file is renamed first and compressed then; it goes only once its compressed form is on the
disk. What a crash left uncompressed is compressed with the next full file.
"""

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

logger = logging.getLogger(__name__)

CURRENT = "delivery.jsonl"
#: A file is rotated when it has grown to this size.
ROTATE_BYTES = 64 * 1024 * 1024
#: How many rotated files are kept.
KEPT_FILES = 100
_TAIL_BYTES = 16 * 1024 * 1024
_PLAIN, _COMPRESSED, _UNFINISHED = ".jsonl", ".jsonl.zst", ".part"


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
        taken = sorted(self._directory.glob(f"delivery-{stamp}-*{_PLAIN}*"))
        number = int(taken[-1].name.partition(".")[0].rpartition("-")[2]) + 1 if taken else 0
        full = self._directory / f"delivery-{stamp}-{number:06}{_PLAIN}"
        (self._directory / CURRENT).rename(full)
        for old in rotated_files(self._directory)[: -self._kept_files]:
            old.unlink(missing_ok=True)
        for plain in self._directory.glob(f"delivery-*{_PLAIN}"):
            _compress(plain)


def _compress(plain: Path) -> None:
    """Put a compressed file in the place of a full one."""
    unfinished = plain.with_name(plain.name + ".zst" + _UNFINISHED)
    with plain.open("rb") as source, unfinished.open("wb") as target:
        zstandard.ZstdCompressor().copy_stream(source, target)
        target.flush()
        os.fsync(target.fileno())
    unfinished.rename(plain.with_name(plain.name + ".zst"))
    plain.unlink()


def rotated_files(directory: Path) -> list[Path]:
    """Return the full files, oldest first."""
    # Between rename and removal a file stands there twice; the plain one is complete.
    found = {
        path.name.partition(".")[0]: path for path in directory.glob(f"delivery-*{_COMPRESSED}")
    }
    found |= {path.name.partition(".")[0]: path for path in directory.glob(f"delivery-*{_PLAIN}")}
    return [found[name] for name in sorted(found)]


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Open a file of the log for reading, compressed or not."""
    with path.open("rb") as file:
        if path.name.endswith(_COMPRESSED):
            with zstandard.ZstdDecompressor().stream_reader(file) as reader:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader)))
        else:
            yield file


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
        size = 0
        for line, end in _whole_lines(path, left):
            size = end
            try:
                fields = json.loads(line)
                event_id, timestamp = str(fields["event_id"]), float(fields["timestamp"])
            except (ValueError, KeyError, TypeError):
                continue
            event_ids.add(event_id)
            oldest = min(oldest or timestamp, timestamp)
        if size > left:
            return event_ids, oldest
        left -= size
    return event_ids, 0.0


def _whole_lines(path: Path, most: int) -> Iterator[tuple[bytes, int]]:
    try:
        yield from _tail(path, most)
    except zstandard.ZstdError as error:
        # A damaged file costs its lines, not the agent's start.
        facts = {"file": path.name, "error": str(error)}
        logger.warning("delivery log file not readable", extra=facts)


def _tail(path: Path, most: int) -> Iterator[tuple[bytes, int]]:
    """Yield the last lines of a file, about *most* octets, each with the file's size."""
    with open_log(path) as file:
        size = 0
        while part := file.read(1 << 20):
            size += len(part)
    with open_log(path) as file:
        file.read(max(0, size - most))
        if size > most:
            file.readline()
        for line in file:
            yield line, size


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
