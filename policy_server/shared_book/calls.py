"""
What is asked of the book's script and what it answers, in the script's own terms: lists of texts
and numbers. Pure; the script's side of it is calls.lua.

Times of the script are microseconds, those of the book nanoseconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from policy_server.limits.book import Signer
from policy_server.limits.messages import (
    Demand,
    Grant,
    Holding,
    NumberedPromise,
    Promise,
    Report,
)
from policy_server.limits.spec import Earning, LeaseTiming, LimitSpec

#: A version is its epoch, a counter of so many bits; and digits of each for the script.
_COUNTER_BITS = 32
_DIGITS = 10
#: Bounds within which every product that the script makes is exact.
MOST_UNITS, MOST_WEIGHT = 500_000_000, 10_000

#: How the script keeps the book: servers to whom it means something else share none.
_LAYOUT = 4

Argument = str | int | bytes
Reply = Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedGrant:
    """A grant, and where the agent is that it is for."""

    grant: Grant
    #: The server that it last reported to, and what was heard last.
    server: str
    sequence: int
    #: For how long by the shard's clock its lease lasts at least, in nanoseconds.
    lasts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenPart:
    """What became of a report."""

    #: False: it is too late, comes twice or is of an agent long gone.
    is_new: bool
    #: Keys that the shard does not know.
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a shard answers: make the promises durable, then send the grants."""

    taken: tuple[TakenPart, ...] = ()
    promises: tuple[NumberedPromise, ...] = ()
    grants: tuple[RoutedGrant, ...] = ()
    #: There is more to settle than one call does.
    has_more: bool = False
    #: The time of the book, and when something ends by itself, in nanoseconds of its clock.
    now: int = 0
    next_time: int | None = None
    #: How many limits the shard has, how many of them are scarce, and of how many a
    #: predecessor's promises are open.
    limits: int = 0
    scarce: int = 0
    recovering: int = 0


def lease_span(timing: LeaseTiming) -> int:
    """After how many nanoseconds a silent agent's connections are closed beyond doubt."""
    return timing.longer(timing.session) + timing.grace + timing.longer(timing.drain)


def terms_text(timing: LeaseTiming) -> str:
    """Write the spans of leases as the script reads them; see `LeaseBook`'s spans."""
    spans = (
        timing.session,
        timing.longer(timing.session) + timing.grace,
        lease_span(timing),
        timing.longer(timing.floor + timing.drain) + timing.grace,
        timing.hold_rate,
        timing.hold_connection,
        timing.repeat,
    )
    # Rounded up: a lease ends a microsecond later rather than earlier.
    return " ".join([*(str(-(-span // 1000)) for span in spans), str(timing.drift), str(_LAYOUT)])


def write_version(version: int) -> str:
    """
    Write a version as the script has it, which knows no numbers of 64 bits: epoch and counter.

    >>> write_version((7 << 32) + 12)
    '00000000070000000012'
    """
    counter = version & ((1 << _COUNTER_BITS) - 1)
    return f"{version >> _COUNTER_BITS:0{_DIGITS}}{counter:0{_DIGITS}}"


def read_version(text: str) -> int:
    """Read a version of the script."""
    return (int(text[:_DIGITS]) << _COUNTER_BITS) + int(text[_DIGITS:])


def spec_arguments(spec: LimitSpec) -> list[Argument]:
    """State a limit: units, and count and period of a rate."""
    if spec.earning is None:
        return [min(spec.units, MOST_UNITS), 0, 0]
    return [min(spec.units, MOST_UNITS), spec.earning.count, spec.earning.period_ns]


def restore_arguments(
    used: int,
    ceiling: int,
    holdings: Mapping[str, Holding],
    *,
    is_of_this_epoch: bool,
    unseen_ns: int,
) -> list[Argument]:
    """State what a predecessor promised of a limit, and how many events may have been used."""
    arguments: list[Argument] = ["now" if is_of_this_epoch else "before"]
    arguments += [min(used, MOST_UNITS), ceiling, -(-unseen_ns // 1000)]
    for agent, held in holdings.items():
        arguments += [agent, held.units, held.floor, held.incarnation]
    return arguments


def report_arguments(report: Report, *, part: int, sign: Signer) -> list[Argument]:
    """State a report, whose proofs are checked here: the script can't."""
    arguments: list[Argument] = [
        report.agent,
        report.incarnation,
        report.sequence,
        part,
        len(report.demands),
    ]
    for demand in report.demands:
        arguments += _demand_arguments(report, demand, sign)
    return arguments


def _demand_arguments(report: Report, demand: Demand, sign: Signer) -> list[Argument]:
    is_proven = bool(demand.proof) and demand.proof == sign(
        report.agent,
        report.incarnation,
        demand.key,
        demand.version,
        demand.granted,
        demand.floor,
    )
    return [
        demand.key,
        min(demand.wants, MOST_UNITS),
        min(demand.enforced, MOST_UNITS),
        write_version(demand.version),
        max(1, min(demand.weight, MOST_WEIGHT)),
        max(0, demand.returned),
        min(demand.granted, MOST_UNITS),
        int(is_proven),
        demand.in_use,
    ]


def sync_arguments(
    *,
    server: str,
    confirmed: Iterable[NumberedPromise] = (),
    specs: Mapping[str, LimitSpec] = MappingProxyType({}),
    reports: Iterable[list[Argument]],
    is_settled: bool = True,
) -> list[Argument]:
    """State a call that takes in reports and settles."""
    numbers = [(one.promise.key, one.number) for one in confirmed]
    arguments: list[Argument] = [server, int(is_settled), len(numbers)]
    for key, number in numbers:
        arguments += [key, number]
    arguments.append(len(specs))
    for key, spec in specs.items():
        arguments += [key, *spec_arguments(spec)]
    for report in reports:
        arguments += report
    return arguments


def read_synced(reply: Reply, sign: Signer) -> Synced:
    """Read the answer to a call that settles."""
    _, taken, promises, grants, has_more, now, next_time, counts = reply
    return Synced(
        taken=tuple(
            TakenPart(is_new=bool(is_new), unknown=tuple(_text(key) for key in unknown))
            for is_new, unknown in taken
        ),
        promises=tuple(_read_promise(item) for item in promises),
        grants=tuple(_read_grant(item, sign) for item in grants),
        has_more=bool(has_more),
        now=now * 1000,
        next_time=next_time * 1000 if next_time >= 0 else None,
        limits=counts[0],
        scarce=counts[1],
        recovering=counts[2],
    )


def _read_promise(item: Sequence[Any]) -> NumberedPromise:
    key, number, units, count, period, ceiling, owed, holdings, is_whole, is_over = item
    return NumberedPromise(
        number=number,
        promise=Promise(
            key=_text(key),
            spec=spec_from(units, count, period),
            ceiling=ceiling,
            owed=owed,
            holdings=tuple(
                (_text(agent), Holding(units=units, floor=floor, incarnation=incarnation))
                for agent, units, floor, incarnation in holdings
            ),
            is_whole=bool(is_whole),
            is_over=bool(is_over),
        ),
    )


def spec_from(units: int, count: int, period: int) -> LimitSpec:
    """Read a limit, as `spec_arguments` states it."""
    return LimitSpec(units=units, earning=Earning(count=count, period_ns=period) if count else None)


def _read_grant(item: Sequence[Any], sign: Signer) -> RoutedGrant:
    agent, server, incarnation, sequence, key, *spec, version, granted, floor, fill, lasts = item
    agent, key, version = _text(agent), _text(key), read_version(_text(version))
    return RoutedGrant(
        server=_text(server),
        sequence=sequence,
        lasts=lasts * 1000,
        grant=Grant(
            agent=agent,
            incarnation=incarnation,
            key=key,
            spec=spec_from(*spec),
            version=version,
            units=granted,
            floor=floor,
            fill=int(fill),
            proof=sign(agent, incarnation, key, version, granted, floor),
        ),
    )


def _text(value: bytes) -> str:
    return value.decode()
