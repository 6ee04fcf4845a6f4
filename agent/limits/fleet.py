"""
FleetLimits: what this process may use of the limits that the whole fleet keeps, as things stand.

| the limit service | what holds |
|---|---|
| answers | the leases |
| has been silent for longer than leases last | their floors |
| and for longer than floors last | what the limit says of that: nothing, some units, or all of it |
| is not there at all and never was (an older server) | the whole limit: each agent keeps it alone |
| has heard a later start of this name, or was told that this one is gone | nothing |

The third line asks for patience after a start, when nothing was ever held. Time is an argument, of
the clock that leases hang on.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, exp

from agent.limits.holder import LeaseHolder
from agent.limits.limit import FleetLimit, LimitPath, OnUnreachable

_SECOND = 1_000_000_000
#: How long a process that has never heard of the limit service waits before it takes it for cut
#: off: a lease of the server's default length.
FIRST_PATIENCE_NS = 15 * _SECOND
#: Over how long the use of a rate is averaged.
_AVERAGED_NS = 10 * _SECOND
#: Units below which a rate counts as unused.
_UNUSED = 0.01
#: A limit of so many units goes on to be wanted for so long after its last use: mail that comes
#: again then waits for nobody. Of a smaller one that would keep others from too much.
_LARGE, _LINGERS_NS = 50, 120 * _SECOND
#: What is wanted is told anew once more is, or so large a part less.
_IDLE_PART = 4
#: Paths by which one limit is known, at most.
_MOST_PATHS = 100


class Mode(StrEnum):
    """By what a limit is kept now."""

    LEASED = "leased"
    #: On floors, without word from the limit service.
    FLOORS = "floors"
    STOPPED = "stopped"
    STATIC = "static"
    LOCAL = "local"


@dataclass(slots=True)
class _Use:
    """How much a rate is used, in events per nanosecond."""

    rate: float = 0.0
    events: int = 0
    since: int = 0

    def look(self, now: int) -> float:
        """Average in what has passed since the last look."""
        span = now - self.since
        if span > 0:
            kept = exp(-span / _AVERAGED_NS)
            self.rate = self.rate * kept + (1 - kept) * self.events / span
            self.events, self.since = 0, now
        return self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the mail of this process could use of a limit."""

    limit: FleetLimit
    #: Connections; of a rate, events that wait.
    amount: int


class FleetLimits:
    """All limits of the fleet that this process draws on."""

    def __init__(self, holder: LeaseHolder, *, now: int) -> None:
        self.holder = holder
        #: False once the server has said that it has no limit service, and none was ever heard.
        self.is_supported = True
        #: Others have what was lent to this process (`give_way`), until it is heard again.
        self.has_given_way = False
        self._patience_ends = now + FIRST_PATIENCE_NS
        self._known: dict[str, FleetLimit] = {}
        self._use: dict[str, _Use] = {}
        self._paths: dict[str, dict[LimitPath, None]] = {}
        #: When each was last wanted for mail.
        self._wanted_at: dict[str, int] = {}
        #: How often something could not be had for the lack of units, since the start.
        self.shortages = 0

    def mode(self, limit: FleetLimit, now: int) -> Mode:
        """By what *limit* is kept now."""
        if not self.is_supported:
            return Mode.LOCAL
        if self.has_given_way:
            # Whatever is to become of it without the server: others use it meanwhile.
            return Mode.STOPPED
        if not self.holder.is_lapsed(now):
            return Mode.LEASED
        if not self.holder.is_over(now):
            return Mode.FLOORS
        if now < self._patience_ends:
            return Mode.STOPPED
        return _AFTER_FLOORS[limit.on_unreachable]

    def give_way(self, now: int) -> None:
        """Use nothing of what is lent to others now, until the server hears this process again."""
        if not self.has_given_way:
            self.has_given_way = True
            self.holder.give_way(now)

    def next_change(self, now: int) -> int | None:
        """When something else will hold by itself; None: nothing will."""
        times = [self.holder.next_lapse(now), self._patience_ends]
        return min((time for time in times if time is not None and time > now), default=None)

    def cap(self, limit: FleetLimit, now: int) -> int:
        """How many units may be used now."""
        match self.mode(limit, now):
            case Mode.LEASED | Mode.FLOORS:
                return self.holder.cap(limit.key, now)
            case Mode.STATIC:
                return min(limit.static_units, limit.units)
            case Mode.LOCAL:
                return limit.units
            case Mode.STOPPED:
                return 0

    def has_room(self, limit: FleetLimit, now: int) -> bool:
        """Whether one more connection may be opened."""
        return self.in_use(limit.key) < self.cap(limit, now)

    def surplus(self, key: str, now: int) -> int:
        """How many connections are open beyond what may be."""
        limit = self._known.get(key)
        if limit is None or not self.is_supported:
            return 0
        if not self.holder.is_lapsed(now):
            return self.holder.surplus(key, now)
        return max(0, self.in_use(key) - self.cap(limit, now))

    def must_close(self, key: str, now: int) -> int:
        """How many connections have to go now, whatever they are doing."""
        if not self.surplus(key, now):
            return 0
        return min(self.surplus(key, now), self.holder.must_close(key, now))

    def in_use(self, key: str) -> int:
        """How many connections are open."""
        return self.holder.in_use(key)

    def open(self, limit: FleetLimit) -> None:
        """Count a connection, to be given back by `close`."""
        self._note(limit)
        self.holder.open_anyway(limit.key)

    def close(self, key: str) -> None:
        """A connection has been closed."""
        self.holder.close(key)

    def wait_ns(self, limit: FleetLimit, now: int, ahead: int = 0) -> int | None:
        """How long until an event may pass by its lease; None: not with what is held."""
        return self.holder.wait_ns(limit.key, now, ahead)

    def take(self, limit: FleetLimit, now: int) -> None:
        """Let an event pass by its lease, where `wait_ns` is 0."""
        if not self.holder.try_pass(limit.key, now):
            raise AssertionError(f"{limit.key}: no event was free")
        self.count(limit)

    def count(self, limit: FleetLimit) -> None:
        """An event has passed, by the lease or without."""
        self._use.setdefault(limit.key, _Use()).events += 1

    def want(self, wishes: Iterable[Wish], now: int) -> None:
        """Say what all mail of this process could use now; what is not wished for is not wanted."""
        amounts: dict[str, int] = {}
        for wish in wishes:
            amounts[wish.limit.key] = amounts.get(wish.limit.key, 0) + wish.amount
            self._note(wish.limit)
        for lease in self.holder.leases():
            amounts.setdefault(lease.key, 0)
        for key, amount in amounts.items():
            limit = self._known.get(key)
            if limit is not None:
                units = min(self._units(limit, amount, now), limit.units)
                self.holder.want(key, self._worth_telling(limit, units, now))
        self._forget(now)

    def paths_of(self, key: str) -> Collection[LimitPath]:
        """Paths whose answers name the limit; none: it is not used any more."""
        return self._paths.get(key, {})

    def modes(self, now: int) -> Mapping[str, int]:
        """How many limits are kept by what."""
        counts = dict.fromkeys((mode.value for mode in Mode), 0)
        for limit in self._known.values():
            counts[self.mode(limit, now).value] += 1
        return counts

    def known(self) -> Iterable[FleetLimit]:
        """The limits that are drawn on, or were not long ago."""
        return self._known.values()

    def _units(self, limit: FleetLimit, amount: int, now: int) -> int:
        """
        The units for *amount*. A unit of a rate that was spent is no use for what waits, so others
        are wanted beside it; and as many events as passed while they were earned, or in the last
        seconds, are likely to be there again.
        """
        if not limit.period_ns:
            return amount
        use = self._use.get(limit.key)
        # How long a unit takes to earn an event.
        span = limit.period_ns * limit.burst / limit.limit
        lately = use.look(now) * min(span, _AVERAGED_NS) if use is not None else 0.0
        steady = ceil(lately) if lately > _UNUSED else 0
        if not amount:
            return steady
        spent = self.holder.cap(limit.key, now) - self.holder.free_events(limit.key, now)
        return max(steady, amount + spent)

    def _worth_telling(self, limit: FleetLimit, units: int, now: int) -> int:
        """
        What is said to be wanted, in place of *units*: what was said before, as long as they are
        little less or all is held anyway; and of a large limit one for a while after its last use.
        """
        lease = self.holder.lease(limit.key)
        said = lease.wants if lease is not None else 0
        if units:
            self._wanted_at[limit.key] = now
        elif limit.units >= _LARGE and now - self._wanted_at.get(limit.key, now) < _LINGERS_NS:
            units = min(said, 1)
        if lease is None or not units or not said:
            return units
        is_all_held = lease.units == limit.units
        return said if is_all_held or said - said // _IDLE_PART <= units <= said else units

    def _note(self, limit: FleetLimit) -> None:
        self._known[limit.key] = limit
        paths = self._paths.setdefault(limit.key, {})
        if limit.path not in paths and len(paths) < _MOST_PATHS:
            paths[limit.path] = None
            self.holder.tell_again(limit.key)

    def _forget(self, now: int) -> None:
        self.holder.forget_unused(now)
        kept = {lease.key for lease in self.holder.leases()}
        for key in [key for key in self._known if key not in kept]:
            del self._known[key]
            for notes in (self._use, self._paths, self._wanted_at):
                notes.pop(key, None)


_AFTER_FLOORS = {
    OnUnreachable.STOP: Mode.STOPPED,
    OnUnreachable.STATIC: Mode.STATIC,
    OnUnreachable.LOCAL: Mode.LOCAL,
}
