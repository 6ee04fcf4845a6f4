"""Limits, holders and grants for the tests of what an agent holds."""

from typing import Any

from agent.limits.holder import LeaseHolder
from agent.limits.limit import FleetLimit, Kind, LimitPath, OnUnreachable
from agent.limits.messages import Answer, Grant
from agent.limits.times import HolderTimes

SECOND = 1_000_000_000
TIMES = HolderTimes(session=15 * SECOND, floor=600 * SECOND, drain=55 * SECOND, drift=1_000_000)
_PATH = LimitPath(routing_domain="foo.example", egress_source="ip-1", mx_hosts=(("mx", 10),))


def connections(key: str = "c", limit: int = 10, **fields: Any) -> FleetLimit:
    """A limit on connections."""
    known: dict[str, Any] = {"option": "connection_limit", "name": "", "path": _PATH}
    return FleetLimit(key=key, kind=Kind.CONNECTIONS, limit=limit, **(known | fields))


def messages(
    key: str = "m", *, count: int = 10, seconds: int = 1, burst: int = 10, **fields: Any
) -> FleetLimit:
    """A rate of messages."""
    known: dict[str, Any] = {"option": "max_message_rate", "name": "", "path": _PATH}
    return FleetLimit(
        key=key,
        kind=Kind.MESSAGE_RATE,
        limit=count,
        period_ns=seconds * SECOND,
        burst=burst,
        **(known | fields),
    )


class Lender:
    """Grants what a test says, as a server would."""

    def __init__(self, holder: LeaseHolder, epoch: int = 1) -> None:
        self.holder = holder
        self.epoch = epoch
        self._version = epoch << 32
        self._sequence = 0

    def answer(self, *grants: Grant, at: int, heard_at: int | None = None) -> bool:
        """Answer a request that is sent at a time, with *grants*."""
        report = self.holder.report(at)
        self._sequence = report.sequence
        return self.push(*grants, at=at if heard_at is None else heard_at)

    def push(self, *grants: Grant, at: int) -> bool:
        """Send *grants* unasked."""
        return self.holder.hear(
            Answer(epoch=self.epoch, incarnation=1, sequence=self._sequence, grants=grants), at
        )

    def grant(
        self, limit: FleetLimit, units: int, *, floor: int = 0, fill: int | None = None
    ) -> Grant:
        """A grant of *units*, full ones of a rate if nothing else is said."""
        self._version += 1
        event_parts = limit.period_ns * limit.burst
        return Grant(
            key=limit.key,
            version=self._version,
            units=units,
            floor=floor,
            fill=units * event_parts if fill is None else fill,
            proof=b"proof",
            event_parts=event_parts,
            earns=limit.limit if limit.period_ns else 0,
        )


def make_holder() -> tuple[LeaseHolder, Lender]:
    """A holder and who lends to it."""
    holder = LeaseHolder(TIMES, agent="a", incarnation=1)
    return holder, Lender(holder)


STOP, STATIC, LOCAL = OnUnreachable.STOP, OnUnreachable.STATIC, OnUnreachable.LOCAL
