"""
Run migrations on the connection that the caller hands over, inside the caller's transaction.

The server and `penstock-server migrate` come through `policy_server.store.schema`; the alembic
command line (to write a new migration) gets the default database.
"""

from alembic import context
from sqlalchemy import Connection

from policy_server.settings import Settings
from policy_server.store.database import Database
from policy_server.store.tables import metadata


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # SQLite can; a migration that fails leaves nothing behind.
        transactional_ddl=True,
        # SQLite alters tables by copying them.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()


def _main() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        _run(connection)
        return
    database = Database(Settings().database.url)
    try:
        database.write_now(_run)
    finally:
        database.close()


_main()
