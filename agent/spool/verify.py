"""
Verify: whether a spool is whole, told from outside; it changes nothing.

Every row and every body is read, so it takes as long as the disk takes. An agent may run meanwhile:
what is on its way in or out then is not taken for damage.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import SpoolUnavailable
from agent.spool import rows
from agent.spool.look import is_locked
from agent.spool.schema import VERSION, version_of

#: Messages of one kind of damage that are named; the others are counted.
MOST_NAMED = 10
_MOST_LINES = 10

_NO_MESSAGE = """
SELECT e.id, e.message FROM entries e LEFT JOIN messages m ON m.number = e.message
WHERE m.number IS NULL ORDER BY e.id
"""
_NO_ENTRIES = """
SELECT id FROM messages WHERE NOT EXISTS (SELECT 1 FROM entries WHERE message = number)
ORDER BY number
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something that is not as it should be, and what to do."""

    #: False: the agent copes with it by itself.
    is_error: bool
    text: str
    remedy: str


@dataclass(slots=True)
class _Found:
    """What one kind of damage befell: the first few, and the number of all."""

    names: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < MOST_NAMED:
            self.names.append(name)

    def __str__(self) -> str:
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more else "")


def verify_spool(data_dir: Path) -> list[Damage]:
    """
    Read the whole spool under *data_dir*; return all that is wrong with it, worst first.
    Errors: `SpoolRefused` for another version, `SpoolUnavailable`.
    """
    place = data_dir / "spool"
    path = place / "spool.db"
    if not path.exists():
        return []
    try:
        is_in_use = is_locked(place)
        # Before the database is read: what comes in later has a row by then, or none yet.
        names = {one.name for one in (place / "bodies").glob("*")}
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("BEGIN")
            return _verify(connection, path, names, is_in_use=is_in_use)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        return [_broken_database(path, str(error))]
    except OSError as error:
        raise SpoolUnavailable(f"{place}: the spool can't be read: {error}") from error


def _verify(
    connection: sqlite3.Connection, path: Path, names: set[str], *, is_in_use: bool
) -> list[Damage]:
    if version_of(connection, path) != VERSION:
        remedy = "start the agent once, which brings it up to date, and check again"
        return [Damage(is_error=False, text="of an older version; not verified", remedy=remedy)]
    lines = connection.execute(f"PRAGMA integrity_check({_MOST_LINES})").fetchall()
    if lines != [("ok",)]:
        return [_broken_database(path, "; ".join(line for (line,) in lines))]
    found = [
        *_verify_rows(connection),
        *_verify_bodies(connection, path.parent / "bodies", is_in_use=is_in_use),
    ]
    orphans = _Found()
    for name in sorted(names - rows.messages_in_files(connection)):
        orphans.add(name)
    if orphans.count and not is_in_use:
        text = f"{orphans.count} body files that no message refers to: {orphans}"
        remedy = "nothing: they are left from a crash, and the next start removes them"
        found.append(Damage(is_error=False, text=text, remedy=remedy))
    return found


def _verify_rows(connection: sqlite3.Connection) -> Iterator[Damage]:
    path = "spool.db"
    for statement, text, remedy in (
        (
            _NO_MESSAGE,
            "entries without a message",
            f"with the agent stopped: sqlite3 {path} 'DELETE FROM entries WHERE id IN ({{ids}})'",
        ),
        (
            _NO_ENTRIES,
            "messages that nothing is to be done with",
            f"with the agent stopped: sqlite3 {path} 'DELETE FROM messages WHERE NOT EXISTS "
            "(SELECT 1 FROM entries WHERE message = number)'",
        ),
    ):
        found = _Found()
        for row in connection.execute(statement):
            found.add(str(row[0]))
        if found.count:
            yield Damage(
                is_error=True,
                text=f"{found.count} {text}: {found}",
                remedy=remedy.format(ids=", ".join(found.names)),
            )
    unread = _Found()
    for entry_id, recipients in connection.execute("SELECT id, recipients FROM entries"):
        if not _are_recipients(recipients):
            unread.add(str(entry_id))
    if unread.count:
        text = f"{unread.count} entries whose recipients can't be read: {unread}"
        yield Damage(is_error=True, text=text, remedy=_RESTORE)


_RESTORE = (
    "restore the spool directory from a backup, or give the mail up: with the agent stopped, "
    "delete these rows of `entries` by their id"
)


def _are_recipients(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _verify_bodies(
    connection: sqlite3.Connection, bodies: Path, *, is_in_use: bool
) -> Iterator[Damage]:
    missing, damaged = _Found(), _Found()
    statement = "SELECT id, size, checksum, body FROM messages ORDER BY number"
    for message_id, size, checksum, body in connection.execute(statement):
        if body is None:
            try:
                body = (bodies / message_id).read_bytes()
            except FileNotFoundError:
                if not is_in_use or not _has_ended(bodies.parent, message_id):
                    missing.add(message_id)
                continue
        if mistake := rows.body_mistake(body, size, checksum):
            damaged.add(f"{message_id} ({mistake})")
    if missing.count:
        yield Damage(
            is_error=True,
            text=f"{missing.count} messages whose body file is gone: {missing}",
            remedy=f"put the files back into {bodies} from a backup before the next start: it "
            "removes messages without a body",
        )
    if damaged.count:
        yield Damage(
            is_error=True,
            text=f"{damaged.count} damaged bodies: {damaged}",
            remedy="the agent does not send them; restore them from a backup, or give them up: "
            "with the agent stopped, delete their rows of `entries` and `messages`",
        )


def _has_ended(place: Path, message_id: str) -> bool:
    """Whether a running agent has finished a message since the reading began."""
    connection = sqlite3.connect(f"{(place / 'spool.db').resolve().as_uri()}?mode=ro", uri=True)
    try:
        found = connection.execute("SELECT 1 FROM messages WHERE id = ?", (message_id,)).fetchone()
    finally:
        connection.close()
    return found is None


def _broken_database(path: Path, reason: str) -> Damage:
    return Damage(
        is_error=True,
        text=f"{path}: the database is damaged: {reason}",
        remedy=f"stop the agent, copy {path.parent} elsewhere, and recover what can be with "
        f"`sqlite3 {path} .recover | sqlite3 {path}.new`; then put the new file in its place, "
        "without the old -wal and -shm, and check again",
    )
