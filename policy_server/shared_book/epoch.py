"""
The epoch of the shared book: which one is in force, whether this server may go by it, and how the
book is begun anew when Valkey has lost it.

1. The database says which epoch is in force. Whoever finds that the book of that epoch is lost
   raises it; one of them wins, begins every shard, and then says that the epoch has begun.
2. A server goes by an epoch only for a short time after it has last written to the database that
   it does. So whoever is cut off from a new book, and still has the old one, stops before leases
   of the old one are taken to be over: `unseen` is how long that may take.
3. Nothing is made durable in an epoch that is not in force any more.
4. A server that keeps a book alone in its memory has the same row, and waits for our signs of
   life as we wait for its own. On SQLite, where it gives none, it locks a file, which we share.
5. The database knows every epoch before Valkey does, and has had every sign of life that is noted
   there. Where Valkey knows of more, an older copy of the database has been put back, which may
   lack what was promised since. Then the book is begun in an epoch that is newer than both, and is
   *doubted* until leases of before must be over: as long every limit counts as lent in full,
   beside what the database knows of.
"""

import asyncio
import contextlib
import fcntl
import logging
import secrets
from collections.abc import Callable
from typing import IO

from policy_server.errors import PolicyServerError, Unavailable
from policy_server.lending.clock import least_epoch
from policy_server.lending.keeper import LONGEST_SILENCE
from policy_server.lending.proofs import make_signer
from policy_server.limits.book import Signer
from policy_server.limits.spec import LeaseTiming
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.calls import lease_span, terms_text
from policy_server.shared_book.errors import BookFenced, BookLost
from policy_server.shared_book.valkey import Valkey
from policy_server.store.leases import BookRow
from policy_server.store.shared_leases import BEGINNING, TOGETHER, SharedLeases

logger = logging.getLogger(__name__)

_SECOND = 1_000_000_000
#: For how long a sign of life counts, and how many are given in that time.
VALID = 6 * _SECOND
_RENEWALS = 3
#: How soon to look again while there is no book to go by.
_LOOK_SECONDS = 0.5
#: How long the winner may take to begin the shards before another one does it.
_BEGIN = 5 * _SECOND


class BookEpoch:
    """The epoch that this server goes by."""

    def __init__(
        self,
        valkey: Valkey,
        leases: SharedLeases,
        timing: LeaseTiming,
        *,
        address: str,
        clock: Callable[[], int],
        on_change: Callable[[], None],
        metrics: ServerMetrics,
        valid: int = VALID,
    ) -> None:
        """
        Know none yet; *address* is where others reach this server, *clock* says nanoseconds,
        *on_change* hears of each new epoch.
        """
        self._valid = valid
        self._metrics = metrics
        self._valkey = valkey
        self._leases = leases
        self._timing = timing
        self._terms = terms_text(timing)
        self._address = address
        self._clock = clock
        self._on_change = on_change
        self._epoch = 0
        self._valid_until = 0
        self._recovered_at = 0
        #: Until when leases may be out of which the database knows nothing; 0: it knows of all.
        self._doubted_until = 0
        #: The newest epoch that Valkey has been seen to have, or this server has gone by.
        self._newest = 0
        #: Epoch and signs of life that the database had when one was given last.
        self._progress = (0, 0)
        #: The epoch of an older copy of the database that was put back and has the same one.
        self._outdated = 0
        self._sign: Signer | None = None
        #: Whose the book was when last looked at, and since when it has looked the same.
        self._seen: BookRow | None = None
        self._seen_since = 0
        self._reason = "the book of limits is not open yet"
        self._wake = asyncio.Event()
        self._file: IO[bytes] | None = None

    @property
    def unseen(self) -> int:
        """For how long, in nanoseconds, a server may go by an epoch that is over."""
        return self._timing.longer(self._valid)

    @property
    def current(self) -> int:
        """The epoch to go by; Unavailable if there is none now."""
        if not self._epoch:
            raise Unavailable(self._reason)
        if self._clock() >= self._valid_until:
            raise Unavailable("the book of limits waits for the database")
        return self._epoch

    @property
    def is_open(self) -> bool:
        """Whether there is an epoch to go by."""
        return self._epoch > 0 and self._clock() < self._valid_until

    @property
    def is_recovering(self) -> bool:
        """
        Whether leases of before may be out that nobody has named yet: a limit is taken over from
        an earlier epoch when it is first asked for.
        """
        return self._clock() < self._recovered_at

    @property
    def is_doubted(self) -> bool:
        """Whether leases of before may be out of which the database knows nothing."""
        return self._clock() < self._doubted_until

    @property
    def sign(self) -> Signer:
        """What proves grants; Unavailable if there is no epoch to go by."""
        if self._sign is None:
            raise Unavailable(self._reason)
        return self._sign

    def require(self, epoch: int) -> None:
        """Raise Unavailable unless *epoch* is the one to go by."""
        if self.current != epoch:
            raise BookFenced

    def leave(self, epoch: int, error: Unavailable) -> None:
        """Go by *epoch* no more: it is lost or over."""
        if epoch == self._epoch:
            self._epoch, self._reason = 0, str(error)
            self._wake.set()

    async def run(self) -> None:
        """Keep the epoch known."""
        while True:
            self._wake.clear()
            await self.check()
            pause = self._valid / _RENEWALS / _SECOND if self._epoch else _LOOK_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def check(self) -> None:
        """Give a sign of life; without an epoch to go by, join one or begin one."""
        try:
            if not await self._renew():
                await self._look()
        except PolicyServerError as error:
            if self._reason != str(error):
                self._reason = str(error)
                logger.warning("book of limits not open", extra={"why": self._reason})

    def close(self) -> None:
        """Go by no epoch any more."""
        self._epoch, self._reason = 0, "the server is stopping"

    def release_file(self) -> None:
        """Let others keep the book alone; `run` has ended, which would take the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _renew(self) -> bool:
        """Give a sign of life; False: there is no epoch to go by."""
        epoch, asked_at, before = self._epoch, self._clock(), self._progress
        if not epoch:
            return False
        renewals = await self._leases.renew(epoch, address=self._address)
        if not renewals:
            self.leave(epoch, BookFenced())
            return False
        if (epoch, renewals) < before:
            self._outdated = epoch
            self.leave(epoch, BookLost())
            return False
        self._progress = max(self._progress, (epoch, renewals))
        if epoch == self._epoch:
            self._valid_until = asked_at + self._valid
        await self._note(epoch, renewals)
        if self._doubted_until and not self.is_doubted:
            await self._leases.end_doubt(epoch)
            self._doubted_until = 0
        return epoch == self._epoch

    async def _note(self, epoch: int, renewals: int) -> None:
        """Have Valkey know how far the database has come."""
        try:
            await self._valkey.call(0, epoch, ("note", [renewals]))
        except (BookLost, BookFenced) as error:
            self.leave(epoch, error)
        except Unavailable:
            # The next time is soon.
            return

    async def _look(self) -> None:
        await self._valkey.check_fitness()
        row, now = await self._leases.read_book(), self._clock()
        if row != self._seen:
            self._seen, self._seen_since = row, now
        if row is not None and row.owner == TOGETHER and await self._is_usable(row, now):
            await self._join(row)
        elif self._may_take(row, now):
            await self._begin_after(row)

    async def _is_usable(self, row: BookRow, now: int) -> bool:
        """Whether the book is whole, and of our terms."""
        if row.epoch == self._outdated:
            return False
        try:
            replies = await self._valkey.call_all(row.epoch, "look")
        except BookLost:
            self._metrics.limit_books_lost.inc()
            logger.warning("book of limits lost, beginning it anew", extra={"epoch": row.epoch})
            return False
        except BookFenced as error:
            # If another server was only quicker, the row is another one by now, and not taken.
            self._newest = max(self._newest, error.epoch)
            return False
        if await self._is_put_back_since(row, max(noted for *_, noted in replies)):
            self._outdated = row.epoch
            return False
        if all(terms.decode() == self._terms for _, _, terms, _ in replies):
            return True
        if now - self._seen_since > LONGEST_SILENCE:
            # Whoever had other terms is gone.
            return False
        raise Unavailable(
            "another server lends limits for other times, or is of another version; give all "
            "servers the same times in [limits], stop all of them, and start them anew"
        )

    async def _is_put_back_since(self, row: BookRow, noted: int) -> bool:
        if row.renewals >= noted:
            return False
        # Others may have given signs of life since it was read.
        again = await self._leases.read_book()
        return again is None or (again.epoch, again.renewals) < (row.epoch, noted)

    def _may_take(self, row: BookRow | None, now: int) -> bool:
        self._share_file()
        if row is None or row.owner in ("", TOGETHER):
            return True
        if row.owner == BEGINNING:
            return now - self._seen_since > _BEGIN
        if self._leases.database.is_sqlite:
            # It would have the file.
            return True
        if now - self._seen_since <= LONGEST_SILENCE:
            raise Unavailable(
                f"the server at {row.address} keeps the book of limits alone; give every server "
                "the same limits.state"
            )
        return True

    def _share_file(self) -> None:
        if not self._leases.database.is_sqlite or self._file is not None:
            return
        file = open(f"{self._leases.database.url.database}-leases.lock", "ab")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise Unavailable(
                "another server on this database keeps the book of limits alone; give every "
                "server the same limits.state"
            ) from error
        self._file = file

    async def _begin_after(self, row: BookRow | None) -> None:
        is_behind = (row.epoch if row is not None else 0) < self._newest
        is_older_copy = is_behind or (
            row is not None and (row.epoch == self._outdated or row.is_copied)
        )
        made = await self._leases.take(
            row,
            address=self._address,
            secret=secrets.token_hex(32),
            after=max(self._newest, least_epoch()),
            is_doubted=is_older_copy,
        )
        if made is None:
            self._wake.set()
            return
        if is_older_copy:
            logger.warning(
                "an older copy of the database was put back, limits count as lent for a while",
                extra={"epoch": made.epoch},
            )
        try:
            await self._valkey.call_all(made.epoch, "begin", self._terms)
        except BookFenced as error:
            self._newest = max(self._newest, error.epoch)
            raise
        if await self._leases.mark_begun(made.epoch):
            await self._join(made)

    async def _join(self, row: BookRow) -> None:
        replies = await self._valkey.call_all(row.epoch, "look")
        age = min(age for _, age, *_ in replies) * 1000
        window = self.unseen + lease_span(self._timing) - age
        had_promises = await self._leases.has_older_than(row.epoch)
        # All of it before anybody may go by the epoch, which is so from the sign of life on.
        until = self._clock() + self._timing.longer(window)
        self._recovered_at = until if had_promises or row.is_doubted else 0
        self._doubted_until = until if row.is_doubted else 0
        self._newest = max(self._newest, row.epoch)
        self._epoch, self._sign = row.epoch, make_signer(row.secret)
        self._valid_until = 0
        self._on_change()
        if not await self._renew():
            return
        self._reason = ""
        logger.info("book of limits open", extra={"epoch": row.epoch})
        # Nobody reads what was there before.
        await self._valkey.forget_epochs(row.epoch)
