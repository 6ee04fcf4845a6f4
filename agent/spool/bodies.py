"""Bodies too large for the database: one file each, named by the message's id."""

import os
from collections.abc import Iterable
from pathlib import Path

from agent.durable_files import make_directory, sync_directory


class BodyFiles:
    """The directory of large bodies. Every method blocks; errors are `OSError`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_directory(directory)

    def write(self, message_id: str, body: bytes) -> None:
        """Store *body*; it is on disk, under its name, when this returns."""
        path = self._directory / message_id
        try:
            with path.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self._directory)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def read(self, message_id: str) -> bytes:
        """Give a body back."""
        return (self._directory / message_id).read_bytes()

    def remove(self, message_ids: Iterable[str]) -> None:
        """Remove bodies whose messages are finished; one that stays is swept at the next start."""
        for message_id in message_ids:
            (self._directory / message_id).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Ids of the messages that have a file here."""
        return {path.name for path in self._directory.iterdir()}

    def sweep(self, in_use: set[str]) -> int:
        """Remove what no message refers to: left by a crash before or after a commit."""
        orphans = self.names() - in_use
        self.remove(orphans)
        return len(orphans)
