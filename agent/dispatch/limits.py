"""
Limits: what connections and messages may take, of limits that this agent keeps itself and of those
that it draws on leases for.

1. All limits of an act are taken together or not at all.
2. A connection counts under each of its limits from before it connects until it is closed. When
   fewer may be open, connections are told to leave: idle ones first, never in the midst of a
   transaction; once a lease is over beyond its time to drain, they are cut off.
3. Whoever is about to act asks again (`may_stay`): timers may be late, a lease is never too long.
4. What is short is told to the limit service, so that it can send more.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from agent.dispatch.options import PathOptions
from agent.dispatch.throttles import RateLimits, Throttles
from agent.limits.fleet import FleetLimits, Mode
from agent.limits.holder import LeaseHolder
from agent.limits.limit import FleetLimit, Kind
from agent.throttle.rate import Rate
from agent.throttle.slots import Slots

_NS = 1_000_000_000
_LEASE_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_T = TypeVar("_T")


class Leaving(Protocol):
    """A connection, as the limits see it."""

    is_idle: bool
    is_opening: bool

    def leave(self) -> None:
        """Close after the transaction in progress."""

    def cut(self) -> None:
        """Close now."""


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one connection under its limits."""

    connection: Leaving
    #: Names of limits of our own, and the keys of those of the fleet.
    names: tuple[str, ...]
    keys: tuple[str, ...]
    #: It has been told to close.
    is_leaving: bool = False


class Wait(msgspec.Struct, frozen=True):
    """Something can't be had now."""

    #: For so long; infinity: until something is given back or lent.
    seconds: float
    #: The limit of the fleet that is short; None: one of our own is.
    short_of: FleetLimit | None = None


#: It can be had.
NO_WAIT = Wait(0.0)


def lease_clock_ns() -> int:
    """The clock that leases hang on: it goes on while the host sleeps, where it can."""
    return time.clock_gettime_ns(_LEASE_CLOCK)


def without_leases() -> FleetLimits:
    """All limits for this agent alone, as where there is no limit service."""
    limits = FleetLimits(LeaseHolder(agent="", incarnation=1), now=0)
    limits.is_supported = False
    return limits


def _ignore() -> None:
    """Do nothing."""


class Limits:
    """All limits of this process."""

    def __init__(
        self,
        throttles: RateLimits,
        slots: Slots,
        fleet: FleetLimits,
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        lease_ns: Callable[[], int] = lease_clock_ns,
    ) -> None:
        """Own limits are in *throttles* and *slots*, by *monotonic_ns*; leases by *lease_ns*."""
        self.throttles = throttles
        self.slots = slots
        self.fleet = fleet
        self._monotonic_ns = monotonic_ns
        self.lease_ns = lease_ns
        self._slots_under: dict[str, dict[Slot, None]] = {}
        #: Limits that stand on units of their own while the limit service is away.
        self._static = Throttles(spent_since=monotonic_ns())
        #: Called when the limit service should hear of us soon.
        self.on_shortage: Callable[[], None] = _ignore

    # Connections.

    def try_open(self, connection: Leaving, options: PathOptions) -> Slot | Wait:
        """Take a place under each connection limit: the slot, to be given back. Else nothing."""
        now, leased = self.lease_ns(), options.fleet[Kind.CONNECTIONS]
        own = self._own(options.connection_limits, leased, now)
        for limit in leased.values():
            if not self.fleet.has_room(limit, now):
                return self._short(limit)
        if self.slots.try_take(own) is not None:
            return Wait(math.inf)
        slot = Slot(connection, tuple(own), tuple(limit.key for limit in leased.values()))
        for limit in leased.values():
            self._count(slot, limit)
        return slot

    def close(self, slot: Slot) -> None:
        """A connection has been closed."""
        self.slots.release(slot.names)
        is_awaited = False
        for key in slot.keys:
            is_awaited |= self._uncount(slot, key)
        if is_awaited:
            self.on_shortage()

    def renew(self, slot: Slot, options: PathOptions) -> None:
        """Count a connection that is open under the limits that hold now."""
        leased = {limit.key: limit for limit in options.fleet[Kind.CONNECTIONS].values()}
        if leased.keys() == set(slot.keys):
            return
        for key in slot.keys:
            if key not in leased:
                self._uncount(slot, key)
        for key, limit in leased.items():
            if key not in slot.keys:
                self._count(slot, limit)
        slot.keys = tuple(leased)

    def may_stay(self, slot: Slot) -> bool:
        """Whether a connection may be used on, as of this moment."""
        if not slot.is_leaving and slot.keys:
            self.enforce(slot.keys)
        return not slot.is_leaving

    def enforce(self, keys: Collection[str] | None = None) -> None:
        """Have those leave that are too many, and cut off what had to be gone by now."""
        now = self.lease_ns()
        for key in list(self._slots_under) if keys is None else keys:
            slots = self._slots_under.get(key)
            if slots is None or not (surplus := self.fleet.surplus(key, now)):
                continue
            staying = [slot for slot in slots if not slot.is_leaving]
            leaving = len(slots) - len(staying)
            staying.sort(key=_rank)
            for slot in staying[: max(0, surplus - leaving)]:
                slot.is_leaving = True
                slot.connection.leave()
            if must_close := self.fleet.must_close(key, now):
                gone_first = sorted(slots, key=lambda slot: not slot.is_leaving)
                for slot in gone_first[:must_close]:
                    slot.is_leaving = True
                    slot.connection.cut()

    def lent(self, limit: FleetLimit) -> int:
        """How many units of a limit of the fleet may be used now."""
        return self.fleet.cap(limit, self.lease_ns())

    def make_room(self, limit: FleetLimit) -> None:
        """Another path waits for the limit: have a connection leave that nobody uses."""
        slots = self._slots_under.get(limit.key, {})
        if any(slot.is_leaving for slot in slots):
            return
        for slot in slots:
            if slot.connection.is_idle:
                slot.is_leaving = True
                slot.connection.leave()
                return

    # Rates.

    def wait(self, options: PathOptions, kind: Kind, ahead: int = 0) -> Wait:
        """How long until an act may be charged, if *ahead* others go first; takes nothing."""
        rates = _rates(options, kind)
        if not rates:
            return NO_WAIT
        leased, now = options.fleet[kind], self.lease_ns()
        own = self._own(rates, leased, now)
        seconds = self.throttles.wait_ns(own, self._monotonic_ns(), ahead) / _NS if own else 0.0
        for limit in leased.values():
            wait = self._lease_wait(limit, now, ahead)
            if wait is None:
                return Wait(math.inf, limit)
            seconds = max(seconds, wait / _NS)
        return Wait(seconds) if seconds else NO_WAIT

    def try_take(self, options: PathOptions, kind: Kind, ahead: int = 0) -> Wait:
        """
        Charge an act to each rate: `NO_WAIT`. Else nothing, and how long to wait where *ahead*
        others wait already.
        """
        rates = _rates(options, kind)
        if not rates:
            return NO_WAIT
        leased, now = options.fleet[kind], self.lease_ns()
        own = self._own(rates, leased, now)
        for limit in leased.values():
            wait = self._lease_wait(limit, now, 0)
            if wait is None:
                return self._short(limit)
            if wait:
                return self._longer(options, kind, ahead, wait / _NS)
        if own and (wait := self.throttles.try_take(own, self._monotonic_ns())):
            return self._longer(options, kind, ahead, wait / _NS)
        for limit in leased.values():
            self._charge(limit, now)
        return NO_WAIT

    def forget_idle(self) -> None:
        """Drop what a new one would be the same as."""
        self.throttles.forget_idle(self._monotonic_ns())
        self._static.forget_idle(self._monotonic_ns())

    def _longer(self, options: PathOptions, kind: Kind, ahead: int, seconds: float) -> Wait:
        wait = self.wait(options, kind, ahead)
        return wait if wait.seconds >= seconds else Wait(seconds)

    def _lease_wait(self, limit: FleetLimit, now: int, ahead: int) -> int | None:
        match self.fleet.mode(limit, now):
            case Mode.LEASED | Mode.FLOORS:
                return self.fleet.wait_ns(limit, now, ahead)
            case Mode.STATIC if limit.static_units:
                return self._static.wait_ns(_static_rate(limit), self._monotonic_ns(), ahead)
            case Mode.LOCAL:
                return 0
            case _:
                return None

    def _charge(self, limit: FleetLimit, now: int) -> None:
        match self.fleet.mode(limit, now):
            case Mode.LEASED | Mode.FLOORS:
                self.fleet.take(limit, now)
            case Mode.STATIC:
                self._static.try_take(_static_rate(limit), self._monotonic_ns())
                self.fleet.count(limit)
            case _:
                self.fleet.count(limit)

    def _own(
        self, limits: Mapping[str, _T], leased: Mapping[str, FleetLimit], now: int
    ) -> Mapping[str, _T]:
        """Those of *limits* that this agent keeps itself, as things are."""
        if not leased:
            return limits
        return {
            name: limit
            for name, limit in limits.items()
            if name not in leased or self.fleet.mode(leased[name], now) is Mode.LOCAL
        }

    def _short(self, limit: FleetLimit) -> Wait:
        self.fleet.shortages += 1
        self.on_shortage()
        return Wait(math.inf, limit)

    def _count(self, slot: Slot, limit: FleetLimit) -> None:
        self.fleet.open(limit)
        self._slots_under.setdefault(limit.key, {})[slot] = None

    def _uncount(self, slot: Slot, key: str) -> bool:
        """Take a connection out; whether the limit service waits to hear of that."""
        is_surplus = self.fleet.surplus(key, self.lease_ns()) > 0
        self.fleet.close(key)
        slots = self._slots_under[key]
        del slots[slot]
        if not slots:
            del self._slots_under[key]
        return is_surplus


def _rank(slot: Slot) -> int:
    """Who leaves first: the idle, then those that are not connected yet."""
    if slot.connection.is_idle:
        return 0
    return 1 if slot.connection.is_opening else 2


def _rates(options: PathOptions, kind: Kind) -> Mapping[str, Rate]:
    match kind:
        case Kind.CONNECTION_RATE:
            return options.connection_rates
        case Kind.MESSAGE_RATE:
            return options.message_rates
        case _:
            return options.selection_rates


def _static_rate(limit: FleetLimit) -> dict[str, Rate]:
    """What the limit's static units earn together, and how many events they hold."""
    units = min(limit.static_units, limit.burst)
    rate = Rate(count=limit.limit * units, period_ns=limit.period_ns * limit.burst, max_burst=units)
    return {limit.key: rate}
