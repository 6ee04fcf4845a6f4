"""Requests are questions whose bytes tell them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.v1 import policy_service_pb2 as pb
from policy_server.answering.questions import make_question
from policy_server.answering.requests import Asked, OpenQuestion, read_request
from policy_server.errors import InvalidRequest
from policy_server.rules.site import MxHost

_HOSTS = st.lists(
    st.builds(
        lambda host, preference: pb.MxHost(host=host, preference=preference),
        st.sampled_from(["mx1.example", "MX2.example.", ".", "mx.bücher.example"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
)


@given(_HOSTS, st.sampled_from(["", "site.example"]), st.sampled_from(["", "etag"]))
def test_a_request_with_hosts_is_a_question(
    hosts: list[pb.MxHost], site_name: str, etag: str
) -> None:
    request = pb.GetEgressPathConfigRequest(
        routing_domain="A.example",
        egress_source="ip-1",
        site_name=site_name,
        mx_hosts=hosts,
        if_none_match=etag,
    )
    raw = request.SerializeToString()
    named = [MxHost(host.host, host.preference) for host in hosts]
    question = make_question("a.example", "ip-1", site_name, named)

    assert read_request(raw) == Asked(question, etag)
    assert read_request(raw) == Asked(question, etag)


def test_a_request_without_hosts_leaves_them_open() -> None:
    request = pb.GetEgressPathConfigRequest(routing_domain="a.example", egress_source="ip-1")

    assert read_request(request.SerializeToString()).question == OpenQuestion(
        routing_domain="a.example", egress_source="ip-1", site_name=""
    )


def _ask(**fields):
    values = {"routing_domain": "a.example", "egress_source": "ip-1", "site_name": "mx.a.example"}
    hosts = [MxHost("mx.a.example", 10)]
    return make_question(**{**values, "mx_hosts": hosts, **fields})


def test_hosts_are_compared_as_a_labels() -> None:
    question = _ask(site_name="", mx_hosts=[MxHost("MX.Bücher.example.", 10), MxHost("b.example")])

    assert question.mx_hosts == (MxHost("b.example"), MxHost("mx.xn--bcher-kva.example", 10))
    assert question == _ask(
        site_name="", mx_hosts=[MxHost("b.example"), MxHost("mx.xn--bcher-kva.example", 10)]
    )


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"routing_domain": "a\0.example"}, ["routing_domain"]),
        ({"routing_domain": "a.example\x7f"}, ["routing_domain"]),
        ({"egress_source": "ip\n1"}, ["egress_source"]),
        ({"site_name": "mx\0"}, ["site_name"]),
        ({"mx_hosts": [MxHost("a"), MxHost("mx\0.a")]}, ["mx_hosts[1].host"]),
        ({"mx_hosts": [MxHost("two words.a")]}, ["mx_hosts[0].host"]),
        ({"mx_hosts": [MxHost("ü" * 64 + ".a")]}, ["mx_hosts[0].host"]),
        ({"mx_hosts": [MxHost("a." * 126 + "bc")]}, ["mx_hosts[0].host"]),
        ({"mx_hosts": [MxHost("a", 65_536)]}, ["mx_hosts[0].preference"]),
        (
            {"mx_hosts": [MxHost("a\t.b", 70_000), MxHost("ok"), MxHost("\x1b")]},
            ["mx_hosts[0].host", "mx_hosts[0].preference", "mx_hosts[2].host"],
        ),
    ],
)
def test_names_that_are_none_are_refused_by_their_fields(fields, wrong) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _ask(**fields)

    assert [field for field, _ in refused.value.violations] == wrong


@pytest.mark.parametrize(
    "host", ["a." * 126 + "b", "_mx.a.example", "mx.a.example.", ".", "", "\\000.a.example"]
)
def test_every_host_that_the_dns_may_name_is_taken(host: str) -> None:
    assert len(_ask(mx_hosts=[MxHost(host, 65_535)]).mx_hosts) == 1


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff", id="no message"),
        pytest.param(b"\x12\x01a" + b"\x22\x03\x0a\x01b", id="no domain"),
    ],
)
def test_what_is_no_request_is_refused_each_time(raw: bytes) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            read_request(raw)
