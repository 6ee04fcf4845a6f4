"""
Hints that there is something new, so that a server need not wait for its next look.

They are hints only: one may be lost, and one may come for nothing. What counts is the revision in
the database, which is looked at in any case.
"""

import asyncio
import contextlib
import logging
import os

import psycopg

from policy_server.store.database import Database
from policy_server.store.engines import connect_arguments
from policy_server.store.triggers import NOTIFY_CHANNEL

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_FILE_LOOK_SECONDS = 0.02


class RevisionListener:
    """Wakes one waiter early when a revision may have been committed; let `run` run beside."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._heard = asyncio.Event()
        #: Whether hints can come now.
        self.is_listening = False

    async def wait(self, seconds: float) -> None:
        """Return at the next hint, or after *seconds* without one."""
        # Not wait_for, which before Python 3.12 may lose a cancellation when both come at once.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        self._heard.clear()

    async def run(self) -> None:
        """Listen for ever; after a lost connection, again as soon as there is one."""
        if self._database.is_sqlite:
            await self._watch_file()
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                pause = _FIRST_PAUSE if self.is_listening else min(2 * pause, _LONGEST_PAUSE)
                logger.info("no hints of new revisions", extra={"why": str(error)})
            finally:
                self.is_listening = False
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        # A connection of its own, as a pooled one may be another's when a hint comes.
        arguments = connect_arguments(self._database.url)
        connection = await psycopg.AsyncConnection.connect(**arguments, autocommit=True)
        async with connection:
            await connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
            self.is_listening = True
            # Something may have been committed while nobody listened.
            self._heard.set()
            async for _ in connection.notifies():
                self._heard.set()

    async def _watch_file(self) -> None:
        # SQLite tells nobody, but every commit writes to the log beside the database.
        log = f"{self._database.url.database}-wal"
        seen = _stamp(log)
        was_new = False
        self.is_listening = True
        while True:
            await asyncio.sleep(_FILE_LOOK_SECONDS)
            now = _stamp(log)
            # Once more after a change: it is written a little before it is committed.
            if now != seen or was_new:
                self._heard.set()
            was_new, seen = now != seen, now


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
