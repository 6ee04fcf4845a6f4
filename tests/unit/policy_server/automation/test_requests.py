"""What is wrong with an operator's request for an action, all of it at once."""

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.automation.actions import ActionKind
from policy_server.automation.requests import (
    ActionRequest,
    CheckedRequest,
    check_request,
    parse_value,
)
from policy_server.conversions.actions import spell_value
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.values import InvalidValueError, format_value

_HOUR = timedelta(hours=1)
_SET = {"option": "connection_limit", "value": "5", "egress_source": "ip-1"}
_MAIL = {"routing_domain": "foo.com", "tenant": "t", "campaign": "c"}


def _check(kind, **fields):
    return check_request(ActionRequest(kind=kind, **{"duration": _HOUR, **fields}))


def _fields(kind, **fields):
    found = _check(kind, **fields)
    return [] if isinstance(found, CheckedRequest) else [field for field, _ in found]


def _names(*names):
    return {name: _MAIL[name] for name in names}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ActionKind.SUSPEND, {"egress_source": "ip-1"}),
        (ActionKind.SUSPEND, {"site_name": "mx.example"}),
        (ActionKind.SUSPEND, {"routing_domain": "Bücher.example"}),
        (ActionKind.SUSPEND, {"egress_source": "ip-1", "reason": "two\nlines"}),
        (ActionKind.SUSPEND, {"egress_source": "ip-1", "duration": None, "is_pinned": True}),
        (ActionKind.SUSPEND_TENANT, _names("routing_domain", "tenant")),
        (ActionKind.SUSPEND_CAMPAIGN, _MAIL),
        (ActionKind.BOUNCE, _names("routing_domain")),
        (ActionKind.BOUNCE_TENANT, _names("routing_domain", "tenant")),
        (ActionKind.BOUNCE_CAMPAIGN, _MAIL),
        (ActionKind.SET_CONFIG, {**_SET, "site_name": "mx.example"}),
        (ActionKind.SET_CONFIG, {**_SET, "routing_domain": "foo.com"}),
        (ActionKind.SET_DOMAIN_CONFIG, {**_SET, "routing_domain": "foo.com"}),
        (ActionKind.SET_DOMAIN_CONFIG, {**_SET, "routing_domain": "foo.com", "site_name": "mx"}),
    ],
)
def test_a_request_without_mistakes_is_taken(kind, fields):
    assert _fields(kind, **fields) == []


@pytest.mark.parametrize(
    ("kind", "fields", "wrong"),
    [
        (None, {}, ["kind"]),
        (ActionKind.ADJUST_CONFIG, {}, ["kind"]),
        (ActionKind.SUSPEND, {}, ["egress_source"]),
        (ActionKind.SUSPEND, {"egress_source": "a", "tenant": "t"}, ["tenant"]),
        (ActionKind.SUSPEND, {"egress_source": "a", "duration": None}, ["duration"]),
        (ActionKind.SUSPEND, {"egress_source": "a", "duration": timedelta()}, ["duration"]),
        (
            ActionKind.SUSPEND,
            {"egress_source": "a", "is_pinned": True, "duration": -_HOUR},
            ["duration"],
        ),
        (
            ActionKind.SUSPEND_TENANT,
            {"egress_source": "a"},
            [
                "egress_source",
                "routing_domain",
                "tenant",
            ],
        ),
        (ActionKind.SUSPEND_CAMPAIGN, _names("routing_domain", "tenant"), ["campaign"]),
        (
            ActionKind.BOUNCE,
            {"option": "max_ready", "value": "1"},
            [
                "routing_domain",
                "option",
                "value",
            ],
        ),
        (ActionKind.BOUNCE, _names("routing_domain", "tenant"), ["tenant"]),
        (ActionKind.SET_CONFIG, {"value": "5"}, ["egress_source", "site_name", "option"]),
        (
            ActionKind.SET_CONFIG,
            {**_SET, "site_name": "mx", "routing_domain": "a.example"},
            ["routing_domain"],
        ),
        (ActionKind.SET_CONFIG, {**_SET, "site_name": "mx", "value": "0"}, ["value"]),
        (
            ActionKind.SET_CONFIG,
            {**_SET, "site_name": "mx", "option": "conection_limit"},
            ["option"],
        ),
        (
            ActionKind.SET_CONFIG,
            {**_SET, "site_name": "mx", "option": "tls_private_key"},
            ["option"],
        ),
        (
            ActionKind.SET_CONFIG,
            {**_SET, "site_name": "mx", "option": "provider_connection_limit"},
            ["option"],
        ),
        (ActionKind.SET_DOMAIN_CONFIG, {**_SET, "site_name": "mx"}, ["routing_domain"]),
        (ActionKind.BOUNCE, {"routing_domain": "foo bar.com"}, ["routing_domain"]),
        (ActionKind.BOUNCE, {"routing_domain": "☃" * 300}, ["routing_domain"] * 2),
        (
            ActionKind.BOUNCE,
            {"routing_domain": "a.com", "reason": "x" * 1001, "request_id": "x" * 256},
            ["reason", "request_id"],
        ),
        (
            ActionKind.SUSPEND,
            {"egress_source": "a\0", "request_id": "\n"},
            ["egress_source", "request_id"],
        ),
        (ActionKind.SUSPEND, {"site_name": "a\tb", "reason": "a\0"}, ["site_name", "reason"]),
        (
            ActionKind.BOUNCE_CAMPAIGN,
            {"routing_domain": "a.com", "tenant": "\x1b", "campaign": "\x7f"},
            ["tenant", "campaign"],
        ),
    ],
)
def test_every_mistake_names_its_field(kind, fields, wrong):
    assert _fields(kind, **fields) == wrong


def test_a_mistake_says_what_to_ask_for_instead():
    def text(kind, **fields):
        found = _check(kind, **fields)
        assert not isinstance(found, CheckedRequest)
        return found[0][1]

    assert "SetConfig" in text(ActionKind.ADJUST_CONFIG)
    assert "SuspendTenant" in text(ActionKind.SUSPEND, egress_source="a", tenant="t")
    assert "did you mean connection_limit" in text(
        ActionKind.SET_CONFIG, **{**_SET, "option": "conection_limit"}, site_name="mx"
    )


def test_domains_and_values_are_in_the_form_that_rules_compare():
    checked = _check(
        ActionKind.SET_DOMAIN_CONFIG,
        egress_source="ip-1",
        routing_domain="Bücher.Example.",
        option="max_message_rate",
        value="1,000/minute",
    )

    assert isinstance(checked, CheckedRequest)
    assert (checked.routing_domain, checked.value) == ("xn--bcher-kva.example", "1000/m")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("connection_limit", "local:5", "local:5"),
        ("idle_timeout", "90m", 5400),
        ("idle_timeout", "2.5", 2.5),
        ("enable_tls", "Required", "Required"),
        ("allow_smtp_auth_plain_without_tls", "true", True),
        ("prohibited_hosts", '["192.0.2.1"]', ["192.0.2.1"]),
        ("additional_connection_limits", '{"a": 5}', {"a": 5}),
    ],
)
def test_values_are_written_as_in_rule_files_and_lists_as_json(option, text, value):
    assert parse_value(build_catalogue().options[option], text) == value


@given(st.sampled_from(sorted(build_catalogue().defaults)))
def test_what_the_ledger_shows_can_be_asked_for(name):
    option = build_catalogue().options[name]
    shown = spell_value(parse_value(option, spell_value(_spell_default(name))))

    assert spell_value(parse_value(option, shown)) == shown


def _spell_default(name):
    return format_value(build_catalogue().defaults[name])


@given(st.sampled_from(sorted(build_catalogue().options)), st.text(max_size=30))
def test_any_text_is_a_value_or_is_refused(name, text):
    option = build_catalogue().options[name]
    with contextlib.suppress(InvalidValueError):
        parse_value(option, text)
