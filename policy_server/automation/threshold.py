"""
Threshold: which matches make a rule fire.

1. A match *fires* if, with those of the same rule and path in the preceding period, it is at
   least the N-th: the period is (time - period, time], by event time. An immediate rule fires at
   every match.
2. This depends on the set of event times alone. So reports may come late, repeated and in any
   order: a late match can make one that is long known fire.
3. A match *supports* the matches that fire within a period from it on; an action's count is the
   number of its supporting matches.
4. A match late by more than period + duration can no longer cause an action that lasts until now:
   it is *settled*, and needs neither counting nor keeping.

Every function takes event times in ascending order. What follows from firing stands in `decide`.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from policy_server.rules.layers import AutomationRule, Immediate, Threshold, Trigger

_NO_TIME = timedelta()
#: Counts are exact as long as a span holds no more than this.
_LEAST_READ = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """What a set of matches amounts to."""

    #: The newest match that fires.
    last: datetime
    #: How many matches support the firing ones.
    count: int
    #: The oldest and the newest of them.
    first_support: datetime
    last_support: datetime
    #: All that fire, ascending.
    fired: tuple[datetime, ...]
    #: All that support them, ascending.
    support: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySpan:
    """The known matches that new ones have to be judged with."""

    after: datetime
    until: datetime
    #: With so many of the newest in the span, older ones can change nothing but a count.
    limit: int


def window_of(trigger: Trigger) -> timedelta:
    """Say how far back a trigger looks."""
    match trigger:
        case Threshold(period=period):
            return period
        case _:
            return _NO_TIME


def keep_until(rule: AutomationRule, event_time: datetime) -> datetime:
    """Say from when on no decision can need a match of *rule* at *event_time*."""
    return event_time + window_of(rule.trigger) + rule.duration


def firing_times(times: Sequence[datetime], trigger: Trigger) -> list[datetime]:
    """
    List the matches that fire.

    >>> start = datetime(2026, 1, 1)
    >>> times = [start, start + timedelta(minutes=50), start + timedelta(minutes=100)]
    >>> trigger = Threshold(count=2, period=timedelta(hours=1))
    >>> [str(time.time()) for time in firing_times(times, trigger)]
    ['00:50:00', '01:40:00']
    """
    match trigger:
        case Immediate():
            return list(times)
        case Threshold(count=count, period=period):
            # Each with the one that makes it the N-th: of those at one time the last one decides.
            pairs = zip(times, islice(times, count - 1, None), strict=False)
            firing = {time for earlier, time in pairs if time - earlier < period}
            return [time for time in times if time in firing]
        case _:
            raise TypeError(f"unknown trigger {trigger!r}")


def assess(times: Sequence[datetime], trigger: Trigger, *, alive_after: datetime) -> Firing | None:
    """Find what *times* amount to, heeding only matches that fire after *alive_after*."""
    return sum_up(times, alive_firing_times(times, trigger, alive_after=alive_after), trigger)


def alive_firing_times(
    times: Sequence[datetime], trigger: Trigger, *, alive_after: datetime
) -> list[datetime]:
    """List the matches that fire after *alive_after*."""
    return [time for time in firing_times(times, trigger) if time > alive_after]


def sum_up(times: Sequence[datetime], fired: Sequence[datetime], trigger: Trigger) -> Firing | None:
    """Say what matches at *times* amount to, of which *fired* fire; None if none does."""
    if not fired:
        return None
    supporting = _supporting(times, fired, trigger)
    return Firing(
        last=fired[-1],
        count=len(supporting),
        first_support=supporting[0],
        last_support=supporting[-1],
        fired=tuple(fired),
        support=tuple(supporting),
    )


def history_spans(times: Sequence[datetime], trigger: Threshold) -> list[HistorySpan]:
    """
    Say which known matches are needed to judge new ones at *times*.

    Matches further apart than a period from each other do not meet in any window, so each such
    group has a span of its own.
    """
    spans: list[HistorySpan] = []
    start = 0
    for index in range(1, len(times) + 1):
        if index == len(times) or times[index] - times[index - 1] > 4 * trigger.period:
            spans.append(_span_around(times[start], times[index - 1], trigger))
            start = index
    return spans


def _supporting(
    times: Sequence[datetime], fired: Sequence[datetime], trigger: Trigger
) -> Sequence[datetime]:
    match trigger:
        case Threshold(period=period):
            supporting: list[datetime] = []
            begin = 0
            for last in dict.fromkeys(fired):
                # From here on up to what fired before, all support that.
                begin = max(begin, bisect_right(times, last - period))
                end = bisect_right(times, last, begin)
                supporting += times[begin:end]
                begin = end
            return supporting
        case _:
            return fired


def _span_around(first: datetime, last: datetime, trigger: Threshold) -> HistorySpan:
    # New matches change what fires up to a period later, and so what supports it from a period
    # before on; what supported other firing matches already is known from a period further.
    after, until = first - 2 * trigger.period, last + 2 * trigger.period
    # Where none fires, no window has as many as `count`; so with this many in a span, the newest
    # that fires is among them, along with its window.
    windows = -((after - until) // trigger.period) + 1
    return HistorySpan(after=after, until=until, limit=max(trigger.count * windows, _LEAST_READ))
