"""
LimitTable: what the processes of one agent have used of its limits, in a file that all of them map
into memory.

The rules by which it survives whatever happens to a process:

1. Whoever reads to decide holds the lock of the file, and charges before the act. The kernel lets
   go of the lock when its holder is killed.
2. A bucket is written beside the one in force, then a single number makes the new one count. A
   process killed in between has charged nothing, and has not acted.
3. Of connections each process writes its own column only. A column is cleared by whoever knows that
   its process is gone: the parent, or the next process of that number.
4. The pages outlive the processes, so a crash forgets nothing. They do not outlive the host: after
   a reboot the file counts only if a clean stop has written it; else every bucket is full.

A bucket that has run empty and a connection limit without connections are as good as new, so their
rows are given to other limits. All methods need the lock unless they say otherwise.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from agent.durable_files import make_directory, sync_directory
from agent.throttle.rate import Rate, RateThrottle

logger = logging.getLogger(__name__)

#: Most processes of one agent, those that drain a spool included.
MOST_WORKERS = 32
#: Most connections of one worker under one limit.
MOST_CONNECTIONS = 65_535
#: Rows of rates, and of connection limits.
ROWS = 16_384
#: A name is in one of so many rows, or nowhere.
_PROBED = 64
_HEADER_BYTES = 4096
_HEADER = struct.Struct("<8s64s?dqq")
_MAGIC = b"PNSTLM01"
_DIGEST_BYTES = 16
#: Digest, the number that says which bucket counts, two buckets.
_RATE_ROW = 128
_BUCKETS_AT, _BUCKET_BYTES = 24, 48
_BUCKET, _SEQUENCE = struct.Struct("<qqq24s"), struct.Struct("<L")
#: Digest, a count each worker, since when each waits and when it asked last.
_SLOT_ROW = 512
_COUNTS_AT = 16
_COUNTS, _COUNT = struct.Struct(f"<{MOST_WORKERS}H"), struct.Struct("<H")
_STAMPS_AT = _COUNTS_AT + _COUNTS.size
_STAMPS, _STAMP = struct.Struct(f"<{2 * MOST_WORKERS}L"), struct.Struct("<LL")
_FREE = bytes(_DIGEST_BYTES)
#: How often the lock is tried for, and how long apart, in seconds; others hold it for microseconds.
_TRIES, _TRY_SECONDS = 200, 0.00005
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """The clocks by which one run of the agent knows how long ago another ended."""

    #: Which run of the host; empty: not known.
    boot_id: str
    #: Seconds since the epoch.
    wall: float
    monotonic_ns: int


def read_host_time() -> HostTime:
    """Read this host's."""
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        # Linux alone has it.
        boot_id = ""
    return HostTime(boot_id=boot_id, wall=time.time(), monotonic_ns=time.monotonic_ns())


@dataclass(slots=True)
class _Header:
    boot_id: str = ""
    #: Whether the last run ended with `end`; when, by the clocks of `HostTime`.
    is_clean: bool = False
    wall: float = 0.0
    monotonic_ns: int = 0
    #: When every bucket that is not in the table counts as full; 0: it is empty.
    spent_since: int = 0


class Busy(Exception):
    """Another process holds the lock for unusually long."""


class LimitTable:
    """The mapped file. Its methods block for microseconds."""

    def __init__(self, path: Path, *, rows: int = ROWS) -> None:
        """Map *path*, making it if need be; *rows* of each kind. Errors: `OSError`."""
        make_directory(path.parent)
        self._path = path
        self._row_count = rows
        #: Where rows begin, and how long they are, by their kind.
        self._places = (
            (_HEADER_BYTES, _RATE_ROW),
            (_HEADER_BYTES + rows * _RATE_ROW, _SLOT_ROW),
        )
        size = _HEADER_BYTES + rows * (_RATE_ROW + _SLOT_ROW)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self._file).st_size < size:
                _reserve(self._file, size)
            self._map = mmap.mmap(self._file, size)
        except BaseException:
            os.close(self._file)
            raise
        #: Digest and row of names, by kind of row.
        self._known: tuple[dict[str, tuple[bytes, int]], ...] = ({}, {})

    def close(self) -> None:
        """Let go of the file; needs no lock."""
        self._map.close()
        os.close(self._file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock in the block. Errors: `Busy`."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_TRY_SECONDS)
        else:
            raise Busy
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    # Runs of the agent.

    def begin(self, now: HostTime) -> bool:
        """
        Take up what the last run left; whether there was one whose use of the rates is not known.
        To be called when no other process uses the table.
        """
        header = self._read_header()
        if header is None:
            is_new = self._map[:8] == bytes(8)
            self._write_header(_Header(boot_id=now.boot_id))
            if not is_new:
                self._forget_all(now.monotonic_ns)
            return not is_new
        is_same_boot = bool(now.boot_id) and header.boot_id == now.boot_id
        is_known = is_same_boot or header.is_clean
        if not is_known:
            self._forget_all(now.monotonic_ns)
        elif not is_same_boot:
            # Until all are carried over, what is in the table means nothing.
            self._write_header(_Header(spent_since=header.spent_since))
            self._carry_over(header, now)
        self._clear_slots()
        fresh = self._read_header() or _Header()
        fresh.boot_id, fresh.is_clean = now.boot_id, False
        self._write_header(fresh)
        # Before anything is sent: after a crash of the host the file must not pass for a clean one.
        self._map.flush(0, _HEADER_BYTES)
        return not is_known

    def end(self, now: HostTime) -> None:
        """Say that nothing will be sent any more, and have all of it on disk. Errors: `OSError`."""
        header = self._read_header() or _Header(boot_id=now.boot_id)
        header.is_clean, header.wall, header.monotonic_ns = True, now.wall, now.monotonic_ns
        self._map.flush()
        self._write_header(header)
        self._map.flush()
        os.fsync(self._file)
        sync_directory(self._path.parent)

    def spend_all(self, now_ns: int) -> None:
        """Treat every bucket as full."""
        self._forget_all(now_ns)

    # Rates.

    def rate_rows(self, names: Iterable[str], now_ns: int) -> list[int] | None:
        """The rows of rates, in order, taken if need be; None: there is no room for them."""
        return self._find_all(0, names, now_ns)

    def bucket(self, row: int, rate: Rate, now_ns: int) -> RateThrottle:
        """The bucket in *row* at *rate*; to count, a change of it is to be stored."""
        stored = self._read_bucket(row)
        if stored is None:
            header = self._read_header()
            since = header.spent_since if header is not None else now_ns
            return RateThrottle.spent(rate, since) if since else RateThrottle(rate)
        if stored.rate != rate:
            stored.set_rate(rate, now_ns)
        return stored

    def store(self, row: int, bucket: RateThrottle) -> None:
        """Let *bucket* count from now on."""
        (sequence,) = _SEQUENCE.unpack_from(self._map, row + _DIGEST_BYTES)
        # Never 0 again, which says that there is none.
        sequence = sequence + 1 if sequence < 2**32 - 2 else 1 + (sequence & 1)
        rate = bucket.rate
        full_until = bucket.full_until.to_bytes(24, "little", signed=True)
        place = row + _BUCKETS_AT + (sequence & 1) * _BUCKET_BYTES
        _BUCKET.pack_into(
            self._map, place, rate.count, rate.period_ns, rate.max_burst or 0, full_until
        )
        _SEQUENCE.pack_into(self._map, row + _DIGEST_BYTES, sequence)

    # Connections.

    def slot_rows(self, names: Iterable[str]) -> list[int] | None:
        """The rows of connection limits, in order, taken if need be; None: there is no room."""
        return self._find_all(1, names, 0)

    def slot_row(self, name: str) -> int | None:
        """The row of a connection limit; None: it has none. Needs no lock."""
        digest = _digest_of(name)
        return next((row for row in self._probed(1, digest) if self._digest(row) == digest), None)

    def counts(self, row: int) -> tuple[int, ...]:
        """How many connections each worker has open; needs no lock to be told, only to be used."""
        return _COUNTS.unpack_from(self._map, row + _COUNTS_AT)

    def waiting(self, row: int) -> tuple[int, ...]:
        """Since when each worker waits, and when it asked last; two numbers each, 0: never."""
        return _STAMPS.unpack_from(self._map, row + _STAMPS_AT)

    def add(self, row: int, worker: int, change: int) -> None:
        """Count connections of *worker*; needs no lock where *change* is negative."""
        place = row + _COUNTS_AT + _COUNT.size * worker
        (count,) = _COUNT.unpack_from(self._map, place)
        _COUNT.pack_into(self._map, place, max(0, count + change))

    def set_waiting(self, row: int, worker: int, since: int, asked: int) -> None:
        """Note what `waiting` tells of *worker*."""
        _STAMP.pack_into(self._map, row + _STAMPS_AT + _STAMP.size * worker, since, asked)

    def clear_worker(self, worker: int) -> None:
        """*worker* is gone, and its connections with it."""
        for row in self._used_rows(1):
            self.add(row, worker, -MOST_CONNECTIONS)
            self.set_waiting(row, worker, 0, 0)

    # The file.

    def _find_all(self, kind: int, names: Iterable[str], now_ns: int) -> list[int] | None:
        rows: list[int] = []
        for name in names:
            row = self._find(kind, name, now_ns, rows)
            if row is None:
                return None
            rows.append(row)
        return rows

    def _find(self, kind: int, name: str, now_ns: int, taken: Sequence[int]) -> int | None:
        """Where the row of a name is in the file; *taken* are not to be given to it."""
        digest, row = self._known[kind].get(name, (_FREE, 0))
        if row and self._map[row : row + _DIGEST_BYTES] == digest:
            return row
        digest = _digest_of(name)
        rows = self._probed(kind, digest)
        found = next((row for row in rows if self._digest(row) == digest), None)
        if found is None:
            free = (one for one in rows if one not in taken and self._is_free(kind, one, now_ns))
            if (found := next(free, None)) is None:
                logger.warning("limit table full", extra={"limit": name})
                return None
            size = self._places[kind][1]
            # Without a name while it is emptied, so that a kill leaves nobody's remains to another.
            self._map[found : found + _DIGEST_BYTES] = _FREE
            self._map[found + _DIGEST_BYTES : found + size] = bytes(size - _DIGEST_BYTES)
            self._map[found : found + _DIGEST_BYTES] = digest
        if len(self._known[kind]) > self._row_count:
            self._known[kind].clear()
        self._known[kind][name] = (digest, found)
        return found

    def _digest(self, row: int) -> bytes:
        return self._map[row : row + _DIGEST_BYTES]

    def _is_free(self, kind: int, row: int, now_ns: int) -> bool:
        if self._digest(row) == _FREE:
            return True
        if kind:
            return not any(self._map[row + _COUNTS_AT : row + _STAMPS_AT])
        bucket = self._read_bucket(row)
        return bucket is None or bucket.held(now_ns) == 0

    def _probed(self, kind: int, digest: bytes) -> list[int]:
        """The rows in which a name may be."""
        base, size = self._places[kind]
        first = int.from_bytes(digest[:8], "little") % max(1, self._row_count - _PROBED)
        return [base + (first + number) * size for number in range(_PROBED)]

    def _used_rows(self, kind: int) -> list[int]:
        base, size = self._places[kind]
        places = range(base, base + self._row_count * size, size)
        return [row for row in places if self._map[row : row + _DIGEST_BYTES] != _FREE]

    def _read_bucket(self, row: int) -> RateThrottle | None:
        (sequence,) = _SEQUENCE.unpack_from(self._map, row + _DIGEST_BYTES)
        if not sequence:
            return None
        place = row + _BUCKETS_AT + (sequence & 1) * _BUCKET_BYTES
        count, period_ns, max_burst, full_until = _BUCKET.unpack_from(self._map, place)
        rate = Rate(count=count, period_ns=period_ns, max_burst=max_burst or None)
        return RateThrottle.at(rate, int.from_bytes(full_until, "little", signed=True))

    def _carry_over(self, old: _Header, now: HostTime) -> None:
        """Bring the buckets from the clock of an earlier boot to that of this one."""
        elapsed_ns = max(0, round((now.wall - old.wall) * 1e9))
        for row in self._used_rows(0):
            bucket = self._read_bucket(row)
            if bucket is not None:
                parts = bucket.held(old.monotonic_ns) - elapsed_ns * bucket.rate.count
                bucket = RateThrottle.holding(bucket.rate, parts, now.monotonic_ns)
                self.store(row, bucket)

    def _forget_all(self, now_ns: int) -> None:
        header = self._read_header() or _Header()
        header.spent_since = now_ns
        self._write_header(header)
        for row in self._used_rows(0):
            self._map[row : row + _DIGEST_BYTES] = _FREE

    def _clear_slots(self) -> None:
        for row in self._used_rows(1):
            self._map[row : row + _SLOT_ROW] = bytes(_SLOT_ROW)

    def _read_header(self) -> _Header | None:
        magic, boot_id, is_clean, wall, monotonic_ns, spent_since = _HEADER.unpack_from(self._map)
        if magic != _MAGIC:
            return None
        return _Header(
            boot_id=boot_id.rstrip(b"\0").decode("ascii", "replace"),
            is_clean=is_clean,
            wall=wall,
            monotonic_ns=monotonic_ns,
            spent_since=spent_since,
        )

    def _write_header(self, header: _Header) -> None:
        _HEADER.pack_into(
            self._map,
            0,
            _MAGIC,
            header.boot_id.encode("ascii", "replace"),
            header.is_clean,
            header.wall,
            header.monotonic_ns,
            header.spent_since,
        )


def _digest_of(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=_DIGEST_BYTES).digest()


def _reserve(file: int, size: int) -> None:
    """Take *size* bytes of the disk: a page without room there would end the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    begin = os.fstat(file).st_size
    os.pwrite(file, bytes(size - begin), begin)
