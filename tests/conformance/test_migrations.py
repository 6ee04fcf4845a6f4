"""Migrations: they make what the tables say, forth and back, on both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import inspect, text

from policy_server.errors import StoreRefused, WrongSchema
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
def database(empty_database):
    return empty_database


def _describe(connection):
    """What the catalogue says of each table."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": sorted(map(_plain, inspector.get_columns(table)), key=str),
            "key": _plain(inspector.get_pk_constraint(table)),
            "foreign keys": sorted(map(_plain, inspector.get_foreign_keys(table)), key=str),
            "unique": sorted(map(_plain, inspector.get_unique_constraints(table)), key=str),
            "checks": sorted(map(_plain, inspector.get_check_constraints(table)), key=str),
            "indexes": sorted(map(_plain, inspector.get_indexes(table)), key=str),
            "comment": _comment(inspector, table),
            "options": inspector.get_table_options(table) if _is_postgresql(connection) else None,
        }
        for table in inspector.get_table_names()
        if table not in ("alembic_version", "sqlite_sequence")
    }


def _plain(facts):
    if isinstance(facts, dict):
        return {name: _plain(value) for name, value in sorted(facts.items())}
    return str(facts)


def _comment(inspector, table):
    return inspector.get_table_comment(table) if inspector.dialect.supports_comments else None


def _is_postgresql(connection):
    return connection.dialect.name == "postgresql"


def _objects(connection):
    """Everything the database holds, by kind and name."""
    if _is_postgresql(connection):
        statement = """
            SELECT 'table', relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'function', proname FROM pg_proc
             WHERE pronamespace = 'public'::regnamespace"""
    else:
        statement = "SELECT type, name FROM sqlite_master"
    names = {tuple(row) for row in connection.execute(text(statement))}
    return {
        (kind, name) for kind, name in names if not name.startswith(("alembic_version", "sqlite_"))
    }


def test_migrations_make_exactly_the_tables(database):
    upgrade(database)
    migrated = database.read_now(_describe)
    downgrade(database, "base")

    database.write_now(metadata.create_all)

    assert migrated == database.read_now(_describe)
    assert migrated["rule_history"]["checks"], "the comparison sees constraints"


def test_a_downgrade_leaves_nothing_and_an_upgrade_follows(database):
    upgrade(database)
    made = database.read_now(_objects)
    downgrade(database, "base")

    assert database.read_now(_objects) == set()
    assert upgrade(database) == newest_schema()
    assert database.read_now(_objects) == made


def test_each_migration_can_be_taken_back_and_made_again(database):
    upgrade(database, "0001")
    before = database.read_now(_objects)
    upgrade(database)
    downgrade(database, "0001")

    assert database.read_now(_objects) == before
    database.write_now(
        lambda c: c.execute(text("INSERT INTO rule_layers (name, position) VALUES ('a', 0)"))
    )
    upgrade(database)


def test_an_upgrade_of_the_newest_changes_nothing(database):
    assert upgrade(database) == upgrade(database) == newest_schema()
    database.read_now(check_schema)


def test_two_that_migrate_at_once_both_end_well(database_url):
    databases = [Database(database_url), Database(database_url)]
    try:
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(upgrade, databases)) == [newest_schema()] * 2
    finally:
        for database in databases:
            database.close()


def test_another_schema_is_refused_with_the_remedy(database):
    assert database.read_now(read_schema) == ""
    with pytest.raises(WrongSchema, match="penstock-server migrate"):
        database.read_now(check_schema)


def test_a_newer_database_is_not_touched(database):
    upgrade(database)
    database.write_now(
        lambda connection: connection.execute(text("UPDATE alembic_version SET version_num='9999'"))
    )

    with pytest.raises(WrongSchema, match="newer version: update the server"):
        upgrade(database)
    with pytest.raises(WrongSchema, match=r'schema "9999".* newer version: update the server'):
        database.read_now(check_schema)


@pytest.mark.parametrize("table", ["rule_layers", "automation_actions", "sites"])
def test_postgresql_refuses_what_no_trigger_would_see(database, table):
    if database.is_sqlite:
        pytest.skip("SQLite has no TRUNCATE")
    upgrade(database)

    with pytest.raises(StoreRefused, match=f"DELETE FROM {table}"):
        database.write_now(lambda c: c.execute(text(f"TRUNCATE {table} CASCADE")))
