from penstock.v1 import outcome_pb2 as _outcome_pb2
from google.protobuf.internal import containers as _containers
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
