"""
Inheritance: the orders that a process of an agent of several begins with.

Every order is given to all processes. One that is new, or was away when orders were given or ended,
begins with those of the first process, so that what holds does not depend on how many there are.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from agent.errors import OrdersUnavailable


def inherit_orders(first: Path, own: Path) -> None:
    """
    Put the orders in the file *first* in the place of those in *own*, whose process does not run.
    Nothing changes where *first* does not exist. Errors: `OrdersUnavailable`.
    """
    if not first.exists():
        return
    fresh = own.with_suffix(".db.new")
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(f"{first.resolve().as_uri()}?mode=ro", uri=True,
                                               timeout=10)) as source,
            contextlib.closing(sqlite3.connect(fresh)) as copy,
        ):  # fmt: skip
            source.backup(copy)
        for suffix in ("-wal", "-shm"):
            own.with_name(own.name + suffix).unlink(missing_ok=True)
        os.replace(fresh, own)
    except (sqlite3.Error, OSError) as error:
        raise OrdersUnavailable(f"{own}: orders of {first} can't be copied: {error}") from error
