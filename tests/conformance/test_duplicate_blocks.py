"""Two blocks for one place in one layer: the first stands, whatever was in force before."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from policy_server.in_force.rule_keeper import RuleKeeper
from policy_server.in_force.rule_loader import RuleLoader, read_everything
from policy_server.rules.values import Limit
from policy_server.store.history import last_good_block

_NOW = datetime(2026, 8, 1, tzinfo=UTC)
_DOMAIN = "dup.example"
_BREAK_FIRST = "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'nonsense', '1')"
_REPAIR_FIRST = "DELETE FROM rule_options WHERE name = 'nonsense'"
_FIRST, _SECOND = {"connection_limit": Limit(3)}, {"max_ready": 55}
_TWICE = ("duplicate_block", 2)
_WRONG = ("unknown_option", 1)


class _Server:
    """The rules of a server that goes on, next to those of one that has just started."""

    def __init__(self, database):
        self._database = database
        self._keeper, self._revision = RuleKeeper(), -1
        self._loader = RuleLoader()

    def see(self):
        """Return what is in force of the domain and what is wrong, on which all agree."""
        seen = self._follow()
        assert seen == self._start_anew()
        assert seen == self._load()
        return seen

    def _follow(self):
        self._revision, seen = self._read(self._keeper, self._revision)
        return seen

    def _start_anew(self):
        return self._read(RuleKeeper(), -1)[1]

    def _read(self, keeper, since):
        changes = self._database.read_now(lambda connection: keeper.catch_up(connection, since))
        snapshot = keeper.compile(revision=changes.revision, now=_NOW).after
        scope = snapshot.domains.get(_DOMAIN)
        blocks = () if scope is None else scope.base
        return changes.revision, _facts(blocks, keeper.rules.issues)

    def _load(self):
        def search(number):
            return self._database.read_now(lambda connection: last_good_block(connection, number))

        loaded = self._loader.load(*self._database.read_now(read_everything), search=search)
        blocks = [b for layer in loaded.layers for b in layer.blocks if b.name == _DOMAIN]
        return _facts(blocks, loaded.issues)


def _facts(blocks, issues):
    options = [dict(block.options) for block in blocks]
    return options, sorted((issue.code, issue.block_id) for issue in issues)


def _sql(database, *statements):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement))

    database.write_now(run)


@pytest.fixture
def server(database):
    """A layer with two blocks for one domain; the server has read it."""
    _sql(
        database,
        "INSERT INTO rule_layers (name, position) VALUES ('base', 0)",
        "INSERT INTO rule_blocks (layer_id, scope, name, mx_rollup, position) VALUES "
        f"(1, 'domain', '{_DOMAIN}', false, 10), (1, 'domain', '{_DOMAIN}', false, 20)",
        "INSERT INTO rule_options (block_id, name, value) VALUES "
        "(1, 'connection_limit', '3'), (2, 'max_ready', '55')",
    )
    server = _Server(database)
    assert server.see() == ([_FIRST], [_TWICE])
    return server


def test_a_first_block_that_breaks_keeps_its_place(database, server):
    _sql(database, _BREAK_FIRST)
    assert server.see() == ([_FIRST], [_TWICE, _WRONG])

    _sql(database, _REPAIR_FIRST)
    assert server.see() == ([_FIRST], [_TWICE])


def test_a_second_block_that_breaks_and_is_repaired_stays_refused(database, server):
    _sql(database, "UPDATE rule_options SET value = '0' WHERE block_id = 2")
    assert server.see() == ([_FIRST], [("bad_value", 2), _TWICE])

    _sql(database, "UPDATE rule_options SET value = '55' WHERE block_id = 2")
    assert server.see() == ([_FIRST], [_TWICE])


@pytest.mark.parametrize(
    "away",
    [
        pytest.param("DELETE FROM rule_blocks WHERE id = 1", id="deleted"),
        pytest.param("UPDATE rule_blocks SET enabled = false WHERE id = 1", id="switched off"),
        pytest.param("UPDATE rule_blocks SET name = 'x.example' WHERE id = 1", id="renamed"),
    ],
)
@pytest.mark.parametrize("first_breaks", [False, True])
def test_the_second_block_comes_into_force_when_the_first_gives_up_its_place(
    database, server, away, first_breaks
):
    if first_breaks:
        _sql(database, _BREAK_FIRST)
        server.see()

    if first_breaks and "name" in away:
        # The name is part of the last good version.
        _sql(database, _REPAIR_FIRST, away)
    else:
        _sql(database, away)

    options, issues = server.see()
    assert options == [_SECOND]
    assert _TWICE not in issues


def test_a_block_in_force_gives_way_to_one_put_before_it(database, server):
    _sql(database, "UPDATE rule_blocks SET position = 5 WHERE id = 2")
    assert server.see() == ([_SECOND], [("duplicate_block", 1)])

    _sql(database, "UPDATE rule_blocks SET position = 20 WHERE id = 2")
    assert server.see() == ([_FIRST], [_TWICE])


def test_a_block_that_is_renamed_to_one_that_stands_is_in_force_nowhere(database, server):
    _sql(database, f"UPDATE rule_blocks SET name = 'x.example' WHERE name = '{_DOMAIN}' AND id = 2")
    assert server.see() == ([_FIRST], [])

    _sql(database, f"UPDATE rule_blocks SET name = '{_DOMAIN}' WHERE id = 2")
    assert server.see() == ([_FIRST], [_TWICE])
