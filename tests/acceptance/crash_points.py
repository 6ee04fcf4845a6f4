"""
Crash points: named instants in the life of a message at which a test ends the agent, as SIGKILL
or the end of its host's power would.

The points are set from outside, around the calls to the disk, to SQLite and to the sockets, so the
agent's own code carries nothing for them. Each is reached by the real program doing its real work;
a point that is renamed or moved in the code makes its test fail, for it is never reached then.
"""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, cast

from agent.dispatch.dispatcher import Dispatcher
from agent.dispatch.peer import Peer
from agent.dispatch.transaction import Transaction
from agent.dispatch.wire import Wire
from agent.orders.disk import OrderDisk
from agent.outcomes import log_file
from agent.outcomes.delivery_log import DeliveryLog
from agent.outcomes.outbox import Outbox
from agent.outcomes.stream import OutcomeStream
from agent.smtp.listener import _Connection
from agent.smtp.session import Session
from agent.spool.bodies import BodyFiles
from agent.spool.sqlite import SqliteSpool

#: Is called whenever the point is reached.
Hit = Callable[[], None]

#: Time for what was written to a socket to leave, in seconds.
_FLUSH_SECONDS = 0.01


def crash() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def _around(owner: Any, name: str, hit: Hit, *, after: bool, when: Any = None) -> None:
    """Hit before or after each call of a function that is not a coroutine."""
    original = getattr(owner, name)

    @wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        counts = when is None or when(*args)
        if counts and not after:
            hit()
        result = original(*args, **kwargs)
        if counts and after:
            hit()
        return result

    setattr(owner, name, replaced)


def _around_async(owner: Any, name: str, hit: Hit, *, after: bool, pause: float = 0.0) -> None:
    """Hit before or *pause* seconds after each call of a coroutine."""
    original = getattr(owner, name)

    @wraps(original)
    async def replaced(*args: Any, **kwargs: Any) -> Any:
        if not after:
            hit()
        result = await cast(Awaitable[Any], original(*args, **kwargs))
        if after:
            if pause:
                await asyncio.sleep(pause)
            hit()
        return result

    setattr(owner, name, replaced)


def _before(owner: Any, name: str, when: Any = None) -> Callable[[Hit], None]:
    return lambda hit: _around(owner, name, hit, after=False, when=when)


def _after(owner: Any, name: str, when: Any = None) -> Callable[[Hit], None]:
    return lambda hit: _around(owner, name, hit, after=True, when=when)


def _before_async(owner: Any, name: str) -> Callable[[Hit], None]:
    return lambda hit: _around_async(owner, name, hit, after=False)


def _after_async(owner: Any, name: str, pause: float = 0.0) -> Callable[[Hit], None]:
    return lambda hit: _around_async(owner, name, hit, after=True, pause=pause)


def _fsync(part: str, *, is_directory: bool, after: bool) -> Callable[[Hit], None]:
    """Around the fsync of a file, or of a directory, whose path has *part* in it."""

    def when(descriptor: int) -> bool:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return part in path and os.path.isdir(path) is is_directory

    return lambda hit: _around(os, "fsync", hit, after=after, when=when)


#: What a transaction does, by a statement that is in it.
_KINDS = {
    "INSERT INTO messages": "store",
    "DELETE FROM entries": "settle",
    "UPDATE entries SET recipients": "settle",
    "UPDATE entries SET due": "postpone",
    "UPDATE entries SET queue_name": "move",
    "DELETE FROM outbox": "forget",
}


class _Watched(sqlite3.Connection):
    """Knows what its transaction does, and tells of commits."""

    #: What is told before and after a commit, with the kinds of work in it.
    told: Callable[[set[str], bool], None]
    _kinds: set[str]
    #: Whether it was just looked for a message that a settlement brings about.
    _is_caused: bool

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._note(sql)
        if sql.startswith("INSERT INTO outbox") and b'"AdminBounce"' in b"".join(args[0][1::2]):
            self._kinds.add("bounce")
        if sql != "COMMIT":
            return super().execute(sql, *args)
        self.told(self._kinds, False)
        cursor = super().execute(sql, *args)
        self.told(self._kinds, True)
        return cursor

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._note(sql)
        return super().executemany(sql, *args)

    def _note(self, sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            self._kinds, self._is_caused = set(), False
        statement = " ".join(sql.split())
        for start, kind in _KINDS.items():
            if statement.startswith(start):
                self._kinds.add(kind)
                if kind == "store" and self._is_caused:
                    self._kinds.add("notice")
        self._is_caused = statement.startswith("SELECT e.id, e.queue_name")


def _commit(kind: str, *, after: bool) -> Callable[[Hit], None]:
    """
    Around the commit of a transaction that does *kind*; "notice": a message is stored by the
    settlement that brings it about.
    """

    def install(hit: Hit) -> None:
        connect = sqlite3.connect

        def told(kinds: set[str], is_after: bool) -> None:
            if kind in kinds and after is is_after:
                hit()

        def connect_watched(path: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
            if not str(path).endswith("spool.db"):
                return connect(path, *args, **kwargs)
            connection = connect(path, *args, factory=_Watched, **kwargs)
            connection.told = told
            return connection

        sqlite3.connect = connect_watched  # type: ignore[assignment]

    return install


def _half_content(hit: Hit) -> None:
    """Send half of a message, and no more if this is the one."""
    original = Wire.write_content

    async def write_content(self: Wire, data: bytes, *, replies: int, timeout: float) -> None:
        half = len(data) // 2
        await original(self, data[:half], replies=replies, timeout=timeout)
        await asyncio.sleep(_FLUSH_SECONDS)
        hit()
        await original(self, data[half:], replies=0, timeout=timeout)

    Wire.write_content = write_content  # type: ignore[method-assign]


def _says_queued(_: Any, *replies: Any) -> bool:
    return any(reply.text.startswith("250 2.0.0 queued as") for reply in replies)


def _to(suffix: str) -> Callable[..., bool]:
    return lambda source, target, *_: str(target).endswith(suffix)


#: By name: in the order of a message's life.
POINTS: dict[str, Callable[[Hit], None]] = {
    "in: before the fsync of a body file": _fsync("/bodies/", is_directory=False, after=False),
    "in: after the fsync of a body file": _fsync("/bodies/", is_directory=False, after=True),
    "in: after the fsync of the body directory": _fsync("/bodies", is_directory=True, after=True),
    "in: before the commit": _commit("store", after=False),
    "in: after the commit": _commit("store", after=True),
    "in: before the 250": _before(Session, "answer"),
    "in: after the 250": _after(_Connection, "_send", _says_queued),
    "out: before MAIL": _before_async(Peer, "send"),
    "out: after RCPT": _after(Wire, "write", lambda _, data, **__: b"RCPT TO" in data),
    "out: after the reply to RCPT": _after(Transaction, "add_rcpt"),
    "out: before the content": _before_async(Wire, "write_content"),
    "out: within the content": _half_content,
    "out: after the dot": _after_async(Wire, "write_content", _FLUSH_SECONDS),
    "out: after the reply to the dot": _after_async(Peer, "send"),
    "settle: before the commit": _commit("settle", after=False),
    "settle: after the commit": _commit("settle", after=True),
    "settle: before a body file goes": _before(BodyFiles, "remove"),
    "settle: after a body file went": _after(BodyFiles, "remove"),
    "notice: before the commit": _commit("notice", after=False),
    "notice: after the commit": _commit("notice", after=True),
    "bounce: before the order is kept": _before_async(OrderDisk, "add"),
    "bounce: after the order is kept": _after_async(OrderDisk, "add"),
    "bounce: before the commit": _commit("bounce", after=False),
    "bounce: after the commit": _commit("bounce", after=True),
    "rebind: before the commit": _commit("move", after=False),
    "rebind: after the commit": _commit("move", after=True),
    "log: before a write": _before(log_file.LogFile, "append"),
    "log: after a write": _after(log_file.LogFile, "append"),
    "log: a full file is renamed": _after(os, "rename", _to(".jsonl")),
    "log: a full file is compressed": _before(os, "rename", _to(".jsonl.zst")),
    "log: the compressed file is named": _after(os, "rename", _to(".jsonl.zst")),
    "report: before a batch is sent": _before_async(OutcomeStream, "_send_next"),
    "report: after the answer": _before_async(Outbox, "settle"),
    "report: before the commit": _commit("forget", after=False),
    "report: after the commit": _commit("forget", after=True),
    "start: files are swept": _after(SqliteSpool, "_sweep"),
    "start: lost lines are written": _after_async(DeliveryLog, "_write_lost"),
    "start: mail is read": _after_async(SqliteSpool, "entries"),
    "stop: begins": _before_async(Dispatcher, "stop"),
    "stop: deliveries have ended": _after_async(Dispatcher, "stop"),
    "stop: the log is closed": _after_async(DeliveryLog, "close"),
    "stop: before the spool is closed": _before_async(SqliteSpool, "close"),
    "stop: the spool is closed": _after_async(SqliteSpool, "close"),
}


def install(name: str, nth: int) -> None:
    """Crash when the point is reached for the *nth* time."""
    left = nth

    def hit() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            crash()

    POINTS[name](hit)
