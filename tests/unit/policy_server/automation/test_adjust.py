"""How far an adjustment lowers a value, and how it recovers."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.automation.adjust import (
    Adjustment,
    apply_matches,
    end_at,
    end_time,
    lower_value,
    raise_value,
    recover,
    settling_time,
)
from policy_server.rules.layers import AdjustConfig
from policy_server.rules.values import Limit, Rate, parse_rate
from tests.unit.policy_server.automation.examples import START

_FAR = START + timedelta(days=36_000)


def _rule(**changes):
    values = {
        "name": "connection_limit",
        "factor": 0.5,
        "floor": Limit(1),
        "recover_step": 2,
        "recover_every": timedelta(minutes=10),
    }
    return AdjustConfig(**(values | changes))


def _at(seconds):
    return START + timedelta(seconds=seconds)


def _count(value):
    return value.value if isinstance(value, Limit) else value.count


@st.composite
def _cases(draw, *, kinds=("limit", "rate")):
    """A rule, a ruled value that it fits, and the times of matches."""
    count = st.one_of(st.integers(1, 40), st.integers(1, 2**63 - 1))
    ruled: Limit | Rate
    floor: Limit | Rate
    if draw(st.sampled_from(kinds)) == "limit":
        ruled, floor = Limit(draw(count)), Limit(draw(count))
    else:
        spans = st.integers(1, 7200).map(lambda seconds: timedelta(seconds=seconds))
        burst = draw(st.none() | count)
        ruled = Rate(draw(count), draw(spans), burst, draw(st.booleans()))
        floor = Rate(draw(count), draw(spans))
    rule = _rule(
        factor=draw(st.floats(1e-6, 0.999)),
        floor=floor,
        recover_step=draw(st.floats(1.01, 20)),
        recover_every=timedelta(seconds=draw(st.integers(1, 3600))),
    )
    times = draw(st.lists(st.integers(0, 20_000).map(_at), min_size=1, max_size=12))
    return rule, ruled, sorted(times)


def _is_under_floor(rule, ruled, value):
    if isinstance(value, Limit):
        return value.value < min(rule.floor.value, ruled.value)
    floor = rule.floor
    second = timedelta(seconds=1)
    is_under = value.count * (floor.period // second) < floor.count * (value.period // second)
    return is_under and value.count < ruled.count


@given(_cases())
def test_a_value_is_never_under_its_floor_nor_above_its_rule(case):
    rule, ruled, times = case
    present = None
    for time in times:
        present = apply_matches(rule, ruled, present, times=[time], now=time)
        if present is None:
            continue
        assert not _is_under_floor(rule, ruled, present.value)
        assert 1 <= _count(present.value) < _count(ruled)
        assert replace(present.value, **_shape(ruled)) == replace(ruled, **_shape(ruled))
        if isinstance(present.value, Rate) and present.value.max_burst is not None:
            assert present.value.max_burst <= present.value.count


def _shape(ruled):
    return {"value": 1} if isinstance(ruled, Limit) else {"count": 1, "max_burst": None}


@given(_cases(), st.data())
def test_it_does_not_matter_how_matches_are_split_into_batches(case, data):
    rule, ruled, times = case
    now = times[-1] + timedelta(seconds=data.draw(st.integers(0, 4000)))
    at_once = apply_matches(rule, ruled, None, times=times, now=now)

    present, rest = None, times
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        # Whether or not steps were made between the batches, as a server does in time.
        if data.draw(st.booleans()):
            present = recover(rule, ruled, present, until=batch[0])
        present = apply_matches(rule, ruled, present, times=batch, now=batch[-1])

    assert recover(rule, ruled, present, until=now) == at_once


@given(_cases())
def test_recovery_reaches_the_ruled_value_exactly_at_the_end_by_rising_steps(case):
    rule, ruled, times = case
    present = apply_matches(rule, ruled, None, times=times, now=times[-1])
    if present is None:
        return
    end = end_time(rule, ruled, present)

    just_before = recover(rule, ruled, present, until=end - timedelta(microseconds=1))
    assert just_before is not None
    assert recover(rule, ruled, present, until=end) is None
    # The end is the same, whenever it is asked for.
    assert end_time(rule, ruled, just_before) == end
    values = [_count(present.value)]
    steps = 0
    while present is not None:
        present = recover(rule, ruled, present, until=present.next_step_time)
        values.append(_count(ruled if present is None else present.value))
        steps += 1
        assert steps < 10_000
    assert values == sorted(set(values))
    assert end < _FAR


@given(_cases(), st.integers(0, 10**7))
def test_an_end_that_is_set_is_kept(case, seconds):
    rule, ruled, times = case
    present = apply_matches(rule, ruled, None, times=times[:1], now=times[0])
    if present is None:
        return
    end = times[0] + timedelta(seconds=seconds)

    assert end_time(rule, ruled, end_at(rule, ruled, present, end)) == end


@given(_cases())
def test_a_match_always_lowers_until_the_floor(case):
    rule, ruled, _ = case
    value = ruled
    for _ in range(70):
        lowered = lower_value(rule, ruled, value)
        if _count(lowered) == _count(value):
            below = replace(value, **{_field(value): _count(value) - 1}) if _count(value) > 1 else 0
            assert not below or _is_under_floor(rule, ruled, below)
        else:
            assert _count(lowered) < _count(value)
        value = lowered
    assert _count(raise_value(rule, ruled, value)) <= _count(ruled)


def _field(value):
    return "value" if isinstance(value, Limit) else "count"


def test_replies_to_mail_sent_before_the_lowering_do_not_count_again():
    rule = _rule()
    first = apply_matches(rule, Limit(100), None, times=[_at(0)], now=_at(0))

    settling = apply_matches(rule, Limit(100), first, times=[_at(30), _at(60)], now=_at(60))
    later = apply_matches(rule, Limit(100), settling, times=[_at(61)], now=_at(61))

    assert first == Adjustment(value=Limit(50), lowered_time=_at(0), next_step_time=_at(600))
    # They only put the recovery off.
    assert settling == Adjustment(value=Limit(50), lowered_time=_at(0), next_step_time=_at(660))
    assert later == Adjustment(value=Limit(25), lowered_time=_at(61), next_step_time=_at(661))


def test_a_late_match_brings_no_step_forward():
    rule = _rule()
    present = Adjustment(value=Limit(50), lowered_time=_at(100), next_step_time=_at(700))

    assert apply_matches(rule, Limit(100), present, times=[_at(10)], now=_at(110)) == present


def test_settling_is_no_longer_than_a_step():
    assert settling_time(_rule(recover_every=timedelta(seconds=5))) == timedelta(seconds=5)
    assert settling_time(_rule()) == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("ruled", "floor", "lowered"),
    [
        pytest.param("100/s", "10/m", "50/s", id="far from the floor"),
        pytest.param("100/m", "1/s", "60/m", id="the floor in the ruled value's period"),
        pytest.param("10/h", "7/2h", "5/h", id="half a count over the floor"),
        pytest.param("10/h", "11/2h", "6/h", id="a floor between two counts is not gone under"),
        pytest.param(
            "local:10/h,max_burst=8", "1/h", "local:5/h,max_burst=5", id="burst that fits"
        ),
        pytest.param("10/h,max_burst=2", "1/h", "5/h,max_burst=2", id="burst that is small anyway"),
        pytest.param("3/s", "1/s", "1/s", id="rounded down"),
        pytest.param("10/s", "10/s", "10/s", id="at its floor by its rule"),
        pytest.param("10/s", "20/s", "10/s", id="under its floor by its rule"),
    ],
)
def test_rates_keep_the_shape_of_the_ruled_one(ruled, floor, lowered):
    rule = _rule(name="max_message_rate", floor=parse_rate(floor))

    assert lower_value(rule, parse_rate(ruled), parse_rate(ruled)) == parse_rate(lowered)


def test_nothing_is_lowered_where_the_rule_is_at_its_floor():
    assert apply_matches(_rule(), Limit(1), None, times=[_at(0)], now=_at(0)) is None


def test_factors_are_taken_as_they_are_written():
    assert lower_value(_rule(factor=0.3), Limit(10), Limit(10)) == Limit(3)
    assert raise_value(_rule(recover_step=1.1), Limit(100), Limit(10)) == Limit(11)
