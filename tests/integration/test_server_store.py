"""The database: revisions by triggers, import, and rows that people wrote."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from policy_server.errors import InvalidSettings, StoreRefused
from policy_server.rule_loader import RuleLoader, read_everything
from policy_server.rules.layers import BlockDraft, Issue, LayerDraft, Scope
from policy_server.rules.site import MxHost, Site
from policy_server.rules.values import Limit
from policy_server.store.database import Database
from policy_server.store.revisions import changed_tables, one_revision, read_revision
from policy_server.store.rules import import_layers, list_layers, read_rules, replace_rule_errors
from policy_server.store.schema import upgrade
from policy_server.store.sites import StoredSite, forget_sites, load_sites, save_sites

_NOW = datetime(2026, 8, 1, tzinfo=UTC)


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


def _revision(database):
    return database.read_now(read_revision)


def _layer(name, **options):
    blocks = (BlockDraft(scope=Scope.DEFAULT, options=options),)
    return LayerDraft(name=name, blocks=blocks)


def _import(database, *drafts):
    return database.write_now(lambda connection: import_layers(connection, drafts, author="me"))


@pytest.mark.parametrize(
    "url", ["postgresql://host/db", "mysql://host/db", "nonsense", "sqlite://"]
)
def test_other_databases_are_refused_in_words(url):
    with pytest.raises(InvalidSettings, match="sqlite:///PATH"):
        Database(url)


def test_a_constraint_refuses_in_our_own_words(database):
    with pytest.raises(StoreRefused, match="name_given"):
        _sql(database, "INSERT INTO rule_layers (name, position) VALUES ('', 0)")


def test_a_change_by_hand_is_a_revision_with_a_log_entry(database):
    _sql(database, "INSERT INTO rule_layers (name, position) VALUES ('a', 0)")
    first = _revision(database)
    _sql(database, "UPDATE rule_layers SET enabled = 0")

    assert _revision(database) == first + 1
    assert database.read_now(lambda c: changed_tables(c, first)) == {"rule_layers"}


def test_an_import_is_one_revision_with_its_author(database):
    revision, imported = _import(database, _layer("a", connection_limit=1), _layer("b"))

    assert _revision(database) == revision == 1
    assert [(item.layer, item.blocks) for item in imported] == [("a", 1), ("b", 1)]
    row = database.read_now(
        lambda c: c.execute(text("SELECT author, summary, is_open FROM policy_revisions")).one()
    )
    assert tuple(row) == ("me", "imported a, b", 0)


def test_a_failed_import_leaves_nothing(database):
    with pytest.raises(StoreRefused):
        _import(database, _layer("a"), _layer(""))

    assert database.read_now(list_layers) == (0, ())


def test_a_layer_imported_again_keeps_its_place_and_switch(database):
    _import(database, _layer("a", connection_limit=1), _layer("b"))
    _sql(database, "UPDATE rule_layers SET enabled = 0 WHERE name = 'a'")
    _import(database, _layer("c"), _layer("a", connection_limit=2))

    _, layers = database.read_now(list_layers)
    assert [(row.name, row.enabled, row.blocks) for row in layers] == [
        ("a", False, 1),
        ("b", True, 1),
        ("c", True, 1),
    ]
    first = database.read_now(read_rules).layers[0]
    assert first.blocks[0].options == {"connection_limit": 2}


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


@pytest.mark.parametrize(
    ("spelt", "read"),
    [("7", 7), ("'7'", 7), ("'\"7\"'", "7"), ("'null'", None), ("'[\"::1\"]'", ["::1"])],
)
def test_every_way_to_write_json_by_hand_is_read(database, spelt, read):
    _import(database, _layer("a", connection_limit=1))
    _sql(database, f"UPDATE rule_options SET value = {spelt}")

    assert database.read_now(read_rules).layers[0].blocks[0].options == {"connection_limit": read}


def test_a_bad_row_keeps_the_last_good_version_of_its_block_alone(database):
    loader = RuleLoader()
    _import(database, _layer("a", connection_limit=1), _layer("b", connection_limit=2))
    loader.load(*database.read_now(read_everything))
    _sql(
        database,
        "UPDATE rule_options SET value = '\"none\"' WHERE block_id = 1",
        "UPDATE rule_options SET value = 9 WHERE block_id = 2",
    )

    loaded = loader.load(*database.read_now(read_everything))

    (issue,) = loaded.issues
    assert (issue.block_id, issue.option) == (1, "connection_limit")
    limits = [layer.blocks[0].options["connection_limit"] for layer in loaded.layers]
    assert limits == [Limit(1), Limit(9)]


def test_a_bad_row_without_a_good_version_leaves_its_block_out(database):
    _import(database, _layer("a", connection_limit="none"))

    loaded = RuleLoader().load(*database.read_now(read_everything))

    assert loaded.layers[0].blocks == ()


@pytest.mark.parametrize("column", ["mx_rollup", "replace_base", "enabled"])
def test_an_unreadable_switch_is_an_issue_of_its_block(database, column):
    _import(database, _layer("a", connection_limit=1))
    _sql(database, f"UPDATE rule_blocks SET {column} = 'maybe'")

    stored = database.read_now(read_rules)

    assert stored.unreadable == {1}
    assert '"maybe"' in stored.issues[0].message


def test_dates_are_read_as_people_write_them(database):
    _import(database, _layer("a"))
    _sql(
        database,
        "UPDATE rule_layers SET valid_from = '2026-08-01'",
        "UPDATE rule_layers SET valid_until = '2026-08-02T01:00:00+02:00'",
    )

    layer = database.read_now(read_rules).layers[0]

    assert layer.valid_from == _NOW
    assert layer.valid_until == datetime(2026, 8, 1, 23, tzinfo=UTC)


def test_an_unreadable_date_switches_the_layer_off(database):
    _import(database, _layer("a"))
    _sql(database, "UPDATE rule_layers SET valid_from = 'tomorrow'")

    stored = database.read_now(read_rules)

    assert not stored.layers[0].enabled
    assert "switched off" in stored.issues[0].message


def test_rule_errors_are_replaced_and_keep_their_first_revision(database):
    old = Issue(code="x", message="old", block_id=1, value=("a", 1))
    new = Issue(code="x", message="new", block_id=1, value=object())

    def record(*issues, revision):
        return database.write_now(lambda c: replace_rule_errors(c, issues, revision=revision))

    assert record(old, revision=1)
    assert not record(old, revision=2)
    assert record(old, new, revision=3)
    query = "SELECT message, since_revision FROM rule_errors ORDER BY id"
    rows = database.read_now(lambda c: c.execute(text(query)).all())
    assert [tuple(row) for row in rows] == [("old", 1), ("new", 3)]
    assert record(revision=4)


def _site(domain, host, expires_at=_NOW):
    site = Site(domain=domain, site_name=host, mx_hosts=(MxHost(host, 10),))
    return StoredSite(site=site, expires_at=expires_at)


def test_sites_come_back_as_they_were_kept(database):
    sites = [_site("a.example", "mx.a.example"), _site("b.example", "mx.b.example")]
    database.write_now(lambda connection: save_sites(connection, sites))

    assert list(database.read_now(load_sites).values()) == sites


def test_a_site_seen_again_is_no_new_revision_and_a_changed_one_is(database):
    later = _NOW + timedelta(hours=1)
    database.write_now(lambda c: save_sites(c, [_site("a.example", "one.example")]))
    first = _revision(database)

    database.write_now(lambda c: save_sites(c, [_site("a.example", "one.example", later)]))
    assert _revision(database) == first

    database.write_now(lambda c: save_sites(c, [_site("a.example", "two.example", later)]))
    assert _revision(database) > first
    database.write_now(lambda c: forget_sites(c, ["a.example"]))
    assert database.read_now(load_sites) == {}


def test_a_site_row_that_makes_no_sense_is_asked_for_anew(database):
    _sql(
        database,
        "INSERT INTO sites VALUES ('a.example', 'x', '{\"host\": 1}', '2026-08-01')",
        "INSERT INTO sites VALUES ('b.example', 'x', '[]', 'soon')",
    )

    assert database.read_now(load_sites) == {}


def test_an_open_revision_gathers_changes_and_closes(database):
    def change(connection):
        with one_revision(connection, author="x", summary="y") as revision:
            connection.execute(text("INSERT INTO rule_layers (name, position) VALUES ('a', 0)"))
            connection.execute(text("INSERT INTO rule_layers (name, position) VALUES ('b', 1)"))
        return revision

    assert database.write_now(change) == _revision(database)
    _sql(database, "DELETE FROM rule_layers WHERE name = 'a'")
    assert _revision(database) == 2


async def test_reads_and_writes_run_off_the_event_loop(database):
    await database.write(lambda c: save_sites(c, [_site("a.example", "one.example")]))

    assert "a.example" in await database.read(load_sites)
