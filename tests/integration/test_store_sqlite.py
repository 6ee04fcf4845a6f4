"""What only SQLite lets people write, as its columns take any type."""

import sqlite3
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from policy_server.errors import InvalidSettings, StoreRefused
from policy_server.in_force.rule_keeper import RuleKeeper
from policy_server.rules.layers import BlockDraft, LayerDraft, Scope
from policy_server.store.database import Database
from policy_server.store.layers import import_layers, list_layers, read_layer, reorder_layers
from policy_server.store.revisions import read_revision
from policy_server.store.rollback import rollback_to
from policy_server.store.rules import read_rules
from policy_server.store.schema import upgrade
from policy_server.store.sites import load_sites

_NOW = datetime(2026, 8, 1, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/penstock.db")
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def old_database(tmp_path):
    """A database as it was when odd rows were let in, which stay."""
    database = Database(f"sqlite:///{tmp_path}/penstock.db")
    upgrade(database, "0007")
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
def test_an_unreadable_switch_is_an_issue_of_its_block(old_database, column):
    _import(old_database, _layer("a", connection_limit=1))
    _sql(old_database, f"UPDATE rule_blocks SET {column} = 'maybe'")
    upgrade(old_database)

    stored = old_database.read_now(read_rules)

    assert stored.unreadable == {1}
    assert '"maybe"' in stored.issues[0].message


def test_an_unreadable_date_switches_the_layer_off(old_database):
    _import(old_database, _layer("a"))
    _sql(old_database, "UPDATE rule_layers SET valid_from = 'tomorrow'")
    upgrade(old_database)

    stored = old_database.read_now(read_rules)

    assert not stored.layers[0].enabled
    assert "switched off" in stored.issues[0].message


@pytest.mark.parametrize(("spelt", "read"), [("7", 7), ("'7'", 7)])
def test_a_number_is_read_with_and_without_quotes(database, spelt, read):
    _import(database, _layer("a", connection_limit=1))
    _sql(database, f"UPDATE rule_options SET value = {spelt}")

    assert database.read_now(read_rules).layers[0].blocks[0].options == {"connection_limit": read}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rule_blocks (layer_id, scope, name) VALUES (999, 'domain', 'x.example')",
        "UPDATE rule_blocks SET layer_id = 999",
        "INSERT INTO rule_options (block_id, name, value) VALUES (888, 'max_ready', '1')",
        "UPDATE rule_options SET block_id = 888",
        "INSERT INTO provider_matches (block_id, kind, value) VALUES (888, 'host_name', 'x')",
        "INSERT INTO automation_rules (block_id, regexes, actions, trigger, duration) "
        "VALUES (888, '[]', '[]', '1', '1')",
        "UPDATE rule_layers SET id = 999",
        "UPDATE rule_blocks SET id = 888",
    ],
)
def test_no_row_is_parted_from_its_layer_or_block_even_without_foreign_keys(database, statement):
    _import(database, _layer("a", connection_limit=1))

    with (
        sqlite3.connect(database.url.database) as connection,
        pytest.raises(sqlite3.IntegrityError, match=r"is the id of no row of|cannot change while"),
    ):
        connection.execute(statement)


def test_a_block_whose_layer_was_replaced_is_reported_until_it_has_one(database):
    """REPLACE makes a new row of the layer, without a word to any trigger."""
    _import(database, _layer("a", connection_limit=1))
    keeper = RuleKeeper()
    revision = database.read_now(lambda connection: keeper.catch_up(connection, -1)).revision
    with sqlite3.connect(database.url.database) as connection:
        connection.execute("REPLACE INTO rule_layers (name, position) VALUES ('a', 0)")

    revision = database.read_now(lambda connection: keeper.catch_up(connection, revision)).revision

    (issue,) = keeper.rules.issues
    assert (issue.code, issue.block_id, issue.block) == ("no_layer", 1, "default")
    assert database.read_now(read_rules).issues == (issue,)

    _sql(database, "UPDATE rule_blocks SET layer_id = (SELECT id FROM rule_layers)")
    database.read_now(lambda connection: keeper.catch_up(connection, revision))

    assert keeper.rules.issues == ()
    assert keeper.compile(revision=0, now=_NOW).after.default.base[0].id == 1


@pytest.mark.parametrize("number", [2, 2**62])
def test_no_new_row_adopts_the_parts_of_one_that_was_never_there(old_database, number):
    _import(old_database, _layer("a"))
    with sqlite3.connect(old_database.url.database) as connection:
        connection.execute(
            f"INSERT INTO rule_options (block_id, name, value) VALUES ({number}, 'max_ready', '1')"
        )
    upgrade(old_database)

    _import(old_database, _layer("b"))

    layer, _ = old_database.read_now(lambda c: read_layer(c, "b"))
    assert [dict(block.options) for block in layer.blocks] == [{}]


_ODD_POSITIONS = ["'abc'", "99999999999999", "-99999999999999", "1.5", "9e999"]


@pytest.mark.parametrize("position", _ODD_POSITIONS)
def test_a_layer_at_an_odd_position_is_listed_reported_and_put_in_order(old_database, position):
    _import(old_database, _layer("a"), _layer("b"))
    _sql(old_database, f"UPDATE rule_layers SET position = {position} WHERE name = 'b'")
    upgrade(old_database)

    _, layers = old_database.read_now(list_layers)
    names = [layer.name for layer in layers]
    warnings = old_database.read_now(read_rules).issues

    assert sorted(names) == ["a", "b"]
    assert all(-(2**31) <= layer.position < 2**31 for layer in layers)
    assert [(issue.severity, issue.block) for issue in warnings] == [("warning", "b")]

    _import(old_database, _layer("c"))
    assert [layer.name for layer in old_database.read_now(list_layers)[1]] == [*names, "c"]
    old_database.write_now(lambda c: reorder_layers(c, ["c", "b", "a"], author="me"))
    _, layers = old_database.read_now(list_layers)
    assert [(layer.name, layer.position) for layer in layers] == [("c", 0), ("b", 1), ("a", 2)]
    assert old_database.read_now(read_rules).issues == ()


def test_a_base_layer_goes_before_one_that_has_no_room_before_it(old_database):
    _import(old_database, _layer("a"), _layer("b"))
    _sql(old_database, f"UPDATE rule_layers SET position = {-(2**31)} WHERE name = 'a'")

    old_database.write_now(lambda c: import_layers(c, [_layer("c")], author="me", base="c"))

    names = [layer.name for layer in old_database.read_now(list_layers)[1]]
    assert names == ["c", "a", "b"]


# No history can tell of infinity, in JSON.
@pytest.mark.parametrize("position", _ODD_POSITIONS[:-1])
def test_parts_at_odd_positions_are_exported_and_put_right_by_an_import(old_database, position):
    blocks = tuple(
        BlockDraft(scope=Scope.DOMAIN, name=name, options={"max_ready": 1, "connection_limit": 2})
        for name in ("a.example", "b.example", "c.example")
    )
    layer = LayerDraft(name="a", blocks=blocks)
    _import(old_database, layer)
    revision = old_database.read_now(read_revision)
    _sql(
        old_database,
        f"UPDATE rule_blocks SET position = {position} WHERE name = 'b.example'",
        f"UPDATE rule_options SET position = {position} WHERE name = 'max_ready'",
    )
    upgrade(old_database)
    odd, _ = old_database.read_now(lambda c: read_layer(c, "a"))
    assert sorted(block.name for block in odd.blocks) == ["a.example", "b.example", "c.example"]

    _import(old_database, layer)

    read, issues = old_database.read_now(lambda c: read_layer(c, "a"))
    assert issues == ()
    assert [block.name for block in read.blocks] == [block.name for block in blocks]
    assert all(list(block.options) == ["max_ready", "connection_limit"] for block in read.blocks)
    # What was odd comes back by a rollback as near to it as a position may be.
    old_database.write_now(lambda c: rollback_to(c, revision + 4, author="me"))
    back, _ = old_database.read_now(lambda c: read_layer(c, "a"))
    assert [block.name for block in back.blocks] == [block.name for block in odd.blocks]


def test_an_odd_row_may_be_changed_elsewhere(old_database):
    _import(old_database, _layer("a"))
    _sql(
        old_database,
        "UPDATE rule_layers SET position = 'abc', valid_from = 'soon', enabled = 'no'",
        "UPDATE rule_blocks SET enabled = 'maybe'",
    )
    upgrade(old_database)

    _sql(
        old_database,
        "UPDATE rule_layers SET description = 'x', valid_from = 'soon'",
        "UPDATE rule_blocks SET comment = 'x'",
    )

    assert old_database.read_now(list_layers)[1][0].description == "x"


def test_a_layer_whose_time_python_does_not_know_is_switched_off(old_database):
    _import(old_database, _layer("a", connection_limit=1))
    _sql(old_database, "UPDATE rule_layers SET valid_until = '99999-01-01'")
    upgrade(old_database)

    stored = old_database.read_now(read_rules)

    assert not stored.layers[0].enabled
    assert "switched off" in stored.issues[0].message


def test_a_site_with_an_odd_time_is_asked_for_anew(database):
    _sql(database, "INSERT INTO sites VALUES ('b.example', 'x', '[]', 'soon')")

    assert database.read_now(load_sites) == {}
