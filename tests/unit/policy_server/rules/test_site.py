import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.rules.site import (
    MxHost,
    guess_hosts,
    host_set,
    is_null_mx,
    normalise_domain,
    possible_hosts,
    read_address_literal,
    site_name,
)
from policy_server.rules.values import InvalidValueError
from tests.unit.policy_server.rules.shared_data import read_shared

_LABELS = st.text("abcxyz01", min_size=1, max_size=3)
_HOSTS = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
_MX_SETS = st.lists(st.builds(MxHost, _HOSTS, st.integers(0, 3)), min_size=1, max_size=6)

#: Worked out by hand from the rules of site names.
_EXPECTED = {
    "gmail.com": "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com",
    "googlemail.com": "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com",
    "workspace.example": "(alt1|alt2|alt3|alt4)?.aspmx.l.google.com",
    "yahoo.com": "(mta5|mta6|mta7).am0.yahoodns.net",
    "ymail.com": "(mta5|mta6|mta7).am0.yahoodns.net",
    "aol.com": "mx-aol.mail.gm0.yahoodns.net",
    "yahoo.co.jp": "(mx1|mx2|mx3|mx5).mail.yahoo.co.jp",
    "outlook.com": "outlook-com.olc.protection.outlook.com",
    "hotmail.com": "hotmail-com.olc.protection.outlook.com",
    "office365.example": "office365-example.mail.protection.outlook.com",
    "o365-dane.example": "o365-dane-example.k-v1.mx.microsoft",
    "icloud.com": "(mx01|mx02).mail.icloud.com",
    "comcast.net": "(mx1a1|mx1h1|mx2c1|mx2h1).comcast.net",
    "mail.com": "(mx00|mx01).mail.com",
    "gmx.net": "(mx00|mx01).emig.gmx.net",
    "web.de": "(mx-ha02|mx-ha03).web.de",
    "orange.fr": "smtp-in.orange.fr",
    "mimecast-customer.example": "(eu-smtp-inbound-1|eu-smtp-inbound-2).mimecast.com",
    "barracuda-customer.example": "(d1234a|d1234b).ess.barracudanetworks.com",
    "qq.com": "(mx3|mx2|mx1).qq.com",
    "163.com": "(163mx01|163mx02|163mx03).mxmail.netease.com",
    "blend.example": "aspmx?.(mx1|l).(blend|google).(example|com)",
    "example.com": "",
    "nomx.example": "nomx.example",
}


def test_sites_of_well_known_domains():
    data = json.loads(read_shared("mx.json"))["mx"]

    made = {
        domain: site_name(domain, [MxHost(host, preference) for preference, host in records])
        for domain, records in data.items()
    }

    assert made == _EXPECTED


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        pytest.param([("MX.A.example.", 1)], "mx.a.example", id="case and dots"),
        pytest.param([("b.x", 1), ("a.x", 1)], "(a|b).x", id="by name within a preference"),
        pytest.param([("b.x", 1), ("a.x", 2)], "(b|a).x", id="by preference first"),
        pytest.param([("a.x", 1), ("x", 2)], "a?.x", id="one label that a host lacks"),
        pytest.param([("a.x", 1), ("b.x", 1), ("x", 2)], "(a|b)?.x", id="several of them"),
        pytest.param([("a.x", 1), ("a.x", 2)], "a.x", id="a host that is listed twice"),
        pytest.param([(".", 0)], "", id="null MX"),
        pytest.param([(".", 0), ("a.x", 1)], "a.x", id="a null MX beside others means nothing"),
    ],
)
def test_site_name(hosts, expected):
    assert site_name("d.example", [MxHost(*host) for host in hosts]) == expected


@given(_MX_SETS, st.randoms())
def test_site_name_does_not_depend_on_the_order_of_the_answer(hosts, random):
    shuffled = list(hosts)
    random.shuffle(shuffled)

    assert site_name("d.example", shuffled) == site_name("d.example", hosts)


@given(_MX_SETS)
def test_site_name_does_not_depend_on_case_and_trailing_dots(hosts):
    changed = [MxHost(f"{entry.host.upper()}.", entry.preference) for entry in hosts]

    assert site_name("d.example", changed) == site_name("d.example", hosts)


@given(_HOSTS, st.integers(0, 65_535))
def test_a_single_host_is_its_own_site(host, preference):
    assert site_name("d.example", [MxHost(host, preference)]) == host


@given(_MX_SETS)
def test_site_name_has_every_label_of_every_host(hosts):
    name = site_name("d.example", hosts)

    for host in host_set(hosts):
        assert all(label in name for label in host.split("."))


@given(_MX_SETS)
def test_the_hosts_guessed_from_a_site_name_include_all_there_are(hosts):
    guessed = {entry.host for entry in guess_hosts(site_name("d.example", hosts))}

    # Very many are not guessed at all.
    assert not guessed or guessed >= host_set(hosts)


@pytest.mark.parametrize("known", sorted(_EXPECTED))
def test_the_hosts_of_known_sites_end_as_those_guessed(known):
    """Providers go by the ends of host names: all hosts have one, or not all do."""
    records = json.loads(read_shared("mx.json"))["mx"][known]
    hosts = host_set([MxHost(host, preference) for preference, host in records])
    guessed = {entry.host for entry in guess_hosts(_EXPECTED[known])}

    for suffix in {host[place:] for host in hosts for place in range(len(host))}:
        assert all(host.endswith(suffix) for host in hosts) == all(
            host.endswith(suffix) for host in guessed
        )


@pytest.mark.parametrize(
    "text", ["", "a..b", "(a|b.c", "a)b", "(a|).x", "(a|b)?(c).x", ".".join(["(a|b)"] * 8)]
)
def test_nothing_is_guessed_from_what_is_no_site_name_or_too_many(text):
    assert guess_hosts(text) == ()


@pytest.mark.parametrize(
    ("literal", "address"),
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:DB8::1]", "2001:db8::1"),
        ("[not an address]", None),
        ("example.com", None),
    ],
)
def test_address_literal(literal, address):
    assert read_address_literal(literal) == address
    if address:
        assert site_name(literal, []) == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Example.COM. ", "example.com"),
        ("Bücher.example", "xn--bcher-kva.example"),
        (".bücher.example", ".xn--bcher-kva.example"),
        ("http://127.0.0.1:8008.tsa.kumomta", "http://127.0.0.1:8008.tsa.kumomta"),
    ],
)
def test_domains_are_compared_in_one_form(text, expected):
    assert normalise_domain(text) == expected
    assert normalise_domain(expected) == expected


def test_name_without_a_label_form_is_refused():
    with pytest.raises(InvalidValueError):
        normalise_domain("b\u2028ü..example")


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [([], False), ([MxHost(".")], True), ([MxHost("a.x")], False), ([MxHost("")], True)],
)
def test_null_mx(hosts, expected):
    assert is_null_mx(hosts) is expected


@given(_MX_SETS)
def test_a_site_name_stands_for_every_host_it_was_made_from(hosts):
    possible = possible_hosts(site_name("x.example", hosts))

    assert not possible or host_set(hosts) <= set(possible)


@pytest.mark.parametrize("name", sorted(filter(None, _EXPECTED.values())))
def test_the_name_of_a_real_site_stands_for_its_hosts_alone(name):
    hosts = possible_hosts(name)

    assert hosts
    ordered = [MxHost(host, place) for place, host in enumerate(hosts)]
    assert site_name("x.example", ordered) == name


def test_a_name_that_may_stand_for_very_many_hosts_tells_none():
    assert possible_hosts(".".join(["(a|b|c|d)"] * 5)) == ()
