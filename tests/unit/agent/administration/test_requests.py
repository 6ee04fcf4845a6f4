"""What an operator asks for, and the mistakes that are told."""

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from agent.administration.requests import read_filter, read_order, read_page, read_rebinding
from agent.dispatch.rebinding import Rebinding
from agent.errors import BadRequest
from agent.orders.order import OrderKind, QueueScope
from agent.queue.names import QueueName, parse_queue_name
from penstock.v1 import queue_service_pb2 as pb


def _suspend(**more) -> pb.SuspendQueueRequest:
    return pb.SuspendQueueRequest(**{"selector": pb.QueueSelector(tenant="acme"), **more})


def test_domains_come_to_the_form_that_queues_have():
    selector = pb.QueueSelector(domain="EXAMPLE.com", routing_domain="bücher.example")

    order = read_order(_suspend(selector=selector), kind=OrderKind.SUSPEND, now=100.0)

    assert order.scope == QueueScope(domain="example.com", routing_domain="xn--bcher-kva.example")
    assert (order.create_time, order.expire_time) == (100.0, 400.0)


def test_all_mail_is_a_scope_without_parts():
    order = read_order(
        _suspend(selector=pb.QueueSelector(all_mail=True)), kind=OrderKind.SUSPEND, now=0.0
    )

    assert order.scope == QueueScope()


def test_every_mistake_is_told_with_its_field():
    request = pb.BounceQueueRequest(
        selector=pb.QueueSelector(
            queue_name="a@b@c!", domain="-", tenant="a@b", campaign=" x", egress_source="ip"
        ),
        duration=Duration(seconds=-1),
        request_id="x" * 300,
        reason="two\nlines",
    )

    with pytest.raises(BadRequest) as refused:
        read_order(request, kind=OrderKind.BOUNCE, now=0.0)

    assert {field for field, _ in refused.value.violations} == {
        "selector.queue_name",
        "selector.domain",
        "selector.tenant",
        "selector.campaign",
        "selector.egress_source",
        "duration",
        "request_id",
        "reason",
    }


def test_a_filter_may_be_empty_and_has_no_way():
    assert read_filter(pb.QueueSelector()) == QueueScope()
    assert read_filter(pb.QueueSelector(tenant="a", path_name="x->y")) == QueueScope(tenant="a")


@pytest.mark.parametrize(
    ("queue", "rebinding", "target"),
    [
        ("n:t@a.example", {"tenant": ""}, "n:@a.example"),
        ("n:t@a.example", {"campaign": ""}, "t@a.example"),
        ("t@a.example", {"routing_domain": "b.example"}, "t@a.example!b.example"),
        ("a.example!b.example", {"routing_domain": ""}, "a.example"),
        # What goes to the domain itself needs no other name for it.
        ("a.example", {"routing_domain": "a.example"}, "a.example"),
        ("a.example!b.example", {"domain": "b.example"}, "b.example"),
        ("t@a.example", {}, "t@a.example"),
    ],
)
def test_where_mail_moves_to(queue, rebinding, target):
    assert str(Rebinding(**rebinding).target(parse_queue_name(queue))) == target


def test_an_absent_part_stays_and_an_empty_one_goes():
    request = pb.RebindQueueRequest(selector=pb.QueueSelector(tenant="acme"), campaign="")

    _, rebinding = read_rebinding(request)

    queue = QueueName(domain="a.example", tenant="acme", campaign="news")
    assert str(rebinding.target(queue)) == "acme@a.example"


@given(st.lists(st.text("abc", min_size=1), unique=True).map(sorted), st.integers(1, 5))
def test_pages_hold_every_name_once_and_in_order(names, size):
    found: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        page, token = read_page(names, size=size, token=token)
        assert len(page) <= size
        found += page
        pages += 1

    assert found == names
    assert pages <= len(names) // size + 1
