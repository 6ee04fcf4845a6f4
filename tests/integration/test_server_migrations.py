"""Migrations: they make what the tables say, forth and back."""

import re

import pytest
from sqlalchemy import create_engine, inspect, text

from policy_server.errors import WrongSchema
from policy_server.store.database import Database
from policy_server.store.schema import (
    check_schema,
    downgrade,
    newest_schema,
    read_schema,
    upgrade,
)
from policy_server.store.tables import metadata


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/deep/in/penstock.db")
    yield database
    database.close()


def _definitions(connection, kind):
    rows = connection.execute(
        text("SELECT name, sql FROM sqlite_master WHERE type = :kind AND sql IS NOT NULL"),
        {"kind": kind},
    )
    return {
        row.name: sorted(re.sub(r"[\s,]+", " ", part).strip() for part in row.sql.split("\n"))
        for row in rows
        if row.name not in ("alembic_version", "sqlite_sequence")
    }


def _objects(connection):
    return {kind: _definitions(connection, kind) for kind in ("table", "index")}


def test_migrations_make_exactly_the_tables(database, tmp_path):
    upgrade(database)
    engine = create_engine(f"sqlite:///{tmp_path}/made.db")
    metadata.create_all(engine)

    with engine.connect() as connection:
        wanted = _objects(connection)
    engine.dispose()

    assert database.read_now(_objects) == wanted


def test_a_downgrade_leaves_nothing_and_an_upgrade_follows(database):
    upgrade(database)
    downgrade(database, "base")

    left = database.read_now(lambda connection: inspect(connection).get_table_names())
    assert left == ["alembic_version"]
    assert upgrade(database) == newest_schema()


def test_an_upgrade_of_the_newest_changes_nothing(database):
    assert upgrade(database) == upgrade(database) == newest_schema()
    database.read_now(check_schema)


def test_another_schema_is_refused_with_the_remedy(database):
    assert database.read_now(read_schema) == ""
    with pytest.raises(WrongSchema, match="penstock-server migrate"):
        database.read_now(check_schema)


def test_a_newer_database_is_not_touched(database):
    upgrade(database)
    database.write_now(
        lambda connection: connection.execute(text("UPDATE alembic_version SET version_num='9999'"))
    )

    with pytest.raises(WrongSchema, match="newer version"):
        upgrade(database)
