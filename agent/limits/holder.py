"""
The lease holder: what this agent may use of the limits that it shares, at any moment.

1. What was granted holds until a deadline reckoned from when the last request that was *answered*
   was sent. After it only floors hold, up to a deadline of their own; then nothing does.
2. A grant is applied if its version is newer, and if what brought it is no older than the last
   answer: what was long on its way may have been given to others since.
3. What is reported as enforced is an upper bound of what is used from then on, until a newer grant
   is applied. For connections that is what is open, where more is open than may be.

Time is an argument, in nanoseconds of a clock that only goes forward and goes on while the host
sleeps. Nothing here waits or sends.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.limits.lease import Lease
from agent.limits.messages import Answer, Demand, Grant, Report
from agent.limits.times import UNKNOWN_TIMES, HolderTimes

#: Requests whose answer has not come that are remembered; older ones don't count any more.
_MOST_UNANSWERED = 64
#: A lease without use is forgotten after so long: nothing that was said of it is under way still.
_FORGOTTEN_AFTER = 60 * 1_000_000_000


@dataclass(slots=True)
class _Sent:
    at: int
    demands: tuple[Demand, ...] = field(default=())


class LeaseHolder:
    """All leases of one agent."""

    def __init__(self, times: HolderTimes = UNKNOWN_TIMES, *, agent: str, incarnation: int) -> None:
        """
        Hold nothing yet; *incarnation* is higher than at any start before. Without *times*, they
        are to be set before the first answer is heard.
        """
        self.times = times
        self._agent = agent
        self._incarnation = incarnation
        self._sequence = 0
        self._answered = 0
        self._epoch = 0
        self._sent: dict[int, _Sent] = {}
        self._leases: dict[str, Lease] = {}
        #: Until when grants hold, and floors.
        self._deadline = 0
        self._floor_deadline = 0
        self._has_lapsed = True
        self._has_floors = False

    # Using.

    def want(self, key: str, units: int) -> None:
        """Say how many units could be used now."""
        self._lease(key).wants = units

    def is_lapsed(self, now: int) -> bool:
        """Whether nothing but floors holds now, or not even these."""
        self._lapse(now)
        return self._has_lapsed

    def is_over(self, now: int) -> bool:
        """Whether nothing holds now, floors included."""
        self._lapse(now)
        return self._has_lapsed and not self._has_floors

    def next_lapse(self, now: int) -> int | None:
        """When less will hold, or has to be closed, than does now; None: never by itself."""
        ends = [self._deadline, self._floor_deadline]
        times = [time for end in ends for time in (end, end + self.times.drain)]
        return min((time for time in times if time > now), default=None)

    def try_open(self, key: str, now: int) -> bool:
        """Take a connection's unit, to be given back by `close`; False: there is none."""
        if self.in_use(key) >= self.cap(key, now):
            return False
        self._lease(key).in_use += 1
        return True

    def open_anyway(self, key: str) -> None:
        """Count a connection that is open whatever may be; it is reported as such."""
        self._lease(key).in_use += 1

    def close(self, key: str) -> None:
        """A connection has been closed."""
        self._lease(key).in_use -= 1

    def wait_ns(self, key: str, now: int, ahead: int = 0) -> int | None:
        """
        How long until an event may pass after *ahead* others, in nanoseconds; 0: now; None: not
        with the units that are held.
        """
        units = self.cap(key, now)
        lease = self._leases.get(key)
        if lease is None or units < 1 or not lease.is_rate:
            return None
        lease.earn(now, self.times.drift)
        missing = (ahead + 1) * lease.event_parts - lease.parts
        if missing <= 0:
            return 0
        span = -(-missing // (units * lease.earns))
        return span + span // (self.times.drift - 1) + 1

    def try_pass(self, key: str, now: int) -> bool:
        """Let one event pass; False: none is free to."""
        lease = self._leases.get(key)
        if lease is None or self.cap(key, now) < 1 or not lease.is_rate:
            return False
        lease.earn(now, self.times.drift)
        if lease.parts < lease.event_parts:
            return False
        lease.parts -= lease.event_parts
        return True

    def cap(self, key: str, now: int) -> int:
        """How many units may be used now."""
        self._lapse(now)
        lease = self._leases.get(key)
        return lease.units if lease is not None else 0

    def in_use(self, key: str) -> int:
        """How many connections are open."""
        lease = self._leases.get(key)
        return lease.in_use if lease is not None else 0

    def free_events(self, key: str, now: int) -> int:
        """How many events of a rate may pass now."""
        lease = self._leases.get(key)
        if lease is None or not lease.is_rate or not self.cap(key, now):
            return 0
        lease.earn(now, self.times.drift)
        return lease.parts // lease.event_parts

    def surplus(self, key: str, now: int) -> int:
        """How many connections are open beyond what may be: idle ones are to be closed."""
        return max(0, self.in_use(key) - self.cap(key, now))

    def must_close(self, key: str, now: int) -> int:
        """How many connections have to go now, whatever they are doing."""
        lease, units = self._lease(key), self.cap(key, now)
        if now < self._deadline + self.times.drain:
            return 0
        if not self._has_floors and now < self._floor_deadline + self.times.drain:
            # What was beyond the floor had to go before that was over.
            units = lease.draining
        return max(0, lease.in_use - units)

    # Talking.

    def report(self, now: int, most: int | None = None) -> Report:
        """
        Make the next request: what has changed since what the server knows, *most* limits at
        most. What is in use comes first, and what was told but not answered yet last.
        """
        self._lapse(now)
        self._sequence += 1
        changed = [
            (lease, demand)
            for lease in self._leases.values()
            if (demand := lease.demand()) != lease.known
        ]
        if most is not None and len(changed) > most:
            changed.sort(key=lambda one: (one[0].told == one[1], not one[0].in_use))
            del changed[most:]
        for lease, demand in changed:
            lease.tell(demand, self._sequence)
        demands = tuple(demand for _, demand in changed)
        self._sent[self._sequence] = _Sent(at=now, demands=demands)
        while len(self._sent) > _MOST_UNANSWERED:
            del self._sent[next(iter(self._sent))]
        return Report(
            agent=self._agent,
            incarnation=self._incarnation,
            sequence=self._sequence,
            demands=demands,
        )

    @property
    def has_more_to_tell(self) -> bool:
        """Whether something has changed that no request has said yet."""
        return any(
            lease.demand() not in (lease.known, lease.told) for lease in self._leases.values()
        )

    @property
    def epoch(self) -> int:
        """Of the book that was heard last; 0: none was."""
        return self._epoch

    def begin_anew(self) -> None:
        """
        Another book has taken over that counts its epochs anew: its grants are newer than any of
        before. Only where nothing of the old one can be under way still.
        """
        for lease in self._leases.values():
            lease.version, lease.proof, lease.granted, lease.granted_floor = 0, b"", 0, 0

    def event_parts(self, key: str) -> int:
        """One event of a rate, in parts; 0: the units are connections, or nothing was granted."""
        lease = self._leases.get(key)
        return lease.event_parts if lease is not None else 0

    def tell_again(self, key: str) -> None:
        """Have the next request tell of a limit even if nothing has changed."""
        if (lease := self._leases.get(key)) is not None:
            lease.forget_told()

    def give_way(self, now: int) -> None:
        """
        Another has been lent what was held: nothing holds now, floors included, and connections
        have the usual time to close. What was sent is not answered any more.
        """
        self._lapse(now)
        self._sent.clear()
        self._deadline = self._floor_deadline = now
        for lease in self._leases.values():
            lease.floor = 0
        self._lapse(now)

    def meet_anew(self) -> None:
        """A new connection: whoever answers there may know nothing and is told everything."""
        for lease in self._leases.values():
            lease.forget_told()

    def forget_unused(self, now: int) -> None:
        """Drop leases that are neither held nor asked for, once the server knows."""
        for lease in list(self._leases.values()):
            if lease.units or lease.in_use or lease.wants or lease.known != lease.demand():
                lease.unused_since = None
            elif lease.unused_since is None:
                lease.unused_since = now
            elif now - lease.unused_since > _FORGOTTEN_AFTER:
                del self._leases[lease.key]

    def hear(self, answer: Answer, now: int) -> bool:
        """Take an answer, or grants that come unasked; False: it is too old, or not for us."""
        if answer.incarnation != self._incarnation or answer.sequence < self._answered:
            return False
        self._lapse(now)
        is_first, is_new = not self._epoch, answer.epoch != self._epoch
        self._epoch = answer.epoch
        if is_new and not is_first:
            self._meet_another_book(answer.sequence)
        heard = self._sent.get(answer.sequence)
        self._renew(answer.sequence, now)
        if heard is not None and not self._has_lapsed:
            for demand in heard.demands:
                if (lease := self._leases.get(demand.key)) is not None:
                    lease.note_answer(demand, answer.sequence)
        self._apply(answer.grants, now)
        return True

    def _meet_another_book(self, answered: int) -> None:
        """
        Another server, or the same after a crash: it knows what was said in the report that it
        has answered, and will know what is under way after that. Nothing else.
        """
        self.meet_anew()
        for sequence, sent in self._sent.items():
            for demand in sent.demands if sequence >= answered else ():
                if (lease := self._leases.get(demand.key)) is not None:
                    lease.tell(demand, sequence)

    def leases(self) -> Iterable[Lease]:
        """What is held, to be looked at."""
        return self._leases.values()

    def lease(self, key: str) -> Lease | None:
        """What is held of one limit, to be looked at; None: nothing was asked for."""
        return self._leases.get(key)

    def _renew(self, sequence: int, now: int) -> None:
        self._answered = sequence
        sent = self._sent.get(sequence)
        if sent is not None:
            deadline = sent.at + self.times.session
            self._floor_deadline = max(self._floor_deadline, sent.at + self.times.floor)
            self._has_floors = now < self._floor_deadline
            if deadline > self._deadline:
                self._deadline = deadline
                # What lapsed stays so: the server is told, and grants anew.
                self._has_lapsed = now >= deadline
        for earlier in [number for number in self._sent if number < sequence]:
            del self._sent[earlier]

    def _apply(self, grants: Iterable[Grant], now: int) -> None:
        for grant in grants:
            lease = self._lease(grant.key)
            if grant.version <= lease.version:
                continue
            lease.apply(
                grant,
                now,
                is_live=not self._has_lapsed,
                has_floor=self._has_floors,
                drift=self.times.drift,
            )

    def _lapse(self, now: int) -> None:
        """At the deadline everything falls to its floor, and what was free to pass with it."""
        if not self._has_lapsed and now >= self._deadline:
            self._has_lapsed = True
            # The server may have ended what it knew of us: it is told everything again.
            self.meet_anew()
            for lease in self._leases.values():
                lease.fall(min(lease.units, lease.floor), self._deadline, self.times.drift)
        if self._has_floors and now >= self._floor_deadline:
            self._has_floors = False
            for lease in self._leases.values():
                lease.draining, lease.floor = lease.units, 0
                lease.fall(0, self._floor_deadline, self.times.drift)

    def _lease(self, key: str) -> Lease:
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = Lease(key=key)
        return lease
