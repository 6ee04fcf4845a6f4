"""Rules kept current change by change answer as rules that are read anew."""

import contextlib
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from policy_server.in_force.rule_keeper import RuleKeeper
from policy_server.in_force.rule_loader import RuleLoader, read_everything
from policy_server.rules.checks import find_collisions
from policy_server.rules.resolve import Question, consulted_rules, resolve
from policy_server.rules.site import MxHost
from policy_server.rules.snapshot import compile_snapshot
from policy_server.rules.validity import layers_in_force
from policy_server.store.database import Database
from policy_server.store.history import last_good_block
from policy_server.store.schema import upgrade

_NOW = datetime(2026, 8, 1, tzinfo=UTC)
_STEPS = 60
_NAMES = ("a.example", "b.example", "c.example", "d.example")
_PROVIDERS = ("alpha", "beta")
_SOURCES = ("", "", "ip-1")
_SITES = {"one": ["mx.alpha.example"], "two": ["mx1.beta.example", "mx2.beta.example"], "": ["."]}
#: The same name as "one", of other hosts.
_COLLIDING = ("one", ["mx.beta.example"])
_OPTIONS = (
    ("connection_limit", ["1", "2", "3", "null", '"local:4"']),
    ("max_message_rate", ['"1/s"', '"2/m"', "null"]),
    ("additional_connection_limits", ['{"x": 1}', '{"y": 2}', "null"]),
    ("provider_connection_limit", ["5", "6"]),
    ("max_ready", ["7", '"none"', "not json", "0"]),
)
_DATES = (
    "NULL",
    f"'{_NOW - timedelta(days=1):%Y-%m-%d %H:%M:%S}'",
    f"'{_NOW + timedelta(days=1):%Y-%m-%d %H:%M:%S}'",
    "'one day'",
)


class _Editor:
    """Edits random rows by SQL, as people do."""

    def __init__(self, database: Database, seed: int) -> None:
        self._database = database
        self._random = random.Random(seed)
        self._edits = (
            *[self._put_option] * 4,
            *[self._put_match, self._put_automation, self._put_site] * 2,
            *[self._insert_block, self._change_block] * 3,
            self._delete_part,
            self._delete_block,
            self._move_part,
            self._change_layer,
            self._insert_layer,
            self._delete_layer,
        )

    def edit(self) -> None:
        self._run([self._random.choice(self._edits)() for _ in range(self._random.randint(1, 3))])

    def edit_once(self) -> None:
        """Edit one row, so that a block's history has each version that a server saw, no other."""
        # The history of a block does not tell that a part went to another block.
        kept = [edit for edit in self._edits if edit != self._move_part]
        self._run([self._random.choice(kept)()])

    def _run(self, statements) -> None:
        def run(connection):
            for statement in statements:
                if statement:
                    # Constraints refuse some of it, which is as well.
                    with contextlib.suppress(DBAPIError):
                        connection.exec_driver_sql(statement)

        self._database.write_now(run)

    def _pick(self, values):
        return self._random.choice(list(values))

    def _id(self, table):
        column = "id" if table in ("rule_layers", "rule_blocks") else "rowid"
        ids = self._database.read_now(
            lambda connection: (
                connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalars().all()
            )
        )
        return self._pick(ids) if ids else None

    def _put_option(self):
        name, values = self._pick(_OPTIONS)
        value = self._pick(values)
        return (
            (
                "INSERT INTO rule_options (block_id, name, value) "
                f"SELECT id, '{name}', '{value}' FROM rule_blocks "
                f"WHERE id = {self._id('rule_blocks')} "
                "ON CONFLICT DO UPDATE SET value = excluded.value"
            )
            if self._id("rule_blocks")
            else ""
        )

    def _put_match(self):
        kind, value = self._pick(
            [
                ("mx_suffix", ".alpha.example"),
                ("mx_suffix", ".beta.example"),
                ("domain_suffix", "b.example"),
                ("host_name", "mx.alpha.example"),
            ]
        )
        return (
            "INSERT OR IGNORE INTO provider_matches (block_id, kind, value) "
            f"SELECT id, '{kind}', '{value}' FROM rule_blocks "
            f"WHERE scope = 'provider' AND id % 2 = {self._random.randint(0, 1)}"
        )

    def _put_automation(self):
        block = self._id("rule_blocks")
        regexes = json.dumps([self._pick(["x", "y", "("])])
        actions = json.dumps(["Suspend"])
        return (
            (
                "INSERT INTO automation_rules (block_id, regexes, actions, trigger, duration) "
                f"VALUES ({block}, '{regexes}', '{actions}', '\"Immediate\"', '\"1h\"')"
            )
            if block
            else ""
        )

    def _put_site(self):
        domain = self._pick(_NAMES)
        if self._random.random() < 0.2:
            return f"DELETE FROM sites WHERE domain = '{domain}'"
        name, hosts = self._pick([*_SITES.items(), _COLLIDING])
        spelt = json.dumps([{"host": host, "preference": 1} for host in hosts])
        return (
            "INSERT INTO sites (domain, site_name, mx_hosts, expires_at) VALUES "
            f"('{domain}', '{name}', '{spelt}', '2030-01-01 00:00:00') ON CONFLICT DO UPDATE SET "
            "site_name = excluded.site_name, mx_hosts = excluded.mx_hosts"
        )

    def _insert_block(self):
        scope = self._pick(["default", "provider", "domain", "domain", "domain"])
        names = {"default": [""], "provider": _PROVIDERS, "domain": _NAMES}[scope]
        return (
            "INSERT INTO rule_blocks (layer_id, scope, name, source, mx_rollup, position) "
            f"SELECT id, '{scope}', '{self._pick(names)}', '{self._pick(_SOURCES)}', "
            f"{self._random.randint(0, 1)}, {self._random.randint(0, 3)} FROM rule_layers "
            f"WHERE id = {self._id('rule_layers') or 0}"
        )

    def _change_block(self):
        change = self._pick(
            [
                f"position = {self._random.randint(0, 3)}",
                f"enabled = {self._random.randint(0, 1)}",
                "enabled = 'perhaps'",
                f"replace_base = {self._random.randint(0, 1)}",
                f"mx_rollup = {self._random.randint(0, 1)}",
                f"source = '{self._pick(_SOURCES)}'",
                f"layer_id = {self._id('rule_layers') or 0}",
                f"name = CASE scope WHEN 'domain' THEN '{self._pick([*_NAMES, 'com'])}' "
                "ELSE name END",
            ]
        )
        return f"UPDATE rule_blocks SET {change} WHERE id = {self._id('rule_blocks') or 0}"

    def _delete_part(self):
        table = self._pick(["rule_options", "provider_matches", "automation_rules"])
        return f"DELETE FROM {table} WHERE rowid = {self._id(table) or 0}"

    def _delete_block(self):
        return f"DELETE FROM rule_blocks WHERE id = {self._id('rule_blocks') or 0}"

    def _move_part(self):
        return (
            (
                f"UPDATE OR IGNORE rule_options SET block_id = {self._id('rule_blocks')} "
                f"WHERE rowid = {self._id('rule_options') or 0}"
            )
            if self._id("rule_blocks")
            else ""
        )

    def _change_layer(self):
        number = self._random.randint(0, 99)
        change = self._pick(
            [
                f"position = {self._random.randint(0, 5)}",
                f"enabled = {self._random.randint(0, 1)}",
                f"name = 'layer-{number}-{self._random.random()}'",
                f"valid_from = {self._pick(_DATES)}",
                f"valid_until = {self._pick(_DATES)}",
            ]
        )
        return f"UPDATE rule_layers SET {change} WHERE id = {self._id('rule_layers') or 0}"

    def _insert_layer(self):
        name = f"layer-{self._random.random()}"
        return (
            "INSERT INTO rule_layers (name, position) "
            f"VALUES ('{name}', {self._random.randint(0, 5)})"
        )

    def _delete_layer(self):
        return (
            f"DELETE FROM rule_layers WHERE id = {self._id('rule_layers') or 0} "
            "AND (SELECT count(*) FROM rule_layers) > 2"
        )


@pytest.fixture
def database(tmp_path):
    made = Database(f"sqlite:///{tmp_path / 'rules.db'}")
    # Odd rows were let in until then, and stay.
    upgrade(made, "0007")
    yield made
    made.close()


def _questions():
    hosts = [*_SITES.items(), _COLLIDING, ("one", [])]
    return [
        Question(
            routing_domain=domain,
            egress_source=source,
            site_name=name,
            mx_hosts=tuple(map(MxHost, found)),
        )
        for domain in (*_NAMES, "other.example")
        for source in ("ip-1", "ip-2")
        for name, found in hosts
    ]


def _read_anew(loader, database, now):
    stored, known = database.read_now(read_everything)
    loaded = loader.load(
        stored,
        known,
        search=lambda number: database.read_now(
            lambda connection: last_good_block(connection, number)
        ),
    )
    sites = {domain: stored.site for domain, stored in loaded.sites.items()}
    layers = layers_in_force(loaded.layers, now)
    return loaded, compile_snapshot(layers, sites=sites, revision=0)


def _catch_up(keeper, database, revision, now):
    changes = database.read_now(lambda connection: keeper.catch_up(connection, revision))
    return changes, keeper.compile(revision=changes.revision, now=now)


def _facts(issues):
    return sorted((issue.code, issue.block_id or 0, issue.option) for issue in issues)


@pytest.mark.parametrize("seed", range(6))
def test_any_edits_leave_the_rules_as_a_whole_reading_would(database, seed):
    editor, loader, keeper = _Editor(database, seed), RuleLoader(), RuleKeeper()
    database.write_now(
        lambda connection: connection.exec_driver_sql(
            "INSERT INTO rule_layers (name, position) VALUES ('base', 0), ('top', 1)"
        )
    )
    revision, now = -1, _NOW
    for step in range(_STEPS):
        editor.edit()
        # Layers begin and end by time alone as well.
        now += timedelta(hours=random.Random(seed + step).choice([-20, 0, 0, 20]))

        changes, change = _catch_up(keeper, database, revision, now)
        loaded, wanted = _read_anew(loader, database, now)

        assert changes.is_known == (step > 0)
        revision, snapshot = changes.revision, change.after
        assert _facts(keeper.rules.issues) == _facts(loaded.issues)
        assert keeper.rules.sites == loaded.sites
        assert snapshot.rolled_up_domains == wanted.rolled_up_domains
        assert bool(find_collisions(snapshot)) == any(
            len(rules) > 1 for rules in wanted.sites.values()
        )
        for question in _questions():
            assert resolve(snapshot, question) == resolve(wanted, question)
            assert consulted_rules(snapshot, question) == consulted_rules(wanted, question)


@pytest.mark.parametrize("seed", range(6))
def test_a_server_that_saw_every_edit_answers_as_one_that_has_just_started(database, seed):
    editor, keeper, revision = _Editor(database, seed), RuleKeeper(), -1
    _run(database, "INSERT INTO rule_layers (name, position) VALUES ('base', 0), ('top', 1)")
    for _ in range(_STEPS):
        editor.edit_once()

        changes, change = _catch_up(keeper, database, revision, _NOW)
        started = RuleKeeper()
        _, wanted = _catch_up(started, database, -1, _NOW)

        revision = changes.revision
        assert _facts(keeper.rules.issues) == _facts(started.rules.issues)
        for question in _questions():
            assert resolve(change.after, question) == resolve(wanted.after, question)


@pytest.mark.parametrize("forget", ["log", "database"])
def test_where_the_log_does_not_tell_everything_is_read(database, forget):
    keeper = RuleKeeper()
    _run(database, "INSERT INTO rule_layers (name, position) VALUES ('base', 0)")
    changes, _ = _catch_up(keeper, database, -1, _NOW)
    _run(
        database,
        "INSERT INTO rule_blocks (layer_id, scope) VALUES (1, 'default')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'max_ready', '7')",
        "DELETE FROM change_log",
    )
    since = changes.revision
    if forget == "log":
        _run(database, "INSERT INTO datastore (id, log_forgotten_until) VALUES ('x', 99)")
    else:
        since = 1000

    changes, change = _catch_up(keeper, database, since, _NOW)

    assert not changes.is_known
    assert change.is_wide
    assert change.after.default.base[0].options == {"max_ready": 7}


def test_a_change_of_one_block_leaves_all_other_scopes_the_same_objects(database):
    keeper = RuleKeeper()
    _run(
        database,
        "INSERT INTO rule_layers (name, position) VALUES ('base', 0)",
        "INSERT INTO rule_blocks (layer_id, scope, name, mx_rollup) VALUES (1, 'default', '', 1), "
        "(1, 'provider', 'p', 1), (1, 'domain', 'a.example', 0), (1, 'domain', 'b.example', 0), "
        "(1, 'domain', 'c.example', 1)",
    )
    changes, first = _catch_up(keeper, database, -1, _NOW)
    _run(database, "INSERT INTO rule_options (block_id, name, value) VALUES (3, 'max_ready', '7')")

    _, second = _catch_up(keeper, database, changes.revision, _NOW)

    before, after = first.after, second.after
    assert (second.is_wide, second.domains, second.sites) == (False, {"a.example"}, set())
    assert after.default is before.default
    assert after.providers is before.providers
    assert after.sites is before.sites
    assert after.unplaced is before.unplaced
    assert after.domains["b.example"] is before.domains["b.example"]
    assert after.domains["a.example"] is not before.domains["a.example"]


def test_the_last_good_version_of_a_block_survives_a_restart(database):
    _run(
        database,
        "INSERT INTO rule_layers (name, position) VALUES ('base', 0)",
        "INSERT INTO rule_blocks (layer_id, scope) VALUES (1, 'default')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'max_ready', '7')",
        "UPDATE rule_options SET value = '0'",
    )

    keeper = RuleKeeper()
    changes, change = _catch_up(keeper, database, -1, _NOW)

    assert change.after.default.base[0].options == {"max_ready": 7}
    assert [issue.code for issue in keeper.rules.issues] == ["bad_value"]

    _run(database, "UPDATE rule_options SET value = '8'")
    _, change = _catch_up(keeper, database, changes.revision, _NOW)

    assert change.after.default.base[0].options == {"max_ready": 8}
    assert keeper.rules.issues == ()


def _run(database, *statements):
    def run(connection):
        for statement in statements:
            connection.exec_driver_sql(statement)

    database.write_now(run)
