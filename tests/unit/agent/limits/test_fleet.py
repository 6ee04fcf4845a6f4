"""What may be used of the fleet's limits, by how long the limit service has been silent."""

import pytest

from agent.limits.fleet import FIRST_PATIENCE_NS, FleetLimits, Mode, Wish
from agent.limits.limit import LimitPath
from tests.unit.agent.limits.leases import (
    LOCAL,
    SECOND,
    STATIC,
    STOP,
    TIMES,
    connections,
    make_holder,
    messages,
)


def _make_fleet():
    holder, lender = make_holder()
    return FleetLimits(holder, now=0), lender


@pytest.mark.parametrize(
    ("fields", "mode", "cap"),
    [
        pytest.param({}, Mode.STOPPED, 0, id="stop is the default"),
        pytest.param({"on_unreachable": STOP}, Mode.STOPPED, 0, id="stop"),
        pytest.param(
            {"on_unreachable": STATIC, "static_units": 3}, Mode.STATIC, 3, id="some units"
        ),
        pytest.param(
            {"on_unreachable": STATIC, "static_units": 30}, Mode.STATIC, 10, id="never above"
        ),
        pytest.param({"on_unreachable": LOCAL}, Mode.LOCAL, 10, id="all of it"),
    ],
)
def test_first_the_lease_then_the_floor_then_what_the_limit_says(fields, mode, cap):
    fleet, lender = _make_fleet()
    limit = connections(**fields)
    lender.answer(lender.grant(limit, 6, floor=2), at=0)
    seen = [
        (fleet.mode(limit, at), fleet.cap(limit, at))
        for at in (TIMES.session - 1, TIMES.session, TIMES.floor - 1, TIMES.floor)
    ]

    assert seen == [(Mode.LEASED, 6), (Mode.FLOORS, 2), (Mode.FLOORS, 2), (mode, cap)]


def test_a_first_start_without_a_server_sends_nothing_for_a_while_then_as_the_limit_says():
    fleet, _ = _make_fleet()
    patient = FIRST_PATIENCE_NS - 1

    assert fleet.cap(connections(on_unreachable=LOCAL), patient) == 0
    assert fleet.cap(connections(on_unreachable=LOCAL), patient + 1) == 10
    assert fleet.cap(connections(on_unreachable=STOP), 10**18) == 0


@pytest.mark.parametrize("on_unreachable", [STOP, STATIC, LOCAL])
def test_who_has_given_way_uses_nothing_whatever_it_may_without_the_server(on_unreachable):
    fleet, lender = _make_fleet()
    limit = connections(on_unreachable=on_unreachable, static_units=3)
    lender.answer(lender.grant(limit, 6, floor=2), at=0)
    for _ in range(4):
        fleet.open(limit)

    fleet.give_way(SECOND)

    for at in (SECOND, TIMES.session, TIMES.floor, 10 * TIMES.floor):
        assert (fleet.mode(limit, at), fleet.cap(limit, at)) == (Mode.STOPPED, 0)
        assert fleet.surplus("c", at) == 4
    assert fleet.must_close("c", SECOND + TIMES.drain - 1) == 0
    # That it is told so again gives it no more time.
    fleet.give_way(2 * SECOND)
    assert fleet.must_close("c", SECOND + TIMES.drain) == 4


def test_without_a_limit_service_each_agent_has_the_whole_limit():
    fleet, _ = _make_fleet()
    fleet.is_supported = False

    assert fleet.mode(connections(), 1) is Mode.LOCAL
    assert fleet.cap(connections(), 1) == 10


def test_connections_beyond_the_limit_are_surplus_but_not_where_there_is_no_service():
    fleet, lender = _make_fleet()
    limit = connections()
    lender.answer(lender.grant(limit, 1), at=0)
    for _ in range(3):
        fleet.open(limit)

    assert fleet.surplus("c", SECOND) == 2
    assert fleet.must_close("c", SECOND) == 0
    assert fleet.must_close("c", TIMES.session + TIMES.drain) == 3
    fleet.is_supported = False
    assert fleet.surplus("c", SECOND) == 0


def test_what_several_paths_wish_for_is_added_up_and_never_more_than_there_is():
    fleet, _ = _make_fleet()
    limit = connections(limit=10)
    fleet.want([Wish(limit=limit, amount=4), Wish(limit=limit, amount=3)], now=0)
    assert [lease.wants for lease in fleet.holder.leases()] == [7]

    fleet.want([Wish(limit=limit, amount=400)], now=0)
    assert [lease.wants for lease in fleet.holder.leases()] == [10]

    fleet.want([], now=0)
    assert [lease.wants for lease in fleet.holder.leases()] == [0]


def _wants(fleet, limit, amount, now):
    fleet.want([Wish(limit=limit, amount=amount)], now=now)
    return next(lease.wants for lease in fleet.holder.leases() if lease.key == limit.key)


def test_spent_units_are_no_use_for_mail_that_waits():
    fleet, lender = _make_fleet()
    limit = messages(count=10, seconds=3600, burst=10)
    lender.answer(lender.grant(limit, 4), at=0)
    for _ in range(3):
        fleet.take(limit, SECOND)

    assert _wants(fleet, limit, 2, SECOND) == 2 + 3


def test_a_rate_in_steady_use_stays_wanted_for_a_while():
    fleet, lender = _make_fleet()
    limit = messages(count=100, seconds=1, burst=100)
    lender.answer(lender.grant(limit, 20), at=0)
    for tenth in range(300):
        lender.answer(at=tenth * SECOND // 10)
        if fleet.wait_ns(limit, tenth * SECOND // 10) == 0:
            fleet.take(limit, tenth * SECOND // 10)
        wants = _wants(fleet, limit, 0, tenth * SECOND // 10)
    assert 9 <= wants <= 11

    assert _wants(fleet, limit, 0, 100 * SECOND) == 1, "for a while, as there are so many"
    assert _wants(fleet, limit, 0, 300 * SECOND) == 0


def test_little_changes_are_not_told():
    fleet, _ = _make_fleet()
    limit = connections(limit=100)

    told = [_wants(fleet, limit, amount, 0) for amount in (20, 16, 14, 15, 12, 3, 2)]

    assert told == [20, 20, 14, 15, 15, 3, 2]


def test_whoever_holds_all_of_a_limit_has_nothing_to_tell_but_its_end():
    fleet, lender = _make_fleet()
    limit = connections(limit=10)
    _wants(fleet, limit, 8, 0)
    lender.answer(lender.grant(limit, 10), at=0)

    told = [_wants(fleet, limit, amount, SECOND) for amount in (1, 10, 3, 0)]

    assert told == [8, 8, 8, 0]


def test_each_path_that_names_a_limit_is_told_once():
    fleet, _ = _make_fleet()
    paths = [
        LimitPath(
            routing_domain=f"d{n % 150}.example", egress_source="ip-1", mx_hosts=(("mx", 10),)
        )
        for n in range(300)
    ]
    for path in paths:
        fleet.want([Wish(limit=connections(path=path), amount=1)], now=0)

    assert list(fleet.paths_of("c")) == paths[:100]
