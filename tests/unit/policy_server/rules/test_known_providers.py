"""
The rule files that KumoMTA ships give the answers that they give there.

The expected values are worked out by hand from `shaping.toml`, `community-shaping.toml` and the MX
sets of `mx.json`.
"""

import json
from typing import Any

import pytest

from policy_server.rule_files.reader import read_rule_file
from policy_server.rules.explain import explain_json
from policy_server.rules.layers import Layer
from policy_server.rules.parse import parse_layer
from policy_server.rules.resolve import consulted_rules, resolve
from tests.unit.policy_server.rules.drafts import ask, make_snapshot
from tests.unit.policy_server.rules.shared_data import read_shared, shared_path

_FILES = ("kumomta/shaping.toml", "kumomta/community-shaping.toml")
#: What ["default"] of shaping.toml sets.
_DEFAULT: dict[str, Any] = {
    "connection_limit": 10,
    "max_connection_rate": "100/m",
    "max_deliveries_per_connection": 100,
    "max_message_rate": "100/s",
    "idle_timeout": 60,
    "data_timeout": 30,
    "data_dot_timeout": 60,
    "enable_tls": "Opportunistic",
    "consecutive_connection_failures_before_delay": 100,
    "remember_broken_tls": 259_200,
    "system_shutdown_timeout": 690,
    "max_ready": 1024,
    "additional_connection_limits": {},
}
_CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "gmail.com": (
        "ip-1->(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com",
        ["google"],
        {
            "enable_tls": "Required",
            "max_deliveries_per_connection": 50,
            "provider_connection_limit": 5,
            "consecutive_connection_failures_before_delay": 5,
            "additional_connection_limits": {"shaping-provider-google-ip-1-limit": 5},
        },
    ),
    "yahoo.com": (
        "ip-1->(mta5|mta6|mta7).am0.yahoodns.net",
        ["yahoo"],
        {"max_deliveries_per_connection": 20},
    ),
    "outlook.com": (
        "ip-1->outlook-com.olc.protection.outlook.com",
        ["outlook"],
        {
            "max_deliveries_per_connection": 50,
            "provider_connection_limit": 5,
            "additional_connection_limits": {"shaping-provider-outlook-ip-1-limit": 5},
        },
    ),
    "comcast.net": (
        "ip-1->(mx1a1|mx1h1|mx2c1|mx2h1).comcast.net",
        [],
        {
            "connection_limit": 25,
            "max_deliveries_per_connection": 1000,
            "enable_tls": "Required",
            "idle_timeout": 30,
            "consecutive_connection_failures_before_delay": 24,
        },
    ),
    "barracuda-customer.example": (
        "ip-1->(d1234a|d1234b).ess.barracudanetworks.com",
        ["barracuda"],
        {
            "enable_tls": "Required",
            "max_deliveries_per_connection": 15,
            "provider_connection_limit": 10,
            "additional_connection_limits": {"shaping-provider-barracuda-ip-1-limit": 10},
        },
    ),
    "example.com": (
        "ip-1->#example.com",
        [],
        {"max_deliveries_per_connection": 100, "connection_limit": 3},
    ),
    "blend.example": ("ip-1->aspmx?.(mx1|l).(blend|google).(example|com)", [], {}),
}


def _read_layers() -> list[Layer]:
    layers = []
    for name in _FILES:
        draft, issues = read_rule_file(str(shared_path(name)))
        layer, found = parse_layer(draft)
        assert [issue for issue in (*issues, *found) if issue.severity == "error"] == []
        layers.append(layer)
    return layers


def _read_mx() -> Any:
    return json.loads(read_shared("mx.json"))["mx"]


@pytest.mark.parametrize("domain", _CASES)
def test_well_known_domain_gets_its_answer(domain):
    path_name, provider_names, options = _CASES[domain]
    mx = _read_mx()
    question = ask(mx, domain)

    resolution = resolve(make_snapshot(_read_layers(), mx), question)

    explained = explain_json(resolution, question, revision=1, etag="e")
    values = {name: option["value"] for name, option in explained["options"].items()}
    assert resolution.path_name == path_name
    assert list(resolution.provider_names) == provider_names
    assert values | _DEFAULT | options == values
    assert values.get("provider_name") == (provider_names[-1] if provider_names else None)


def test_the_known_files_are_taken_without_a_warning():
    issues = []
    for name in _FILES:
        draft, found = read_rule_file(str(shared_path(name)))
        issues += [*found, *parse_layer(draft)[1]]

    assert issues == []


def test_rules_of_both_files_are_consulted_for_yahoo():
    mx = _read_mx()

    rules = consulted_rules(make_snapshot(_read_layers(), mx), ask(mx, "yahoo.com"))

    assert [(rule.layer, rule.scope, rule.position) for rule in rules[:3]] == [
        ("shaping", "default", 0),
        ("shaping", "provider", 0),
        ("community-shaping", "provider", 0),
    ]
    assert len(rules) == 10
