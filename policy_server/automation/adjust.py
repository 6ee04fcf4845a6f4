"""
Adjust: how far a limit or rate is lowered, and how it recovers.

1. A firing match multiplies the value by `factor`, rounded down, and always lowers it by at least
   one, but never under `floor`.
2. Replies to mail that left before a lowering took effect must not count again: a match lowers
   only if it is later than the match that lowered last by more than the settling time.
3. Every firing match, lowering or not, puts the next step of recovery off to `recover_every`
   after it.
4. A step multiplies the value by `recover_step`, rounded down, and raises it by at least one. At
   the ruled value, which no step goes beyond, the adjustment is over.
5. So the end is known at any time, if nothing matches any more: it is the action's expiry, which
   agents keep to by themselves.

What follows depends on the times of the matches alone, however they are split into batches that
come in their order. Where the state is kept stands in `policy_server.store.actions`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction

from policy_server.rules.layers import AdjustConfig
from policy_server.rules.values import Limit, Rate

#: Longest time for which replies to mail sent before a lowering may still come in.
MOST_SETTLING = timedelta(seconds=60)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """A value that is lowered at present."""

    value: Limit | Rate
    #: Time of the match that lowered it last.
    lowered_time: datetime
    #: When it recovers by a step.
    next_step_time: datetime


def settling_time(rule: AdjustConfig) -> timedelta:
    """Say for how long after a lowering matches don't lower again."""
    return min(rule.recover_every, MOST_SETTLING)


def lower_value(rule: AdjustConfig, ruled: Limit | Rate, value: Limit | Rate) -> Limit | Rate:
    """
    Lower *value* by one match, never under the floor.

    >>> rule = AdjustConfig(name="connection_limit", factor=0.5, floor=Limit(2), recover_step=2,
    ...     recover_every=timedelta(minutes=10))
    >>> lower_value(rule, Limit(9), Limit(9)), lower_value(rule, Limit(9), Limit(3))
    (Limit(value=4, local=False), Limit(value=2, local=False))
    """
    count = _count(value)
    lowered = min(_scale(count, rule.factor), count - 1)
    # A value that is under the floor by its rule is not lowered, and not raised either.
    return _with_count(ruled, max(lowered, min(_floor_count(rule, ruled), count), 1))


def raise_value(rule: AdjustConfig, ruled: Limit | Rate, value: Limit | Rate) -> Limit | Rate:
    """Raise *value* by one step of recovery, never above the ruled value."""
    count = _count(value)
    raised = max(_scale(count, rule.recover_step), count + 1)
    return _with_count(ruled, min(raised, _count(ruled)))


def apply_matches(
    rule: AdjustConfig,
    ruled: Limit | Rate,
    present: Adjustment | None,
    *,
    times: Iterable[datetime],
    now: datetime,
) -> Adjustment | None:
    """
    Work out what firing matches at *times*, ascending, make of *present* by *now*.

    None, before or after: nothing is lowered.
    """
    for time in times:
        present = _apply_match(rule, ruled, recover(rule, ruled, present, until=time), time)
    return recover(rule, ruled, present, until=now)


def recover(
    rule: AdjustConfig, ruled: Limit | Rate, present: Adjustment | None, *, until: datetime
) -> Adjustment | None:
    """Make the steps of recovery that are due by *until*; None at the ruled value."""
    while present is not None and present.next_step_time <= until:
        value = raise_value(rule, ruled, present.value)
        if _count(value) >= _count(ruled):
            return None
        present = replace(
            present, value=value, next_step_time=present.next_step_time + rule.recover_every
        )
    return present


def end_time(rule: AdjustConfig, ruled: Limit | Rate, present: Adjustment) -> datetime:
    """Say when the ruled value is reached if nothing matches any more."""
    return present.next_step_time + (_count_steps(rule, ruled, present.value) - 1) * (
        rule.recover_every
    )


def end_at(
    rule: AdjustConfig, ruled: Limit | Rate, present: Adjustment, end: datetime
) -> Adjustment:
    """Move the steps of recovery so that the ruled value is reached at *end*."""
    return replace(
        present,
        next_step_time=present.next_step_time + (end - end_time(rule, ruled, present)),
    )


def _apply_match(
    rule: AdjustConfig, ruled: Limit | Rate, present: Adjustment | None, time: datetime
) -> Adjustment | None:
    next_step_time = time + rule.recover_every
    if present is None:
        value = lower_value(rule, ruled, ruled)
        if _count(value) >= _count(ruled):
            return None
        return Adjustment(value=value, lowered_time=time, next_step_time=next_step_time)
    # A match that comes late must not bring the step forward.
    next_step_time = max(next_step_time, present.next_step_time)
    value = lower_value(rule, ruled, present.value)
    is_settling = time - present.lowered_time <= settling_time(rule)
    if is_settling or _count(value) == _count(present.value):
        return replace(present, next_step_time=next_step_time)
    return Adjustment(value=value, lowered_time=time, next_step_time=next_step_time)


def _count_steps(rule: AdjustConfig, ruled: Limit | Rate, value: Limit | Rate) -> int:
    steps = 1
    while _count(value := raise_value(rule, ruled, value)) < _count(ruled):
        steps += 1
    return steps


def _floor_count(rule: AdjustConfig, ruled: Limit | Rate) -> int:
    floor = rule.floor
    if isinstance(floor, Rate) and isinstance(ruled, Rate):
        # Rounded up: a count in the ruled value's period that is not under the floor.
        return -(-floor.count * (ruled.period // _SECOND) // (floor.period // _SECOND))
    return _count(floor)


def _scale(count: int, factor: float) -> int:
    # As it was written: 0.3 of 10 is 3, though the nearest binary fraction is a little less.
    scale = Fraction(str(factor))
    return count * scale.numerator // scale.denominator


def _count(value: Limit | Rate) -> int:
    return value.value if isinstance(value, Limit) else value.count


def _with_count(ruled: Limit | Rate, count: int) -> Limit | Rate:
    """Write *count* as the ruled value is: with its period, kind and a burst that fits."""
    if isinstance(ruled, Limit):
        return replace(ruled, value=count)
    burst = None if ruled.max_burst is None else min(ruled.max_burst, count)
    return replace(ruled, count=count, max_burst=burst)
