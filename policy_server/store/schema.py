"""
The schema: which migration a database is at, and how it gets to the newest.

The migrations stand beside the packages in a checkout and inside `policy_server` in an
installed wheel; the configuration is made here, so that no alembic.ini is needed.
"""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from policy_server.errors import WrongSchema
from policy_server.store.database import Database
from policy_server.store.locks import Lock, take_lock

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "migrations", _PACKAGE.parent / "migrations")


def migrations_directory() -> Path:
    """Find the migrations of this installation."""
    for place in _PLACES:
        if (place / "env.py").is_file():
            return place
    raise WrongSchema(f"the migrations are missing: neither of {', '.join(map(str, _PLACES))}")


def newest_schema() -> str:
    """Name the migration that this version of the program needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def read_schema(connection: Connection) -> str:
    """Name the migration the database is at; empty for a new database."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def check_schema(connection: Connection) -> None:
    """Raise `WrongSchema` unless the database is at the newest migration."""
    present, needed = read_schema(connection), newest_schema()
    if present != needed:
        raise WrongSchema(
            f'the database is at schema "{present or "none"}", this version needs "{needed}"; '
            + (
                "run penstock-server migrate"
                if not present or _is_known(present)
                else "it is of a newer version: update the server"
            )
        )


def _is_known(schema: str) -> bool:
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return any(script.revision == schema for script in scripts)


def upgrade(database: Database, target: str = "head") -> str:
    """Migrate forward to *target* in one transaction; return the schema reached."""
    before = database.read_now(read_schema)
    after = database.write_now(lambda connection: _move(connection, target, forward=True))
    if before != after:
        logger.info("database migrated", extra={"before": before or "new", "after": after})
    return after


def downgrade(database: Database, target: str) -> str:
    """Migrate back to *target* ("base" empties the database); return the schema reached."""
    return database.write_now(lambda connection: _move(connection, target, forward=False))


def _move(connection: Connection, target: str, *, forward: bool) -> str:
    if connection.dialect.name == "postgresql":
        # Rather fail and be run again than hold up a server that is in use.
        connection.exec_driver_sql("SET LOCAL lock_timeout = '4s'")
        connection.exec_driver_sql("SET LOCAL statement_timeout = '5s'")
    take_lock(connection, Lock.SETUP)
    config = _config()
    config.attributes["connection"] = connection
    try:
        (command.upgrade if forward else command.downgrade)(config, target)
    except CommandError as error:
        raise WrongSchema(
            f"the database can't be migrated: {error}; it may be of a newer version: "
            "update the server"
        ) from error
    return read_schema(connection)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    return config
