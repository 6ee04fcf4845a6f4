"""
How far a book has come, in the file beside a SQLite database that is locked for it: a copy of the
database that is put back is older than that.

It is written after the database, so that of the two the database is never older by itself; that
the file may lack the last writes after a loss of power only means that less is noticed.
"""

import contextlib
import os
from typing import IO

#: Epoch and signs of life, as both grow.
Progress = tuple[int, int]

_DIGITS = 20
_SIZE = 2 * _DIGITS + 1


def read_progress(file: IO[bytes]) -> Progress | None:
    """Read how far the book had come; None: nothing was noted."""
    parts = os.pread(file.fileno(), _SIZE, 0).split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def note_progress(file: IO[bytes], progress: Progress) -> None:
    """Note how far the book has come. It goes on where that can't be noted."""
    epoch, renewals = progress
    with contextlib.suppress(OSError):
        os.pwrite(file.fileno(), b"%0*d %0*d" % (_DIGITS, epoch, _DIGITS, renewals), 0)
