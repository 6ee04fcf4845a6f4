import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LimitKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_KIND_UNSPECIFIED: _ClassVar[LimitKind]
    LIMIT_KIND_CONNECTIONS: _ClassVar[LimitKind]
    LIMIT_KIND_CONNECTION_RATE: _ClassVar[LimitKind]
    LIMIT_KIND_MESSAGE_RATE: _ClassVar[LimitKind]
    LIMIT_KIND_SELECTION_RATE: _ClassVar[LimitKind]

class LimitSharing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_SHARING_UNSPECIFIED: _ClassVar[LimitSharing]
    LIMIT_SHARING_LOCAL: _ClassVar[LimitSharing]
    LIMIT_SHARING_FLEET: _ClassVar[LimitSharing]

class OnUnreachable(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_UNREACHABLE_UNSPECIFIED: _ClassVar[OnUnreachable]
    ON_UNREACHABLE_STOP: _ClassVar[OnUnreachable]
    ON_UNREACHABLE_STATIC: _ClassVar[OnUnreachable]
    ON_UNREACHABLE_LOCAL: _ClassVar[OnUnreachable]
LIMIT_KIND_UNSPECIFIED: LimitKind
LIMIT_KIND_CONNECTIONS: LimitKind
LIMIT_KIND_CONNECTION_RATE: LimitKind
LIMIT_KIND_MESSAGE_RATE: LimitKind
LIMIT_KIND_SELECTION_RATE: LimitKind
LIMIT_SHARING_UNSPECIFIED: LimitSharing
LIMIT_SHARING_LOCAL: LimitSharing
LIMIT_SHARING_FLEET: LimitSharing
ON_UNREACHABLE_UNSPECIFIED: OnUnreachable
ON_UNREACHABLE_STOP: OnUnreachable
ON_UNREACHABLE_STATIC: OnUnreachable
ON_UNREACHABLE_LOCAL: OnUnreachable

class LimitRef(_message.Message):
    __slots__ = ("key", "kind", "option", "name", "limit", "period", "burst", "sharing", "on_unreachable", "static_units")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    SHARING_FIELD_NUMBER: _ClassVar[int]
    ON_UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    STATIC_UNITS_FIELD_NUMBER: _ClassVar[int]
    key: str
    kind: LimitKind
    option: str
    name: str
    limit: int
    period: _duration_pb2.Duration
    burst: int
    sharing: LimitSharing
    on_unreachable: OnUnreachable
    static_units: int
    def __init__(self, key: _Optional[str] = ..., kind: _Optional[_Union[LimitKind, str]] = ..., option: _Optional[str] = ..., name: _Optional[str] = ..., limit: _Optional[int] = ..., period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., burst: _Optional[int] = ..., sharing: _Optional[_Union[LimitSharing, str]] = ..., on_unreachable: _Optional[_Union[OnUnreachable, str]] = ..., static_units: _Optional[int] = ...) -> None: ...
