import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from penstock.v1 import egress_path_pb2 as _egress_path_pb2
from penstock.v1 import limit_pb2 as _limit_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResourceType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOURCE_TYPE_UNSPECIFIED: _ClassVar[ResourceType]
    RESOURCE_TYPE_EGRESS_PATH: _ClassVar[ResourceType]
    RESOURCE_TYPE_SUSPENSION: _ClassVar[ResourceType]
    RESOURCE_TYPE_BOUNCE: _ClassVar[ResourceType]
RESOURCE_TYPE_UNSPECIFIED: ResourceType
RESOURCE_TYPE_EGRESS_PATH: ResourceType
RESOURCE_TYPE_SUSPENSION: ResourceType
RESOURCE_TYPE_BOUNCE: ResourceType

class MxHost(_message.Message):
    __slots__ = ("host", "preference")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PREFERENCE_FIELD_NUMBER: _ClassVar[int]
    host: str
    preference: int
    def __init__(self, host: _Optional[str] = ..., preference: _Optional[int] = ...) -> None: ...

class GetEgressPathConfigRequest(_message.Message):
    __slots__ = ("routing_domain", "egress_source", "site_name", "mx_hosts", "if_none_match")
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    MX_HOSTS_FIELD_NUMBER: _ClassVar[int]
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    routing_domain: str
    egress_source: str
    site_name: str
    mx_hosts: _containers.RepeatedCompositeFieldContainer[MxHost]
    if_none_match: str
    def __init__(self, routing_domain: _Optional[str] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., mx_hosts: _Optional[_Iterable[_Union[MxHost, _Mapping]]] = ..., if_none_match: _Optional[str] = ...) -> None: ...

class OverrideRef(_message.Message):
    __slots__ = ("action_id", "option", "expire_time")
    ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    action_id: int
    option: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, action_id: _Optional[int] = ..., option: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetEgressPathConfigResponse(_message.Message):
    __slots__ = ("config", "site_name", "path_name", "provider_names", "etag", "revision", "max_age", "not_modified", "overrides", "ruled_config", "limit_refs")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_NAMES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    NOT_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    RULED_CONFIG_FIELD_NUMBER: _ClassVar[int]
    LIMIT_REFS_FIELD_NUMBER: _ClassVar[int]
    config: _egress_path_pb2.EgressPathConfig
    site_name: str
    path_name: str
    provider_names: _containers.RepeatedScalarFieldContainer[str]
    etag: str
    revision: int
    max_age: _duration_pb2.Duration
    not_modified: bool
    overrides: _containers.RepeatedCompositeFieldContainer[OverrideRef]
    ruled_config: _egress_path_pb2.EgressPathConfig
    limit_refs: _containers.RepeatedCompositeFieldContainer[_limit_pb2.LimitRef]
    def __init__(self, config: _Optional[_Union[_egress_path_pb2.EgressPathConfig, _Mapping]] = ..., site_name: _Optional[str] = ..., path_name: _Optional[str] = ..., provider_names: _Optional[_Iterable[str]] = ..., etag: _Optional[str] = ..., revision: _Optional[int] = ..., max_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., not_modified: bool = ..., overrides: _Optional[_Iterable[_Union[OverrideRef, _Mapping]]] = ..., ruled_config: _Optional[_Union[_egress_path_pb2.EgressPathConfig, _Mapping]] = ..., limit_refs: _Optional[_Iterable[_Union[_limit_pb2.LimitRef, _Mapping]]] = ...) -> None: ...

class BatchGetEgressPathConfigsRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[GetEgressPathConfigRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[GetEgressPathConfigRequest, _Mapping]]] = ...) -> None: ...

class EgressPathError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class EgressPathResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: GetEgressPathConfigResponse
    error: EgressPathError
    def __init__(self, response: _Optional[_Union[GetEgressPathConfigResponse, _Mapping]] = ..., error: _Optional[_Union[EgressPathError, _Mapping]] = ...) -> None: ...

class BatchGetEgressPathConfigsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EgressPathResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EgressPathResult, _Mapping]]] = ...) -> None: ...

class ExplainEgressPathConfigRequest(_message.Message):
    __slots__ = ("routing_domain", "egress_source", "site_name", "mx_hosts")
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    MX_HOSTS_FIELD_NUMBER: _ClassVar[int]
    routing_domain: str
    egress_source: str
    site_name: str
    mx_hosts: _containers.RepeatedCompositeFieldContainer[MxHost]
    def __init__(self, routing_domain: _Optional[str] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., mx_hosts: _Optional[_Iterable[_Union[MxHost, _Mapping]]] = ...) -> None: ...

class RuleOrigin(_message.Message):
    __slots__ = ("layer", "scope", "name", "source", "block_id", "automation_action_id")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    AUTOMATION_ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    layer: str
    scope: str
    name: str
    source: str
    block_id: int
    automation_action_id: int
    def __init__(self, layer: _Optional[str] = ..., scope: _Optional[str] = ..., name: _Optional[str] = ..., source: _Optional[str] = ..., block_id: _Optional[int] = ..., automation_action_id: _Optional[int] = ...) -> None: ...

class BeatenValue(_message.Message):
    __slots__ = ("value", "origin")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    value: _struct_pb2.Value
    origin: RuleOrigin
    def __init__(self, value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., origin: _Optional[_Union[RuleOrigin, _Mapping]] = ...) -> None: ...

class ExplainedOption(_message.Message):
    __slots__ = ("name", "value", "set_by", "overrode", "entries")
    class EntriesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: RuleOrigin
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[RuleOrigin, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SET_BY_FIELD_NUMBER: _ClassVar[int]
    OVERRODE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: _struct_pb2.Value
    set_by: RuleOrigin
    overrode: _containers.RepeatedCompositeFieldContainer[BeatenValue]
    entries: _containers.MessageMap[str, RuleOrigin]
    def __init__(self, name: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., set_by: _Optional[_Union[RuleOrigin, _Mapping]] = ..., overrode: _Optional[_Iterable[_Union[BeatenValue, _Mapping]]] = ..., entries: _Optional[_Mapping[str, RuleOrigin]] = ...) -> None: ...

class ExplainEgressPathConfigResponse(_message.Message):
    __slots__ = ("routing_domain", "egress_source", "site_name", "path_name", "provider_names", "etag", "revision", "options")
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_NAME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_NAMES_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    routing_domain: str
    egress_source: str
    site_name: str
    path_name: str
    provider_names: _containers.RepeatedScalarFieldContainer[str]
    etag: str
    revision: int
    options: _containers.RepeatedCompositeFieldContainer[ExplainedOption]
    def __init__(self, routing_domain: _Optional[str] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., path_name: _Optional[str] = ..., provider_names: _Optional[_Iterable[str]] = ..., etag: _Optional[str] = ..., revision: _Optional[int] = ..., options: _Optional[_Iterable[_Union[ExplainedOption, _Mapping]]] = ...) -> None: ...

class AgentInfo(_message.Message):
    __slots__ = ("name", "version", "egress_sources")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    egress_sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., egress_sources: _Optional[_Iterable[str]] = ...) -> None: ...

class PathSubscription(_message.Message):
    __slots__ = ("name", "routing_domain", "egress_source", "site_name", "mx_hosts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    MX_HOSTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    routing_domain: str
    egress_source: str
    site_name: str
    mx_hosts: _containers.RepeatedCompositeFieldContainer[MxHost]
    def __init__(self, name: _Optional[str] = ..., routing_domain: _Optional[str] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., mx_hosts: _Optional[_Iterable[_Union[MxHost, _Mapping]]] = ...) -> None: ...

class WatchStart(_message.Message):
    __slots__ = ("resume_token", "known", "subscribe", "agent_info")
    class KnownEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    AGENT_INFO_FIELD_NUMBER: _ClassVar[int]
    resume_token: bytes
    known: _containers.ScalarMap[str, str]
    subscribe: _containers.RepeatedCompositeFieldContainer[PathSubscription]
    agent_info: AgentInfo
    def __init__(self, resume_token: _Optional[bytes] = ..., known: _Optional[_Mapping[str, str]] = ..., subscribe: _Optional[_Iterable[_Union[PathSubscription, _Mapping]]] = ..., agent_info: _Optional[_Union[AgentInfo, _Mapping]] = ...) -> None: ...

class WatchSubscribe(_message.Message):
    __slots__ = ("add", "remove")
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    add: _containers.RepeatedCompositeFieldContainer[PathSubscription]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, add: _Optional[_Iterable[_Union[PathSubscription, _Mapping]]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class RejectedResource(_message.Message):
    __slots__ = ("name", "etag", "code", "message")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    code: int
    message: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class WatchAck(_message.Message):
    __slots__ = ("nonce", "token", "error", "rejected")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    nonce: str
    token: bytes
    error: str
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedResource]
    def __init__(self, nonce: _Optional[str] = ..., token: _Optional[bytes] = ..., error: _Optional[str] = ..., rejected: _Optional[_Iterable[_Union[RejectedResource, _Mapping]]] = ...) -> None: ...

class WatchPolicyRequest(_message.Message):
    __slots__ = ("start", "subscribe", "ack")
    START_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    start: WatchStart
    subscribe: WatchSubscribe
    ack: WatchAck
    def __init__(self, start: _Optional[_Union[WatchStart, _Mapping]] = ..., subscribe: _Optional[_Union[WatchSubscribe, _Mapping]] = ..., ack: _Optional[_Union[WatchAck, _Mapping]] = ...) -> None: ...

class Suspension(_message.Message):
    __slots__ = ("action_id", "egress_source", "site_name", "routing_domain", "tenant", "campaign", "reason", "expire_time")
    ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    EGRESS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SITE_NAME_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    action_id: int
    egress_source: str
    site_name: str
    routing_domain: str
    tenant: str
    campaign: str
    reason: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, action_id: _Optional[int] = ..., egress_source: _Optional[str] = ..., site_name: _Optional[str] = ..., routing_domain: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., reason: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Bounce(_message.Message):
    __slots__ = ("action_id", "routing_domain", "tenant", "campaign", "reason", "expire_time")
    ACTION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTING_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    action_id: int
    routing_domain: str
    tenant: str
    campaign: str
    reason: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, action_id: _Optional[int] = ..., routing_domain: _Optional[str] = ..., tenant: _Optional[str] = ..., campaign: _Optional[str] = ..., reason: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PolicyResource(_message.Message):
    __slots__ = ("name", "type", "etag", "revision", "ttl", "egress_path", "suspension", "bounce")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    EGRESS_PATH_FIELD_NUMBER: _ClassVar[int]
    SUSPENSION_FIELD_NUMBER: _ClassVar[int]
    BOUNCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ResourceType
    etag: str
    revision: int
    ttl: _duration_pb2.Duration
    egress_path: GetEgressPathConfigResponse
    suspension: Suspension
    bounce: Bounce
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ResourceType, str]] = ..., etag: _Optional[str] = ..., revision: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., egress_path: _Optional[_Union[GetEgressPathConfigResponse, _Mapping]] = ..., suspension: _Optional[_Union[Suspension, _Mapping]] = ..., bounce: _Optional[_Union[Bounce, _Mapping]] = ...) -> None: ...

class ResourceRef(_message.Message):
    __slots__ = ("name", "type", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ResourceType
    revision: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ResourceType, str]] = ..., revision: _Optional[int] = ...) -> None: ...

class Invalidation(_message.Message):
    __slots__ = ("selector", "revision")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    selector: str
    revision: int
    def __init__(self, selector: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchPolicyResponse(_message.Message):
    __slots__ = ("nonce", "token", "kind", "resources", "removed", "snapshot_end", "invalidate", "reconnect_after", "server_time")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[WatchPolicyResponse.Kind]
        KIND_SNAPSHOT: _ClassVar[WatchPolicyResponse.Kind]
        KIND_DELTA: _ClassVar[WatchPolicyResponse.Kind]
        KIND_BOOKMARK: _ClassVar[WatchPolicyResponse.Kind]
        KIND_RESET: _ClassVar[WatchPolicyResponse.Kind]
    KIND_UNSPECIFIED: WatchPolicyResponse.Kind
    KIND_SNAPSHOT: WatchPolicyResponse.Kind
    KIND_DELTA: WatchPolicyResponse.Kind
    KIND_BOOKMARK: WatchPolicyResponse.Kind
    KIND_RESET: WatchPolicyResponse.Kind
    NONCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    INVALIDATE_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    nonce: str
    token: bytes
    kind: WatchPolicyResponse.Kind
    resources: _containers.RepeatedCompositeFieldContainer[PolicyResource]
    removed: _containers.RepeatedCompositeFieldContainer[ResourceRef]
    snapshot_end: bool
    invalidate: _containers.RepeatedCompositeFieldContainer[Invalidation]
    reconnect_after: _duration_pb2.Duration
    server_time: _timestamp_pb2.Timestamp
    def __init__(self, nonce: _Optional[str] = ..., token: _Optional[bytes] = ..., kind: _Optional[_Union[WatchPolicyResponse.Kind, str]] = ..., resources: _Optional[_Iterable[_Union[PolicyResource, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[ResourceRef, _Mapping]]] = ..., snapshot_end: bool = ..., invalidate: _Optional[_Iterable[_Union[Invalidation, _Mapping]]] = ..., reconnect_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., server_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListSuspensionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSuspensionsResponse(_message.Message):
    __slots__ = ("suspensions", "bounces", "next_page_token", "revision")
    SUSPENSIONS_FIELD_NUMBER: _ClassVar[int]
    BOUNCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    suspensions: _containers.RepeatedCompositeFieldContainer[Suspension]
    bounces: _containers.RepeatedCompositeFieldContainer[Bounce]
    next_page_token: str
    revision: int
    def __init__(self, suspensions: _Optional[_Iterable[_Union[Suspension, _Mapping]]] = ..., bounces: _Optional[_Iterable[_Union[Bounce, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...
