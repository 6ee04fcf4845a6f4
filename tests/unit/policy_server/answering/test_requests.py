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
        st.sampled_from(["mx1.example", "MX2.example.", ".", "a" * 400]),
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
