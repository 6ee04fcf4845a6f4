"""
penstock-server migrate: bring the database to this version's schema.
"""

import click

from policy_server.cli.session import ENVIRONMENT_HELP, Session, config_option
from policy_server.store.database import Database
from policy_server.store.schema import upgrade


@click.command(epilog=ENVIRONMENT_HELP)
@config_option
@click.pass_obj
def migrate(session: Session) -> None:
    """Bring the database to the schema of this version."""
    settings = session.settings()
    database = Database(settings.database.url)
    try:
        click.echo(f"schema {upgrade(database)}")
    finally:
        database.close()
