"""Backups of a SQLite database, as an operator makes them and puts them back."""

import contextlib
import shutil
import sqlite3
from pathlib import Path


def copy_database(path: Path, copy: Path) -> None:
    """Copy a database that may be in use."""
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def put_back(copy: Path, path: Path) -> None:
    """Put a copy in the place of a database that nobody has open."""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, path)
