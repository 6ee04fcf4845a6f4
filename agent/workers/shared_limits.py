"""
SharedThrottles and SharedSlots: the limits of an agent over all its processes, kept in one table.

They decide as `agent.throttle` does, on the state that the processes share. While the table can't
be had, because its lock is held for long or because it is full, nothing is allowed.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from agent.throttle.permit import try_take
from agent.throttle.rate import Rate, RateThrottle
from agent.throttle.share import Claim, may_open, surplus_of
from agent.workers.limit_table import MOST_CONNECTIONS, Busy, LimitTable

#: How long to wait where the table can't be had.
_BUSY_NS = 5_000_000
#: A worker asks again this often for a slot that others hold, in seconds.
_RETRY_SECONDS = 0.25
#: Who has not asked again for so long waits no more, in seconds.
_STALE_SECONDS = 3.0
#: Steps of stamps in the table, a second.
_STEPS = 10


class SharedThrottles:
    """Rate throttles by name; a changed rate keeps what the throttle has counted."""

    __slots__ = ("_table",)

    def __init__(self, table: LimitTable) -> None:
        self._table = table

    def try_take(self, rates: Mapping[str, Rate], now_ns: int) -> int:
        """Let one event pass all of *rates*: 0. Else take nothing; the wait in nanoseconds."""
        if not rates:
            return 0
        try:
            with self._table.locked():
                found = self._find(rates, now_ns)
                if found is None:
                    return _BUSY_NS
                if (wait := try_take([bucket for _, bucket in found], now_ns)) == 0:
                    for row, bucket in found:
                        self._table.store(row, bucket)
                return wait
        except Busy:
            return _BUSY_NS

    def wait_ns(self, rates: Mapping[str, Rate], now_ns: int, ahead: int = 0) -> int:
        """How long until an event may pass, if *ahead* others go first; takes nothing."""
        if not rates:
            return 0
        try:
            with self._table.locked():
                found = self._find(rates, now_ns)
        except Busy:
            return _BUSY_NS
        if found is None:
            return _BUSY_NS
        return max(bucket.wait_ns(now_ns, ahead) for _, bucket in found)

    def _find(
        self, rates: Mapping[str, Rate], now_ns: int
    ) -> list[tuple[int, RateThrottle]] | None:
        """The row and the bucket of each rate, with the table locked; None: there is no room."""
        rows = self._table.rate_rows(rates, now_ns)
        if rows is None:
            return None
        return [
            (row, self._table.bucket(row, rate, now_ns))
            for row, rate in zip(rows, rates.values(), strict=True)
        ]

    def forget_idle(self, now_ns: int) -> None:
        """Nothing to do: rows that are idle are given to others when they are needed."""


class SharedSlots:
    """Counts of open connections by limit name; implements `agent.throttle.slots.Slots`."""

    __slots__ = ("_asked", "_clock", "_rows", "_since", "_table", "_worker")

    #: Others give slots back as well, and say nothing.
    retry_seconds = _RETRY_SECONDS

    def __init__(
        self, table: LimitTable, worker: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*worker* is the number of this process; *clock* gives seconds, alike in all of them."""
        self._table = table
        self._worker = worker
        self._clock = clock
        #: Rows of the limits under which this process has connections.
        self._rows: dict[str, int] = {}
        #: Since when it waits for limits, and when it asked last.
        self._since: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def first_full(self, limits: Mapping[str, int]) -> str | None:
        """The first of *limits* (name -> most connections) that has no slot left, or None."""
        return next((name for name, most in limits.items() if self.in_use(name) >= most), None)

    def try_take(self, limits: Mapping[str, int]) -> str | None:
        """Take one slot of each of *limits*: None. Else take nothing and name one that is short."""
        now = self._clock()
        names = list(limits)
        try:
            with self._table.locked():
                rows = self._table.slot_rows(names)
                if rows is None:
                    return names[0]
                for name, row in zip(names, rows, strict=True):
                    if not self._may_open(name, row, limits[name], now):
                        return name
                for name, row in zip(names, rows, strict=True):
                    self._table.add(row, self._worker, 1)
                    self._stop_waiting(name, row)
                    self._rows[name] = row
        except Busy:
            return names[0] if names else None
        return None

    def release(self, names: Iterable[str]) -> None:
        """Give back one slot of each name, as one take took them."""
        for name in names:
            row = self._rows[name]
            self._table.add(row, self._worker, -1)
            if not self._table.counts(row)[self._worker]:
                del self._rows[name]

    def in_use(self, name: str) -> int:
        """How many slots of the limit are taken, by all processes."""
        row = self._rows.get(name) or self._table.slot_row(name)
        return sum(self._table.counts(row)) if row is not None else 0

    def surplus(self, name: str, most: int) -> int:
        """How many connections this process is to close, so that at most *most* are open."""
        row = self._rows.get(name)
        if row is None:
            return 0
        return surplus_of(self._claims(row, self._clock()), self._worker, most)

    def contended(self) -> list[str]:
        """Limits of which this process may hold more than its share: others wait for them."""
        now, me = self._clock(), self._worker
        return [
            name
            for name, row in self._rows.items()
            if any(self._table.waiting(row))
            and any(
                claim.waited is not None
                for number, claim in enumerate(self._claims(row, now))
                if number != me
            )
        ]

    def _may_open(self, name: str, row: int, most: int, now: float) -> bool:
        if now - self._asked.get(name, float("-inf")) > _STALE_SECONDS:
            self._since.pop(name, None)
        since = self._since.get(name, now)
        counts = self._table.counts(row)
        if sum(counts) < most and not any(self._table.waiting(row)):
            return counts[self._worker] < MOST_CONNECTIONS
        claims = self._claims(row, now)
        mine = Claim(claims[self._worker].held, max(0.0, now - since))
        claims[self._worker] = mine
        if mine.held < MOST_CONNECTIONS and may_open(claims, self._worker, most):
            return True
        self._since[name], self._asked[name] = since, now
        self._table.set_waiting(row, self._worker, _step(since), _step(now))
        self._forget_stale(now)
        return False

    def _claims(self, row: int, now: float) -> list[Claim]:
        counts, waiting = self._table.counts(row), self._table.waiting(row)
        if not any(waiting):
            return [Claim(count) for count in counts]
        oldest = _step(now - _STALE_SECONDS)
        return [
            Claim(count, max(0.0, now - since / _STEPS) if asked > oldest else None)
            for count, since, asked in zip(counts, waiting[::2], waiting[1::2], strict=True)
        ]

    def _stop_waiting(self, name: str, row: int) -> None:
        if self._since.pop(name, None) is not None:
            self._asked.pop(name, None)
            self._table.set_waiting(row, self._worker, 0, 0)

    def _forget_stale(self, now: float) -> None:
        if len(self._asked) > 1000:
            stale = [name for name, at in self._asked.items() if now - at > _STALE_SECONDS]
            for name in stale:
                del self._asked[name], self._since[name]


def _step(seconds: float) -> int:
    return max(1, int(seconds * _STEPS))
