"""The built-in rules are in order, know the providers, and answer replies carefully."""

import json
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
import re2

from policy_server.automation.matching import Effort, compile_rules, match_outcome
from policy_server.automation.outcomes import Reply, reply_text
from policy_server.builtin import builtin_rules_path
from policy_server.rule_files.reader import read_rule_file
from policy_server.rules.checks import check_layers
from policy_server.rules.layers import AutomationRule, Block, Scope, SetConfig, Suspend, Threshold
from policy_server.rules.parse import parse_layer
from policy_server.rules.resolve import Question, consulted_rules, resolve
from policy_server.rules.site import MxHost, site_name
from policy_server.rules.snapshot import compile_snapshot
from policy_server.rules.values import Limit, OptionValue, Rate
from tests.unit.policy_server.automation.examples import make_outcome
from tests.unit.policy_server.rules.drafts import ask
from tests.unit.policy_server.rules.shared_data import read_shared

_DRAFT, _READ_ISSUES = read_rule_file(str(builtin_rules_path()))
_LAYER, _PARSE_ISSUES = parse_layer(_DRAFT)
_SNAPSHOT = compile_snapshot([_LAYER], sites={}, revision=1)
_BLOCKS = {block.name or "default": block for block in _LAYER.blocks}
_PROVIDERS = [name for name in _BLOCKS if name != "default"]
_RULES = [
    pytest.param(name, rule, id=f"{name}-{rule.position}")
    for name, block in _BLOCKS.items()
    for rule in block.automation
]
_SAMPLES = tomllib.loads(
    (Path(__file__).parents[2] / "data" / "builtin_replies.toml").read_text(encoding="utf-8")
)
#: The providers of the MX sets in mx.json; none where nothing matches.
_OWNERS: dict[str, list[str]] = {
    "gmail.com": ["google"],
    "googlemail.com": ["google"],
    "workspace.example": ["google"],
    "yahoo.com": ["yahoo"],
    "ymail.com": ["yahoo"],
    "aol.com": ["yahoo"],
    "yahoo.co.jp": ["yahoo-japan"],
    "outlook.com": ["microsoft-consumer"],
    "hotmail.com": ["microsoft-consumer"],
    "office365.example": ["microsoft-365"],
    "o365-dane.example": ["microsoft-365"],
    "icloud.com": ["apple"],
    "comcast.net": ["comcast"],
    "mail.com": ["united-internet"],
    "gmx.net": ["united-internet"],
    "web.de": ["united-internet"],
    "orange.fr": ["orange"],
    "mimecast-customer.example": ["mimecast"],
    "barracuda-customer.example": ["barracuda"],
    "qq.com": ["qq"],
    "163.com": ["netease"],
    "blend.example": [],
    "example.com": [],
    "nomx.example": [],
}
#: MX hosts of the providers that mx.json does not have, as their domains publish them.
_OTHER_HOSTS = [
    ("free", ["mx1.free.fr", "mx2.free.fr"]),
    ("laposte", ["smtpz4.laposte.net"]),
    ("t-online", ["mx00.t-online.de", "mx01.t-online.de", "mx02.t-online.de", "mx03.t-online.de"]),
    ("mail-ru", ["mxs.mail.ru"]),
    ("mail-ru", ["emx.mail.ru"]),
    ("yandex", ["mx.yandex.ru"]),
    ("yandex", ["mx.yandex.net"]),
    ("proton", ["mail.protonmail.ch", "mailsec.protonmail.ch"]),
    ("zoho", ["mx.zoho.com", "mx2.zoho.com", "mx3.zoho.com"]),
    ("zoho", ["mx.zoho.eu", "mx2.zoho.eu", "mx3.zoho.eu"]),
    ("proofpoint", ["mxa-00000000.gslb.pphosted.com", "mxb-00000000.gslb.pphosted.com"]),
    ("proofpoint-essentials", ["mx1-us1.ppe-hosted.com", "mx2-us1.ppe-hosted.com"]),
    ("barracuda", ["d1234a.ess.de.barracudanetworks.com", "d1234b.ess.de.barracudanetworks.com"]),
    ("cisco", ["mx1.hc1234-56.iphmx.com", "mx2.hc1234-56.iphmx.com"]),
    ("symantec", ["cluster1.eu.messagelabs.com", "cluster1a.eu.messagelabs.com"]),
    ("godaddy", ["smtp.secureserver.net", "mailstore1.secureserver.net"]),
    ("google", ["smtp.google.com"]),
    ("libero", ["smtp-in.libero.it"]),
    ("libero", ["smtp-in.virgilio.it"]),
    ("seznam", ["mx1.seznam.cz", "mx2.seznam.cz"]),
    ("wp", ["mx.wp.pl"]),
    ("docomo", ["mfsmax.docomo.ne.jp"]),
]


def _ask_hosts(hosts: list[str]) -> Question:
    mx_hosts = tuple(MxHost(host, 10) for host in hosts)
    return Question(
        routing_domain="customer.example",
        egress_source="ip-1",
        site_name=site_name("customer.example", mx_hosts),
        mx_hosts=mx_hosts,
    )


def _ask_provider(name: str) -> Question:
    """Ask for a site of the provider, or for one that nobody knows."""
    matches = _BLOCKS[name].matches
    return _ask_hosts(["mx1" + matches[0].value if matches else "mx.unknown.example"])


def _effects(rules: tuple[AutomationRule, ...]) -> list[str]:
    return [
        action.name if isinstance(action, SetConfig) else "Suspend"
        for rule in rules
        for action in rule.actions
    ]


def _reply(entry) -> Reply:
    enhanced = entry.get("enhanced_code")
    return Reply(
        code=entry["code"],
        enhanced_code=tuple(enhanced) if enhanced else None,
        content=entry["content"],
    )


def _matched(entry) -> list[AutomationRule]:
    """Return the rules of all blocks that match a reply."""
    rules = [rule for block in _LAYER.blocks for rule in block.automation]
    outcome = make_outcome(reply=_reply(entry))
    return list(match_outcome(compile_rules(rules), outcome, Effort()))


def test_the_file_has_nothing_wrong():
    assert _DRAFT.name == "builtin"
    assert (*_READ_ISSUES, *_PARSE_ISSUES) == ()
    assert check_layers([_LAYER], {}) == ()


def test_the_layer_has_defaults_and_providers_alone():
    """A domain's block would have DNS asked at once."""
    assert {block.scope for block in _LAYER.blocks} == {Scope.DEFAULT, Scope.PROVIDER}
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) for name in _PROVIDERS)


@pytest.mark.parametrize("name", _PROVIDERS)
def test_each_provider_names_sources_and_is_bounded(name):
    text = builtin_rules_path().read_text(encoding="utf-8")
    section = text.partition(f'[provider."{name}"]\n')[2].partition("\n[provider.")[0]
    options = _BLOCKS[name].options

    assert re.search("^# (Source: .*|  .*)https?://|^# DNS: ", section, re.MULTILINE)
    assert {"connection_limit", "max_deliveries_per_connection"} <= options.keys()


@pytest.mark.parametrize("domain", _OWNERS)
def test_known_domains_belong_to_their_provider_alone(domain):
    known = json.loads(read_shared("mx.json"))["mx"]

    assert known.keys() == _OWNERS.keys()
    resolution = resolve(_SNAPSHOT, ask(known, domain))
    assert list(resolution.provider_names) == _OWNERS[domain]


@pytest.mark.parametrize(("name", "hosts"), _OTHER_HOSTS)
def test_other_hosts_belong_to_their_provider_alone(name, hosts):
    assert list(resolve(_SNAPSHOT, _ask_hosts(hosts)).provider_names) == [name]


@pytest.mark.parametrize(
    "hosts",
    [
        ["mx1.notgoogle.com"],
        ["mx.hotmail.com"],
        ["mail.protection.outlook.com.example.net"],
        ["fake-yahoodns.net"],
        ["mx1.seznam.cz", "backup.example.net"],
    ],
)
def test_hosts_of_others_belong_to_nobody(hosts):
    assert list(resolve(_SNAPSHOT, _ask_hosts(hosts)).provider_names) == []


@pytest.mark.parametrize("entry", _SAMPLES["reply"], ids=lambda entry: entry["provider"])
def test_a_documented_reply_leads_to_what_the_data_says(entry):
    block = _BLOCKS[entry["provider"]]
    outcome = make_outcome(reply=_reply(entry))

    matched = match_outcome(compile_rules(block.automation), outcome, Effort())

    assert _effects(matched) == entry["does"]
    assert entry["source"]


@pytest.mark.parametrize(("name", "rule"), _RULES)
def test_each_pattern_has_a_documented_reply(name, rule):
    texts = [reply_text(_reply(entry)) for entry in _SAMPLES["reply"] if entry["provider"] == name]

    for pattern in rule.regexes:
        # RE2 itself: none of the patterns needs a backtracking matcher.
        compiled = re2.compile(pattern)
        assert any(compiled.search(text) for text in texts), pattern


@pytest.mark.parametrize("entry", _SAMPLES["quiet"], ids=lambda entry: entry["content"][:40])
def test_replies_that_slowing_down_does_not_mend_are_left_alone(entry):
    assert _matched(entry) == []


@pytest.mark.parametrize(("name", "rule"), _RULES)
def test_rules_act_after_several_matches_and_for_hours_at_most(name, rule):
    assert isinstance(rule.trigger, Threshold)
    assert rule.trigger.count >= 2
    assert rule.trigger.period <= timedelta(hours=1)
    assert timedelta(minutes=5) <= rule.duration <= timedelta(hours=6)
    assert not rule.match_internal


@pytest.mark.parametrize(("name", "rule"), _RULES)
def test_rules_suspend_or_lower_a_limit(name, rule):
    ruled = resolve(_SNAPSHOT, _ask_provider(name)).options

    for action in rule.actions:
        if not isinstance(action, Suspend):
            assert _size(action.value) < _size(ruled[action.name].value), action


def test_answers_of_the_default_end_before_those_of_a_provider():
    """Of two overrides the longer-lived wins, and a provider knows its own replies better."""
    longest = max(rule.duration for rule in _BLOCKS["default"].automation)

    assert all(
        rule.duration > longest
        for name in _PROVIDERS
        for rule in _BLOCKS[name].automation
        if any(isinstance(action, SetConfig) for action in rule.actions)
    )


def test_an_outcome_consults_the_default_and_its_provider():
    consulted = consulted_rules(_SNAPSHOT, _ask_provider("orange"))

    assert consulted == (*_BLOCKS["default"].automation, *_BLOCKS["orange"].automation)


def _size(value: OptionValue) -> float:
    match value:
        case Limit():
            return value.value
        case Rate():
            return value.count / value.period.total_seconds()
        case int():
            return value
    raise AssertionError(f"{value!r} is no limit")


def test_documented_limits_stand_as_published():
    """The numbers that providers publish; everything else is our choice."""
    published: dict[str, dict[str, OptionValue]] = {
        "yahoo": {"max_deliveries_per_connection": 20},
        "orange": {
            "connection_limit": Limit(2),
            "max_deliveries_per_connection": 100,
            "max_recipients_per_batch": 100,
        },
        "laposte": {"connection_limit": Limit(2), "max_deliveries_per_connection": 100},
        "symantec": {"max_deliveries_per_connection": 100},
        "comcast": {"max_recipients_per_batch": 100},
        "mimecast": {"max_recipients_per_batch": 100},
        "google": {"enable_tls": "Required"},
    }

    for name, options in published.items():
        block: Block = _BLOCKS[name]
        assert {option: block.options[option] for option in options} == options
