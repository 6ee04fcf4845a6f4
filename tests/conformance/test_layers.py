"""Layers: an import writes what differs, whole or not at all, and only over rules as expected."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from policy_server.errors import Aborted, InvalidRequest, NotFound, PolicyServerError
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.rules.site import Site
from policy_server.store.block_rows import place_in_order
from policy_server.store.layers import (
    delete_layer,
    import_layers,
    list_layers,
    read_layer,
    reorder_layers,
)
from policy_server.store.revisions import one_revision
from policy_server.store.rule_errors import list_rule_errors
from policy_server.store.sites import StoredSite, save_sites
from policy_server.store.tables import change_log, rule_blocks
from tests.unit.policy_server.rules.layer_drafts import layer_drafts, without_places

_RULE = AutomationDraft(regexes=("busy",), actions=("Suspend",), duration="1h")


def _domain(name, **more):
    return BlockDraft(scope=Scope.DOMAIN, name=name, **more)


def _layer(*blocks, name="custom", **more):
    return LayerDraft(name=name, blocks=blocks, **more)


_A = _domain("a.example", options={"max_ready": 1, "smtp_port": 26}, comment="why\n")
_B = _domain("b.example", source="ip-1", automation=(_RULE, replace(_RULE, mode="observe")))
_P = BlockDraft(scope=Scope.PROVIDER, name="p", matches=(("mx_suffix", ".a"), ("host_name", "b")))


def _import(database, *layers, **more):
    return database.write_now(lambda c: import_layers(c, layers, author="me", **more))


def _read(database, name="custom"):
    draft, issues = database.read_now(lambda c: read_layer(c, name))
    assert issues == ()
    return draft


def _names(database):
    return [row.name for row in database.read_now(list_layers)[1]]


def _changes(database, revision):
    """What a revision touched, as (table, operation) and how often."""
    statement = (
        select(change_log.c.table_name, change_log.c.operation, func.count())
        .where(change_log.c.revision == revision)
        .group_by(change_log.c.table_name, change_log.c.operation)
    )
    rows = database.read_now(lambda c: c.execute(statement).all())
    return {f"{table} {operation}": count for table, operation, count in rows}


def _sql(database, *statements):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement))

    database.write_now(run)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(layer_drafts, min_size=1, max_size=3))
def test_what_is_imported_is_read_back_whatever_was_there(database, layers):
    for layer in layers:
        _import(database, replace(layer, description="x"))

    assert without_places(_read(database, "made")) == without_places(
        replace(layers[-1], description="x")
    )


def test_the_same_again_writes_nothing(database):
    _import(database, _layer(_A, _B, _P))

    revision, imported = _import(database, _layer(_A, _B, _P))

    assert _changes(database, revision) == {}
    assert [(item.layer, item.blocks) for item in imported] == [("custom", 3)]


@pytest.mark.parametrize(
    ("blocks", "changes"),
    [
        pytest.param(
            (replace(_A, options={"max_ready": 2, "smtp_port": 26}), _B, _P),
            {"rule_options update": 1},
            id="a value",
        ),
        pytest.param(
            (replace(_A, options={"max_ready": True, "smtp_port": 26}), _B, _P),
            {"rule_options update": 1},
            id="a value that only looks the same",
        ),
        pytest.param(
            (replace(_A, options={"smtp_port": 26, "max_ready": None}), _B, _P),
            {"rule_options update": 2},
            id="unset, in another order",
        ),
        pytest.param((replace(_A, comment=""), _B, _P), {"rule_blocks update": 1}, id="a comment"),
        pytest.param(
            (replace(_A, mx_rollup=False), _B, _P), {"rule_blocks update": 1}, id="a switch"
        ),
        pytest.param(
            (_A, replace(_B, automation=(_RULE,)), _P),
            {"automation_rules delete": 1},
            id="a rule less",
        ),
        pytest.param(
            (_A, _B, replace(_P, matches=(("mx_suffix", ".c"), ("host_name", "b")))),
            {"provider_matches insert": 1, "provider_matches delete": 1},
            id="another match",
        ),
        pytest.param(
            (_A, _domain("new.example"), _B, _P),
            {"rule_blocks insert": 1},
            id="a block between two others",
        ),
        pytest.param((_P, _A, _B), {"rule_blocks update": 1}, id="a block moved"),
        pytest.param(
            (_A, _P),
            {"rule_blocks delete": 1, "automation_rules delete": 2},
            id="a block less",
        ),
    ],
)
def test_only_what_differs_is_written(database, blocks, changes):
    _import(database, _layer(_A, _B, _P))
    before = {block.name: block.id for block in _read(database).blocks}

    revision, _ = _import(database, _layer(*blocks))

    assert _changes(database, revision) == changes
    after = _read(database)
    assert without_places(after) == without_places(_layer(*blocks))
    for block in after.blocks:
        assert before.get(block.name, block.id) == block.id


def test_blocks_that_people_wrote_in_sql_are_replaced_too(database):
    _import(database, _layer(_A))
    _sql(
        database,
        "INSERT INTO rule_blocks (layer_id, scope, name) "
        "SELECT id, 'domain', 'a.example' FROM rule_layers",
        "UPDATE rule_options SET value = '\"odd\"' WHERE name = 'max_ready'",
    )

    _import(database, _layer(_A))

    assert without_places(_read(database)) == without_places(_layer(_A))


def test_a_layer_keeps_its_place_switch_and_dates_when_it_is_replaced(database):
    _import(database, _layer(name="one"), _layer(name="two", description="head"))
    _sql(
        database,
        "UPDATE rule_layers SET enabled = false, valid_from = '2026-08-01 00:00:00' "
        "WHERE name = 'one'",
    )

    _import(database, _layer(_A, name="one"), _layer(name="three"), _layer(name="two"))

    assert _names(database) == ["one", "two", "three"]
    one = _read(database, "one")
    assert (one.enabled, one.valid_from.isoformat()) == (False, "2026-08-01T00:00:00+00:00")
    assert _read(database, "two").description == "head"


def test_the_base_goes_before_all_others(database):
    _import(database, _layer(name="own"))
    _import(database, _layer(name="builtin"), _layer(name="more"), base="builtin")

    _import(database, _layer(_A, name="builtin"), base="builtin")

    assert _names(database) == ["builtin", "own", "more"]


def test_an_import_that_fails_midway_leaves_nothing(database):
    good = _layer(_A, name="good")
    # A constraint of the database refuses what no file can say.
    bad = _layer(_domain(""), name="bad")

    with pytest.raises(PolicyServerError):
        _import(database, good, bad)

    assert database.read_now(list_layers) == (0, ())


def test_layers_are_deleted_with_all_in_them(database):
    _import(database, _layer(_A, _B, _P), _layer(_A, name="other"))

    database.write_now(lambda c: delete_layer(c, "custom", author="me"))

    assert _names(database) == ["other"]
    count = select(func.count()).select_from(rule_blocks)
    assert database.read_now(lambda c: c.execute(count).scalar()) == 1


def test_layers_are_reordered(database):
    _import(database, *(_layer(name=name) for name in "abc"))

    database.write_now(lambda c: reorder_layers(c, ["c", "a", "b"], author="me"))

    assert _names(database) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["a"], InvalidRequest, '"b" is missing'),
        (["a", "b", "a"], InvalidRequest, "twice"),
        (["a", "b", "c"], NotFound, 'no layer "c"'),
    ],
)
def test_an_order_names_every_layer_once(database, names, error, words):
    _import(database, _layer(name="a"), _layer(name="b"))

    with pytest.raises(error, match=words) as refused:
        database.write_now(lambda c: reorder_layers(c, names, author="me"))

    assert getattr(refused.value, "field", "layer_names") == "layer_names"
    assert database.read_now(list_layers)[0] == 1


@pytest.mark.parametrize("change", ["import", "delete", "reorder"])
def test_rules_that_changed_meanwhile_are_not_overwritten(database, change):
    revision, _ = _import(database, _layer(_A))
    _sql(database, "UPDATE rule_layers SET description = 'by hand'")
    changes = {
        "import": lambda c: import_layers(c, [_layer()], author="me", expected_revision=revision),
        "delete": lambda c: delete_layer(c, "custom", author="me", expected_revision=revision),
        "reorder": lambda c: reorder_layers(c, ["custom"], author="me", expected_revision=revision),
    }

    with pytest.raises(Aborted, match=f"since revision {revision}, in revision {revision + 1}"):
        database.write_now(changes[change])

    assert len(_read(database).blocks) == 1
    assert database.read_now(list_layers)[0] == revision + 1


def test_a_revision_that_is_not_known_is_not_expected(database):
    with pytest.raises(Aborted, match="no revision 7"):
        _import(database, _layer(_A), expected_revision=7)


def test_a_change_of_other_things_does_not_hinder_an_import(database):
    revision, _ = _import(database, _layer(_A))
    site = StoredSite(
        site=Site(domain="a.example", site_name="mx.a.example", mx_hosts=()),
        expires_at=datetime(2026, 8, 1, tzinfo=UTC),
    )

    def learn(connection):
        with one_revision(connection, author="server", summary="a site"):
            save_sites(connection, [site])

    database.write_now(learn)

    assert _import(database, _layer(_B), expected_revision=revision)[0] > revision + 1


def test_a_layer_that_is_not_there_can_not_be_read_or_deleted(database):
    with pytest.raises(NotFound):
        database.read_now(lambda c: read_layer(c, "none"))
    with pytest.raises(NotFound):
        database.write_now(lambda c: delete_layer(c, "none", author="me"))


def test_findings_tell_where_they_belong(database):
    _import(database, _layer(_B))
    (block,) = _read(database).blocks
    insert = (
        'INSERT INTO rule_errors (severity, code, table_name, block_id, "option", value, '
        "message, since_revision) VALUES ('error', 'bad_value', 'rule_blocks', {}, 'max_ready', "
        "'5', 'too few', 1)"
    )
    _sql(database, insert.format(block.id), insert.format("NULL"))

    first, second = database.read_now(lambda c: list_rule_errors(c, limit=10))

    assert (first.layer, first.block) == ("custom", '"b.example".sources."ip-1"')
    assert (second.layer, second.block, second.block_id) == ("", "", None)
    assert database.read_now(lambda c: list_rule_errors(c, limit=1, after=first.id)) == (second,)


@given(st.lists(st.none() | st.integers(-5, 50), max_size=30))
def test_positions_rise_and_stay_where_they_can(known):
    placed = place_in_order(known)

    assert len(placed) == len(known)
    assert all(before < after for before, after in pairwise(placed))
    if None not in known and known == sorted(set(known)):
        assert placed == known
