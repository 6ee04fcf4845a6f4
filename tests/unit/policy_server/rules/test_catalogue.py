import pytest

from penstock.v1.egress_path_pb2 import EgressPathConfig
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.values import InvalidValueError, format_value

_OPTIONS = build_catalogue().options


def test_catalogue_has_every_field_of_the_config():
    assert list(_OPTIONS) == [field.name for field in EgressPathConfig.DESCRIPTOR.fields]


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        (
            "enable_tls",
            [
                "Opportunistic",
                "OpportunisticInsecure",
                "Required",
                "RequiredInsecure",
                "Disabled",
            ],
        ),
        (
            "ip_lookup_strategy",
            ["Ipv4AndIpv6", "Ipv4Only", "Ipv6Only", "Ipv6ThenIpv4", "Ipv4ThenIpv6"],
        ),
        ("reconnect_strategy", ["ConnectNextHost", "ReconnectSameHost", "TerminateSession"]),
        ("refresh_strategy", ["Ttl", "Epoch"]),
    ],
)
def test_enums_are_spelt_as_in_rule_files(name, spellings):
    assert list(_OPTIONS[name].choices) == spellings
    for spelling in spellings:
        assert _OPTIONS[name].parse(spelling) == spelling


@pytest.mark.parametrize("name", _OPTIONS)
def test_default_survives_its_spelling(name):
    option = _OPTIONS[name]
    if option.default is not None:
        assert option.parse(format_value(option.default)) == option.default


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("smtp_port", 65_536),
        ("smtp_port", 0),
        ("ehlo_domain", ""),
        ("ehlo_domain", "two words"),
        ("enable_tls", "opportunistic"),
        ("enable_tls", 1),
        ("enable_dane", 1),
        ("skip_hosts", ["10.0.0.1/8"]),
        ("skip_hosts", ["example.com"]),
        ("rustls_cipher_suites", "one"),
    ],
)
def test_value_that_the_option_does_not_take_is_refused(name, raw):
    with pytest.raises(InvalidValueError):
        _OPTIONS[name].parse(raw)


def test_addresses_are_kept_in_one_form():
    assert _OPTIONS["skip_hosts"].parse(["2001:DB8::/32", "::0"]) == ("2001:db8::/32", "::")


def test_derived_default_names_its_terms():
    terms = _OPTIONS["system_shutdown_timeout"].derived_from

    assert terms == ("mail_from_timeout", "rcpt_to_timeout", "data_timeout", "data_dot_timeout")
