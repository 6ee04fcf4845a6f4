import tomllib
from datetime import timedelta
from pathlib import Path

from penstock.v1 import egress_path_pb2 as pb
from policy_server.rules.config import to_config
from policy_server.rules.explain import explain_json, explain_rows
from policy_server.rules.resolve import Resolution, resolve
from tests.unit.policy_server.rules.drafts import ask, make_layer, make_snapshot

_RULES = (Path(__file__).parents[3] / "data/good_rules/every_spelling.toml").read_text()


def _resolve() -> Resolution:
    snapshot = make_snapshot([make_layer("base", _RULES)], {})
    return resolve(snapshot, ask({}, "a.example"))


def test_every_kind_of_value_reaches_the_config():
    config = to_config(_resolve())

    assert config.connection_limit == pb.Limit(value=1000)
    assert config.max_ready == 10_000
    rate = pb.Rate(count=1000, max_burst=10)
    rate.period.FromTimedelta(timedelta(minutes=2))
    assert config.max_message_rate == rate
    assert config.max_connection_rate.local
    assert not config.max_connection_rate.HasField("max_burst")
    assert config.idle_timeout.ToTimedelta() == timedelta(seconds=1.5)
    assert config.additional_connection_limits["shared"] == pb.Limit(value=20, local=True)
    assert config.additional_message_rate_throttles["shared"].count == 100
    assert config.enable_tls == pb.ENABLE_TLS_OPPORTUNISTIC_INSECURE
    assert list(config.prohibited_hosts.cidrs) == ["10.0.0.0/8", "2001:db8::/32"]
    assert list(config.rustls_cipher_suites.values) == ["TLS13_AES_128_GCM_SHA256"]
    assert config.smtp_auth_plain_password.env == "SMARTHOST_PASSWORD"
    assert config.tls_certificate.path == "/etc/penstock/client.pem"
    assert config.tls_private_key.key_data == "hunter2"
    assert config.enable_pipelining
    assert config.HasField("enable_dane")
    assert not config.enable_dane


def test_option_without_a_value_is_absent():
    config = to_config(resolve(make_snapshot([], {}), ask({}, "a.example")))

    assert not config.HasField("max_message_rate")
    assert not config.HasField("remember_broken_tls")
    assert config.HasField("skip_hosts")


def test_duration_of_zero_is_present():
    snapshot = make_snapshot([make_layer("base", '["default"]\nidle_timeout = 0\n')], {})

    config = to_config(resolve(snapshot, ask({}, "a.example")))

    assert config.HasField("idle_timeout")


def test_explanation_shows_no_secret():
    resolution = _resolve()
    question = ask({}, "a.example")

    explained = explain_json(resolution, question, revision=1, etag="e")

    assert "hunter2" not in repr(explained)
    assert "hunter2" not in repr(explain_rows(resolution))
    assert explained["options"]["tls_private_key"]["value"] == {"key_data": "(hidden)"}
    assert explained["options"]["max_message_rate"]["value"] == "1000/120s,max_burst=10"
    assert explained["options"]["idle_timeout"]["value"] == 1.5


def test_explained_values_are_good_rules_again():
    resolution = _resolve()
    explained = explain_json(resolution, ask({}, "a.example"), revision=1, etag="e")["options"]
    written = tomllib.loads(_RULES)["default"]

    assert written.keys() <= explained.keys()
    assert all(explained[name]["set_by"]["layer"] == "base" for name in written)
