"""
The keeper: which of several servers on one database keeps the lease book.

1. Two books at a time would lend everything twice. Whoever takes the book raises its epoch, and
   no write of an older epoch counts (`store.leases`).
2. That alone is not enough: a server that has lost the book writes nothing as long as it only
   answers, and each answer prolongs leases. So the book of a server is its own only for a span
   after its last sign of life, reckoned by its own clock from before that was written; and
   another one takes it only after it has seen no sign for longer than that, by its own clock.
3. On SQLite, which one host has, a lock on a file does the same, and ends with the process.
4. A server that is the same as the last owner, as it listens on the same address of the same host,
   goes on at once: the earlier process is gone.
5. A database that knows less than this server did, or than the file says, is an older copy that
   was put back; and so may be one without that file, which came from another host, or a row of
   PostgreSQL that comes from a dump. What was promised since is not in it: the book is *doubted*
   (`store.leases`).
"""

import asyncio
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO

from policy_server.errors import PolicyServerError, Unavailable
from policy_server.lending.clock import boottime_ns, least_epoch
from policy_server.lending.progress import Progress, note_progress, read_progress
from policy_server.limits.messages import Promise
from policy_server.store.database import Database
from policy_server.store.leases import (
    BookRow,
    give_up_book,
    keep_promises,
    read_book,
    renew_book,
    take_book,
)

logger = logging.getLogger(__name__)

_SECOND = 1_000_000_000
#: How long the book is ours after a sign of life, and how much longer others wait.
_OURS_FOR = 15 * _SECOND
_WAIT_LONGER = 2 * _SECOND
#: Whoever gave no sign of life for longer, by anybody's clock, keeps the book no more.
LONGEST_SILENCE = _OURS_FOR + _OURS_FOR // 1000 + _WAIT_LONGER
_RENEW_SECONDS = 3.0
_LOOK_SECONDS = 0.5


class BookLost(PolicyServerError):
    """Another server has taken the book."""


class BookKeeper:
    """Holds the book for this server; `acquire` it, `keep` promises, and `give_up` at the end."""

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        address: str,
        clock: Callable[[], int] = boottime_ns,
    ) -> None:
        """*owner* is the same after a restart of this server, and of no other one."""
        self._database = database
        self._owner = owner
        self._address = address
        self._clock = clock
        self._book: BookRow | None = None
        #: Whose it was when last looked at, and since when it has looked the same.
        self._seen: BookRow | None = None
        self._seen_since = 0
        self._ours_until = 0
        self._file: IO[bytes] | None = None
        self._is_file_new = False
        #: How far the book has come that was ours last.
        self._progress: Progress | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the book is ours at this moment."""
        if self._book is None:
            return False
        return self._database.is_sqlite or self._clock() < self._ours_until

    @property
    def whose(self) -> str:
        """Where the book is, for an error message."""
        if self._seen is None or not self._seen.owner:
            return "no server keeps the book of limits yet"
        return f"the server at {self._seen.address} keeps the book of limits"

    async def acquire(self) -> BookRow:
        """Wait until the book is ours."""
        failure = ""
        while True:
            try:
                known = await self._database.read(read_book)
                if self._may_take(known) and (taken := await self._take(known)) is not None:
                    return taken
                failure = ""
            except Unavailable as error:
                if str(error) != failure:
                    failure = str(error)
                    logger.warning("the book of limits can't be taken", extra={"why": failure})
            await asyncio.sleep(_LOOK_SECONDS)

    async def stay(self) -> None:
        """Give signs of life for as long as the book is ours. Errors: `BookLost`."""
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            if self._book is None or not self.is_ours:
                raise BookLost
            if self._database.is_sqlite:
                continue
            begun = self._clock()
            try:
                is_ours = await self._database.write(partial(renew_book, epoch=self._book.epoch))
            except Unavailable:
                # Until its time is over there are more chances.
                continue
            self._note(begun, is_ours)

    async def keep(self, promises: Sequence[Promise]) -> None:
        """Make promises durable. Errors: `BookLost`, those of the store."""
        if self._book is None or not self.is_ours:
            raise BookLost
        begun = self._clock()
        is_ours = await self._database.write(
            partial(keep_promises, promises=promises, epoch=self._book.epoch)
        )
        self._note(begun, is_ours)

    async def give_up(self) -> None:
        """Let another server go on at once."""
        book, self._book = self._book, None
        try:
            if book is not None:
                await self._database.write(partial(give_up_book, epoch=book.epoch))
        except PolicyServerError as error:
            # Others find out by themselves, a while later.
            logger.warning("the book of limits was not given up", extra={"why": str(error)})
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _note(self, begun: int, is_ours: bool) -> None:
        if not is_ours:
            self._book = None
            raise BookLost
        self._ours_until = begun + _OURS_FOR
        if self._progress is not None:
            epoch, renewals = self._progress
            self._advance((epoch, renewals + 1))

    def _advance(self, progress: Progress) -> None:
        self._progress = progress
        if self._file is not None:
            note_progress(self._file, progress)

    def _read_latest(self) -> Progress:
        """How far a book has come that was kept here; (0, 0): none is known of."""
        noted = read_progress(self._file) if self._file is not None else None
        return max(noted or (0, 0), self._progress or (0, 0))

    def _is_older_copy(self, known: BookRow | None, latest: Progress) -> bool:
        """Whether the database was put in the place of one that knew more, or may have been."""
        if known is None:
            return latest > (0, 0)
        if latest == (0, 0):
            return self._is_file_new or known.is_copied
        return known.is_copied or (known.epoch, known.renewals) < latest

    async def _take(self, known: BookRow | None) -> BookRow | None:
        begun, latest = self._clock(), self._read_latest()
        self._book = await self._database.write(
            partial(
                take_book,
                known=known,
                owner=self._owner,
                address=self._address,
                secret=secrets.token_hex(32),
                after=max(latest[0], least_epoch()),
                is_doubted=self._is_older_copy(known, latest),
            )
        )
        self._ours_until = begun + _OURS_FOR
        if self._book is not None:
            self._advance((self._book.epoch, self._book.renewals))
        return self._book

    def _may_take(self, known: BookRow | None) -> bool:
        now = self._clock()
        if known != self._seen or known is None:
            self._seen, self._seen_since = known, now
        if self._database.is_sqlite:
            return self._lock_file()
        if known is None or known.owner in ("", self._owner):
            return True
        return now - self._seen_since > LONGEST_SILENCE

    def _lock_file(self) -> bool:
        if self._file is not None:
            return True
        # Opened for as long as it is ours, and left behind: to remove it would be a race.
        path = f"{self._database.url.database}-leases.lock"
        is_new = not os.path.exists(path)
        file = open(path, "r+b", opener=_open_or_make)  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file, self._is_file_new = file, is_new
        return True


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def name_owner(host: str, address: str) -> str:
    """
    Name the server of this host that listens on *address*, "host:port": nobody else can at the same
    time, though others may on the same port of another address.
    """
    return f"{host} {address} {_read_boot_id()} {_read_network()}"


def _read_boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        # Then a restart has to wait, like any other server.
        return secrets.token_hex(16)


def _read_network() -> str:
    try:
        return str(os.stat("/proc/self/ns/net").st_ino)
    except OSError:
        return secrets.token_hex(16)
