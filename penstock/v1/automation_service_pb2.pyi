import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_KIND_UNSPECIFIED: _ClassVar[ActionKind]
    ACTION_KIND_SUSPEND: _ClassVar[ActionKind]
    ACTION_KIND_SET_CONFIG: _ClassVar[ActionKind]

class ActionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_STATE_UNSPECIFIED: _ClassVar[ActionState]
    ACTION_STATE_IN_FORCE: _ClassVar[ActionState]
    ACTION_STATE_EXPIRED: _ClassVar[ActionState]
    ACTION_STATE_CANCELLED: _ClassVar[ActionState]
    ACTION_STATE_OBSERVED: _ClassVar[ActionState]
ACTION_KIND_UNSPECIFIED: ActionKind
ACTION_KIND_SUSPEND: ActionKind
ACTION_KIND_SET_CONFIG: ActionKind
ACTION_STATE_UNSPECIFIED: ActionState
ACTION_STATE_IN_FORCE: ActionState
ACTION_STATE_EXPIRED: ActionState
ACTION_STATE_CANCELLED: ActionState
ACTION_STATE_OBSERVED: ActionState

class AutomationRuleRef(_message.Message):
    __slots__ = ("layer", "block", "position", "regexes")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REGEXES_FIELD_NUMBER: _ClassVar[int]
    layer: str
    block: str
    position: int
    regexes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, layer: _Optional[str] = ..., block: _Optional[str] = ..., position: _Optional[int] = ..., regexes: _Optional[_Iterable[str]] = ...) -> None: ...

class AutomationAction(_message.Message):
    __slots__ = ("id", "kind", "state", "path_name", "routing_domain", "site_name", "egress_source", "tenant", "campaign", "option", "old_value", "new_value", "rule", "count", "first_match_time", "last_match_time", "expire_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    OLD_VALUE_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_MATCH_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_MATCH_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: ActionKind
    state: ActionState
    path_name: str
    routing_domain: str
    site_name: str
    egress_source: str
    tenant: str
    campaign: str
    option: str
    old_value: str
    new_value: str
    rule: AutomationRuleRef
    count: int
    first_match_time: _timestamp_pb2.Timestamp
    last_match_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[_Union[ActionKind, str]] = ..., state: _Optional[_Union[ActionState, str]] = ..., path_name: _Optional[str] = ..., routing_domain: _Optional[str] = ..., site_name: _Optional[str] = ..., egress_source: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., option: _Optional[str] = ..., old_value: _Optional[str] = ..., new_value: _Optional[str] = ..., rule: _Optional[_Union[AutomationRuleRef, _Mapping]] = ..., count: _Optional[int] = ..., first_match_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_match_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListActionsRequest(_message.Message):
    __slots__ = ("states", "page_size", "page_token")
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[ActionState]
    page_size: int
    page_token: str
    def __init__(self, states: _Optional[_Iterable[_Union[ActionState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListActionsResponse(_message.Message):
    __slots__ = ("actions", "next_page_token")
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    actions: _containers.RepeatedCompositeFieldContainer[AutomationAction]
    next_page_token: str
    def __init__(self, actions: _Optional[_Iterable[_Union[AutomationAction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelActionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class CancelActionResponse(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: AutomationAction
    def __init__(self, action: _Optional[_Union[AutomationAction, _Mapping]] = ...) -> None: ...
