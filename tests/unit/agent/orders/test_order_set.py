"""Which orders hold for which mail."""

from hypothesis import given
from hypothesis import strategies as st

from agent.orders.order import Order, OrderKind, QueueScope, scope_of_queue
from agent.orders.order_set import OrderSet
from agent.queue.names import QueueName

_PART = st.sampled_from(["", "a", "b"])
scopes = st.builds(
    QueueScope,
    **{name: _PART for name in QueueScope._fields if name != "queue_name"},
    queue_name=st.sampled_from(["", "a", "a:b@a", "b@a!b"]),
)
queues = st.builds(
    QueueName,
    domain=st.sampled_from(["a", "b"]),
    tenant=_PART,
    campaign=_PART,
    routing_domain=_PART,
)
orders = st.builds(
    Order,
    order_id=st.integers(1, 6),
    kind=st.sampled_from(OrderKind),
    scope=scopes,
    reason=st.just("why"),
    create_time=st.just(0.0),
    expire_time=st.sampled_from([10.0, 20.0, 30.0]),
)


@given(st.lists(orders, max_size=6, unique_by=lambda one: one.order_id), queues, _PART, _PART)
def test_what_holds_is_the_last_to_end_of_the_orders_that_cover_the_mail(
    given_orders, queue, source, path_name
):
    held = OrderSet()
    for order in given_orders:
        held.put(order)
    mail = scope_of_queue(queue, source=source, path_name=path_name)

    for now in (0.0, 15.0, 25.0):
        for kind, find in (
            (OrderKind.SUSPEND, held.suspension_of),
            (OrderKind.BOUNCE, held.bounce_of),
        ):
            covering = [
                one.expire_time
                for one in given_orders
                if one.kind is kind and one.scope.covers(mail) and now < one.expire_time
            ]
            found = find(mail, now)
            assert (found.expire_time if found else None) == max(covering, default=None)


@given(scopes, queues)
def test_an_order_on_a_way_covers_no_mail_whose_way_is_not_chosen(scope, queue):
    if scope.needs_path:
        assert not scope.covers(scope_of_queue(queue))


@given(st.lists(orders, max_size=6, unique_by=lambda one: one.order_id))
def test_ended_orders_go_and_listeners_hear_of_it(given_orders):
    held = OrderSet()
    heard: list[int] = []
    held.subscribe(lambda: heard.append(len(held)))
    for order in given_orders:
        held.put(order)
    over = [one for one in given_orders if one.expire_time <= 20.0]

    ended = held.pop_ended(20.0)

    assert sorted(one.order_id for one in ended) == sorted(one.order_id for one in over)
    assert {one.order_id for one in held.orders()} == {one.order_id for one in given_orders} - {
        one.order_id for one in over
    }
    assert len(heard) == len(given_orders) + bool(over)


def test_what_an_order_bounced_is_counted_until_it_ends():
    held = OrderSet()
    order = Order(
        order_id=1,
        kind=OrderKind.BOUNCE,
        scope=QueueScope(tenant="a"),
        reason="",
        create_time=0.0,
        expire_time=9.0,
    )
    held.put(order)
    held.count_bounced(1, 3)
    held.count_bounced(1, 4)
    held.count_bounced(2, 5)

    assert (held.bounced(1), held.bounced(2)) == (7, 0)
    held.remove(1)
    assert held.bounced(1) == 0
    assert held.bounces_begun == 1
