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

class QueueOrderKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_ORDER_KIND_UNSPECIFIED: _ClassVar[QueueOrderKind]
    QUEUE_ORDER_KIND_SUSPEND: _ClassVar[QueueOrderKind]
    QUEUE_ORDER_KIND_BOUNCE: _ClassVar[QueueOrderKind]

class WaitReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_REASON_UNSPECIFIED: _ClassVar[WaitReason]
    WAIT_REASON_RETRY: _ClassVar[WaitReason]
    WAIT_REASON_ACTION: _ClassVar[WaitReason]
    WAIT_REASON_ORDER: _ClassVar[WaitReason]
    WAIT_REASON_MX: _ClassVar[WaitReason]
    WAIT_REASON_POLICY: _ClassVar[WaitReason]
    WAIT_REASON_READY_QUEUE_FULL: _ClassVar[WaitReason]
    WAIT_REASON_SELECTION_RATE: _ClassVar[WaitReason]
    WAIT_REASON_MESSAGE_RATE: _ClassVar[WaitReason]
    WAIT_REASON_CONNECTION_RATE: _ClassVar[WaitReason]
    WAIT_REASON_CONNECTION_LIMIT: _ClassVar[WaitReason]
    WAIT_REASON_LEASE: _ClassVar[WaitReason]
    WAIT_REASON_SPOOL: _ClassVar[WaitReason]
    WAIT_REASON_SOURCE: _ClassVar[WaitReason]
    WAIT_REASON_CONNECTING: _ClassVar[WaitReason]
    WAIT_REASON_TURN: _ClassVar[WaitReason]
    WAIT_REASON_UNDER_WAY: _ClassVar[WaitReason]

class EntryState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_STATE_UNSPECIFIED: _ClassVar[EntryState]
    ENTRY_STATE_SCHEDULED: _ClassVar[EntryState]
    ENTRY_STATE_DUE: _ClassVar[EntryState]
    ENTRY_STATE_READY: _ClassVar[EntryState]
    ENTRY_STATE_UNDER_WAY: _ClassVar[EntryState]
QUEUE_ORDER_KIND_UNSPECIFIED: QueueOrderKind
QUEUE_ORDER_KIND_SUSPEND: QueueOrderKind
QUEUE_ORDER_KIND_BOUNCE: QueueOrderKind
WAIT_REASON_UNSPECIFIED: WaitReason
WAIT_REASON_RETRY: WaitReason
WAIT_REASON_ACTION: WaitReason
WAIT_REASON_ORDER: WaitReason
WAIT_REASON_MX: WaitReason
WAIT_REASON_POLICY: WaitReason
WAIT_REASON_READY_QUEUE_FULL: WaitReason
WAIT_REASON_SELECTION_RATE: WaitReason
WAIT_REASON_MESSAGE_RATE: WaitReason
WAIT_REASON_CONNECTION_RATE: WaitReason
WAIT_REASON_CONNECTION_LIMIT: WaitReason
WAIT_REASON_LEASE: WaitReason
WAIT_REASON_SPOOL: WaitReason
WAIT_REASON_SOURCE: WaitReason
WAIT_REASON_CONNECTING: WaitReason
WAIT_REASON_TURN: WaitReason
WAIT_REASON_UNDER_WAY: WaitReason
ENTRY_STATE_UNSPECIFIED: EntryState
ENTRY_STATE_SCHEDULED: EntryState
ENTRY_STATE_DUE: EntryState
ENTRY_STATE_READY: EntryState
ENTRY_STATE_UNDER_WAY: EntryState

class QueueSelector(_message.Message):
    __slots__ = ("queue_name", "domain", "routing_domain", "tenant", "campaign", "egress_source", "path_name", "all_mail")
    QUEUE_NAME_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    ALL_MAIL_FIELD_NUMBER: _ClassVar[int]
    queue_name: str
    domain: str
    routing_domain: str
    tenant: str
    campaign: str
    egress_source: str
    path_name: str
    all_mail: bool
    def __init__(self, queue_name: _Optional[str] = ..., domain: _Optional[str] = ..., routing_domain: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., egress_source: _Optional[str] = ..., path_name: _Optional[str] = ..., all_mail: bool = ...) -> None: ...

class QueueOrder(_message.Message):
    __slots__ = ("id", "kind", "selector", "reason", "create_time", "expire_time", "suppress_records", "bounced_count", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_RECORDS_FIELD_NUMBER: _ClassVar[int]
    BOUNCED_COUNT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: QueueOrderKind
    selector: QueueSelector
    reason: str
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    suppress_records: bool
    bounced_count: int
    request_id: str
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[_Union[QueueOrderKind, str]] = ..., selector: _Optional[_Union[QueueSelector, _Mapping]] = ..., reason: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., suppress_records: bool = ..., bounced_count: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class QueueWait(_message.Message):
    __slots__ = ("reason", "text", "end_time", "id", "egress_source")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    reason: WaitReason
    text: str
    end_time: _timestamp_pb2.Timestamp
    id: int
    egress_source: str
    def __init__(self, reason: _Optional[_Union[WaitReason, str]] = ..., text: _Optional[str] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., id: _Optional[int] = ..., egress_source: _Optional[str] = ...) -> None: ...

class LastReply(_message.Message):
    __slots__ = ("response", "internal", "event_time", "host")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    response: _outcome_pb2.SmtpResponse
    internal: bool
    event_time: _timestamp_pb2.Timestamp
    host: str
    def __init__(self, response: _Optional[_Union[_outcome_pb2.SmtpResponse, _Mapping]] = ..., internal: bool = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., host: _Optional[str] = ...) -> None: ...

class ScheduledQueue(_message.Message):
    __slots__ = ("name", "domain", "routing_domain", "tenant", "campaign", "scheduled_count", "due_count", "ready_count", "oldest_time", "next_due_time", "waits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUE_COUNT_FIELD_NUMBER: _ClassVar[int]
    READY_COUNT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_TIME_FIELD_NUMBER: _ClassVar[int]
    NEXT_DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    domain: str
    routing_domain: str
    tenant: str
    campaign: str
    scheduled_count: int
    due_count: int
    ready_count: int
    oldest_time: _timestamp_pb2.Timestamp
    next_due_time: _timestamp_pb2.Timestamp
    waits: _containers.RepeatedCompositeFieldContainer[QueueWait]
    def __init__(self, name: _Optional[str] = ..., domain: _Optional[str] = ..., routing_domain: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., scheduled_count: _Optional[int] = ..., due_count: _Optional[int] = ..., ready_count: _Optional[int] = ..., oldest_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., next_due_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waits: _Optional[_Iterable[_Union[QueueWait, _Mapping]]] = ...) -> None: ...

class ListScheduledQueuesRequest(_message.Message):
    __slots__ = ("selector", "page_size", "page_token")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    selector: QueueSelector
    page_size: int
    page_token: str
    def __init__(self, selector: _Optional[_Union[QueueSelector, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScheduledQueuesResponse(_message.Message):
    __slots__ = ("queues", "next_page_token")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[ScheduledQueue]
    next_page_token: str
    def __init__(self, queues: _Optional[_Iterable[_Union[ScheduledQueue, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class QueueLimit(_message.Message):
    __slots__ = ("option", "name", "value", "in_use_count")
    OPTION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    IN_USE_COUNT_FIELD_NUMBER: _ClassVar[int]
    option: str
    name: str
    value: str
    in_use_count: int
    def __init__(self, option: _Optional[str] = ..., name: _Optional[str] = ..., value: _Optional[str] = ..., in_use_count: _Optional[int] = ...) -> None: ...

class ReadyQueue(_message.Message):
    __slots__ = ("path_name", "egress_source", "site_name", "provider_name", "queued_count", "in_flight_count", "waiting_count", "connection_count", "limits", "max_ready", "oldest_time", "waits", "last_reply", "delivered_count", "transient_count", "bounced_count", "connection_failure_count")
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    MAX_READY_FIELD_NUMBER: _ClassVar[int]
    OLDEST_TIME_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    LAST_REPLY_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRANSIENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    BOUNCED_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FAILURE_COUNT_FIELD_NUMBER: _ClassVar[int]
    path_name: str
    egress_source: str
    site_name: str
    provider_name: str
    queued_count: int
    in_flight_count: int
    waiting_count: int
    connection_count: int
    limits: _containers.RepeatedCompositeFieldContainer[QueueLimit]
    max_ready: int
    oldest_time: _timestamp_pb2.Timestamp
    waits: _containers.RepeatedCompositeFieldContainer[QueueWait]
    last_reply: LastReply
    delivered_count: int
    transient_count: int
    bounced_count: int
    connection_failure_count: int
    def __init__(self, path_name: _Optional[str] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., provider_name: _Optional[str] = ..., queued_count: _Optional[int] = ..., in_flight_count: _Optional[int] = ..., waiting_count: _Optional[int] = ..., connection_count: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[QueueLimit, _Mapping]]] = ..., max_ready: _Optional[int] = ..., oldest_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waits: _Optional[_Iterable[_Union[QueueWait, _Mapping]]] = ..., last_reply: _Optional[_Union[LastReply, _Mapping]] = ..., delivered_count: _Optional[int] = ..., transient_count: _Optional[int] = ..., bounced_count: _Optional[int] = ..., connection_failure_count: _Optional[int] = ...) -> None: ...

class ListReadyQueuesRequest(_message.Message):
    __slots__ = ("path_name", "page_size", "page_token")
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    path_name: str
    page_size: int
    page_token: str
    def __init__(self, path_name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReadyQueuesResponse(_message.Message):
    __slots__ = ("queues", "next_page_token")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[ReadyQueue]
    next_page_token: str
    def __init__(self, queues: _Optional[_Iterable[_Union[ReadyQueue, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListQueueOrdersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListQueueOrdersResponse(_message.Message):
    __slots__ = ("orders", "next_page_token")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[QueueOrder]
    next_page_token: str
    def __init__(self, orders: _Optional[_Iterable[_Union[QueueOrder, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetMessageRequest(_message.Message):
    __slots__ = ("message_id",)
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    def __init__(self, message_id: _Optional[str] = ...) -> None: ...

class MessageEntry(_message.Message):
    __slots__ = ("queue_name", "state", "recipients", "attempt_count", "due_time", "expire_time", "path_name", "waits", "last_reply")
    QUEUE_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    LAST_REPLY_FIELD_NUMBER: _ClassVar[int]
    queue_name: str
    state: EntryState
    recipients: _containers.RepeatedScalarFieldContainer[str]
    attempt_count: int
    due_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    path_name: str
    waits: _containers.RepeatedCompositeFieldContainer[QueueWait]
    last_reply: LastReply
    def __init__(self, queue_name: _Optional[str] = ..., state: _Optional[_Union[EntryState, str]] = ..., recipients: _Optional[_Iterable[str]] = ..., attempt_count: _Optional[int] = ..., due_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., path_name: _Optional[str] = ..., waits: _Optional[_Iterable[_Union[QueueWait, _Mapping]]] = ..., last_reply: _Optional[_Union[LastReply, _Mapping]] = ...) -> None: ...

class GetMessageResponse(_message.Message):
    __slots__ = ("message_id", "sender", "arrival_time", "size", "tenant", "campaign", "reception_protocol", "entries")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_TIME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    RECEPTION_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    sender: str
    arrival_time: _timestamp_pb2.Timestamp
    size: int
    tenant: str
    campaign: str
    reception_protocol: str
    entries: _containers.RepeatedCompositeFieldContainer[MessageEntry]
    def __init__(self, message_id: _Optional[str] = ..., sender: _Optional[str] = ..., arrival_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., size: _Optional[int] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., reception_protocol: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[MessageEntry, _Mapping]]] = ...) -> None: ...

class SuspendQueueRequest(_message.Message):
    __slots__ = ("request_id", "selector", "duration", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    selector: QueueSelector
    duration: _duration_pb2.Duration
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., selector: _Optional[_Union[QueueSelector, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class SuspendQueueResponse(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: QueueOrder
    def __init__(self, order: _Optional[_Union[QueueOrder, _Mapping]] = ...) -> None: ...

class ResumeQueueRequest(_message.Message):
    __slots__ = ("order_id",)
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: int
    def __init__(self, order_id: _Optional[int] = ...) -> None: ...

class ResumeQueueResponse(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: QueueOrder
    def __init__(self, order: _Optional[_Union[QueueOrder, _Mapping]] = ...) -> None: ...

class BounceQueueRequest(_message.Message):
    __slots__ = ("request_id", "selector", "duration", "reason", "suppress_records")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_RECORDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    selector: QueueSelector
    duration: _duration_pb2.Duration
    reason: str
    suppress_records: bool
    def __init__(self, request_id: _Optional[str] = ..., selector: _Optional[_Union[QueueSelector, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ..., suppress_records: bool = ...) -> None: ...

class BounceQueueResponse(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: QueueOrder
    def __init__(self, order: _Optional[_Union[QueueOrder, _Mapping]] = ...) -> None: ...

class RebindQueueRequest(_message.Message):
    __slots__ = ("selector", "domain", "routing_domain", "tenant", "campaign", "reason", "always_flush", "suppress_records")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ALWAYS_FLUSH_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_RECORDS_FIELD_NUMBER: _ClassVar[int]
    selector: QueueSelector
    domain: str
    routing_domain: str
    tenant: str
    campaign: str
    reason: str
    always_flush: bool
    suppress_records: bool
    def __init__(self, selector: _Optional[_Union[QueueSelector, _Mapping]] = ..., domain: _Optional[str] = ..., routing_domain: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., reason: _Optional[str] = ..., always_flush: bool = ..., suppress_records: bool = ...) -> None: ...

class RebindQueueResponse(_message.Message):
    __slots__ = ("moved_count", "unchanged_count")
    MOVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    moved_count: int
    unchanged_count: int
    def __init__(self, moved_count: _Optional[int] = ..., unchanged_count: _Optional[int] = ...) -> None: ...
