from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from agent.sink.zone import Zone, answer_query, load_zone

_TABLE = {
    "about": "text is ignored",
    "ttl": 30,
    "mx": {
        "Many.example": [[10, "mx1.many.example"], [20, "mx2.many.example."]],
        "null.example": [[0, "."]],
        "plain.example": [],
        "broken.example": [[1, "mx1.many.example"]],
    },
    "a": {"mx1.many.example": ["127.0.2.1", "127.0.2.2"]},
    "aaaa": {"mx2.many.example": ["::1"]},
    "faults": {"broken.example": "servfail", "silent.example": "timeout"},
}


def _ask(name: str, rdtype: str, table: dict[str, Any] = _TABLE) -> dns.message.Message | None:
    return answer_query(dns.message.make_query(name, rdtype), Zone.from_mapping(table))


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "answers"),
    [
        ("many.example", "MX", "NOERROR", ["10 mx1.many.example.", "20 mx2.many.example."]),
        ("MANY.example", "MX", "NOERROR", ["10 mx1.many.example.", "20 mx2.many.example."]),
        ("null.example", "MX", "NOERROR", ["0 ."]),
        ("plain.example", "MX", "NOERROR", []),
        ("plain.example", "A", "NOERROR", []),
        ("mx1.many.example", "A", "NOERROR", ["127.0.2.1", "127.0.2.2"]),
        ("mx1.many.example", "AAAA", "NOERROR", []),
        ("mx2.many.example", "AAAA", "NOERROR", ["::1"]),
        ("example", "A", "NOERROR", []),
        ("nowhere.example", "MX", "NXDOMAIN", []),
        ("x.mx1.many.example", "A", "NXDOMAIN", []),
        ("broken.example", "MX", "SERVFAIL", []),
    ],
)
def test_name_is_answered(name, rdtype, rcode, answers):
    response = _ask(name, rdtype)

    assert response is not None
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert sorted(r.to_text() for found in response.answer for r in found) == sorted(answers)
    assert all(found.ttl == 30 for found in response.answer)
    # RFC 2308: without an SOA a negative answer is not cached.
    assert bool(response.authority) == (not answers and rcode != "SERVFAIL")


def test_silent_name_is_not_answered():
    assert _ask("silent.example", "MX") is None


def test_mx_hosts_without_an_address_may_have_a_default_one():
    response = _ask(
        "mx3.example", "A", {"mx": {"d.example": [[1, "mx3.example"]]}, "default_a": ["127.0.0.9"]}
    )

    assert response is not None
    assert response.answer[0][0].to_text() == "127.0.0.9"


@pytest.mark.parametrize(
    ("table", "mistake"),
    [
        ({"mx": {"d.example": [["x", "y"]]}}, 'mx."d.example"'),
        ({"mx": {"d.example": "y"}}, "expected a list"),
        ({"mx": []}, "expected a table"),
        ({"a": {"h.example": ["::1"]}}, 'a."h.example"'),
        ({"faults": {"d.example": "gone"}}, "servfail"),
        ({"ttl": -1}, "ttl"),
        ({"mxx": {}}, "mxx: unknown key"),
    ],
)
def test_mistake_in_a_zone_is_named(table, mistake):
    with pytest.raises(ValueError, match=r"\w") as caught:
        Zone.from_mapping(table)

    assert mistake in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zone.json", '{"mx": {"d.example": [[1, "mx.d.example"]]}}'),
        ("zone.toml", '[mx]\n"d.example" = [[1, "mx.d.example"]]'),
    ],
)
def test_zone_is_read_from_a_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)

    assert load_zone(path).records["d.example", dns.rdatatype.MX] == ("1 mx.d.example.",)


_SIGNED = {
    "a": {"mx.signed.example": ["127.0.0.1"], "mx.far.example": ["127.0.0.2"]},
    "cname": {
        "alias.signed.example": ["mx.signed.example"],
        "away.signed.example": ["mx.far.example"],
    },
    "txt": {"_mta-sts.signed.example": ["v=STSv1; id=1;", "x" * 300]},
    "tlsa": {"_25._tcp.mx.signed.example": ["3 1 1 " + "ab" * 32]},
    "secure": ["signed.example"],
}


@pytest.mark.parametrize(
    ("name", "rdtype", "answers", "is_secure"),
    [
        ("mx.signed.example", "A", ["127.0.0.1"], True),
        ("mx.signed.example", "AAAA", [], True),
        ("mx.far.example", "A", ["127.0.0.2"], False),
        ("alias.signed.example", "A", ["mx.signed.example.", "127.0.0.1"], True),
        ("alias.signed.example", "CNAME", ["mx.signed.example."], True),
        ("away.signed.example", "A", ["mx.far.example.", "127.0.0.2"], False),
        ("away.signed.example", "CNAME", ["mx.far.example."], True),
        ("_25._tcp.mx.signed.example", "TLSA", ["3 1 1 " + "ab" * 32], True),
        ("nowhere.signed.example", "A", [], True),
    ],
)
def test_secure_answers_bear_the_bit_where_it_is_asked_for(name, rdtype, answers, is_secure):
    zone = Zone.from_mapping(_SIGNED)
    query = dns.message.make_query(name, rdtype)
    plain = answer_query(query, zone)
    query.flags |= dns.flags.AD
    asked = answer_query(query, zone)

    assert [record.to_text() for rrset in asked.answer for record in rrset] == answers
    assert bool(asked.flags & dns.flags.AD) == is_secure
    assert not plain.flags & dns.flags.AD


def test_long_texts_are_several_strings():
    response = _ask("_mta-sts.signed.example", "TXT", _SIGNED)

    texts = [b"".join(record.strings) for record in response.answer[0]]
    assert sorted(texts) == [b"v=STSv1; id=1;", b"x" * 300]
