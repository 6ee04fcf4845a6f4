"""The change log names every block and layer that has to be read again."""

from sqlalchemy import text

from policy_server.store.changes import read_changes_since
from policy_server.store.revisions import read_revision


def _sql(database, *statements):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement))

    database.write_now(run)
    return database.read_now(read_revision)


def _changes(database, since):
    return database.read_now(lambda connection: read_changes_since(connection, since))


def _fill(database):
    return _sql(
        database,
        "INSERT INTO rule_layers (id, name, position) VALUES (1, 'base', 0)",
        "INSERT INTO rule_blocks (id, layer_id, scope) VALUES (1, 1, 'default'), (2, 1, 'default')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'max_ready', '7')",
    )


def test_a_part_that_moves_names_the_block_it_left_as_well(database):
    before = _fill(database)
    _sql(database, "UPDATE rule_options SET block_id = 2 WHERE block_id = 1")

    assert _changes(database, before).blocks == {1, 2}


def test_rows_that_go_with_their_layer_are_named(database):
    before = _fill(database)
    _sql(database, "DELETE FROM rule_layers")

    changes = _changes(database, before)

    assert (changes.has_layers, changes.blocks) == (True, {1, 2})


def test_sites_are_named_by_their_domain(database):
    before = _fill(database)
    _sql(
        database,
        "INSERT INTO sites (domain, site_name, mx_hosts, expires_at) "
        "VALUES ('a.example', 'a.example', '[]', '2030-01-01 00:00:00')",
    )

    changes = _changes(database, before)

    assert changes.domains == {"a.example"}
    assert not changes.is_empty
    assert _changes(database, changes.revision).is_empty


def test_another_database_is_noticed(database):
    newest = _fill(database)

    assert not _changes(database, newest + 1).is_known
    assert not _changes(database, -1).is_known
