"""When a rule fires: by event times alone."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.automation.threshold import assess, firing_times, history_spans, keep_until
from policy_server.rules.layers import Immediate, Threshold, Trigger
from tests.unit.policy_server.automation.examples import START, make_rule

_HOUR = timedelta(hours=1)


def _times(*minutes):
    return sorted(START + timedelta(minutes=minute) for minute in minutes)


@pytest.mark.parametrize(
    ("count", "minutes", "fires"),
    [
        pytest.param(2, [0], [], id="one is not enough"),
        pytest.param(2, [0, 10], [10], id="from the second on"),
        pytest.param(2, [0, 10, 20], [10, 20], id="and at each after it"),
        pytest.param(2, [0, 60], [], id="the period excludes its start"),
        pytest.param(2, [0, 59.9], [59.9], id="just within the period"),
        pytest.param(2, [0, 50, 100], [50, 100], id="windows slide"),
        pytest.param(2, [0, 100], [], id="too far apart without the late one between"),
        pytest.param(3, [5, 5, 5], [5, 5, 5], id="all at one time"),
        pytest.param(3, [0, 30, 59, 61, 80], [59, 61, 80], id="N within any preceding period"),
        pytest.param(1, [0, 500], [0, 500], id="N = 1 fires at every match"),
    ],
)
def test_a_threshold_fires_from_the_nth_match_within_the_period(count, minutes, fires):
    trigger = Threshold(count=count, period=_HOUR)

    assert firing_times(_times(*minutes), trigger) == _times(*fires)


def test_a_late_match_makes_a_known_one_fire():
    trigger = Threshold(count=2, period=_HOUR)
    before = assess(_times(0, 100), trigger, alive_after=START - _HOUR)

    after = assess(_times(0, 50, 100), trigger, alive_after=START - _HOUR)

    assert before is None
    assert after is not None
    assert (after.last, after.count) == (_times(100)[0], 3)


@settings(max_examples=200)
@given(
    minutes=st.lists(st.integers(0, 300), max_size=30),
    count=st.integers(1, 6),
    period=st.integers(1, 120),
)
def test_a_threshold_never_fires_early_and_always_at_the_nth(minutes, count, period):
    times = _times(*minutes)
    trigger = Threshold(count=count, period=timedelta(minutes=period))

    fired = set(firing_times(times, trigger))

    for time in times:
        within = sum(time - trigger.period < other <= time for other in times)
        assert (time in fired) == (within >= count)


@settings(max_examples=200)
@given(
    minutes=st.lists(st.integers(0, 400), min_size=1, max_size=40),
    new=st.sets(st.integers(0, 39), min_size=1, max_size=6),
    count=st.integers(1, 4),
    period=st.integers(5, 60),
)
def test_the_history_read_is_enough_to_find_the_newest_firing_match(minutes, new, count, period):
    trigger = Threshold(count=count, period=timedelta(minutes=period))
    times = _times(*minutes)
    added = sorted(times[index] for index in new if index < len(times))
    if not added:
        return
    known = list(times)
    for time in added:
        known.remove(time)
    read = []
    for span in history_spans(added, trigger):
        within = [time for time in known if span.after < time <= span.until]
        read += within[-span.limit :]
    always = START - timedelta(days=9)

    judged = assess(sorted([*read, *added]), trigger, alive_after=always)
    whole = assess(times, trigger, alive_after=always)
    before = assess(known, trigger, alive_after=always)

    if whole is not None and (before is None or before.last != whole.last):
        assert judged is not None
        assert judged.last == whole.last
    if judged is not None:
        assert whole is not None
        assert judged.last <= whole.last


@pytest.mark.parametrize(
    ("trigger", "minutes"),
    [(Immediate(), 60), (Threshold(count=2, period=timedelta(minutes=30)), 90)],
)
def test_a_match_is_kept_as_long_as_it_can_matter(trigger: Trigger, minutes):
    rule = make_rule(trigger=trigger, duration=_HOUR)

    assert keep_until(rule, START) == START + timedelta(minutes=minutes)
