"""
Which limits an answer has, and under which keys agents share them.

A key is the option's name and what the limit is for: the path, or for the further, named limits
(to which those of providers belong) their name. Limits that are `local` have keys too, but nobody
lends them.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock.v1 import limit_pb2
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit, Rate
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse
from policy_server.answering.wire_form import serialise, write_field
from policy_server.limits.spec import Earning, LimitSpec

#: Nobody passes more at once; a larger burst is lent as this.
MOST_UNITS = 1_000_000_000
#: Of a rate's count; it is no faster than that.
_MOST_COUNT = 1_000_000_000_000
#: Limits that are kept in their wire form: very many are alike.
_KEPT = 4096

_LIMIT_REFS = GetEgressPathConfigResponse.LIMIT_REFS_FIELD_NUMBER
_KEY = limit_pb2.LimitRef.KEY_FIELD_NUMBER
_Kind = limit_pb2.LimitKind
#: Every option that limits are made of, in the order in which answers name them; what it counts.
KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "connection_limit": limit_pb2.LIMIT_KIND_CONNECTIONS,
        "additional_connection_limits": limit_pb2.LIMIT_KIND_CONNECTIONS,
        "max_connection_rate": limit_pb2.LIMIT_KIND_CONNECTION_RATE,
        "max_message_rate": limit_pb2.LIMIT_KIND_MESSAGE_RATE,
        "source_selection_rate": limit_pb2.LIMIT_KIND_SELECTION_RATE,
        "additional_message_rate_throttles": limit_pb2.LIMIT_KIND_MESSAGE_RATE,
        "additional_source_selection_rates": limit_pb2.LIMIT_KIND_SELECTION_RATE,
    }
)
#: Those of them that are maps, by name.
_NAMED = frozenset(option for option in KINDS if option.startswith("additional_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredLimit:
    """A limit as answers name it, but for the name of the path."""

    #: Its key; where the limit is the path's own, what the key begins with.
    key: str
    is_of_path: bool
    #: Its LimitRef without the key, as it goes over the wire.
    rest: bytes
    #: In what units it is lent; None: nobody lends it.
    spec: LimitSpec | None

    def key_on(self, path_name: str) -> str:
        """Name its key for a path."""
        return self.key + path_name if self.is_of_path else self.key

    def write(self, path_name: str) -> bytes:
        """Write it as a field of the response."""
        key = write_field(_KEY, self.key_on(path_name).encode())
        return write_field(_LIMIT_REFS, key + self.rest)


def find_limits(config: EgressPathConfig) -> Iterator[AnsweredLimit]:
    """Find the limits of an answer, in the order of their options."""
    alone = config.on_unreachable, config.on_unreachable_units
    for option in KINDS:
        if option in _NAMED:
            named = getattr(config, option)
            # Nearly always there are none, and to look through none takes long.
            for name in sorted(named) if named else ():
                yield _describe(option, name, serialise(named[name]), *alone)
        elif config.HasField(option):
            yield _describe(option, "", serialise(getattr(config, option)), *alone)


def _to_spec(ref: limit_pb2.LimitRef) -> LimitSpec:
    """Say in what units a limit is lent."""
    units, earning = ref.limit, None
    if ref.kind != limit_pb2.LIMIT_KIND_CONNECTIONS:
        units = ref.burst
        period_ns = ref.period.seconds * 1_000_000_000 + ref.period.nanos
        count = max(1, min(ref.limit, _MOST_COUNT))
        earning = Earning(count=count, period_ns=max(1, period_ns))
    return LimitSpec(units=max(1, min(units, MOST_UNITS)), earning=earning)


def kind_of(key: str) -> _Kind:
    """Say what a limit counts, by its key."""
    return KINDS.get(key.partition(":")[0], limit_pb2.LIMIT_KIND_UNSPECIFIED)


# The arguments are plain, so that those of limits that are alike are found to be equal.
@functools.lru_cache(maxsize=_KEPT)
def _describe(
    option: str, name: str, value: bytes, on_unreachable: limit_pb2.OnUnreachable, static_units: int
) -> AnsweredLimit:
    """Describe the limit that *value*, a serialised Limit or Rate, is of an option."""
    ref = limit_pb2.LimitRef(kind=KINDS[option], option=option, name=name)
    fill = _fill_limit if ref.kind == limit_pb2.LIMIT_KIND_CONNECTIONS else _fill_rate
    is_local = fill(ref, value)
    if is_local:
        ref.sharing = limit_pb2.LIMIT_SHARING_LOCAL
    else:
        ref.sharing = limit_pb2.LIMIT_SHARING_FLEET
        ref.on_unreachable = on_unreachable or limit_pb2.ON_UNREACHABLE_STOP
    if ref.on_unreachable == limit_pb2.ON_UNREACHABLE_STATIC:
        ref.static_units = static_units or 1
    return AnsweredLimit(
        key=f"{option}:{name}",
        is_of_path=option not in _NAMED,
        rest=serialise(ref),
        spec=None if is_local else _to_spec(ref),
    )


def _fill_limit(ref: limit_pb2.LimitRef, value: bytes) -> bool:
    """Fill in a Limit; say whether it is local."""
    limit = Limit.FromString(value)
    ref.limit = limit.value
    return limit.local


def _fill_rate(ref: limit_pb2.LimitRef, value: bytes) -> bool:
    """Fill in a Rate; say whether it is local."""
    rate = Rate.FromString(value)
    ref.limit = rate.count
    ref.period.CopyFrom(rate.period)
    ref.burst = rate.max_burst if rate.HasField("max_burst") else rate.count
    return rate.local
