from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policy_server.rules.layers import (
    AdjustConfig,
    AutomationDraft,
    AutomationRule,
    BlockDraft,
    Bounce,
    BounceCampaign,
    BounceTenant,
    Immediate,
    LayerDraft,
    MatchKind,
    ProviderMatch,
    Scope,
    SetConfig,
    SetDomainConfig,
    Severity,
    Suspend,
    SuspendCampaign,
    SuspendTenant,
    Threshold,
)
from policy_server.rules.parse import parse_block, parse_layer
from policy_server.rules.values import Limit, Rate


def _rule(**fields: Any) -> AutomationDraft:
    return AutomationDraft(
        **{"regexes": ("slow",), "actions": ("Suspend",), "duration": "1h", **fields}
    )


def _parse(**fields: Any) -> Any:
    draft = BlockDraft(**{"scope": Scope.DOMAIN, "name": "foo.example", "id": 7, **fields})
    return parse_block(draft, layer="base")


def _only_rule(**fields: Any) -> AutomationRule:
    block, issues = _parse(automation=(_rule(**fields),))
    assert not issues
    rule: AutomationRule = block.automation[0]
    return rule


def test_row_becomes_a_block():
    block, issues = _parse(name="Foo.Example.", options={"connection_limit": "local:5"})

    assert not issues
    assert (block.id, block.name, block.options) == (
        7,
        "foo.example",
        {"connection_limit": Limit(5, local=True)},
    )


def test_wrong_row_is_reported_with_its_place():
    block, issues = _parse(options={"connection_limit": 0, "max_ready": 5})

    assert block is None
    (issue,) = issues
    assert (issue.block, issue.option, issue.value, issue.block_id, issue.severity) == (
        '"foo.example"',
        "connection_limit",
        0,
        7,
        Severity.ERROR,
    )


def test_all_mistakes_of_a_block_are_reported_at_once():
    _, issues = _parse(
        options={"max_ready": 0, "nonsense": 1, "smtp_port": "x"}, automation=(_rule(regexes=()),)
    )

    assert [issue.option for issue in issues] == ["max_ready", "nonsense", "smtp_port", "regex"]


def test_null_unsets_wherever_it_stands():
    block, issues = _parse(options={"provider_connection_limit": None})

    assert not issues
    assert block.options == {"provider_connection_limit": None}


@pytest.mark.parametrize(
    ("scope", "name", "source", "option", "is_good"),
    [
        (Scope.PROVIDER, "p", "", "provider_connection_limit", True),
        (Scope.PROVIDER, "p", "ip-1", "provider_connection_limit", False),
        (Scope.DOMAIN, "foo.example", "", "provider_connection_limit", False),
        (Scope.DEFAULT, "", "", "provider_connection_limit", False),
    ],
)
def test_provider_options_belong_in_provider_blocks(scope, name, source, option, is_good):
    block, issues = _parse(scope=scope, name=name, source=source, options={option: 5})

    assert (block is not None) is is_good
    assert bool(issues) is not is_good


def test_selection_rate_of_a_provider_may_differ_by_source():
    block, _ = _parse(
        scope=Scope.PROVIDER,
        name="p",
        source="ip-1",
        options={"provider_source_selection_rate": "500/d,max_burst=1"},
    )

    assert block.options["provider_source_selection_rate"] == Rate(500, timedelta(days=1), 1)


def test_patterns_are_kept_in_lower_case_without_dots_at_the_end():
    block, _ = _parse(
        scope=Scope.PROVIDER,
        name="p",
        matches=(("mx_suffix", ".Foo.example."), ("mx_suffix", ".foo.EXAMPLE"), ("host_name", "A")),
    )

    assert block.matches == (
        ProviderMatch(kind=MatchKind.MX_SUFFIX, value=".foo.example"),
        ProviderMatch(kind=MatchKind.HOST_NAME, value="a"),
    )


@pytest.mark.parametrize("match", [("MXSuffix", ".a"), ("mx_suffix", "."), ("mx_suffix", 5)])
def test_wrong_pattern_is_refused(match):
    block, issues = _parse(scope=Scope.PROVIDER, name="p", matches=(match,))

    assert block is None
    assert issues[0].option == "match"


@pytest.mark.parametrize(
    ("name", "mx_rollup", "is_good"),
    [
        ("foo.example", True, True),
        ("_spf.foo.example", True, True),
        ("bücher.example", True, True),
        ("[192.0.2.1]", True, True),
        ("localhost", True, False),
        ("localhost", False, True),
        ("foo..example", True, False),
        ("-foo.example", True, False),
        ("a" * 64 + ".example", True, False),
        ("http://127.0.0.1:8008.tsa.kumomta", True, False),
        ("http://127.0.0.1:8008.tsa.kumomta", False, True),
        ("b\u2028ü..example", False, False),
        ("", True, False),
    ],
)
def test_names_of_domains(name, mx_rollup, is_good):
    block, issues = _parse(name=name, mx_rollup=mx_rollup)

    assert (block is not None) is is_good
    assert bool(issues) is not is_good


@pytest.mark.parametrize(
    ("raw", "trigger"),
    [
        ("Immediate", Immediate()),
        ({"Threshold": "2/hr"}, Threshold(count=2, period=timedelta(hours=1))),
        ({"Threshold": "3/300s"}, Threshold(count=3, period=timedelta(seconds=300))),
    ],
)
def test_triggers(raw, trigger):
    assert _only_rule(trigger=raw).trigger == trigger


@pytest.mark.parametrize(
    ("raw", "action"),
    [
        ("Suspend", Suspend()),
        ("SuspendTenant", SuspendTenant()),
        ("SuspendCampaign", SuspendCampaign()),
        ("Bounce", Bounce()),
        ("BounceTenant", BounceTenant()),
        ("BounceCampaign", BounceCampaign()),
        (
            {"SetConfig": {"name": "max_message_rate", "value": "1/minute"}},
            SetConfig(name="max_message_rate", value=Rate(1, timedelta(minutes=1))),
        ),
        (
            {"SetDomainConfig": {"name": "max_ready", "value": 5}},
            SetDomainConfig(name="max_ready", value=5),
        ),
        (
            {
                "AdjustConfig": {
                    "name": "max_message_rate",
                    "factor": 0.5,
                    "floor": "1/s",
                    "recover_step": 2,
                    "recover_every": "10m",
                }
            },
            AdjustConfig(
                name="max_message_rate",
                factor=0.5,
                floor=Rate(1, timedelta(seconds=1)),
                recover_step=2,
                recover_every=timedelta(minutes=10),
            ),
        ),
    ],
)
def test_actions(raw, action):
    assert _only_rule(actions=(raw,)).actions == (action,)


def test_an_action_said_twice_is_warned_of_and_the_first_holds():
    set_ready = [{"SetConfig": {"name": "max_ready", "value": value}} for value in (5, 6)]

    block, issues = _parse(automation=(_rule(actions=("Suspend", *set_ready, "Suspend")),))

    assert block.automation[0].actions == (Suspend(), SetConfig(name="max_ready", value=5))
    assert [(issue.code, issue.severity) for issue in issues] == [
        ("repeated_action", Severity.WARNING)
    ] * 2


_GOOD_ADJUST = {
    "name": "connection_limit",
    "factor": 0.5,
    "floor": 1,
    "recover_step": 2,
    "recover_every": 60,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"actions": ("suspend",)},
        {"actions": ("SetConfig",)},
        {"actions": (5,)},
        {"actions": ({},)},
        {"actions": ({"Suspend": {}},)},
        {"actions": ({"SetConfig": "max_ready"},)},
        {"actions": ({"SetConfig": {"name": "max_ready"}},)},
        {"actions": ({"SetConfig": {"name": "max_ready", "value": 0}},)},
        {"actions": ({"SetConfig": {"name": "max_redy", "value": 1}},)},
        {"actions": ({"SetConfig": {"name": ["max_ready"], "value": 1}},)},
        {"actions": ({"SetConfig": {"name": "max_ready", "value": 1, "unit": "x"}},)},
        {"actions": ({"SetConfig": {"name": "provider_connection_limit", "value": 1}},)},
        {"actions": ({"SetConfig": {"name": "tls_private_key", "value": "/key.pem"}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "factor": 1}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "recover_step": 1}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "floor": 0}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "name": "enable_tls"}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "factor": float("nan")}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "recover_step": float("inf")}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "recover_step": 1.001}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "recover_every": 0}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "recover_every": "8 days"}},)},
        {"actions": ({"AdjustConfig": {**_GOOD_ADJUST, "floor": "1/s"}},)},
        {"actions": ({"SetDomainConfig": {"name": "tls_private_key", "value": "/key.pem"}},)},
        {"actions": ()},
        {"regexes": (5,)},
        {"regexes": ("(",)},
        {"regexes": ("x" * 10_001,)},
        {"trigger": "Never"},
        {"trigger": {"Threshold": "1/s,max_burst=2"}},
        {"trigger": {"Threshold": "local:1/s"}},
        {"trigger": 5},
        {"duration": None},
        {"duration": 0},
        {"match_internal": "true"},
        {"mode": "off"},
    ],
)
def test_wrong_automation_rule_is_refused(fields):
    block, issues = _parse(automation=(_rule(**fields),))

    assert block is None
    assert issues


def test_pattern_that_needs_look_around_is_taken():
    pattern = "^(?!.*internal).*RL000010"

    assert _only_rule(regexes=(pattern,)).regexes == (pattern,)


def test_key_of_a_rule_stays_where_others_come_and_go():
    alone, _ = _parse(automation=(_rule(),))
    others, _ = _parse(automation=(_rule(regexes=("other",)), _rule(), _rule()))
    elsewhere, _ = _parse(name="bar.example", automation=(_rule(),))

    keys = [rule.key for rule in others.automation]
    assert alone.automation[0].key == keys[1]
    assert len({*keys, elsewhere.automation[0].key}) == 4


def test_disabled_blocks_and_rules_are_checked_and_left_out():
    layer, issues = parse_layer(
        LayerDraft(
            name="base",
            blocks=(
                BlockDraft(scope=Scope.DEFAULT, enabled=False, options={"max_ready": 0}),
                BlockDraft(scope=Scope.DEFAULT, automation=(_rule(enabled=False),)),
                BlockDraft(scope=Scope.DEFAULT, enabled=False),
            ),
        )
    )

    assert [block.automation for block in layer.blocks] == [()]
    assert len(issues) == 1


def test_layer_that_ends_before_it_begins_is_refused():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    _, issues = parse_layer(LayerDraft(name="base", valid_from=now, valid_until=now))

    assert issues[0].option == "valid_until"


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"smtp_auth_plain_password": {"key_data": "hunter2", "env": "A"}}},
        {"options": {"smtp_auth_plain_pasword": {"key_data": "hunter2"}}},
        {
            "automation": (
                _rule(
                    actions=(
                        {
                            "SetConfig": {
                                "name": "tls_private_key",
                                "value": {"key_data": "hunter2", "x": "y"},
                            }
                        },
                    )
                ),
            )
        },
        {
            "automation": (
                _rule(
                    actions=(
                        {"SetConfig": {"name": "smtp_auth_plain_password", "value": "hunter2"}},
                    )
                ),
            )
        },
    ],
)
def test_no_issue_shows_a_secret(fields):
    _, issues = _parse(**fields)

    assert issues
    assert "hunter2" not in repr(issues)
