"""Settings: defaults, overrides, and mistakes reported together."""

from datetime import timedelta

import pytest

from policy_server.errors import InvalidSettings
from policy_server.settings import Settings, environment_names, load_settings, split_address


def _problems(tmp_path, text="", environ=None):
    path = tmp_path / "penstock-server.toml"
    path.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        load_settings(str(path), environ or {})
    return caught.value.problems


def test_without_a_file_the_defaults_of_the_contract_hold():
    settings = load_settings(None, {})

    assert settings == Settings()
    assert settings.server.grpc_listen == "127.0.0.1:7350"
    assert settings.server.http_listen == "127.0.0.1:7351"
    assert settings.database.url == "sqlite:///var/server/penstock.db"
    assert settings.dns.nameservers == ()
    assert settings.dns.timeout == timedelta(seconds=5)


def test_the_environment_overrides_the_file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('[server]\ngrpc_listen = "127.0.0.1:1"\n[dns]\ntimeout = "2s"\n')

    settings = load_settings(
        str(path),
        {
            "PENSTOCK_SERVER_GRPC_LISTEN": "127.0.0.1:2",
            "PENSTOCK_DNS_NAMESERVERS": "127.0.0.1:5353, [::1]:53",
            "PENSTOCK_AGENT_NAME": "the agent's, not ours",
        },
    )

    assert settings.server.grpc_listen == "127.0.0.1:2"
    assert settings.dns.nameservers == ("127.0.0.1:5353", "[::1]:53")
    assert settings.dns.timeout == timedelta(seconds=2)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param(
            '[server]\ngrpc_lisen = "127.0.0.1:1"\n',
            [":2:", 'unknown key "server.grpc_lisen"', '"grpc_listen"'],
            id="misspelt key",
        ),
        pytest.param(
            "[databse]\n", [":1:", 'unknown section "databse"', '"database"'], id="misspelt section"
        ),
        pytest.param("[server\n", ["not TOML", "line 1"], id="broken TOML"),
        pytest.param('[dns]\ntimeout = "5x"\n', [":2:", "dns.timeout", "5"], id="bad duration"),
        pytest.param('[dns]\ntimeout = "2 days"\n', ["at most a day"], id="too long"),
        pytest.param(
            '[server]\nhttp_listen = "7351"\n', ["server.http_listen", "host:port"], id="no host"
        ),
        pytest.param(
            '[server]\ngrpc_listen = "0.0.0.0:7350"\n', ["loopback"], id="beyond loopback"
        ),
        pytest.param(
            '[database]\nurl = "postgresql://h"\n', ["name of the database"], id="no database"
        ),
        pytest.param(
            '[database]\nurl = "postgresql+psycopg://h/d"\n', ["names a driver"], id="driver"
        ),
        pytest.param('[database]\nurl = "mysql://h/d"\n', ["mysql"], id="unknown database"),
        pytest.param('[database]\nurl = "sqlite://"\n', ["a file is needed"], id="memory"),
        pytest.param('[dns]\nnameservers = ["::1"]\n', ["host:port"], id="bare address"),
        pytest.param("server = 1\n", ["must be a table"], id="no table"),
        pytest.param(
            '[limits]\nsession_ttl = "2s"\n',
            [":2:", "limits.session_ttl", "at least 5s"],
            id="sessions that end between two reports",
        ),
        pytest.param(
            "[server]\nshare_port = true\n",
            ["limits: server.share_port needs limits.state", "redis://"],
            id="a shared port without a shared book",
        ),
        pytest.param(
            '[limits]\nstate = "embedded"\n[server]\nshare_port = true\n',
            [":1:", "limits: server.share_port needs limits.state"],
            id="a shared port with a book in memory",
        ),
        pytest.param(
            '[limits]\nsession_ttl = "30s"\nfloor_ttl = "20s"\n',
            [":3:", "limits.floor_ttl", "limits.session_ttl"],
            id="floors that end first",
        ),
    ],
)
def test_a_mistake_names_place_and_remedy(tmp_path, text, parts):
    (problem,) = _problems(tmp_path, text)

    for part in parts:
        assert part in problem


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = '[server]\ngrpc_listen = "x"\nspeed = 1\n[dns]\ntimeout = "-1"\n[nothing]\n'

    problems = _problems(tmp_path, text, {"PENSTOCK_DATABASE_ULR": "x"})

    assert len(problems) == 5
    assert any("PENSTOCK_DATABASE_URL" in problem for problem in problems)


def test_a_mistake_in_the_environment_names_the_variable(tmp_path):
    (problem,) = _problems(tmp_path, "", {"PENSTOCK_DNS_TIMEOUT": "soon"})

    assert problem.startswith("environment: PENSTOCK_DNS_TIMEOUT: ")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("PENSTOCK_DNS_TRUST_AD", id="the agent's"),
        pytest.param("PENSTOCK_LISTEN_SMTP", id="in a section of the agent's"),
        "PENSTOCK_SERVER_PORT",
        "PENSTOCK_SERVER_SERVICE_HOST",
        "PENSTOCK_SERVER_SERVICE_PORT",
        "PENSTOCK_SERVER_SERVICE_PORT_GRPC",
        "PENSTOCK_SERVER_PORT_7350_TCP",
        "PENSTOCK_SERVER_PORT_7350_TCP_ADDR",
        "PENSTOCK_SERVER_HTTP_PORT",
        "PENSTOCK_DATABASE_PORT_5432_TCP_PORT",
    ],
)
def test_variables_of_the_agent_and_of_container_platforms_are_left_alone(name):
    assert load_settings(None, {name: "tcp://10.0.0.1:7350"}) == Settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PENSTOCK_SERVER_SHARED_PORT", "PENSTOCK_SERVER_SHARE_PORT"),
        ("PENSTOCK_DNS_NAMESERVER", "PENSTOCK_DNS_NAMESERVERS"),
        ("PENSTOCK_LIMITS_GRACES", "PENSTOCK_LIMITS_GRACE"),
    ],
)
def test_a_misspelt_variable_is_a_mistake(tmp_path, name, meant):
    (problem,) = _problems(tmp_path, "", {name: "1"})

    assert problem == f'environment: unknown "{name}"; did you mean "{meant}"?'


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("0.5", 0.5), ("5s", 5), ("1 min", 60)])
def test_the_environment_has_seconds_as_the_file_has(text, seconds):
    settings = load_settings(None, {"PENSTOCK_DNS_TIMEOUT": text})

    assert settings.dns.timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0"])
def test_a_number_that_is_no_span_is_refused(tmp_path, text):
    (problem,) = _problems(tmp_path, "", {"PENSTOCK_DNS_TIMEOUT": text})

    assert problem.startswith("environment: PENSTOCK_DNS_TIMEOUT: ")


def test_a_missing_file_is_one_clear_problem(tmp_path):
    with pytest.raises(InvalidSettings, match="can't be read: No such file"):
        load_settings(str(tmp_path / "none.toml"), {})


def test_settings_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().dns.timeout = timedelta(1)


def test_every_key_has_an_environment_name():
    assert environment_names() == (
        "PENSTOCK_SERVER_GRPC_LISTEN",
        "PENSTOCK_SERVER_HTTP_LISTEN",
        "PENSTOCK_SERVER_SHARE_PORT",
        "PENSTOCK_DATABASE_URL",
        "PENSTOCK_DNS_NAMESERVERS",
        "PENSTOCK_DNS_TIMEOUT",
        "PENSTOCK_FEEDBACK_KEEP_OUTCOMES",
        "PENSTOCK_FEEDBACK_MAX_OUTCOMES",
        "PENSTOCK_WATCH_CANARY_SHARE",
        "PENSTOCK_WATCH_CANARY_WAIT",
        "PENSTOCK_LIMITS_STATE",
        "PENSTOCK_LIMITS_SESSION_TTL",
        "PENSTOCK_LIMITS_GRACE",
        "PENSTOCK_LIMITS_DRAIN_TIME",
        "PENSTOCK_LIMITS_FLOOR_TTL",
    )


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:b", "a:65536", "::1:53", "[::1]"])
def test_a_bad_address_is_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        split_address(text)
