"""What a constraint can refuse of a row is refused on both databases, and nothing else."""

import pytest
from sqlalchemy import text

from policy_server.errors import StoreRefused
from policy_server.store.layers import list_layers
from policy_server.store.rules import read_rules

_ROWS = (
    "INSERT INTO rule_layers (name, position) VALUES ('a', 0)",
    "INSERT INTO rule_blocks (layer_id, scope, name) VALUES (1, 'provider', 'p')",
    "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'max_ready', '1')",
    "INSERT INTO provider_matches (block_id, kind, value) VALUES (1, 'host_name', 'mx.example')",
    "INSERT INTO automation_rules (block_id, regexes, actions, trigger, duration) "
    "VALUES (1, '[\"x\"]', '[\"Suspend\"]', '\"Immediate\"', '\"1h\"')",
)
_COLUMNS = {
    "position": ["'abc'", "99999999999999", "2147483648", "-2147483649", "NULL"],
    "switch": ["'maybe'", "'5'", "''", "NULL"],
    "time": ["'garbage'", "'2026-13-01'", "'2026-02-30'", "'2026-08-01 25:00'", "20260801", "''"],
    "parent": ["999", "NULL"],
}
_KINDS = {
    "rule_layers": {
        "position": "position",
        "enabled": "switch",
        "valid_from": "time",
        "valid_until": "time",
    },
    "rule_blocks": {
        "position": "position",
        "mx_rollup": "switch",
        "replace_base": "switch",
        "enabled": "switch",
        "layer_id": "parent",
    },
    "rule_options": {"position": "position", "block_id": "parent"},
    "provider_matches": {"position": "position", "block_id": "parent"},
    "automation_rules": {
        "position": "position",
        "match_internal": "switch",
        "enabled": "switch",
        "block_id": "parent",
    },
}
_REFUSED = [
    pytest.param(table, column, value, id=f"{table}.{column}={value}")
    for table, columns in _KINDS.items()
    for column, kind in columns.items()
    for value in _COLUMNS[kind]
]


def _sql(database, *statements):
    def run(connection):
        for statement in statements:
            connection.execute(text(statement.replace(":", r"\:")))

    database.write_now(run)


@pytest.fixture
def rows(database):
    _sql(database, *_ROWS)
    return database


def test_an_odd_value_is_refused_of_any_column(rows):
    """One test for all, as a new database each would take minutes."""
    accepted = []
    for table, column, value in (param.values for param in _REFUSED):
        try:
            _sql(rows, f"UPDATE {table} SET {column} = {value}")
        except StoreRefused:
            continue
        accepted.append((table, column, value))

    assert accepted == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rule_layers (name, position) VALUES ('b', 'abc')",
        "INSERT INTO rule_layers (name, position, enabled) VALUES ('b', 1, 'maybe')",
        "INSERT INTO rule_layers (name, position, valid_from) VALUES ('b', 1, 'soon')",
        "INSERT INTO rule_blocks (layer_id, scope, mx_rollup) VALUES (1, 'default', 'maybe')",
        "INSERT INTO rule_blocks (layer_id, scope) VALUES (999, 'default')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (888, 'max_ready', '1')",
        "INSERT INTO rule_options (block_id, name, value, position) VALUES (1, 'x', '1', 'qq')",
    ],
)
def test_a_new_row_with_an_odd_value_is_refused(rows, statement):
    with pytest.raises(StoreRefused):
        _sql(rows, statement)


@pytest.mark.parametrize("spelt", ["'5'", "5", "-2147483648", "2147483647"])
def test_a_whole_number_may_be_a_position(rows, spelt):
    _sql(rows, f"UPDATE rule_layers SET position = {spelt}")

    assert rows.read_now(list_layers)[1][0].position == int(spelt.strip("'"))


@pytest.mark.parametrize(
    ("spelt", "read"),
    [("true", True), ("false", False), ("'true'", True), ("'FALSE'", False), ("'0'", False)],
)
def test_a_switch_may_be_spelt_as_people_do(rows, spelt, read):
    _sql(rows, f"UPDATE rule_blocks SET mx_rollup = {spelt}")

    stored = rows.read_now(read_rules)
    assert (stored.issues, stored.layers[0].blocks[0].mx_rollup) == ((), read)


@pytest.mark.parametrize(
    "spelt",
    [
        "2026-08-01",
        "2026-08-01 00:00",
        "2026-08-01T00:00:00",
        "2026-08-01T00:00:00Z",
        "2026-08-01 00:00:00.000000",
        "2026-08-01 00:00:00+00",
        "2026-08-01 00:00:00+00:00",
        "2026-08-01 02:00:00+0200",
    ],
)
def test_a_time_may_be_spelt_as_people_and_databases_do(rows, spelt):
    _sql(rows, f"UPDATE rule_layers SET valid_from = '{spelt}'")

    (layer,) = rows.read_now(read_rules).layers
    assert layer.valid_from is not None
    assert layer.valid_from.isoformat() == "2026-08-01T00:00:00+00:00"
