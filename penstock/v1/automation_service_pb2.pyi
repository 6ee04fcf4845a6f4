import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from penstock.v1 import outcome_pb2 as _outcome_pb2
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
    ACTION_KIND_SUSPEND_TENANT: _ClassVar[ActionKind]
    ACTION_KIND_SUSPEND_CAMPAIGN: _ClassVar[ActionKind]
    ACTION_KIND_BOUNCE: _ClassVar[ActionKind]
    ACTION_KIND_BOUNCE_TENANT: _ClassVar[ActionKind]
    ACTION_KIND_BOUNCE_CAMPAIGN: _ClassVar[ActionKind]
    ACTION_KIND_SET_DOMAIN_CONFIG: _ClassVar[ActionKind]
    ACTION_KIND_ADJUST_CONFIG: _ClassVar[ActionKind]

class ActionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_STATE_UNSPECIFIED: _ClassVar[ActionState]
    ACTION_STATE_IN_FORCE: _ClassVar[ActionState]
    ACTION_STATE_EXPIRED: _ClassVar[ActionState]
    ACTION_STATE_CANCELLED: _ClassVar[ActionState]
    ACTION_STATE_OBSERVED: _ClassVar[ActionState]
    ACTION_STATE_PINNED: _ClassVar[ActionState]
ACTION_KIND_UNSPECIFIED: ActionKind
ACTION_KIND_SUSPEND: ActionKind
ACTION_KIND_SET_CONFIG: ActionKind
ACTION_KIND_SUSPEND_TENANT: ActionKind
ACTION_KIND_SUSPEND_CAMPAIGN: ActionKind
ACTION_KIND_BOUNCE: ActionKind
ACTION_KIND_BOUNCE_TENANT: ActionKind
ACTION_KIND_BOUNCE_CAMPAIGN: ActionKind
ACTION_KIND_SET_DOMAIN_CONFIG: ActionKind
ACTION_KIND_ADJUST_CONFIG: ActionKind
ACTION_STATE_UNSPECIFIED: ActionState
ACTION_STATE_IN_FORCE: ActionState
ACTION_STATE_EXPIRED: ActionState
ACTION_STATE_CANCELLED: ActionState
ACTION_STATE_OBSERVED: ActionState
ACTION_STATE_PINNED: ActionState

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
    __slots__ = ("id", "kind", "state", "path_name", "routing_domain", "site_name", "egress_source", "tenant", "campaign", "option", "old_value", "new_value", "rule", "count", "first_match_time", "last_match_time", "expire_time", "changed_by", "reason", "next_step_time")
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
    CHANGED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_TIME_FIELD_NUMBER: _ClassVar[int]
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
    changed_by: str
    reason: str
    next_step_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[_Union[ActionKind, str]] = ..., state: _Optional[_Union[ActionState, str]] = ..., path_name: _Optional[str] = ..., routing_domain: _Optional[str] = ..., site_name: _Optional[str] = ..., egress_source: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., option: _Optional[str] = ..., old_value: _Optional[str] = ..., new_value: _Optional[str] = ..., rule: _Optional[_Union[AutomationRuleRef, _Mapping]] = ..., count: _Optional[int] = ..., first_match_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_match_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed_by: _Optional[str] = ..., reason: _Optional[str] = ..., next_step_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

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

class GetActionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ActionEvidence(_message.Message):
    __slots__ = ("event_id", "event_time", "reply")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    event_time: _timestamp_pb2.Timestamp
    reply: str
    def __init__(self, event_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reply: _Optional[str] = ...) -> None: ...

class GetActionResponse(_message.Message):
    __slots__ = ("action", "evidence")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    action: AutomationAction
    evidence: _containers.RepeatedCompositeFieldContainer[ActionEvidence]
    def __init__(self, action: _Optional[_Union[AutomationAction, _Mapping]] = ..., evidence: _Optional[_Iterable[_Union[ActionEvidence, _Mapping]]] = ...) -> None: ...

class CreateActionRequest(_message.Message):
    __slots__ = ("request_id", "kind", "egress_source", "site_name", "routing_domain", "tenant", "campaign", "option", "value", "duration", "pinned", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    kind: ActionKind
    egress_source: str
    site_name: str
    routing_domain: str
    tenant: str
    campaign: str
    option: str
    value: str
    duration: _duration_pb2.Duration
    pinned: bool
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., kind: _Optional[_Union[ActionKind, str]] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., routing_domain: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., option: _Optional[str] = ..., value: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., pinned: bool = ..., reason: _Optional[str] = ...) -> None: ...

class CreateActionResponse(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: AutomationAction
    def __init__(self, action: _Optional[_Union[AutomationAction, _Mapping]] = ...) -> None: ...

class ExtendActionRequest(_message.Message):
    __slots__ = ("id", "expire_time", "duration")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    id: int
    expire_time: _timestamp_pb2.Timestamp
    duration: _duration_pb2.Duration
    def __init__(self, id: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExtendActionResponse(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: AutomationAction
    def __init__(self, action: _Optional[_Union[AutomationAction, _Mapping]] = ...) -> None: ...

class PinActionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class PinActionResponse(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: AutomationAction
    def __init__(self, action: _Optional[_Union[AutomationAction, _Mapping]] = ...) -> None: ...

class TestRulesRequest(_message.Message):
    __slots__ = ("content", "format", "outcomes", "start_time", "end_time")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    content: str
    format: str
    outcomes: _containers.RepeatedCompositeFieldContainer[_outcome_pb2.DeliveryOutcome]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, content: _Optional[str] = ..., format: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[_outcome_pb2.DeliveryOutcome, _Mapping]]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TestedRule(_message.Message):
    __slots__ = ("rule", "match_count", "action_count")
    RULE_FIELD_NUMBER: _ClassVar[int]
    MATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    rule: AutomationRuleRef
    match_count: int
    action_count: int
    def __init__(self, rule: _Optional[_Union[AutomationRuleRef, _Mapping]] = ..., match_count: _Optional[int] = ..., action_count: _Optional[int] = ...) -> None: ...

class TestRulesResponse(_message.Message):
    __slots__ = ("actions", "rules", "outcome_count", "unmatched_count", "warnings", "unmatched_replies")
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNMATCHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    UNMATCHED_REPLIES_FIELD_NUMBER: _ClassVar[int]
    actions: _containers.RepeatedCompositeFieldContainer[AutomationAction]
    rules: _containers.RepeatedCompositeFieldContainer[TestedRule]
    outcome_count: int
    unmatched_count: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    unmatched_replies: _containers.RepeatedCompositeFieldContainer[UnmatchedReplies]
    def __init__(self, actions: _Optional[_Iterable[_Union[AutomationAction, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[TestedRule, _Mapping]]] = ..., outcome_count: _Optional[int] = ..., unmatched_count: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., unmatched_replies: _Optional[_Iterable[_Union[UnmatchedReplies, _Mapping]]] = ...) -> None: ...

class UnmatchedReplies(_message.Message):
    __slots__ = ("code", "enhanced_code", "text", "internal", "count", "site_name")
    CODE_FIELD_NUMBER: _ClassVar[int]
    ENHANCED_CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    code: int
    enhanced_code: str
    text: str
    internal: bool
    count: int
    site_name: str
    def __init__(self, code: _Optional[int] = ..., enhanced_code: _Optional[str] = ..., text: _Optional[str] = ..., internal: bool = ..., count: _Optional[int] = ..., site_name: _Optional[str] = ...) -> None: ...
