"""penstock-server rules: from files to the database and back, by command."""

import asyncio
import json
import threading
from datetime import UTC, datetime

import pytest
from aiohttp import web
from sqlalchemy import text

from policy_server.cli.main import run
from policy_server.rules.site import MxHost, Site
from policy_server.store.database import Database
from policy_server.store.sites import StoredSite, save_sites

_RULES = (
    '# Ours.\n\n["default"]\nconnection_limit = 10  # enough\n\n'
    '["a.example"]\nmax_ready = 5\n\n["b.example".sources."ip-2"]\nmax_ready = 7\n'
)


@pytest.fixture
def config(database_url, tmp_path):
    """The settings of a database of each kind, migrated."""
    path = tmp_path / "penstock-server.toml"
    path.write_text(f'[database]\nurl = "{database_url}"\n')
    assert run(["migrate", "--config", str(path)]) == 0
    return str(path)


@pytest.fixture
def rules(config, capsys):
    """Run a command of the group; return its status, its output and what it said."""

    def command(*arguments, status=0):
        capsys.readouterr()
        assert run(["rules", *map(str, arguments), "--config", config]) == status
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if "--json" in arguments and said.out:
            return json.loads(said.out)
        return said

    return command


@pytest.fixture
def rule_file(tmp_path):
    def write(content=_RULES, name="custom.toml"):
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


@pytest.fixture
def database(database_url, config):
    database = Database(database_url)
    yield database
    database.close()


def _sql(database, statement, **values):
    database.write_now(lambda connection: connection.execute(text(statement), values).rowcount)


def _know(database, *domains):
    sites = [
        StoredSite(
            site=Site(
                domain=domain,
                site_name=f"mx.{domain}",
                mx_hosts=(MxHost(host=f"mx.{domain}", preference=10),),
            ),
            expires_at=datetime(2026, 8, 1, tzinfo=UTC),
        )
        for domain in domains
    ]
    database.write_now(lambda connection: save_sites(connection, sites))


def test_an_export_is_the_file_that_was_imported(rules, rule_file, tmp_path):
    rules("import", rule_file())
    output = tmp_path / "out.toml"

    assert rules("export", "custom").out == _RULES
    rules("export", "custom", "-o", output)
    assert output.read_text() == _RULES


@pytest.mark.parametrize("arguments", [["--format", "json"], []], ids=["option", "suffix"])
def test_an_export_may_be_json(rules, rule_file, tmp_path, arguments):
    rules("import", rule_file())
    output = tmp_path / "out.json"

    rules("export", "custom", "-o", output, *arguments)
    assert json.loads(output.read_text())["default"] == {"connection_limit": 10}

    rules("import", output, "--layer", "copy")
    assert rules("diff", rule_file(), "--layer", "copy", "--json")["layers"][0]["change"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["export", "none"], 1, 'no layer "none"'),
        (["export", "custom", "-o", "/none/x.toml"], 1, "/none/x.toml"),
        (["delete", "none"], 1, 'no layer "none"'),
        (["reorder", "none"], 1, 'no layer "none"'),
        (["rollback", "99"], 1, "no revision 99"),
        (["rollback", "x"], 2, "integer"),
        (["import"], 2, "FILES"),
        (["import", "--builtin", "x.toml", "--layer", "y"], 2, "single file"),
        (["diff"], 2, "FILES"),
        (["import", "x.toml", "--expect-revision", "-1"], 2, "range"),
    ],
)
def test_mistakes_are_told_in_words(rules, rule_file, arguments, status, words):
    rules("import", rule_file())

    assert words in rules(*arguments, status=status).err


def test_a_secret_is_not_exported(rules, rule_file):
    rules("import", rule_file('["default"]\nsmtp_auth_plain_password = { key_data = "hunter2" }\n'))

    said = rules("export", "custom", status=1)

    assert said.out == ""
    assert "never exported" in said.err
    assert "hunter2" not in said.err


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"key_data": "hunter2"}, {"key_data": "(hidden)"}),
        ({"key_dat": "hunter2"}, "(hidden)"),
        ({"key_data": "hunter2", "env": "KEY"}, "(hidden)"),
        (["hunter2"], "(hidden)"),
        ({"env": "KEY"}, {"env": "KEY"}),
        ("/etc/key", "/etc/key"),
        (None, None),
    ],
)
def test_a_secret_is_not_in_the_history_however_it_is_written(
    rules, rule_file, database, value, shown
):
    rules("import", rule_file('["default"]\nsmtp_auth_plain_password = { env = "FIRST" }\n'))
    action = {"SetConfig": {"name": "smtp_auth_plain_password", "vlaue": "hunter2"}}
    _sql(
        database,
        'INSERT INTO automation_rules (block_id, position, regexes, actions, "trigger", duration) '
        "VALUES ((SELECT id FROM rule_blocks), 0, :regexes, :actions, :trigger, :duration)",
        regexes='["x"]',
        trigger='"Immediate"',
        duration='"1h"',
        actions=json.dumps([action]),
    )
    _sql(database, "UPDATE rule_options SET value = :value", value=json.dumps(value))

    changes = rules("history", "--layer", "custom", "--json")["changes"]

    assert changes[0]["new"]["value"] == shown
    assert changes[0]["old"]["value"] == {"env": "FIRST"}
    assert "hunter2" not in str(changes)
    assert "hunter2" not in rules("history", "--layer", "custom").out


def test_a_secret_that_another_takes_the_place_of_is_a_change(rules, rule_file):
    one, other = (
        f'["default"]\nsmtp_auth_plain_password = {{ key_data = "hunter{number}" }}\n'
        for number in (1, 2)
    )
    rules("import", rule_file(one))

    (layer,) = rules("diff", rule_file(other), "--json")["layers"]
    (block,) = layer["blocks"]
    assert block["options"] == [
        {
            "option": "smtp_auth_plain_password",
            "change": "changed",
            "old": {"key_data": "(hidden)"},
            "new": {"key_data": "(hidden)"},
        }
    ]
    assert rules("import", rule_file(other), "--json")["imported"][0]["changed_blocks"] == 1
    assert "smtp_auth_plain_password" in rules("history", "--layer", "custom").out
    (layer,) = rules("diff", rule_file(other), "--json")["layers"]
    assert layer["change"] is None


def test_a_row_that_nobody_can_read_is_not_exported(rules, rule_file, database):
    rules("import", rule_file())
    _sql(database, "UPDATE rule_options SET value = '5' WHERE name = 'connection_limit'")
    _sql(database, "UPDATE rule_blocks SET name = 'two words' WHERE name = 'a.example'")

    said = rules("export", "custom", status=1)

    assert said.out == ""
    assert '"two words" is no domain name' in said.err


def test_a_dry_run_writes_nothing(rules, rule_file):
    answer = rules("import", rule_file(), "--dry-run", "--json")

    assert answer["imported"] == [{"layer": "custom", "blocks": 3, "changed_blocks": 3}]
    assert (answer["revision"], answer["dry_run"]) == (0, True)
    assert rules("list", "--json") == {"revision": 0, "layers": []}
    assert "would be imported" in rules("import", rule_file(), "--dry-run").out


def test_a_dry_run_refuses_what_an_import_refuses(rules, rule_file):
    bad = rule_file('["default"]\nmax_ready = 0\n')

    answer = rules("import", bad, "--dry-run", "--json", status=1)

    assert (answer["imported"], len(answer["errors"])) == ([], 1)


def test_a_check_may_stop_an_import_or_be_ignored(rules, rule_file):
    odd = rule_file('[provider."p"]\nmax_ready = 5\n')
    check = "provider_without_match"

    assert len(rules("import", odd, "--dry-run", "--json")["warnings"]) == 1
    refused = rules("import", odd, "--check", f"{check}=error", "--json", status=1)
    assert [issue["code"] for issue in refused["errors"]] == [check]
    assert rules("list", "--json")["layers"] == []
    assert rules("import", odd, "--check", f"{check}=ignore", "--json")["warnings"] == []


@pytest.mark.parametrize("level", ["warn", "ignore"])
def test_a_file_that_can_not_be_had_may_be_left_out(rules, rule_file, level):
    levels = ["--check", f"local_load={level}", "--check", f"remote_load={level}"]
    files = ["/none.toml", rule_file(), "http://127.0.0.1:1/x.toml"]

    answer = rules("import", *files, *levels, "--json")

    assert [item["layer"] for item in answer["imported"]] == ["custom"]
    assert len(answer["warnings"]) == (2 if level == "warn" else 0)
    assert "nothing was imported" in rules("import", "/none.toml", *levels).err


@pytest.mark.parametrize("value", ["null_mx", "null_mx=loud", "nonsense=warn"])
def test_a_level_is_one_of_those_known(rules, rule_file, value):
    assert "NAME=LEVEL" in rules("import", rule_file(), "--check", value, status=2).err


def test_the_builtin_rules_go_before_all_others(rules, rule_file):
    rules("import", rule_file())
    rules("import", "--builtin", rule_file(name="more.toml"))

    layers = rules("list", "--json")["layers"]

    assert [layer["name"] for layer in layers] == ["builtin", "custom", "more"]
    assert layers[0]["blocks"] > 10


def test_rules_that_changed_meanwhile_are_not_overwritten(rules, rule_file, database):
    rules("import", rule_file())
    _sql(database, "UPDATE rule_layers SET description = 'by hand'")

    for command in (
        ["import", rule_file('["default"]\n')],
        ["delete", "custom"],
        ["reorder", "custom"],
        ["rollback", "0"],
    ):
        said = rules(*command, "--expect-revision", "1", status=1)
        assert "changed since revision 1, in revision 2" in said.err

    rules("import", rule_file(), "--expect-revision", "2")
    assert rules("list", "--json")["layers"][0]["blocks"] == 3


def test_layers_are_reordered_and_deleted(rules, rule_file):
    rules("import", rule_file(name="a.toml"), rule_file(name="b.toml"))

    answer = rules("reorder", "b", "a", "--json")
    assert [(layer["name"], layer["position"]) for layer in answer["layers"]] == [
        ("b", 0),
        ("a", 1),
    ]

    assert rules("delete", "b", "--json") == {"deleted": "b", "revision": 3}
    assert "a: deleted, revision 4" in rules("delete", "a").out
    assert "0 blocks" not in rules("list").out


def test_a_diff_shows_options_and_answers(rules, rule_file, database):
    rules("import", rule_file())
    _know(database, "a.example", "b.example")
    new = rule_file(_RULES.replace("max_ready = 5", "max_ready = 6"))
    revision = rules("list", "--json")["revision"]

    answer = rules("diff", new, "--source", "ip-1", "--json")

    assert answer["layers"] == [
        {
            "layer": "custom",
            "change": "changed",
            "reordered": False,
            "blocks": [
                {
                    "block": '"a.example"',
                    "change": "changed",
                    "options": [{"option": "max_ready", "change": "changed", "old": 5, "new": 6}],
                }
            ],
        }
    ]
    assert [
        (item["routing_domain"], item["egress_source"], item["options"])
        for item in answer["answers"]
    ] == [
        (
            "a.example",
            source,
            [{"option": "max_ready", "change": "changed", "old": 5, "new": 6}],
        )
        for source in ("ip-1", "ip-2")
    ]
    assert (answer["answers_compared"], answer["answers_left_out"]) == (4, 0)
    said = rules("diff", new).out
    assert "1 blocks changed" in said
    assert "1 of 2 known egress paths change" in said
    assert rules("list", "--json")["revision"] == revision == answer["revision"]


def test_a_diff_of_a_bad_file_fails(rules, rule_file):
    said = rules("diff", rule_file('["default"]\nmax_ready = 0\n'), status=1)

    assert (said.out, "error: " in said.err) == ("", True)


def test_history_tells_who_changed_what_and_leads_back(rules, rule_file, database):
    rules("import", rule_file())
    _sql(database, "UPDATE rule_options SET value = '20' WHERE name = 'connection_limit'")

    newest, first = rules("history", "--json")["revisions"]
    assert (newest["revision"], newest["rows"], first["summary"]) == (2, 1, "imported custom")
    (change,) = rules("history", "--block", "default", "--revision", "2", "--json")["changes"]
    assert (change["table"], change["operation"]) == ("rule_options", "update")
    assert (change["old"]["value"], change["new"]["value"]) == (10, 20)
    assert "value 10" in rules("history", "--layer", "custom", "--limit", "1").out
    assert "imported custom" in rules("history").out

    answer = rules("rollback", "1", "--json")
    assert answer == {"rolled_back_to": 1, "revision": 3, "rows": 1}
    assert rules("export", "custom").out == _RULES
    assert "rules are as at revision 0" in rules("rollback", "0").out
    assert rules("list", "--json")["layers"] == []


def test_errors_are_found_with_or_without_a_server(rules, rule_file, database):
    rules("import", rule_file())
    assert rules("errors").out == "none\n"
    _sql(database, "UPDATE rule_options SET value = '\"x\"' WHERE name = 'connection_limit'")

    (error,) = rules("errors", "--json")["errors"]
    assert (error["layer"], error["block"], error["option"], error["value"]) == (
        "custom",
        "default",
        "connection_limit",
        "x",
    )
    assert (error["severity"], error["code"]) == ("error", "bad_value")
    assert error["since_revision"] is None
    assert "not seen yet" in rules("errors").out

    _sql(
        database,
        "INSERT INTO rule_errors (severity, code, table_name, block_id, option, value, message, "
        "since_revision) VALUES ('error', 'gone', 'rule_blocks', NULL, '', 'null', 'old', 1), "
        "('warning', 'site_collision', 'rule_blocks', NULL, '', 'null', 'two sites', 1)",
    )
    messages = [item["message"] for item in rules("errors", "--json")["errors"]]
    assert len(messages) == 2
    assert "two sites" in messages


@pytest.fixture
def address(rule_file):
    """The address of a rule file on a web server, on a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(_build_site())

    async def start():
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield asyncio.run_coroutine_threadsafe(start(), loop).result()
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _build_site():
    async def rules(_request):
        return web.Response(text=_RULES)

    app = web.Application()
    app.router.add_get("/shared.toml", rules)
    return app


def test_rules_come_from_an_address_too(rules, rule_file, address):
    answer = rules("import", f"{address}/shared.toml", rule_file(), "--json")

    assert [item["layer"] for item in answer["imported"]] == ["shared", "custom"]


def test_an_address_that_fails_stops_the_whole_import(rules, rule_file, address):
    said = rules("import", rule_file(), f"{address}/absent.toml", status=1)

    assert f"{address}/absent.toml: cannot be fetched: the server says 404" in said.err
    assert rules("list", "--json")["layers"] == []
