"""What it takes for names of files to outlive a loss of power (fsync(2))."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable. Errors: `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """
    Have *directory*, and what it is in; its name is durable, also where it was there already, for
    who made it may have come no further. Errors: `OSError`.
    """
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for parent in dict.fromkeys([directory.parent, *(one.parent for one in missing)]):
        try:
            sync_directory(parent)
        except PermissionError:
            # It may be searched but not read; then everything is written out.
            os.sync()
