"""Limits of a path, the agent's own and those of the fleet, taken together or not at all."""

from dataclasses import dataclass
from typing import Any

import pytest

from agent.dispatch.limits import NO_WAIT, Limits, Slot, Wait
from agent.dispatch.options import PathOptions, options_of
from agent.dispatch.throttles import Throttles
from agent.limits.fleet import FleetLimits
from agent.limits.limit import FleetLimit, Kind, OnUnreachable
from agent.policy.answer import PathPolicy
from agent.throttle.slots import ConnectionSlots
from penstock.v1 import egress_path_pb2 as pb
from tests.unit.agent.limits.leases import SECOND, TIMES, Lender, connections, make_holder, messages

_PATH = "ip-1->site"


@dataclass
class _Session:
    is_idle: bool = False
    is_opening: bool = False
    leaves: bool = False
    is_cut: bool = False

    def leave(self) -> None:
        self.leaves = True

    def cut(self) -> None:
        self.is_cut = True


class _World:
    """An agent's limits, on a clock that the test moves, and who lends to it."""

    def __init__(self) -> None:
        self.now = 0
        holder, self.lender = make_holder()
        self.fleet = FleetLimits(holder, now=0)
        self.nudges = 0
        self.limits = Limits(
            Throttles(),
            ConnectionSlots(),
            self.fleet,
            monotonic_ns=lambda: self.now,
            lease_ns=lambda: self.now,
        )
        self.limits.on_shortage = self._nudge

    def _nudge(self) -> None:
        self.nudges += 1

    def lend(self, limit: FleetLimit, units: int, **more: Any) -> None:
        lender: Lender = self.lender
        lender.answer(lender.grant(limit, units, **more), at=self.now)

    def open(self, options: PathOptions, **state: bool) -> Slot:
        slot = self.limits.try_open(_Session(**state), options)
        assert isinstance(slot, Slot)
        return slot


def _options(*fleet: FleetLimit, own: int = 10, message_rate: int = 0) -> PathOptions:
    config = pb.EgressPathConfig(connection_limit=pb.Limit(value=10))
    config.additional_connection_limits["own"].value = own
    config.additional_connection_limits["shared"].value = 10
    if message_rate:
        config.max_message_rate.count = message_rate
        config.max_message_rate.period.FromSeconds(1)
    return _options_with(config, *fleet)


def _options_with(config: pb.EgressPathConfig, *fleet: FleetLimit) -> PathOptions:
    return options_of(
        PathPolicy(
            routing_domain="foo.example",
            egress_source="ip-1",
            site_name="site",
            path_name=_PATH,
            provider_name="",
            config=config,
            etag="e",
            revision=1,
            fleet_limits=fleet,
        )
    )


def _shared(key: str = "s", **fields: Any) -> FleetLimit:
    return connections(key, option="additional_connection_limits", name="shared", **fields)


def test_nothing_is_taken_where_a_lease_is_short_and_the_service_hears_of_it():
    world, limit = _World(), connections()
    options = _options(limit, _shared())
    world.lend(limit, 2)

    refused = world.limits.try_open(_Session(), options)

    assert isinstance(refused, Wait)
    assert refused.short_of is not None
    assert refused.short_of.key == "s"
    assert world.fleet.in_use("c") == world.fleet.in_use("s") == 0
    assert world.limits.slots.in_use("limit own") == 0
    assert world.nudges == 1


def test_nothing_is_taken_of_leases_where_a_limit_of_our_own_is_full():
    world, limit = _World(), connections()
    options = _options(limit, own=1)
    world.lend(limit, 5)
    slot = world.open(options)

    assert world.limits.try_open(_Session(), options) == Wait(float("inf"))
    assert world.fleet.in_use("c") == 1
    world.limits.close(slot)
    assert world.fleet.in_use("c") == world.limits.slots.in_use("limit own") == 0


def test_limits_of_the_fleet_are_counted_by_leases_alone():
    world, limit = _World(), connections()
    world.lend(limit, 3)
    world.open(_options(limit))

    assert world.limits.slots.in_use(f"connections {_PATH}") == 0
    assert world.limits.slots.in_use("limit shared") == 1


def test_a_smaller_lease_has_the_idle_leave_first_and_no_more_than_need_be():
    world, limit = _World(), connections()
    options = _options(limit)
    world.lend(limit, 4)
    slots = [world.open(options, is_idle=n in (1, 2), is_opening=n == 3) for n in range(4)]

    world.lend(limit, 3)
    world.limits.enforce()
    assert [slot.is_leaving for slot in slots] == [False, True, False, False]
    world.lend(limit, 1)
    world.limits.enforce({"c"})
    assert [slot.is_leaving for slot in slots] == [False, True, True, True]

    world.nudges = 0
    world.limits.close(slots[1])
    assert world.nudges == 1, "the server waits to hear of it"
    assert not any(slot.connection.is_cut for slot in slots)  # type: ignore[attr-defined]


def test_whoever_is_about_to_act_is_told_that_its_lease_is_over():
    world, limit = _World(), connections()
    world.lend(limit, 2)
    slot = world.open(_options(limit))
    assert world.limits.may_stay(slot)

    world.now = TIMES.session

    assert not world.limits.may_stay(slot)
    assert isinstance(world.limits.try_open(_Session(), _options(limit)), Wait)


def test_a_connection_that_outlives_its_lease_and_the_drain_is_cut_off():
    world, limit = _World(), connections()
    world.lend(limit, 2, floor=1)
    slots = [world.open(_options(limit)) for _ in range(2)]

    world.now = TIMES.session + TIMES.drain - 1
    world.limits.enforce()
    assert [slot.connection.is_cut for slot in slots] == [False, False]  # type: ignore[attr-defined]
    world.now += 1
    world.limits.enforce()
    cut = [slot.connection.is_cut for slot in slots]  # type: ignore[attr-defined]
    assert sorted(cut) == [False, True], "what its floor allows stays"


def test_an_idle_connection_makes_room_for_another_path():
    world, limit = _World(), _shared()
    world.lend(limit, 2)
    busy, idle = world.open(_options(limit)), world.open(_options(limit), is_idle=True)

    world.limits.make_room(limit)
    world.limits.make_room(limit)

    assert (busy.is_leaving, idle.is_leaving) == (False, True)


def test_open_connections_move_under_the_limits_that_hold_now():
    world, before, after = _World(), connections("a"), connections("b")
    world.lend(before, 2)
    slot = world.open(_options(before))

    world.limits.renew(slot, _options(after))

    assert (world.fleet.in_use("a"), world.fleet.in_use("b")) == (0, 1)
    world.limits.close(slot)
    assert world.fleet.in_use("b") == 0


def test_a_message_is_charged_to_all_rates_or_to_none():
    world, limit = _World(), messages("m", option="additional_message_rate_throttles", name="n")
    config = _options(limit, message_rate=2).config
    config.additional_message_rate_throttles["n"].count = 10
    config.additional_message_rate_throttles["n"].period.FromSeconds(1)
    options = _options_with(config, limit)
    world.lend(limit, 1)

    assert world.limits.try_take(options, Kind.MESSAGE_RATE) is NO_WAIT
    wait = world.limits.try_take(options, Kind.MESSAGE_RATE)
    assert 0.9 < wait.seconds < 1.1
    # The one of our own still has its other event.
    world.lend(limit, 2)
    assert world.limits.try_take(options, Kind.MESSAGE_RATE) is NO_WAIT
    wait = world.limits.try_take(options, Kind.MESSAGE_RATE)
    assert 0.4 < wait.seconds < 0.6


def test_a_rate_without_units_waits_for_a_lease():
    world, limit = _World(), messages()
    options = _options(limit, message_rate=10)

    wait = world.limits.try_take(options, Kind.MESSAGE_RATE)

    assert wait == Wait(float("inf"), limit)
    assert world.nudges == 1
    assert world.limits.wait(options, Kind.MESSAGE_RATE) == Wait(float("inf"), limit)


@pytest.mark.parametrize(
    ("on_unreachable", "passed"),
    [
        pytest.param(OnUnreachable.STOP, 0, id="stop"),
        pytest.param(OnUnreachable.STATIC, 2, id="two units"),
        pytest.param(OnUnreachable.LOCAL, 10, id="all of it"),
    ],
)
def test_a_rate_without_its_service_passes_what_its_limit_says(on_unreachable, passed):
    world = _World()
    limit = messages(on_unreachable=on_unreachable, static_units=2)
    options = _options(limit, message_rate=10)
    world.lend(limit, 10)
    world.now = TIMES.floor + 3600 * SECOND

    taken = [world.limits.try_take(options, Kind.MESSAGE_RATE) is NO_WAIT for _ in range(11)]

    assert sum(taken) == passed


def test_without_a_limit_service_all_is_as_if_limits_were_our_own():
    world, limit, rate = _World(), connections(limit=10), messages()
    world.fleet.is_supported = False
    options = _options(limit, rate, message_rate=10)

    slots = [world.open(options) for _ in range(10)]

    assert isinstance(world.limits.try_open(_Session(), options), Wait)
    assert world.limits.slots.in_use(f"connections {_PATH}") == 10
    taken = [world.limits.try_take(options, Kind.MESSAGE_RATE) is NO_WAIT for _ in range(11)]
    assert sum(taken) == 10
    world.limits.enforce()
    assert not any(slot.is_leaving for slot in slots)
