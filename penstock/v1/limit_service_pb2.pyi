import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from penstock.v1 import limit_pb2 as _limit_pb2
from penstock.v1 import policy_service_pb2 as _policy_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LimitPath(_message.Message):
    __slots__ = ("routing_domain", "egress_source", "site_name", "mx_hosts")
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    MX_HOSTS_FIELD_NUMBER: _ClassVar[int]
    routing_domain: str
    egress_source: str
    site_name: str
    mx_hosts: _containers.RepeatedCompositeFieldContainer[_policy_service_pb2.MxHost]
    def __init__(self, routing_domain: _Optional[str] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., mx_hosts: _Optional[_Iterable[_Union[_policy_service_pb2.MxHost, _Mapping]]] = ...) -> None: ...

class LimitClaim(_message.Message):
    __slots__ = ("units", "floor", "proof")
    UNITS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    units: int
    floor: int
    proof: bytes
    def __init__(self, units: _Optional[int] = ..., floor: _Optional[int] = ..., proof: _Optional[bytes] = ...) -> None: ...

class LimitDemand(_message.Message):
    __slots__ = ("handle", "key", "paths", "wants", "enforced", "version", "weight", "returned_nano_events", "claim", "in_use")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    RETURNED_NANO_EVENTS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    handle: int
    key: str
    paths: _containers.RepeatedCompositeFieldContainer[LimitPath]
    wants: int
    enforced: int
    version: int
    weight: int
    returned_nano_events: int
    claim: LimitClaim
    in_use: int
    def __init__(self, handle: _Optional[int] = ..., key: _Optional[str] = ..., paths: _Optional[_Iterable[_Union[LimitPath, _Mapping]]] = ..., wants: _Optional[int] = ..., enforced: _Optional[int] = ..., version: _Optional[int] = ..., weight: _Optional[int] = ..., returned_nano_events: _Optional[int] = ..., claim: _Optional[_Union[LimitClaim, _Mapping]] = ..., in_use: _Optional[int] = ...) -> None: ...

class LimitReport(_message.Message):
    __slots__ = ("worker", "incarnation", "sequence", "demands", "host")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DEMANDS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    worker: str
    incarnation: int
    sequence: int
    demands: _containers.RepeatedCompositeFieldContainer[LimitDemand]
    host: str
    def __init__(self, worker: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., demands: _Optional[_Iterable[_Union[LimitDemand, _Mapping]]] = ..., host: _Optional[str] = ...) -> None: ...

class LimitGrant(_message.Message):
    __slots__ = ("handle", "key", "version", "units", "floor", "fill_nano_events", "limit", "rate_count", "rate_period", "proof")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    FILL_NANO_EVENTS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    RATE_PERIOD_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    handle: int
    key: str
    version: int
    units: int
    floor: int
    fill_nano_events: int
    limit: int
    rate_count: int
    rate_period: _duration_pb2.Duration
    proof: bytes
    def __init__(self, handle: _Optional[int] = ..., key: _Optional[str] = ..., version: _Optional[int] = ..., units: _Optional[int] = ..., floor: _Optional[int] = ..., fill_nano_events: _Optional[int] = ..., limit: _Optional[int] = ..., rate_count: _Optional[int] = ..., rate_period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., proof: _Optional[bytes] = ...) -> None: ...

class LeaseTerms(_message.Message):
    __slots__ = ("session_ttl", "drain_time", "floor_ttl", "drift")
    SESSION_TTL_FIELD_NUMBER: _ClassVar[int]
    DRAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    FLOOR_TTL_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    session_ttl: _duration_pb2.Duration
    drain_time: _duration_pb2.Duration
    floor_ttl: _duration_pb2.Duration
    drift: int
    def __init__(self, session_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., drain_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., floor_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., drift: _Optional[int] = ...) -> None: ...

class LimitAnswer(_message.Message):
    __slots__ = ("epoch", "incarnation", "sequence", "grants", "terms", "next_sync", "recovering", "reconnect_after", "unknown")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SYNC_FIELD_NUMBER: _ClassVar[int]
    RECOVERING_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    incarnation: int
    sequence: int
    grants: _containers.RepeatedCompositeFieldContainer[LimitGrant]
    terms: LeaseTerms
    next_sync: _duration_pb2.Duration
    recovering: bool
    reconnect_after: _duration_pb2.Duration
    unknown: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., grants: _Optional[_Iterable[_Union[LimitGrant, _Mapping]]] = ..., terms: _Optional[_Union[LeaseTerms, _Mapping]] = ..., next_sync: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., recovering: bool = ..., reconnect_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unknown: _Optional[_Iterable[str]] = ...) -> None: ...

class SyncLimitsRequest(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: LimitReport
    def __init__(self, report: _Optional[_Union[LimitReport, _Mapping]] = ...) -> None: ...

class SyncLimitsResponse(_message.Message):
    __slots__ = ("answer",)
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    answer: LimitAnswer
    def __init__(self, answer: _Optional[_Union[LimitAnswer, _Mapping]] = ...) -> None: ...

class ExchangeLimitsRequest(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: LimitReport
    def __init__(self, report: _Optional[_Union[LimitReport, _Mapping]] = ...) -> None: ...

class ExchangeLimitsResponse(_message.Message):
    __slots__ = ("answer",)
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    answer: LimitAnswer
    def __init__(self, answer: _Optional[_Union[LimitAnswer, _Mapping]] = ...) -> None: ...

class ReleaseSessionRequest(_message.Message):
    __slots__ = ("worker", "incarnation", "host", "only_silent")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    ONLY_SILENT_FIELD_NUMBER: _ClassVar[int]
    worker: str
    incarnation: int
    host: str
    only_silent: bool
    def __init__(self, worker: _Optional[str] = ..., incarnation: _Optional[int] = ..., host: _Optional[str] = ..., only_silent: bool = ...) -> None: ...

class ReleaseSessionResponse(_message.Message):
    __slots__ = ("known", "heard")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    known: bool
    heard: bool
    def __init__(self, known: bool = ..., heard: bool = ...) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ("key", "page_size", "page_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    page_size: int
    page_token: str
    def __init__(self, key: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class LimitHolder(_message.Message):
    __slots__ = ("agent", "worker", "units", "booked", "floor", "in_use", "wants", "held_for", "waiting_for", "silent_for", "host")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    BOOKED_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FOR_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    SILENT_FOR_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    agent: str
    worker: str
    units: int
    booked: int
    floor: int
    in_use: int
    wants: int
    held_for: _duration_pb2.Duration
    waiting_for: _duration_pb2.Duration
    silent_for: _duration_pb2.Duration
    host: str
    def __init__(self, agent: _Optional[str] = ..., worker: _Optional[str] = ..., units: _Optional[int] = ..., booked: _Optional[int] = ..., floor: _Optional[int] = ..., in_use: _Optional[int] = ..., wants: _Optional[int] = ..., held_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., waiting_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., silent_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., host: _Optional[str] = ...) -> None: ...

class LimitState(_message.Message):
    __slots__ = ("key", "kind", "limit", "period", "units", "booked", "in_use", "wanted", "waiting", "holder_count", "unclaimed", "disagreeing", "holders")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    BOOKED_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    HOLDER_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCLAIMED_FIELD_NUMBER: _ClassVar[int]
    DISAGREEING_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    key: str
    kind: _limit_pb2.LimitKind
    limit: int
    period: _duration_pb2.Duration
    units: int
    booked: int
    in_use: int
    wanted: int
    waiting: int
    holder_count: int
    unclaimed: int
    disagreeing: int
    holders: _containers.RepeatedCompositeFieldContainer[LimitHolder]
    def __init__(self, key: _Optional[str] = ..., kind: _Optional[_Union[_limit_pb2.LimitKind, str]] = ..., limit: _Optional[int] = ..., period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., units: _Optional[int] = ..., booked: _Optional[int] = ..., in_use: _Optional[int] = ..., wanted: _Optional[int] = ..., waiting: _Optional[int] = ..., holder_count: _Optional[int] = ..., unclaimed: _Optional[int] = ..., disagreeing: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[LimitHolder, _Mapping]]] = ...) -> None: ...

class ListLimitsResponse(_message.Message):
    __slots__ = ("limits", "next_page_token", "server", "epoch", "recovering")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RECOVERING_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[LimitState]
    next_page_token: str
    server: str
    epoch: int
    recovering: bool
    def __init__(self, limits: _Optional[_Iterable[_Union[LimitState, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., server: _Optional[str] = ..., epoch: _Optional[int] = ..., recovering: bool = ...) -> None: ...
