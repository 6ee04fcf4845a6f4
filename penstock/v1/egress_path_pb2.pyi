import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from penstock.v1 import limit_pb2 as _limit_pb2
from penstock.v1 import option_spec_pb2 as _option_spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnableTls(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENABLE_TLS_UNSPECIFIED: _ClassVar[EnableTls]
    ENABLE_TLS_OPPORTUNISTIC: _ClassVar[EnableTls]
    ENABLE_TLS_OPPORTUNISTIC_INSECURE: _ClassVar[EnableTls]
    ENABLE_TLS_REQUIRED: _ClassVar[EnableTls]
    ENABLE_TLS_REQUIRED_INSECURE: _ClassVar[EnableTls]
    ENABLE_TLS_DISABLED: _ClassVar[EnableTls]

class IpLookupStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IP_LOOKUP_STRATEGY_UNSPECIFIED: _ClassVar[IpLookupStrategy]
    IP_LOOKUP_STRATEGY_IPV4_AND_IPV6: _ClassVar[IpLookupStrategy]
    IP_LOOKUP_STRATEGY_IPV4_ONLY: _ClassVar[IpLookupStrategy]
    IP_LOOKUP_STRATEGY_IPV6_ONLY: _ClassVar[IpLookupStrategy]
    IP_LOOKUP_STRATEGY_IPV6_THEN_IPV4: _ClassVar[IpLookupStrategy]
    IP_LOOKUP_STRATEGY_IPV4_THEN_IPV6: _ClassVar[IpLookupStrategy]

class ReconnectStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECONNECT_STRATEGY_UNSPECIFIED: _ClassVar[ReconnectStrategy]
    RECONNECT_STRATEGY_CONNECT_NEXT_HOST: _ClassVar[ReconnectStrategy]
    RECONNECT_STRATEGY_RECONNECT_SAME_HOST: _ClassVar[ReconnectStrategy]
    RECONNECT_STRATEGY_TERMINATE_SESSION: _ClassVar[ReconnectStrategy]

class RefreshStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFRESH_STRATEGY_UNSPECIFIED: _ClassVar[RefreshStrategy]
    REFRESH_STRATEGY_TTL: _ClassVar[RefreshStrategy]
    REFRESH_STRATEGY_EPOCH: _ClassVar[RefreshStrategy]
ENABLE_TLS_UNSPECIFIED: EnableTls
ENABLE_TLS_OPPORTUNISTIC: EnableTls
ENABLE_TLS_OPPORTUNISTIC_INSECURE: EnableTls
ENABLE_TLS_REQUIRED: EnableTls
ENABLE_TLS_REQUIRED_INSECURE: EnableTls
ENABLE_TLS_DISABLED: EnableTls
IP_LOOKUP_STRATEGY_UNSPECIFIED: IpLookupStrategy
IP_LOOKUP_STRATEGY_IPV4_AND_IPV6: IpLookupStrategy
IP_LOOKUP_STRATEGY_IPV4_ONLY: IpLookupStrategy
IP_LOOKUP_STRATEGY_IPV6_ONLY: IpLookupStrategy
IP_LOOKUP_STRATEGY_IPV6_THEN_IPV4: IpLookupStrategy
IP_LOOKUP_STRATEGY_IPV4_THEN_IPV6: IpLookupStrategy
RECONNECT_STRATEGY_UNSPECIFIED: ReconnectStrategy
RECONNECT_STRATEGY_CONNECT_NEXT_HOST: ReconnectStrategy
RECONNECT_STRATEGY_RECONNECT_SAME_HOST: ReconnectStrategy
RECONNECT_STRATEGY_TERMINATE_SESSION: ReconnectStrategy
REFRESH_STRATEGY_UNSPECIFIED: RefreshStrategy
REFRESH_STRATEGY_TTL: RefreshStrategy
REFRESH_STRATEGY_EPOCH: RefreshStrategy

class Limit(_message.Message):
    __slots__ = ("value", "local")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    value: int
    local: bool
    def __init__(self, value: _Optional[int] = ..., local: bool = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("count", "period", "max_burst", "local")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    MAX_BURST_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    count: int
    period: _duration_pb2.Duration
    max_burst: int
    local: bool
    def __init__(self, count: _Optional[int] = ..., period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_burst: _Optional[int] = ..., local: bool = ...) -> None: ...

class CidrList(_message.Message):
    __slots__ = ("cidrs",)
    CIDRS_FIELD_NUMBER: _ClassVar[int]
    cidrs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cidrs: _Optional[_Iterable[str]] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class SecretRef(_message.Message):
    __slots__ = ("path", "key_data", "env")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEY_DATA_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    path: str
    key_data: str
    env: str
    def __init__(self, path: _Optional[str] = ..., key_data: _Optional[str] = ..., env: _Optional[str] = ...) -> None: ...

class EgressPathConfig(_message.Message):
    __slots__ = ("connection_limit", "additional_connection_limits", "provider_connection_limit", "max_connection_rate", "max_message_rate", "additional_message_rate_throttles", "provider_max_message_rate", "source_selection_rate", "additional_source_selection_rates", "provider_source_selection_rate", "max_deliveries_per_connection", "max_recipients_per_batch", "max_ready", "consecutive_connection_failures_before_delay", "smtp_port", "connect_timeout", "banner_timeout", "ehlo_timeout", "auth_timeout", "mail_from_timeout", "rcpt_to_timeout", "data_timeout", "data_dot_timeout", "rset_timeout", "starttls_timeout", "idle_timeout", "system_shutdown_timeout", "dispatcher_progress_watchdog_timeout", "enable_tls", "enable_mta_sts", "enable_dane", "tls_certificate", "tls_private_key", "openssl_cipher_list", "openssl_cipher_suites", "openssl_options", "remember_broken_tls", "opportunistic_tls_reconnect_on_failed_handshake", "ehlo_domain", "enable_pipelining", "enable_rset", "use_lmtp", "ignore_8bit_checks", "smtp_auth_plain_username", "smtp_auth_plain_password", "allow_smtp_auth_plain_without_tls", "allow_smtp_auth_plain_without_valid_certificate", "prohibited_hosts", "skip_hosts", "ip_lookup_strategy", "reconnect_strategy", "try_next_host_on_transport_error", "refresh_interval", "refresh_strategy", "provider_name", "tls_prefer_openssl", "rustls_cipher_suites", "low_memory_reduction_policy", "no_memory_reduction_policy", "dispatcher_wakeup_strategy", "maintainer_wakeup_strategy", "aggressive_connection_opening", "readyq_pool_name", "on_unreachable", "on_unreachable_units")
    class AdditionalConnectionLimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Limit
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Limit, _Mapping]] = ...) -> None: ...
    class AdditionalMessageRateThrottlesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Rate
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Rate, _Mapping]] = ...) -> None: ...
    class AdditionalSourceSelectionRatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Rate
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Rate, _Mapping]] = ...) -> None: ...
    CONNECTION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_CONNECTION_LIMITS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_CONNECTION_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTION_RATE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_RATE_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_MESSAGE_RATE_THROTTLES_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_MAX_MESSAGE_RATE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SELECTION_RATE_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_SOURCE_SELECTION_RATES_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_SOURCE_SELECTION_RATE_FIELD_NUMBER: _ClassVar[int]
    MAX_DELIVERIES_PER_CONNECTION_FIELD_NUMBER: _ClassVar[int]
    MAX_RECIPIENTS_PER_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_READY_FIELD_NUMBER: _ClassVar[int]
    CONSECUTIVE_CONNECTION_FAILURES_BEFORE_DELAY_FIELD_NUMBER: _ClassVar[int]
    SMTP_PORT_FIELD_NUMBER: _ClassVar[int]
    CONNECT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    BANNER_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    EHLO_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    AUTH_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAIL_FROM_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RCPT_TO_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    DATA_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    DATA_DOT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RSET_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    STARTTLS_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_SHUTDOWN_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    DISPATCHER_PROGRESS_WATCHDOG_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    ENABLE_TLS_FIELD_NUMBER: _ClassVar[int]
    ENABLE_MTA_STS_FIELD_NUMBER: _ClassVar[int]
    ENABLE_DANE_FIELD_NUMBER: _ClassVar[int]
    TLS_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    TLS_PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    OPENSSL_CIPHER_LIST_FIELD_NUMBER: _ClassVar[int]
    OPENSSL_CIPHER_SUITES_FIELD_NUMBER: _ClassVar[int]
    OPENSSL_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REMEMBER_BROKEN_TLS_FIELD_NUMBER: _ClassVar[int]
    OPPORTUNISTIC_TLS_RECONNECT_ON_FAILED_HANDSHAKE_FIELD_NUMBER: _ClassVar[int]
    EHLO_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ENABLE_PIPELINING_FIELD_NUMBER: _ClassVar[int]
    ENABLE_RSET_FIELD_NUMBER: _ClassVar[int]
    USE_LMTP_FIELD_NUMBER: _ClassVar[int]
    IGNORE_8BIT_CHECKS_FIELD_NUMBER: _ClassVar[int]
    SMTP_AUTH_PLAIN_USERNAME_FIELD_NUMBER: _ClassVar[int]
    SMTP_AUTH_PLAIN_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SMTP_AUTH_PLAIN_WITHOUT_TLS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SMTP_AUTH_PLAIN_WITHOUT_VALID_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    PROHIBITED_HOSTS_FIELD_NUMBER: _ClassVar[int]
    SKIP_HOSTS_FIELD_NUMBER: _ClassVar[int]
    IP_LOOKUP_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    TRY_NEXT_HOST_ON_TRANSPORT_ERROR_FIELD_NUMBER: _ClassVar[int]
    REFRESH_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    REFRESH_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_NAME_FIELD_NUMBER: _ClassVar[int]
    TLS_PREFER_OPENSSL_FIELD_NUMBER: _ClassVar[int]
    RUSTLS_CIPHER_SUITES_FIELD_NUMBER: _ClassVar[int]
    LOW_MEMORY_REDUCTION_POLICY_FIELD_NUMBER: _ClassVar[int]
    NO_MEMORY_REDUCTION_POLICY_FIELD_NUMBER: _ClassVar[int]
    DISPATCHER_WAKEUP_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    MAINTAINER_WAKEUP_STRATEGY_FIELD_NUMBER: _ClassVar[int]
    AGGRESSIVE_CONNECTION_OPENING_FIELD_NUMBER: _ClassVar[int]
    READYQ_POOL_NAME_FIELD_NUMBER: _ClassVar[int]
    ON_UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    ON_UNREACHABLE_UNITS_FIELD_NUMBER: _ClassVar[int]
    connection_limit: Limit
    additional_connection_limits: _containers.MessageMap[str, Limit]
    provider_connection_limit: Limit
    max_connection_rate: Rate
    max_message_rate: Rate
    additional_message_rate_throttles: _containers.MessageMap[str, Rate]
    provider_max_message_rate: Rate
    source_selection_rate: Rate
    additional_source_selection_rates: _containers.MessageMap[str, Rate]
    provider_source_selection_rate: Rate
    max_deliveries_per_connection: int
    max_recipients_per_batch: int
    max_ready: int
    consecutive_connection_failures_before_delay: int
    smtp_port: int
    connect_timeout: _duration_pb2.Duration
    banner_timeout: _duration_pb2.Duration
    ehlo_timeout: _duration_pb2.Duration
    auth_timeout: _duration_pb2.Duration
    mail_from_timeout: _duration_pb2.Duration
    rcpt_to_timeout: _duration_pb2.Duration
    data_timeout: _duration_pb2.Duration
    data_dot_timeout: _duration_pb2.Duration
    rset_timeout: _duration_pb2.Duration
    starttls_timeout: _duration_pb2.Duration
    idle_timeout: _duration_pb2.Duration
    system_shutdown_timeout: _duration_pb2.Duration
    dispatcher_progress_watchdog_timeout: _duration_pb2.Duration
    enable_tls: EnableTls
    enable_mta_sts: bool
    enable_dane: bool
    tls_certificate: SecretRef
    tls_private_key: SecretRef
    openssl_cipher_list: str
    openssl_cipher_suites: str
    openssl_options: str
    remember_broken_tls: _duration_pb2.Duration
    opportunistic_tls_reconnect_on_failed_handshake: bool
    ehlo_domain: str
    enable_pipelining: bool
    enable_rset: bool
    use_lmtp: bool
    ignore_8bit_checks: bool
    smtp_auth_plain_username: str
    smtp_auth_plain_password: SecretRef
    allow_smtp_auth_plain_without_tls: bool
    allow_smtp_auth_plain_without_valid_certificate: bool
    prohibited_hosts: CidrList
    skip_hosts: CidrList
    ip_lookup_strategy: IpLookupStrategy
    reconnect_strategy: ReconnectStrategy
    try_next_host_on_transport_error: bool
    refresh_interval: _duration_pb2.Duration
    refresh_strategy: RefreshStrategy
    provider_name: str
    tls_prefer_openssl: bool
    rustls_cipher_suites: StringList
    low_memory_reduction_policy: str
    no_memory_reduction_policy: str
    dispatcher_wakeup_strategy: str
    maintainer_wakeup_strategy: str
    aggressive_connection_opening: bool
    readyq_pool_name: str
    on_unreachable: _limit_pb2.OnUnreachable
    on_unreachable_units: int
    def __init__(self, connection_limit: _Optional[_Union[Limit, _Mapping]] = ..., additional_connection_limits: _Optional[_Mapping[str, Limit]] = ..., provider_connection_limit: _Optional[_Union[Limit, _Mapping]] = ..., max_connection_rate: _Optional[_Union[Rate, _Mapping]] = ..., max_message_rate: _Optional[_Union[Rate, _Mapping]] = ..., additional_message_rate_throttles: _Optional[_Mapping[str, Rate]] = ..., provider_max_message_rate: _Optional[_Union[Rate, _Mapping]] = ..., source_selection_rate: _Optional[_Union[Rate, _Mapping]] = ..., additional_source_selection_rates: _Optional[_Mapping[str, Rate]] = ..., provider_source_selection_rate: _Optional[_Union[Rate, _Mapping]] = ..., max_deliveries_per_connection: _Optional[int] = ..., max_recipients_per_batch: _Optional[int] = ..., max_ready: _Optional[int] = ..., consecutive_connection_failures_before_delay: _Optional[int] = ..., smtp_port: _Optional[int] = ..., connect_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., banner_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ehlo_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., auth_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mail_from_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rcpt_to_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., data_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., data_dot_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rset_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., starttls_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., system_shutdown_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dispatcher_progress_watchdog_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., enable_tls: _Optional[_Union[EnableTls, str]] = ..., enable_mta_sts: bool = ..., enable_dane: bool = ..., tls_certificate: _Optional[_Union[SecretRef, _Mapping]] = ..., tls_private_key: _Optional[_Union[SecretRef, _Mapping]] = ..., openssl_cipher_list: _Optional[str] = ..., openssl_cipher_suites: _Optional[str] = ..., openssl_options: _Optional[str] = ..., remember_broken_tls: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., opportunistic_tls_reconnect_on_failed_handshake: bool = ..., ehlo_domain: _Optional[str] = ..., enable_pipelining: bool = ..., enable_rset: bool = ..., use_lmtp: bool = ..., ignore_8bit_checks: bool = ..., smtp_auth_plain_username: _Optional[str] = ..., smtp_auth_plain_password: _Optional[_Union[SecretRef, _Mapping]] = ..., allow_smtp_auth_plain_without_tls: bool = ..., allow_smtp_auth_plain_without_valid_certificate: bool = ..., prohibited_hosts: _Optional[_Union[CidrList, _Mapping]] = ..., skip_hosts: _Optional[_Union[CidrList, _Mapping]] = ..., ip_lookup_strategy: _Optional[_Union[IpLookupStrategy, str]] = ..., reconnect_strategy: _Optional[_Union[ReconnectStrategy, str]] = ..., try_next_host_on_transport_error: bool = ..., refresh_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., refresh_strategy: _Optional[_Union[RefreshStrategy, str]] = ..., provider_name: _Optional[str] = ..., tls_prefer_openssl: bool = ..., rustls_cipher_suites: _Optional[_Union[StringList, _Mapping]] = ..., low_memory_reduction_policy: _Optional[str] = ..., no_memory_reduction_policy: _Optional[str] = ..., dispatcher_wakeup_strategy: _Optional[str] = ..., maintainer_wakeup_strategy: _Optional[str] = ..., aggressive_connection_opening: bool = ..., readyq_pool_name: _Optional[str] = ..., on_unreachable: _Optional[_Union[_limit_pb2.OnUnreachable, str]] = ..., on_unreachable_units: _Optional[int] = ...) -> None: ...
