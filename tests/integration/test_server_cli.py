"""The commands: real files, a real database, exit statuses and what is said where."""

import asyncio
import json
import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from agent.sink.dns_server import DnsServer
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub
from policy_server.cli.main import run
from policy_server.rules.site import MxHost, Site
from policy_server.settings import load_settings
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from policy_server.store.sites import StoredSite, save_sites

_SHARED = Path(__file__).parents[3] / "shared" / "data"
_KUMOMTA = [str(_SHARED / "kumomta" / name) for name in ("shaping.toml", "community-shaping.toml")]

needs_shared_data = pytest.mark.skipif(
    not _SHARED.is_dir(), reason="the shared data stand beside the repository only"
)


@pytest.fixture
def config(tmp_path, dns_address):
    path = tmp_path / "penstock-server.toml"
    path.write_text(
        '[server]\ngrpc_listen = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\n'
        f'[database]\nurl = "sqlite:///{tmp_path}/penstock.db"\n'
        f'[dns]\nnameservers = ["{dns_address}"]\ntimeout = "2s"\n'
    )
    return str(path)


@pytest.fixture
def dns_address():
    """A DNS server with the shared zone, on a loop of its own: the commands bring theirs."""
    zone = {"mx": {"a.example": [[10, "mx.a.example"]]}}
    if _SHARED.is_dir():
        zone = json.loads((_SHARED / "mx.json").read_text())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = DnsServer(zone)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    yield server.address
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def rule_file(tmp_path):
    def write(content, name="custom.toml"):
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


def _json(capsys):
    return json.loads(capsys.readouterr().out)


_GOOD = (
    '["default"]\nconnection_limit = 10\n["a.example"]\nmx_rollup = false\nconnection_limit = 3\n'
)


@needs_shared_data
def test_the_files_of_kumomta_are_imported_unchanged(config, capsys):
    assert run(["rules", "import", *_KUMOMTA, "--json", "--config", config]) == 0

    answer = _json(capsys)
    assert [item["layer"] for item in answer["imported"]] == ["shaping", "community-shaping"]
    assert answer["errors"] == []
    assert all(
        set(w) == {"file", "line", "block", "option", "value", "message", "code"}
        for w in answer["warnings"]
    )


@needs_shared_data
@pytest.mark.parametrize(
    ("domain", "site", "providers", "expected"),
    [
        pytest.param(
            "gmail.com",
            "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com",
            ["google"],
            {"max_deliveries_per_connection": (50, "provider", "google")},
            id="gmail",
        ),
        pytest.param(
            "yahoo.com",
            "(mta5|mta6|mta7).am0.yahoodns.net",
            ["yahoo"],
            {
                "max_deliveries_per_connection": (20, "provider", "yahoo"),
                "connection_limit": (10, "default", ""),
            },
            id="yahoo",
        ),
        pytest.param(
            "outlook.com",
            "outlook-com.olc.protection.outlook.com",
            ["outlook"],
            {"connection_limit": (10, "default", "")},
            id="outlook",
        ),
        pytest.param(
            "comcast.net",
            "(mx1a1|mx1h1|mx2c1|mx2h1).comcast.net",
            [],
            {"connection_limit": (25, "domain", "comcast.net")},
            id="comcast",
        ),
    ],
)
def test_explain_answers_for_real_domains(config, capsys, domain, site, providers, expected):
    run(["rules", "import", *_KUMOMTA, "--config", config])
    capsys.readouterr()

    assert run(["explain", domain, "--source", "ip-1", "--json", "--config", config]) == 0

    answer = _json(capsys)
    assert (answer["site_name"], answer["provider_names"]) == (site, providers)
    assert answer["path_name"] == f"ip-1->{site}"
    for option, (value, scope, name) in expected.items():
        explained = answer["options"][option]
        assert explained["value"] == value
        assert (explained["set_by"]["scope"], explained["set_by"]["name"]) == (scope, name)
    assert answer["options"]["smtp_port"] == {"value": 25, "set_by": None, "overrode": []}


@pytest.mark.parametrize(
    ("content", "line", "parts"),
    [
        pytest.param(
            '["default"]\nconection_limit = 3\n',
            2,
            ["conection_limit", "connection_limit"],
            id="misspelt option",
        ),
        pytest.param(
            '["default"]\nmax_message_rate = "100/foo"\n',
            2,
            ["max_message_rate", "100/foo", "expected"],
            id="bad rate",
        ),
        pytest.param("[foo.com]\nconnection_limit = 3\n", 1, ['"foo.com"'], id="forgotten quotes"),
        pytest.param(
            '["a.com"]\n[["a.com".automation]]\nregex = "x"\naction = "Suspnd"\nduration = "1h"\n',
            4,
            ["Suspnd", "Suspend"],
            id="wrong action",
        ),
        pytest.param('["default"\nx = 1\n', 1, [], id="broken TOML"),
    ],
)
def test_a_malformed_file_is_refused_whole(config, rule_file, capsys, content, line, parts):
    good, bad = rule_file(_GOOD, "good.toml"), rule_file(content, "bad.toml")

    assert run(["rules", "import", good, bad, "--config", config]) == 1

    said = capsys.readouterr()
    assert said.out == ""
    (problem,) = (text for text in said.err.splitlines() if text.startswith("error: "))
    assert f"{bad}:{line}: " in problem
    for part in parts:
        assert part in problem
    assert run(["rules", "list", "--json", "--config", config]) == 0
    assert _json(capsys) == {"revision": 0, "layers": []}


def test_a_refusal_has_its_json_too(config, rule_file, capsys):
    bad = rule_file('["default"]\nmax_message_rate = "100/foo"\n')

    assert run(["rules", "import", bad, "--json", "--config", config]) == 1

    answer = _json(capsys)
    assert answer["imported"] == []
    (error,) = answer["errors"]
    assert (error["file"], error["line"], error["option"], error["value"]) == (
        bad,
        2,
        "max_message_rate",
        "100/foo",
    )


def _know_sites(config, **hosts):
    url = load_settings(config, {}).database.url
    database = Database(url)
    try:
        upgrade(database)
        known = [
            StoredSite(
                site=Site(
                    domain=f"{name}.example", site_name=host.rstrip("."), mx_hosts=(MxHost(host),)
                ),
                expires_at=datetime.now(UTC) + timedelta(hours=1),
            )
            for name, host in hosts.items()
        ]
        database.write_now(lambda connection: save_sites(connection, known))
    finally:
        database.close()


_ODD = """["a.example"]
max_ready = 5
["B.example"]
max_ready = 6
["none.example"]
max_ready = 7
["unknown.example"]
max_ready = 8
[provider.p]
match = [{MXSuffix=".x.example"}]
[provider.q]
max_ready = 9
"""


def test_an_import_warns_of_what_is_rarely_meant_by_the_sites_that_are_known(
    config, rule_file, capsys
):
    _know_sites(config, a="mx.x.example", b="mx.x.example", none=".")
    file = rule_file(_ODD)

    assert run(["rules", "import", file, "--json", "--config", config]) == 0

    warnings = _json(capsys)["warnings"]
    assert sorted((item["code"], item["file"], item["line"]) for item in warnings) == [
        ("aliased_site", file, 3),
        ("null_mx", file, 5),
        ("provider_overlap", file, 1),
        ("provider_overlap", file, 3),
        ("provider_without_match", file, 11),
    ]


def test_an_import_warns_of_its_own_blocks_alone(config, rule_file, capsys):
    _know_sites(config, a="mx.x.example", b="mx.x.example", none=".")
    run(["rules", "import", rule_file(_ODD, "base.toml"), "--config", config])
    capsys.readouterr()

    assert (
        run(["rules", "import", rule_file(_GOOD, "good.toml"), "--json", "--config", config]) == 0
    )

    assert _json(capsys)["warnings"] == []


def test_check_tells_a_silent_dns_from_a_site_that_was_never_known(config, rule_file, capsys):
    _know_sites(config, known="mx.x.example")
    rules = '["known.example"]\nmax_ready = 5\n["never.example"]\nmax_ready = 5\n'
    run(["rules", "import", rule_file(rules), "--config", config])
    capsys.readouterr()

    assert run(["check", "--config", config]) == 0

    said = capsys.readouterr().err
    assert "known.example could not be looked up: its last known site, mx.x.example" in said
    assert "never.example could not be looked up: until it can" in said


def test_list_shows_layers_in_order(config, rule_file, capsys):
    run(
        [
            "rules",
            "import",
            rule_file(_GOOD, "b.toml"),
            rule_file(_GOOD, "a.toml"),
            "--config",
            config,
        ]
    )
    run(["rules", "import", rule_file(_GOOD, "c.toml"), "--layer", "b", "--config", config])
    capsys.readouterr()

    assert run(["rules", "list", "--json", "--config", config]) == 0

    answer = _json(capsys)
    assert [(layer["name"], layer["position"], layer["blocks"]) for layer in answer["layers"]] == [
        ("b", 0, 2),
        ("a", 1, 2),
    ]
    assert set(answer["layers"][0]) == {
        "name",
        "position",
        "enabled",
        "blocks",
        "valid_from",
        "valid_until",
    }
    assert run(["rules", "list", "--config", config]) == 0
    assert "revision 2" in capsys.readouterr().out


def test_explain_takes_the_callers_hosts_and_shows_a_table(config, rule_file, capsys):
    run(["rules", "import", rule_file(_GOOD), "--config", config])
    capsys.readouterr()
    asked = ["explain", "a.example", "--source", "ip-1", "--mx", "mx.b.example:10", "--mx", "mx.c"]

    assert run([*asked, "--json", "--config", config]) == 0
    answer = _json(capsys)
    assert answer["path_name"] == "ip-1->mx.(c|b).example?#a.example" or answer[
        "path_name"
    ].endswith("#a.example")
    assert answer["options"]["connection_limit"]["overrode"][0]["value"] == 10

    assert run([*asked, "--config", config]) == 0
    assert "connection_limit" in capsys.readouterr().out


@pytest.mark.parametrize("host", ["mx.bücher.example", "MX.XN--BCHER-KVA.example."])
def test_a_provider_matches_hosts_in_either_spelling(config, rule_file, capsys, host):
    rules = '[provider."books"]\nmatch = [{MXSuffix=".bücher.example"}]\nmax_ready = 3\n'
    run(["rules", "import", rule_file(rules), "--config", config])
    capsys.readouterr()

    asked = ["explain", "a.example", "--source", "ip-1", "--mx", host, "--json"]
    assert run([*asked, "--config", config]) == 0

    answer = _json(capsys)
    assert answer["provider_names"] == ["books"]
    assert answer["site_name"] == "mx.xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--nonsense"], 2, "No such option"),
        (["explain", "a.example"], 2, "--source"),
        (["explain", "a.example", "--source", "x", "--mx", "h:x"], 2, "HOST"),
        (["rules", "import", "a", "b", "--layer", "x"], 2, "single file"),
        (["rules", "import", "/none.toml"], 1, "/none.toml"),
        (["actions", "cancel", "7"], 1, "no action 7"),
        (["explain", "nowhere.invalid", "--source", "x"], 1, "does not exist"),
        (["explain", "a.example", "--source", "x", "--mx", "a b"], 1, "mx_hosts[0].host is no"),
        (["explain", "a.example", "--source", "\udcff"], 2, "not UTF-8: \\xff"),
        (["rules", "import", "\udcfe.toml"], 2, "not UTF-8: \\xfe.toml"),
        (["rules", "history", "--layer", "a\udce9"], 2, "not UTF-8: a\\xe9"),
        (["actions", "create", "Suspend", "--reason=\udcff"], 2, "not UTF-8: --reason=\\xff"),
    ],
)
def test_a_users_mistake_has_a_status_and_no_traceback(config, capsys, arguments, status, message):
    arguments = [*arguments, "--config", config] if status == 1 or len(arguments) > 1 else arguments

    assert run(arguments) == status

    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err


def test_bad_settings_are_reported_all_at_once(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text('[server]\nspeed = 1\n[dns]\ntimeout = "x"\n')

    assert run(["check", "--config", str(path)]) == 1

    assert len(capsys.readouterr().err.splitlines()) == 2


def test_no_actions_is_an_empty_list(config, capsys):
    assert run(["actions", "list", "--json", "--config", config]) == 0
    assert _json(capsys) == {"actions": []}


def test_check_is_content_before_and_after_the_first_start(config, rule_file, capsys):
    assert run(["check", "--config", config]) == 0
    assert "none yet" in capsys.readouterr().out

    assert run(["migrate", "--config", config]) == 0
    run(["rules", "import", rule_file(_GOOD), "--config", config])
    assert run(["check", "--config", config]) == 0
    assert "rules: ok; 1 layers, 2 blocks" in capsys.readouterr().out


def test_version_is_shown(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("penstock-server, version ")


async def test_serve_hears_of_an_import_and_ends_at_sigterm(config, rule_file):
    command = [sys.executable, "-m", "policy_server.cli.main"]
    server = await asyncio.create_subprocess_exec(
        *command, "serve", "--config", config,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    try:
        assert server.stdout is not None
        line = (await asyncio.wait_for(server.stdout.readline(), 20)).decode()
        address = line.split("grpc=")[1].split()[0]
        status = await asyncio.to_thread(
            run, ["rules", "import", rule_file(_GOOD), "--config", config]
        )
        assert status == 0
        question = pb.GetEgressPathConfigRequest(
            routing_domain="a.example", egress_source="ip-1", mx_hosts=[pb.MxHost(host="mx.a")]
        )
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(5):
            limit = 0
            while limit != 3:
                answer = await PolicyServiceStub(channel).GetEgressPathConfig(question)
                limit = answer.config.connection_limit.value
                await asyncio.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.wait(), 10) == 0
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
