"""
Which limits an answer has, and under which keys agents share them.

A key is the option's name and what the limit is for: the path, or for the further, named limits
(to which those of providers belong) their name. Limits that are `local` have keys too, but nobody
lends them.
"""

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from penstock.v1 import limit_pb2
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit, Rate
from policy_server.limits.spec import Earning, LimitSpec

#: Nobody passes more at once; a larger burst is lent as this.
MOST_UNITS = 1_000_000_000
#: Of a rate's count; it is no faster than that.
_MOST_COUNT = 1_000_000_000_000

_Kind = limit_pb2.LimitKind
_OWN_RATES = MappingProxyType(
    {
        "max_connection_rate": limit_pb2.LIMIT_KIND_CONNECTION_RATE,
        "max_message_rate": limit_pb2.LIMIT_KIND_MESSAGE_RATE,
        "source_selection_rate": limit_pb2.LIMIT_KIND_SELECTION_RATE,
    }
)
_NAMED_RATES = MappingProxyType(
    {
        "additional_message_rate_throttles": limit_pb2.LIMIT_KIND_MESSAGE_RATE,
        "additional_source_selection_rates": limit_pb2.LIMIT_KIND_SELECTION_RATE,
    }
)
#: Every option that limits are made of, and what it counts.
KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "connection_limit": limit_pb2.LIMIT_KIND_CONNECTIONS,
        "additional_connection_limits": limit_pb2.LIMIT_KIND_CONNECTIONS,
        **_OWN_RATES,
        **_NAMED_RATES,
    }
)


def find_limits(config: EgressPathConfig, path_name: str) -> Iterator[limit_pb2.LimitRef]:
    """Find the limits of an answer, in the order of their options."""
    if config.HasField("connection_limit"):
        yield _of_limit("connection_limit", "", path_name, config.connection_limit, config)
    for name, limit in sorted(config.additional_connection_limits.items()):
        yield _of_limit("additional_connection_limits", name, name, limit, config)
    for option in _OWN_RATES:
        if config.HasField(option):
            yield _of_rate(option, "", path_name, getattr(config, option), config)
    for option in _NAMED_RATES:
        for name, rate in sorted(getattr(config, option).items()):
            yield _of_rate(option, name, name, rate, config)


def to_spec(ref: limit_pb2.LimitRef) -> LimitSpec:
    """Say in what units a limit is lent."""
    if ref.kind == limit_pb2.LIMIT_KIND_CONNECTIONS:
        return _make_spec(ref.limit, 0, 0)
    period_ns = ref.period.seconds * 1_000_000_000 + ref.period.nanos
    return _make_spec(ref.burst, ref.limit, max(1, period_ns))


@functools.lru_cache(maxsize=4096)
def _make_spec(units: int, count: int, period_ns: int) -> LimitSpec:
    """Make the one of its size: very many limits are alike."""
    earning = None
    if period_ns:
        earning = Earning(count=max(1, min(count, _MOST_COUNT)), period_ns=period_ns)
    return LimitSpec(units=max(1, min(units, MOST_UNITS)), earning=earning)


def kind_of(key: str) -> _Kind:
    """Say what a limit counts, by its key."""
    return KINDS.get(key.partition(":")[0], limit_pb2.LIMIT_KIND_UNSPECIFIED)


def _of_limit(
    option: str, name: str, of: str, limit: Limit, config: EgressPathConfig
) -> limit_pb2.LimitRef:
    ref = _make_ref(option, name, of, config, is_local=limit.local)
    ref.limit = limit.value
    return ref


def _of_rate(
    option: str, name: str, of: str, rate: Rate, config: EgressPathConfig
) -> limit_pb2.LimitRef:
    ref = _make_ref(option, name, of, config, is_local=rate.local)
    ref.limit = rate.count
    ref.period.CopyFrom(rate.period)
    ref.burst = rate.max_burst if rate.HasField("max_burst") else rate.count
    return ref


def _make_ref(
    option: str, name: str, of: str, config: EgressPathConfig, *, is_local: bool
) -> limit_pb2.LimitRef:
    ref = limit_pb2.LimitRef(key=f"{option}:{of}", kind=KINDS[option], option=option, name=name)
    if is_local:
        ref.sharing = limit_pb2.LIMIT_SHARING_LOCAL
        return ref
    ref.sharing = limit_pb2.LIMIT_SHARING_FLEET
    ref.on_unreachable = config.on_unreachable or limit_pb2.ON_UNREACHABLE_STOP
    if ref.on_unreachable == limit_pb2.ON_UNREACHABLE_STATIC:
        ref.static_units = config.on_unreachable_units or 1
    return ref
