"""The history of the rules: everybody's changes are in it, and it leads back."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, text

from policy_server.errors import Aborted, InvalidRequest, NotFound
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.store.database import Database
from policy_server.store.history import (
    HistoryFilter,
    last_good_block,
    list_history,
    list_revisions,
    read_rules_revision,
)
from policy_server.store.images import RULE_TABLES
from policy_server.store.layers import import_layers
from policy_server.store.retention import HistoryBounds, forget_history
from policy_server.store.revisions import one_revision, read_revision
from policy_server.store.rollback import rollback_to
from policy_server.store.rows import read_rows
from policy_server.store.rules import read_rules
from policy_server.store.tables import change_log, policy_revisions, rule_history, rule_layers

_NOW = datetime(2026, 8, 1, tzinfo=UTC)


def _sql(database, *statements, **values):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement), values)

    database.write_now(run)


def _revision(database):
    return database.read_now(read_revision)


def _block(name, **options):
    return BlockDraft(scope=Scope.DOMAIN, name=name, options=options)


def _import(database, *layers):
    drafts = [LayerDraft(name=name, blocks=tuple(blocks)) for name, *blocks in layers]
    return database.write_now(lambda c: import_layers(c, drafts, author="joe"))[0]


def _history(database, chosen=None, limit=100):
    return database.read_now(lambda c: list_history(c, chosen, limit=limit))


def _rollback(database, revision, **more):
    return database.write_now(lambda c: rollback_to(c, revision, author="ann", **more))


def _state(database):
    """Every row of the rules, as it is."""

    def read(connection):
        return {
            table.name: list(
                read_rows(connection, table, order_by=[c.name for c in table.primary_key])
            )
            for table in RULE_TABLES
        }

    return database.read_now(read)


def _good(database, block_id):
    return database.read_now(lambda c: last_good_block(c, block_id))


def test_a_change_by_hand_is_kept_with_the_row_before_and_after(database):
    _import(database, ("base", _block("a.example", connection_limit=1)))
    _sql(database, "UPDATE rule_options SET value = '2', comment = 'more'")

    change = _history(database)[0]

    assert (change.table.name, change.operation) == ("rule_options", "update")
    assert change.key == {"block_id": 1, "name": "connection_limit"}
    assert (change.block_id, change.layer_id) == (1, 1)
    assert (change.old["value"], change.new["value"]) == (1, 2)
    assert (change.old["comment"], change.new["comment"]) == ("", "more")
    assert change.author == ("sql" if database.is_sqlite else "postgres")
    assert change.revision == _revision(database)
    assert abs(datetime.now(UTC) - change.changed_at) < timedelta(minutes=5)


def test_what_our_tools_change_has_one_revision_and_their_author(database):
    revision = _import(database, ("base", _block("a.example", connection_limit=1)))

    changes = _history(database)

    assert {change.revision for change in changes} == {revision}
    assert {change.author for change in changes} == {"joe"}
    assert sorted(change.table.name for change in changes) == [
        "rule_blocks",
        "rule_layers",
        "rule_options",
    ]
    assert database.read_now(read_rules_revision) == revision


def test_parts_that_go_with_their_layer_are_kept_with_its_number(database):
    _import(database, ("base", _block("a.example", connection_limit=1)))
    _sql(database, "DELETE FROM rule_layers")

    gone = [change for change in _history(database) if change.operation == "delete"]

    assert {change.table.name for change in gone} == {
        "rule_layers",
        "rule_blocks",
        "rule_options",
    }
    assert {change.layer_id for change in gone} == {1}


def test_secrets_do_not_show(database):
    secret = {"key_data": "hunter2"}
    _import(database, ("base", _block("a.example", smtp_auth_plain_password=secret)))

    assert "hunter2" not in str(_history(database))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        pytest.param(HistoryFilter(layer="one"), {"1", "2"}, id="layer"),
        pytest.param(HistoryFilter(layer="was"), {"1", "2"}, id="a layer's earlier name"),
        pytest.param(HistoryFilter(block="b.example"), {"3"}, id="block"),
        pytest.param(HistoryFilter(block_id=1), {"1", "2"}, id="number of a block"),
        pytest.param(HistoryFilter(first_revision=3), {"2", "3"}, id="from a revision"),
        pytest.param(HistoryFilter(last_revision=1), {"1"}, id="up to a revision"),
        pytest.param(HistoryFilter(layer="none"), set(), id="no such layer"),
    ],
)
def test_the_history_is_filtered(database, chosen, expected):
    _import(database, ("was", _block("a.example", connection_limit=1)))
    _sql(database, "UPDATE rule_layers SET name = 'one'")
    _sql(database, "UPDATE rule_options SET value = '2'")
    _import(database, ("two", _block("b.example", connection_limit=3)))

    values = {
        str(change.new["value"])
        for change in _history(database, chosen)
        if change.table.name == "rule_options"
    }

    assert values == expected


def test_the_history_is_read_in_pages(database):
    _import(database, ("base", _block("a.example", connection_limit=1)))
    everything = _history(database)

    first = _history(database, limit=2)
    rest = _history(database, HistoryFilter(before_id=first[-1].id))

    assert first + rest == everything


def test_revisions_are_listed_with_author_summary_and_size(database):
    first = _import(database, ("base", _block("a.example", connection_limit=1)))
    _sql(database, "UPDATE rule_options SET value = '2'")
    _sql(database, "INSERT INTO sites (domain, site_name, mx_hosts, expires_at) "
                   "VALUES ('x.example', 'x', '[]', '2026-08-01 00:00:00')")  # fmt: skip

    second, oldest = database.read_now(list_revisions)

    assert (oldest.id, oldest.author, oldest.summary) == (first, "joe", "imported base")
    assert (oldest.changes, second.changes) == (3, 1)
    assert database.read_now(lambda c: list_revisions(c, before=second.id)) == (oldest,)


def test_the_last_good_version_of_a_block_is_found_behind_several_bad_ones(database):
    _import(database, ("base", _block("a.example", connection_limit=1, max_ready=5)))
    for value in ('"none"', "-4", '"a"'):
        _sql(database, "UPDATE rule_options SET value = :value WHERE name = 'connection_limit'",
             value=value)  # fmt: skip
    _sql(database, "DELETE FROM rule_options WHERE name = 'max_ready'")

    good = _good(database, 1)

    assert good.options == {"connection_limit": 1, "max_ready": 5}
    assert (good.id, good.name) == (1, "a.example")


def test_a_block_that_never_was_good_has_no_last_good_version(database):
    _import(database, ("base", _block("a.example", connection_limit="none")))

    assert _good(database, 1) is None
    assert _good(database, 99) is None


def test_a_value_nested_too_deep_is_stepped_over(database):
    _import(database, ("base", _block("a.example", connection_limit=1)))
    deep = "[" * 900 + "]" * 900
    _sql(database, f"UPDATE rule_options SET value = '{deep}'")
    _sql(database, "UPDATE rule_options SET value = '\"none\"'")

    assert _good(database, 1).options == {"connection_limit": 1}
    assert len(_history(database)) == 5


def test_a_rollback_brings_back_every_row_as_it_was(database):
    rule = AutomationDraft(regexes=("busy",), actions=("Suspend",), duration="1 hour")
    blocks = [
        _block("a.example", connection_limit=1, max_message_rate="5/s", max_connection_rate=None),
        BlockDraft(
            scope=Scope.PROVIDER,
            name="p",
            matches=(("mx_suffix", ".p.example"),),
            automation=(rule,),
            comment="why",
        ),
    ]
    revision = _import(database, ("base", *blocks), ("other", _block("b.example", max_ready=2)))
    before = _state(database)
    _sql(
        database,
        "UPDATE rule_options SET value = '7' WHERE name = 'connection_limit'",
        "UPDATE rule_options SET name = 'max_ready' WHERE name = 'max_message_rate'",
        "DELETE FROM provider_matches",
        'UPDATE automation_rules SET enabled = false, trigger = \'{"Threshold": "2/hr"}\'',
        "UPDATE rule_layers SET name = 'swap' WHERE name = 'base'",
        "UPDATE rule_layers SET name = 'base', valid_from = '2026-08-01' WHERE name = 'other'",
        "UPDATE rule_layers SET name = 'other' WHERE name = 'swap'",
        "DELETE FROM rule_blocks WHERE name = 'b.example'",
    )
    _import(database, ("new", _block("c.example", max_ready=3)))
    assert _state(database) != before

    rolled_back = _rollback(database, revision)

    assert _state(database) == before
    assert rolled_back.revision == _revision(database)
    assert {change.author for change in _history(database, HistoryFilter(
        first_revision=rolled_back.revision))} == {"ann"}  # fmt: skip


def test_a_rollback_can_be_rolled_back_and_one_to_nothing_empties_the_rules(database):
    revision = _import(database, ("base", _block("a.example", connection_limit=1)))
    before = _state(database)

    _rollback(database, 0)
    assert not any(_state(database).values())

    _rollback(database, revision)
    assert _state(database) == before


def test_a_rollback_to_rules_that_do_not_parse_is_refused_whole(database):
    _import(database, ("base", _block("a.example", connection_limit=1)))
    _sql(database, "UPDATE rule_options SET value = '\"none\"'")
    bad = _revision(database)
    _sql(database, "UPDATE rule_options SET value = '3'")
    before, revision = _state(database), _revision(database)

    with pytest.raises(InvalidRequest, match="connection_limit"):
        _rollback(database, bad)

    assert (_state(database), _revision(database)) == (before, revision)


def test_a_rollback_to_an_unknown_or_forgotten_revision_is_refused(database):
    for limit in range(5):
        _import(database, ("base", _block("a.example", connection_limit=limit + 1)))
    bounds = HistoryBounds(rule_rows=2)
    while database.write_now(lambda c: forget_history(c, bounds=bounds, now=_NOW)):
        pass

    for revision in (-1, 99):
        with pytest.raises(NotFound, match=f"no revision {revision}"):
            _rollback(database, revision)
    with pytest.raises(NotFound, match="forgotten"):
        _rollback(database, 1)
    _rollback(database, 4)
    assert database.read_now(read_rules).layers[0].blocks[0].options == {"connection_limit": 4}


def test_a_rollback_on_another_revision_than_expected_is_refused(database):
    first = _import(database, ("base", _block("a.example", connection_limit=1)))
    second = _import(database, ("base", _block("a.example", connection_limit=2)))

    with pytest.raises(Aborted):
        _rollback(database, first, expected_revision=first)
    _rollback(database, first, expected_revision=second)


_edits = st.lists(
    st.sampled_from(
        [
            "INSERT INTO rule_layers (name, position) "
            "SELECT 'l' || coalesce(max(id), 0), 1 FROM rule_layers",
            "INSERT INTO rule_blocks (layer_id, scope, name) "
            "SELECT max(id), 'domain', 'x.example' FROM rule_layers HAVING count(*) > 0",
            "INSERT INTO rule_options (block_id, name, value) "
            "SELECT max(id), 'max_ready', '4' FROM rule_blocks HAVING count(*) > 0 "
            "ON CONFLICT DO NOTHING",
            "UPDATE rule_options SET value = '9', position = position + 1",
            "UPDATE rule_options SET name = 'connection_limit' WHERE block_id = 1",
            "UPDATE rule_blocks SET layer_id = (SELECT min(id) FROM rule_layers)",
            "DELETE FROM rule_options WHERE block_id = (SELECT min(id) FROM rule_blocks)",
            "DELETE FROM rule_blocks WHERE id = (SELECT max(id) FROM rule_blocks)",
            "DELETE FROM rule_layers WHERE id = (SELECT min(id) FROM rule_layers)",
        ]
    ),
    min_size=2,
    max_size=12,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=_edits, after=_edits)
def test_a_rollback_undoes_any_edits(database, before, after):
    for statement in before:
        _sql(database, statement)
    state, revision = _state(database), _revision(database)
    for statement in after:
        _sql(database, statement)

    if _revision(database) > revision:
        _rollback(database, revision)

    assert _state(database) == state
    database.write_now(lambda c: c.execute(delete(rule_layers)))


def test_revisions_have_the_order_of_commits_under_concurrent_writers(database_url, database):
    """A reader that goes on from the newest revision it saw must not miss a change."""
    writers = [Database(database_url) for _ in range(3)]
    seen: list[int] = []

    def write(number):
        for turn in range(10):
            name = f"w{number}-{turn}"
            if turn % 2:
                _sql(writers[number], "INSERT INTO rule_layers (name, position) VALUES (:name, 0)",
                     name=name)  # fmt: skip
            else:
                with_tool = LayerDraft(name=name)
                writers[number].write_now(lambda c, d=with_tool: import_layers(c, [d], author="x"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    newest = 0
    while any(thread.is_alive() for thread in threads):
        newest = _go_on(database, newest, seen)
    _go_on(database, newest, seen)
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()

    everything = database.read_now(
        lambda c: c.execute(select(change_log.c.revision).order_by(change_log.c.id)).scalars().all()
    )
    assert sorted(seen) == sorted(everything)
    assert len(everything) == 30


def _go_on(database, newest, seen):
    query = select(change_log.c.revision).where(change_log.c.revision > newest)
    found = database.read_now(lambda c: c.execute(query).scalars().all())
    seen += found
    return max(found, default=newest)


def test_one_transaction_by_hand_on_postgresql_is_one_revision(database):
    if database.is_sqlite:
        pytest.skip("on SQLite each row is one")
    _sql(
        database,
        "INSERT INTO rule_layers (name, position) VALUES ('a', 0), ('b', 1)",
        "UPDATE rule_layers SET position = 3",
    )
    _sql(database, "DELETE FROM rule_layers")

    counts = [revision.changes for revision in database.read_now(list_revisions)]

    assert counts == [2, 4]


def test_revisions_that_follow_each_other_in_a_transaction_keep_their_changes(database):
    def change(connection):
        for name in ("a", "b"):
            with one_revision(connection, author=name, summary=""):
                connection.execute(
                    text("INSERT INTO rule_layers (name, position) VALUES (:name, 0)"),
                    {"name": name},
                )

    database.write_now(change)

    pairs = select(rule_history.c.author, policy_revisions.c.author, rule_history.c.new).join(
        policy_revisions, policy_revisions.c.id == rule_history.c.revision
    )
    rows = database.read_now(lambda c: c.execute(pairs.order_by(rule_history.c.id)).all())
    assert [(mine, its, new["name"]) for mine, its, new in rows] == [
        ("a", "a", "a"),
        ("b", "b", "b"),
    ]


def test_the_log_names_the_site_that_changed(database):
    _sql(database, "INSERT INTO sites (domain, site_name, mx_hosts, expires_at) "
                   "VALUES ('x.example', 'x', '[]', '2026-08-01 00:00:00')")  # fmt: skip

    logged = select(change_log.c.table_name, change_log.c.row_id, change_log.c.row_name)
    assert database.read_now(lambda c: c.execute(logged).all()) == [("sites", 0, "x.example")]


def test_who_changed_rules_is_kept_longer_than_the_log(database):
    _import(database, ("base", _block("a.example", connection_limit=1)))
    _sql(database, "UPDATE rule_options SET value = '2'")
    later = datetime.now(UTC) + timedelta(days=365)
    while database.write_now(lambda c: forget_history(c, bounds=HistoryBounds(), now=later)):
        pass

    assert [revision.author for revision in database.read_now(list_revisions)][-1] == "joe"
    kept = database.read_now(lambda c: c.execute(select(change_log.c.revision)).scalars().all())
    assert kept == [_revision(database)]
