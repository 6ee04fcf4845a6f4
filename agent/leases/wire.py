"""
Wire: demands and grants, as they are said over a stream of the limit service. Pure.

A limit is named by its key once a stream, and by a number after that.
"""

from collections.abc import Callable, Collection, Iterator

from agent.limits.limit import LimitPath
from agent.limits.messages import Answer, Demand, Grant, Report
from agent.limits.times import HolderTimes
from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.policy_service_pb2 import MxHost

_NANO = 1_000_000_000


class Handles:
    """The numbers that limits have in one stream."""

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._paths: dict[str, set[LimitPath]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def give(self, key: str) -> tuple[int, bool]:
        """The number of *key*, and whether it is new."""
        handle = self._by_key.get(key)
        if handle is not None:
            return handle, False
        handle = self._by_key[key] = len(self._keys) + 1
        self._keys[handle] = key
        return handle, True

    def key_of(self, handle: int) -> str:
        """The key with that number; empty: none has it."""
        return self._keys.get(handle, "")

    def unnamed(self, key: str, paths: Collection[LimitPath]) -> list[LimitPath]:
        """Those of *paths* that the stream has not named for *key* yet; now it has."""
        named = self._paths.setdefault(key, set())
        new = [path for path in paths if path not in named]
        named.update(new)
        return new

    def forget(self, key: str) -> None:
        """The server does not know the number: say the key and its paths again."""
        self._by_key.pop(key, None)
        self._paths.pop(key, None)


def report_message(
    report: Report,
    handles: Handles,
    paths_of: Callable[[str], Collection[LimitPath]],
    *,
    worker: str,
    host: str,
    shapes: Callable[[str], int],
    epoch: int,
) -> pb.LimitReport:
    """
    Write a report for a stream; *paths_of* gives the paths whose answers name a key, *shapes* how
    many parts an event of it has, *epoch* is the newest that was heard.
    """
    return pb.LimitReport(
        worker=worker,
        host=host,
        incarnation=report.incarnation,
        sequence=report.sequence,
        demands=[
            message
            for demand in report.demands
            if (message := _demand(demand, handles, paths_of, shapes, epoch)) is not None
        ],
    )


def _demand(
    demand: Demand,
    handles: Handles,
    paths_of: Callable[[str], Collection[LimitPath]],
    shapes: Callable[[str], int],
    epoch: int,
) -> pb.LimitDemand | None:
    handle, is_new = handles.give(demand.key)
    message = pb.LimitDemand(
        handle=handle,
        wants=demand.wants,
        enforced=demand.enforced,
        version=demand.version,
        in_use=demand.in_use,
    )
    paths = paths_of(demand.key)
    if is_new:
        if not paths:
            # Nobody uses it any more, and the server never heard of it in this stream.
            handles.forget(demand.key)
            return None
        message.key = demand.key
    for path in handles.unnamed(demand.key, paths):
        message.paths.add(
            routing_domain=path.routing_domain,
            egress_source=path.egress_source,
            mx_hosts=[MxHost(host=host, preference=number) for host, number in path.mx_hosts],
        )
    if demand.returned and (parts := shapes(demand.key)):
        message.returned_nano_events = demand.returned * _NANO // parts
    if demand.version and (is_new or demand.version >> 32 != epoch):
        message.claim.units = demand.granted
        message.claim.floor = demand.floor
        message.claim.proof = demand.proof
    return message


def answer_of(message: pb.LimitAnswer, handles: Handles) -> Answer:
    """Read an answer; grants of limits that the stream does not name are left out."""
    return Answer(
        epoch=message.epoch,
        incarnation=message.incarnation,
        sequence=message.sequence,
        grants=tuple(_grants(message, handles)),
    )


def times_of(terms: pb.LeaseTerms) -> HolderTimes:
    """Read for how long leases hold, by this host's clock."""
    return HolderTimes.of(
        session=terms.session_ttl.ToNanoseconds(),
        floor=terms.floor_ttl.ToNanoseconds(),
        drain=terms.drain_time.ToNanoseconds(),
        drift=max(2, terms.drift),
    )


def _grants(message: pb.LimitAnswer, handles: Handles) -> Iterator[Grant]:
    for grant in message.grants:
        key = grant.key or handles.key_of(grant.handle)
        if not key:
            continue
        parts = grant.rate_period.ToNanoseconds() * grant.limit if grant.rate_count else 0
        yield Grant(
            key=key,
            version=grant.version,
            units=grant.units,
            floor=grant.floor,
            fill=grant.fill_nano_events * parts // _NANO,
            proof=grant.proof,
            event_parts=parts,
            earns=grant.rate_count,
        )
