"""Every test in this folder runs on each kind of database."""

import pytest

from policy_server.store.database import Database
from policy_server.store.schema import upgrade


@pytest.fixture
def empty_database(database_url):
    """A database without tables."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def database(empty_database):
    """A database at the newest schema."""
    upgrade(empty_database)
    return empty_database
