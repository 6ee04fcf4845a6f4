import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from penstock.v1 import outcome_pb2 as _outcome_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportOutcomesRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[_outcome_pb2.DeliveryOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[_outcome_pb2.DeliveryOutcome, _Mapping]]] = ...) -> None: ...

class ReportOutcomesResponse(_message.Message):
    __slots__ = ("match_count", "action_ids")
    MATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACTION_IDS_FIELD_NUMBER: _ClassVar[int]
    match_count: int
    action_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, match_count: _Optional[int] = ..., action_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class OutcomeStreamStart(_message.Message):
    __slots__ = ("wants_filter", "filter_etag")
    WANTS_FILTER_FIELD_NUMBER: _ClassVar[int]
    FILTER_ETAG_FIELD_NUMBER: _ClassVar[int]
    wants_filter: bool
    filter_etag: str
    def __init__(self, wants_filter: bool = ..., filter_etag: _Optional[str] = ...) -> None: ...

class SkippedOutcomes(_message.Message):
    __slots__ = ("type", "count")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    type: _outcome_pb2.OutcomeType
    count: int
    def __init__(self, type: _Optional[_Union[_outcome_pb2.OutcomeType, str]] = ..., count: _Optional[int] = ...) -> None: ...

class OutcomeBatch(_message.Message):
    __slots__ = ("batch_id", "outcomes", "filter_etag", "skipped")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    FILTER_ETAG_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    outcomes: _containers.RepeatedCompositeFieldContainer[_outcome_pb2.DeliveryOutcome]
    filter_etag: str
    skipped: _containers.RepeatedCompositeFieldContainer[SkippedOutcomes]
    def __init__(self, batch_id: _Optional[int] = ..., outcomes: _Optional[_Iterable[_Union[_outcome_pb2.DeliveryOutcome, _Mapping]]] = ..., filter_etag: _Optional[str] = ..., skipped: _Optional[_Iterable[_Union[SkippedOutcomes, _Mapping]]] = ...) -> None: ...

class StreamOutcomesRequest(_message.Message):
    __slots__ = ("start", "batch")
    START_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    start: OutcomeStreamStart
    batch: OutcomeBatch
    def __init__(self, start: _Optional[_Union[OutcomeStreamStart, _Mapping]] = ..., batch: _Optional[_Union[OutcomeBatch, _Mapping]] = ...) -> None: ...

class OutcomeAck(_message.Message):
    __slots__ = ("batch_id", "match_count", "action_ids")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    MATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACTION_IDS_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    match_count: int
    action_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, batch_id: _Optional[int] = ..., match_count: _Optional[int] = ..., action_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class OutcomeRefusal(_message.Message):
    __slots__ = ("batch_id", "reason", "message", "invalid_indexes", "retry_delay")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[OutcomeRefusal.Reason]
        REASON_STALE_FILTER: _ClassVar[OutcomeRefusal.Reason]
        REASON_INVALID: _ClassVar[OutcomeRefusal.Reason]
        REASON_UNAVAILABLE: _ClassVar[OutcomeRefusal.Reason]
    REASON_UNSPECIFIED: OutcomeRefusal.Reason
    REASON_STALE_FILTER: OutcomeRefusal.Reason
    REASON_INVALID: OutcomeRefusal.Reason
    REASON_UNAVAILABLE: OutcomeRefusal.Reason
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    INVALID_INDEXES_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    reason: OutcomeRefusal.Reason
    message: str
    invalid_indexes: _containers.RepeatedScalarFieldContainer[int]
    retry_delay: _duration_pb2.Duration
    def __init__(self, batch_id: _Optional[int] = ..., reason: _Optional[_Union[OutcomeRefusal.Reason, str]] = ..., message: _Optional[str] = ..., invalid_indexes: _Optional[_Iterable[int]] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class OutcomePattern(_message.Message):
    __slots__ = ("regex", "match_internal", "is_backtracking")
    REGEX_FIELD_NUMBER: _ClassVar[int]
    MATCH_INTERNAL_FIELD_NUMBER: _ClassVar[int]
    IS_BACKTRACKING_FIELD_NUMBER: _ClassVar[int]
    regex: str
    match_internal: bool
    is_backtracking: bool
    def __init__(self, regex: _Optional[str] = ..., match_internal: bool = ..., is_backtracking: bool = ...) -> None: ...

class OutcomeFilter(_message.Message):
    __slots__ = ("etag", "patterns", "send_all")
    ETAG_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    SEND_ALL_FIELD_NUMBER: _ClassVar[int]
    etag: str
    patterns: _containers.RepeatedCompositeFieldContainer[OutcomePattern]
    send_all: bool
    def __init__(self, etag: _Optional[str] = ..., patterns: _Optional[_Iterable[_Union[OutcomePattern, _Mapping]]] = ..., send_all: bool = ...) -> None: ...

class StreamOutcomesResponse(_message.Message):
    __slots__ = ("ack", "refusal", "filter", "reconnect_after")
    ACK_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    ack: OutcomeAck
    refusal: OutcomeRefusal
    filter: OutcomeFilter
    reconnect_after: _duration_pb2.Duration
    def __init__(self, ack: _Optional[_Union[OutcomeAck, _Mapping]] = ..., refusal: _Optional[_Union[OutcomeRefusal, _Mapping]] = ..., filter: _Optional[_Union[OutcomeFilter, _Mapping]] = ..., reconnect_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
