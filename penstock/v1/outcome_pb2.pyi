import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutcomeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_TYPE_UNSPECIFIED: _ClassVar[OutcomeType]
    OUTCOME_TYPE_DELIVERY: _ClassVar[OutcomeType]
    OUTCOME_TYPE_TRANSIENT_FAILURE: _ClassVar[OutcomeType]
    OUTCOME_TYPE_BOUNCE: _ClassVar[OutcomeType]
    OUTCOME_TYPE_EXPIRATION: _ClassVar[OutcomeType]
    OUTCOME_TYPE_ADMIN_BOUNCE: _ClassVar[OutcomeType]
    OUTCOME_TYPE_OUT_OF_BAND: _ClassVar[OutcomeType]
    OUTCOME_TYPE_FEEDBACK_REPORT: _ClassVar[OutcomeType]
OUTCOME_TYPE_UNSPECIFIED: OutcomeType
OUTCOME_TYPE_DELIVERY: OutcomeType
OUTCOME_TYPE_TRANSIENT_FAILURE: OutcomeType
OUTCOME_TYPE_BOUNCE: OutcomeType
OUTCOME_TYPE_EXPIRATION: OutcomeType
OUTCOME_TYPE_ADMIN_BOUNCE: OutcomeType
OUTCOME_TYPE_OUT_OF_BAND: OutcomeType
OUTCOME_TYPE_FEEDBACK_REPORT: OutcomeType

class EnhancedStatusCode(_message.Message):
    __slots__ = ("subject", "detail")
    CLASS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    subject: int
    detail: int
    def __init__(self, subject: _Optional[int] = ..., detail: _Optional[int] = ..., **kwargs) -> None: ...

class SmtpResponse(_message.Message):
    __slots__ = ("code", "enhanced_code", "content", "command")
    CODE_FIELD_NUMBER: _ClassVar[int]
    ENHANCED_CODE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    code: int
    enhanced_code: EnhancedStatusCode
    content: str
    command: str
    def __init__(self, code: _Optional[int] = ..., enhanced_code: _Optional[_Union[EnhancedStatusCode, _Mapping]] = ..., content: _Optional[str] = ..., command: _Optional[str] = ...) -> None: ...

class DeliveryOutcome(_message.Message):
    __slots__ = ("event_id", "event_time", "type", "recipient_domain", "routing_domain", "site_name", "path_name", "egress_source", "egress_pool", "tenant", "campaign", "response", "internal", "num_attempts", "provider_name")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    EGRESS_POOL_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    NUM_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_NAME_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    event_time: _timestamp_pb2.Timestamp
    type: OutcomeType
    recipient_domain: str
    routing_domain: str
    site_name: str
    path_name: str
    egress_source: str
    egress_pool: str
    tenant: str
    campaign: str
    response: SmtpResponse
    internal: bool
    num_attempts: int
    provider_name: str
    def __init__(self, event_id: _Optional[str] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., type: _Optional[_Union[OutcomeType, str]] = ..., recipient_domain: _Optional[str] = ..., routing_domain: _Optional[str] = ..., site_name: _Optional[str] = ..., path_name: _Optional[str] = ..., egress_source: _Optional[str] = ..., egress_pool: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., response: _Optional[_Union[SmtpResponse, _Mapping]] = ..., internal: bool = ..., num_attempts: _Optional[int] = ..., provider_name: _Optional[str] = ...) -> None: ...
