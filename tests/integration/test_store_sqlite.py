"""What only SQLite lets people write, as its columns take any type."""

import sqlite3

import pytest
from sqlalchemy import text

from policy_server.errors import InvalidSettings, StoreRefused
from policy_server.rules.layers import BlockDraft, LayerDraft, Scope
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.rules import read_rules
from policy_server.store.schema import upgrade
from policy_server.store.sites import load_sites


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/penstock.db")
    upgrade(database)
    yield database
    database.close()


def _sql(database, *statements):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement))

    database.write_now(run)


def _import(database, *drafts):
    return database.write_now(lambda connection: import_layers(connection, drafts, author="me"))


def _layer(name, **options):
    blocks = (BlockDraft(scope=Scope.DEFAULT, options=options),)
    return LayerDraft(name=name, blocks=blocks)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host",
        "postgresql+psycopg://host/db",
        "mysql://host/db",
        "nonsense",
        "sqlite://",
    ],
)
def test_other_databases_are_refused_in_words(url):
    with pytest.raises(InvalidSettings, match=r"sqlite:///PATH|postgresql://"):
        Database(url)


def test_children_go_with_their_layer_even_without_foreign_keys(database):
    """A person's sqlite3 prompt does not enforce them, and ids are used again."""
    _import(database, _layer("a", connection_limit=1))
    with sqlite3.connect(database.url.database) as connection:
        connection.execute("DELETE FROM rule_layers")
    connection.close()

    for table in ("rule_blocks", "rule_options"):
        count = database.read_now(lambda c, t=table: c.execute(text(f"SELECT count(*) FROM {t}")))
        assert count.scalar() == 0


@pytest.mark.parametrize("value", ["100/s", "{", "'single'"])
def test_text_that_is_no_json_is_refused_at_once_with_the_remedy(database, value):
    _import(database, _layer("a", connection_limit=1))
    quoted = value.replace("'", "''")

    with pytest.raises(StoreRefused, match="double quotes"):
        _sql(database, f"UPDATE rule_options SET value = '{quoted}'")


@pytest.mark.parametrize("column", ["mx_rollup", "replace_base", "enabled"])
def test_an_unreadable_switch_is_an_issue_of_its_block(database, column):
    _import(database, _layer("a", connection_limit=1))
    _sql(database, f"UPDATE rule_blocks SET {column} = 'maybe'")

    stored = database.read_now(read_rules)

    assert stored.unreadable == {1}
    assert '"maybe"' in stored.issues[0].message


def test_an_unreadable_date_switches_the_layer_off(database):
    _import(database, _layer("a"))
    _sql(database, "UPDATE rule_layers SET valid_from = 'tomorrow'")

    stored = database.read_now(read_rules)

    assert not stored.layers[0].enabled
    assert "switched off" in stored.issues[0].message


@pytest.mark.parametrize(("spelt", "read"), [("7", 7), ("'7'", 7)])
def test_a_number_is_read_with_and_without_quotes(database, spelt, read):
    _import(database, _layer("a", connection_limit=1))
    _sql(database, f"UPDATE rule_options SET value = {spelt}")

    assert database.read_now(read_rules).layers[0].blocks[0].options == {"connection_limit": read}


def test_a_site_with_an_odd_time_is_asked_for_anew(database):
    _sql(database, "INSERT INTO sites VALUES ('b.example', 'x', '[]', 'soon')")

    assert database.read_now(load_sites) == {}
