"""The database: revisions by triggers, import, and rows that people wrote."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import func, insert, select, text, update

from policy_server.errors import StoreRefused
from policy_server.history_keeper import keep_history
from policy_server.in_force.rule_loader import RuleLoader, read_everything
from policy_server.rules.layers import BlockDraft, Issue, LayerDraft, Scope
from policy_server.rules.site import MxHost, Site
from policy_server.rules.values import Limit
from policy_server.store.actions import ActionStore
from policy_server.store.changes import read_changes_since
from policy_server.store.layers import import_layers, list_layers
from policy_server.store.retention import HistoryBounds, forget_history
from policy_server.store.revisions import one_revision, read_revision, read_stamp
from policy_server.store.rules import read_rules, replace_rule_errors
from policy_server.store.sites import StoredSite, load_sites, save_sites
from policy_server.store.tables import change_log, policy_revisions, rule_layers

_NOW = datetime(2026, 8, 1, tzinfo=UTC)


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


def test_a_constraint_refuses_in_our_own_words(database):
    with pytest.raises(StoreRefused, match="name_given"):
        _sql(database, "INSERT INTO rule_layers (name, position) VALUES ('', 0)")


def test_a_change_by_hand_is_a_revision_with_a_log_entry(database):
    _sql(database, "INSERT INTO rule_layers (name, position) VALUES ('a', 0)")
    first = _revision(database)
    _sql(database, "UPDATE rule_layers SET enabled = false")

    assert _revision(database) == first + 1
    log = text("SELECT table_name FROM change_log WHERE revision > :first")
    named = database.read_now(lambda c: c.execute(log, {"first": first}).scalars().all())
    assert named == ["rule_layers"]


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
    _sql(database, "UPDATE rule_layers SET enabled = false WHERE name = 'a'")
    _import(database, _layer("c"), _layer("a", connection_limit=2))

    _, layers = database.read_now(list_layers)
    assert [(row.name, row.enabled, row.blocks) for row in layers] == [
        ("a", False, 1),
        ("b", True, 1),
        ("c", True, 1),
    ]
    first = database.read_now(read_rules).layers[0]
    assert first.blocks[0].options == {"connection_limit": 2}


@pytest.mark.parametrize(
    ("spelt", "read"),
    [("'7'", 7), ("'\"7\"'", "7"), ("'null'", None), ("'[\"::1\"]'", ["::1"])],
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
        "UPDATE rule_options SET value = '9' WHERE block_id = 2",
    )

    loaded = loader.load(*database.read_now(read_everything))

    (issue,) = loaded.issues
    assert (issue.block_id, issue.option) == (1, "connection_limit")
    limits = [layer.blocks[0].options["connection_limit"] for layer in loaded.layers]
    assert limits == [Limit(1), Limit(9)]


@pytest.mark.parametrize("depth", [40, 700, 995])
def test_a_value_nested_too_deep_is_refused_alone(database, depth):
    _import(database, _layer("base", max_ready=5))
    _sql(database, f"UPDATE rule_options SET value = '{'[' * depth}{']' * depth}'")

    rules = RuleLoader().load(*database.read_now(read_everything))

    assert [(issue.code, issue.option) for issue in rules.issues] == [
        ("unreadable_row", "max_ready")
    ]


def test_a_bad_row_without_a_good_version_leaves_its_block_out(database):
    _import(database, _layer("a", connection_limit="none"))

    loaded = RuleLoader().load(*database.read_now(read_everything))

    assert loaded.layers[0].blocks == ()


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


def test_rule_errors_name_the_row_that_is_wrong(database):
    _sql(
        database,
        "INSERT INTO rule_layers (name, position, valid_from, valid_until) "
        "VALUES ('never', 0, '2026-08-02', '2026-08-01')",
        "INSERT INTO rule_blocks (layer_id, scope, name) VALUES (1, 'provider', 'p')",
        "INSERT INTO rule_blocks (layer_id, scope, name) VALUES (1, 'domain', 'com')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'nonsense', '1')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'max_ready', '0')",
        "INSERT INTO provider_matches (block_id, kind, value) VALUES (1, 'host_name', '.')",
        "INSERT INTO provider_matches (block_id, kind, value) VALUES (2, 'host_name', 'mx.com')",
        *(
            'INSERT INTO automation_rules (block_id, position, regexes, actions, "trigger", '
            f"duration) VALUES (1, {position}, '{regexes}', '[\"Suspend\"]', '\"Immediate\"', "
            "'\"1h\"')"
            for position, regexes in ((1, "[]"), (2, '["good"]'), (3, "[]"))
        ),
    )
    issues = RuleLoader().load(*database.read_now(read_everything)).issues

    database.write_now(lambda c: replace_rule_errors(c, issues, revision=1))

    query = "SELECT code, table_name, block_id, option, message FROM rule_errors ORDER BY id"
    rows = database.read_now(lambda c: c.execute(text(query)).all())
    assert [(row.code, row.table_name, row.block_id, row.option) for row in rows] == [
        ("bad_validity", "rule_layers", None, "valid_until"),
        ("bad_value", "rule_options", 1, "max_ready"),
        ("unknown_option", "rule_options", 1, "nonsense"),
        ("bad_match", "provider_matches", 1, "match"),
        ("missing_regex", "automation_rules", 1, "automation[0].regex"),
        ("missing_regex", "automation_rules", 1, "automation[2].regex"),
        ("single_label_domain", "rule_blocks", 2, ""),
        ("misplaced_match", "provider_matches", 2, "match"),
    ]
    messages = [row.message for row in rows]
    assert messages[0].startswith('layer "never": ')
    assert [message.split(":")[0] for message in messages[4:6]] == [
        "automation_rules 1",
        "automation_rules 3",
    ]


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


def test_a_site_row_that_makes_no_sense_is_asked_for_anew(database):
    _sql(
        database,
        "INSERT INTO sites VALUES ('a.example', 'x', '{\"host\": 1}', '2026-08-01')",
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


def _add_revisions(database, times):
    """One change a revision, committed at these times."""

    def add(connection):
        for time in times:
            with one_revision(connection, author="", summary="") as revision:
                save_sites(connection, [_site(f"{revision}.example", "mx.example")])
            connection.execute(
                update(policy_revisions)
                .where(policy_revisions.c.id == revision)
                .values(committed_at=time)
            )

    database.write_now(add)


def _kept(database):
    def read(connection):
        revisions = connection.execute(select(policy_revisions.c.id)).scalars().all()
        return list(revisions), connection.execute(select(change_log.c.revision)).scalars().all()

    return database.read_now(read)


_DAY = timedelta(days=1)
_OLD, _NEW = _NOW - 40 * _DAY, _NOW - 20 * _DAY


@pytest.mark.parametrize(
    ("times", "bounds", "kept"),
    [
        pytest.param([_OLD, _OLD, _NEW, _NEW], HistoryBounds(), [3, 4], id="age"),
        pytest.param([_NEW] * 5, HistoryBounds(rows=2), [4, 5], id="rows"),
        pytest.param([_OLD] * 3, HistoryBounds(), [3], id="the newest stays"),
        pytest.param([_NEW, _OLD, _NEW], HistoryBounds(), [1, 2, 3], id="no gap is made"),
        pytest.param([_OLD] * 5 + [_NEW], HistoryBounds(step=2), [6], id="in small steps"),
    ],
)
def test_history_is_kept_within_its_bounds(database, times, bounds, kept):
    _add_revisions(database, times)

    for _ in range(len(times)):
        database.write_now(lambda c: forget_history(c, bounds=bounds, now=_NOW))

    assert _kept(database) == (kept, kept)
    assert _revision(database) == len(times)


async def test_the_history_is_shortened_in_the_background(database):
    await asyncio.to_thread(_add_revisions, database, [_OLD] * 3 + [_NEW])
    keeping = asyncio.create_task(keep_history(database, clock=lambda: _NOW))

    async with asyncio.timeout(5):
        while await asyncio.to_thread(_kept, database) != ([4], [4]):  # noqa: ASYNC110  # rows tell nobody
            await asyncio.sleep(0.01)
    keeping.cancel()


def test_a_step_says_whether_there_is_more(database):
    _add_revisions(database, [_OLD] * 3 + [_NEW])

    def forget(step):
        bounds = HistoryBounds(step=step)
        return database.write_now(lambda c: forget_history(c, bounds=bounds, now=_NOW))

    assert [forget(2), forget(2)] == [True, False]
    assert not forget(2)


def test_what_changed_since_a_forgotten_revision_is_not_known(database):
    _add_revisions(database, [_OLD] * 3 + [_NEW] * 2)
    stamps = [database.read_now(lambda c, n=n: read_stamp(c, n)) for n in range(6)]
    database.write_now(lambda c: forget_history(c, bounds=HistoryBounds(), now=_NOW))

    def touched(revision):
        store = ActionStore(database)
        return asyncio.run(store.touched_since(revision, stamps[revision], 10))

    assert (touched(2), touched(4), touched(5)) == (None, {}, {})


def test_what_changed_since_a_revision_of_another_past_is_not_known(database):
    """A backup that was put back has gone on to the same numbers by other changes."""
    _add_revisions(database, [_OLD] * 2)
    before = database.read_now(lambda c: read_stamp(c, 2))
    elsewhere = update(policy_revisions).where(policy_revisions.c.id == 2)
    database.write_now(lambda c: c.execute(elsewhere.values(committed_at=_NEW)))

    def touched(stamp):
        return asyncio.run(ActionStore(database).touched_since(2, stamp, 10))

    assert touched(database.read_now(lambda c: read_stamp(c, 2))) == {}
    assert touched(before) is None
    assert not database.read_now(lambda c: read_changes_since(c, 2, stamp=before)).is_known


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-5, minutes=-30))]
)
def test_a_time_comes_back_as_the_same_instant_in_utc(database, zone):
    time = datetime(2026, 3, 29, 1, 30, 15, 123456, tzinfo=zone)

    def keep(connection):
        connection.execute(
            insert(rule_layers).values(name="a", position=0, valid_from=time, valid_until=None)
        )

    database.write_now(keep)

    dates = select(rule_layers.c.valid_from, rule_layers.c.valid_until)
    found, none = database.read_now(lambda c: c.execute(dates).one())
    assert (found, found.utcoffset(), none) == (time, timedelta(), None)
    assert database.read_now(read_rules).layers[0].valid_from == time


def test_a_time_without_a_zone_is_not_taken(database):
    naive = _NOW.replace(tzinfo=None)
    statement = insert(rule_layers).values(name="a", position=0, valid_from=naive)

    with pytest.raises(StoreRefused, match="no time zone"):
        database.write_now(lambda c: c.execute(statement) and None)


def test_a_time_beyond_what_python_knows_is_refused_or_switches_the_layer_off(database):
    _import(database, _layer("a", connection_limit=1))
    if database.is_sqlite:
        # What was written before the database refused it stands in test_store_sqlite.py.
        with pytest.raises(StoreRefused, match="no time"):
            _sql(database, "UPDATE rule_layers SET valid_until = '99999-01-01'")
        return
    _sql(database, "UPDATE rule_layers SET valid_until = 'infinity'")

    stored = database.read_now(read_rules)

    assert not stored.layers[0].enabled
    assert "switched off" in stored.issues[0].message


def test_a_read_is_one_view_however_many_statements_it_takes(database):
    def count(connection):
        return connection.execute(select(func.count()).select_from(rule_layers)).scalar()

    def read(connection):
        first = count(connection)
        thread = threading.Thread(target=_import, args=(database, _layer("a")))
        thread.start()
        thread.join()
        return first, count(connection)

    assert database.read_now(read) == (0, 0)
    assert database.read_now(count) == 1


def test_many_readers_wait_for_the_few_connections(database):
    with ThreadPoolExecutor(20) as threads:
        revisions = list(threads.map(lambda _: _revision(database), range(100)))

    assert revisions == [0] * 100
