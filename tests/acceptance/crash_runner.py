"""
Runs agents one after the other, each in a fork of this process, which has everything imported.

Reads a line of JSON for each: {"config", "ports", "output", "point", "nth", "faults"}; tells its
pid, and then its exit status.
"""

import json
import os
import sqlite3
import sys
from functools import wraps
from pathlib import Path
from typing import Any

from agent.cli.main import commands
from agent.outcomes.delivery_log import DeliveryLog
from agent.spool import schema, sqlite
from agent.spool.sqlite import SqliteSpool
from tests.acceptance.crash_points import install
from tests.acceptance.disk_faults import install_faults

#: Small, so that the tests' mail meets every kind of file, and checkpoints of the spool.
_LARGE_BODY = 16 * 1024
_ROTATE_BYTES = 64 * 1024
_CHECKPOINT_PAGES = 200


def _be_agent(order: dict[str, Any]) -> None:
    """Run the agent in this process, to its end."""
    for stream, path in ((1, order["ports"]), (2, order["output"])):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    _set_default(SqliteSpool.open, large_body=_LARGE_BODY)
    _checkpoint_often()
    _set_default(DeliveryLog.__init__, rotate_bytes=_ROTATE_BYTES)
    if order["faults"]:
        install_faults(Path(order["faults"]))
    if order["point"]:
        install(order["point"], order["nth"])
    commands(["--config", order["config"], "run", "--json"])


def _checkpoint_often() -> None:
    original = schema.open_connection

    @wraps(original)
    def open_connection(path: Path) -> sqlite3.Connection:
        connection = original(path)
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        return connection

    sqlite.open_connection = open_connection  # type: ignore[attr-defined]  # it is imported there


def _set_default(function: Any, **values: int) -> None:
    defaults = getattr(function, "__func__", function).__kwdefaults__
    assert values.keys() <= defaults.keys()
    defaults.update(values)


def main() -> None:
    """Serve orders until stdin ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _be_agent(json.loads(line))
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(int(end.code or 0))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(70)
            os._exit(0)
        print(json.dumps({"pid": pid}), flush=True)  # noqa: T201
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
