"""Settings of the whole test suite, and the databases that tests run on."""

import os

import pytest
from hypothesis import settings

from tests.databases import KINDS, start_postgresql

# A machine under load is slow now and then; that is no mistake of the code.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=200)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def postgresql():
    """A real PostgreSQL, one for all tests; each makes databases of its own in it."""
    server = start_postgresql()
    yield server
    server.stop()


@pytest.fixture(params=KINDS)
def database_url(request, tmp_path):
    """The url of an empty database, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/penstock.db"
        return
    postgresql = request.getfixturevalue("postgresql")
    url = postgresql.new_database()
    yield url
    postgresql.drop_database(url)
