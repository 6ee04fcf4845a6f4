"""
Options: the answered configuration of a path in the form that dispatch uses, worked out once an
answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from google.protobuf.duration_pb2 import Duration

from agent.delivery.plan import Networks, parse_networks
from agent.delivery.tls import TlsMode
from agent.limits.limit import FleetLimit, Kind
from agent.policy.answer import PathPolicy
from agent.throttle.rate import Rate
from penstock.v1 import egress_path_pb2 as pb

_TLS_MODES = {
    pb.ENABLE_TLS_OPPORTUNISTIC: TlsMode.OPPORTUNISTIC,
    pb.ENABLE_TLS_OPPORTUNISTIC_INSECURE: TlsMode.OPPORTUNISTIC_INSECURE,
    pb.ENABLE_TLS_REQUIRED: TlsMode.REQUIRED,
    pb.ENABLE_TLS_REQUIRED_INSECURE: TlsMode.REQUIRED_INSECURE,
    pb.ENABLE_TLS_DISABLED: TlsMode.DISABLED,
}

#: The watchdog is no shorter than that unless it is set, in seconds.
_SHORTEST_WATCH = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The options of one kind of limit, and how limits are named after them."""

    own: str
    own_prefix: str
    additional: str = ""
    shared_prefix: str = ""

    def own_name(self, policy: PathPolicy) -> str:
        """The name of the path's own."""
        return f"{self.own_prefix} {policy.path_name}"

    def shared_name(self, name: str) -> str:
        """The name of one that paths share by *name*."""
        return f"{self.shared_prefix} {name}"


_OPTIONS = {
    Kind.CONNECTIONS: _Names(
        own="connection_limit",
        own_prefix="connections",
        additional="additional_connection_limits",
        shared_prefix="limit",
    ),
    Kind.CONNECTION_RATE: _Names(own="max_connection_rate", own_prefix="connections"),
    Kind.MESSAGE_RATE: _Names(
        own="max_message_rate",
        own_prefix="messages",
        additional="additional_message_rate_throttles",
        shared_prefix="messages shared",
    ),
    Kind.SELECTION_RATE: _Names(
        own="source_selection_rate",
        own_prefix="selection",
        additional="additional_source_selection_rates",
        shared_prefix="selection shared",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Longest waits, in seconds."""

    connect: float
    banner: float
    ehlo: float
    auth: float
    mail_from: float
    rcpt_to: float
    data: float
    data_dot: float
    rset: float
    starttls: float
    idle: float
    shutdown: float
    #: Without any progress.
    watchdog: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PathOptions:
    """
    How one path is used. Limits and rates are by name, whoever keeps them; the path's own bear the
    path's name.
    """

    connection_limits: Mapping[str, int]
    connection_rates: Mapping[str, Rate]
    message_rates: Mapping[str, Rate]
    selection_rates: Mapping[str, Rate]
    #: Those of the four that the fleet keeps together, by the same names.
    fleet: Mapping[Kind, Mapping[str, FleetLimit]]
    #: The keys of them all.
    fleet_keys: frozenset[str]
    max_ready: int
    max_deliveries: int
    max_recipients: int
    failures_before_delay: int
    port: int
    timeouts: Timeouts
    tls_mode: TlsMode
    #: In seconds; None: not remembered.
    remember_broken_tls: float | None
    reconnect_in_clear: bool
    enable_mta_sts: bool
    enable_dane: bool
    prohibited: Networks
    skipped: Networks
    ip_strategy: pb.IpLookupStrategy
    reconnect: pb.ReconnectStrategy
    try_next_host: bool
    ehlo_domain: str
    enable_rset: bool
    use_lmtp: bool
    enable_pipelining: bool
    force_8bit: bool
    auth_username: str
    auth_in_clear: bool
    auth_unverified: bool
    #: The answer itself, for secrets and what only TLS needs.
    config: pb.EgressPathConfig

    @property
    def posture(self) -> tuple[object, ...]:
        """What a connection is opened by; under another posture it is not used on."""
        return (
            self.port,
            self.tls_mode,
            self.enable_mta_sts,
            self.enable_dane,
            self.prohibited,
            self.skipped,
            self.ehlo_domain,
            self.use_lmtp,
            self.auth_username,
            self.auth_in_clear,
            self.auth_unverified,
        )

    @property
    def connection_limit(self) -> int:
        """The smallest of the path's limits."""
        return min(self.connection_limits.values())

    @property
    def message_rate(self) -> Rate | None:
        """The tightest of the path's message rates; None: it has none."""
        return min(
            self.message_rates.values(),
            key=lambda rate: (Fraction(rate.count, rate.period_ns), rate.burst),
            default=None,
        )


def options_of(policy: PathPolicy) -> PathOptions:
    """Work out the options of an answer; what it leaves out gets the catalogue's default."""
    config = policy.config
    limits = {kind: _of_kind(kind, policy) for kind in Kind}
    return PathOptions(
        connection_limits=_connection_limits(policy),
        connection_rates=_rates(Kind.CONNECTION_RATE, policy),
        message_rates=_rates(Kind.MESSAGE_RATE, policy),
        selection_rates=_rates(Kind.SELECTION_RATE, policy),
        fleet=limits,
        fleet_keys=frozenset(one.key for kind in limits.values() for one in kind.values()),
        max_ready=config.max_ready or 1024,
        max_deliveries=config.max_deliveries_per_connection or 1024,
        max_recipients=config.max_recipients_per_batch or 100,
        failures_before_delay=config.consecutive_connection_failures_before_delay or 100,
        port=config.smtp_port or 25,
        timeouts=_timeouts(config),
        tls_mode=_TLS_MODES.get(config.enable_tls, TlsMode.OPPORTUNISTIC),
        remember_broken_tls=(
            _seconds(config.remember_broken_tls) if config.HasField("remember_broken_tls") else None
        ),
        reconnect_in_clear=config.opportunistic_tls_reconnect_on_failed_handshake,
        enable_mta_sts=config.enable_mta_sts or not config.HasField("enable_mta_sts"),
        enable_dane=config.enable_dane,
        prohibited=parse_networks(config.prohibited_hosts.cidrs),
        skipped=parse_networks(config.skip_hosts.cidrs),
        ip_strategy=config.ip_lookup_strategy or pb.IP_LOOKUP_STRATEGY_IPV4_AND_IPV6,
        reconnect=config.reconnect_strategy or pb.RECONNECT_STRATEGY_CONNECT_NEXT_HOST,
        try_next_host=config.try_next_host_on_transport_error,
        ehlo_domain=config.ehlo_domain,
        enable_rset=config.enable_rset or not config.HasField("enable_rset"),
        use_lmtp=config.use_lmtp,
        enable_pipelining=config.enable_pipelining or not config.HasField("enable_pipelining"),
        force_8bit=config.ignore_8bit_checks,
        auth_username=config.smtp_auth_plain_username,
        auth_in_clear=config.allow_smtp_auth_plain_without_tls,
        auth_unverified=config.allow_smtp_auth_plain_without_valid_certificate,
        config=config,
    )


def _connection_limits(policy: PathPolicy) -> dict[str, int]:
    names = _OPTIONS[Kind.CONNECTIONS]
    config = policy.config
    limits = {names.own_name(policy): config.connection_limit.value or 32}
    for name, limit in config.additional_connection_limits.items():
        limits[names.shared_name(name)] = limit.value
    return limits


def _rates(kind: Kind, policy: PathPolicy) -> dict[str, Rate]:
    """The path's own rate, if it has one, and the shared ones by their names."""
    names = _OPTIONS[kind]
    additional = getattr(policy.config, names.additional) if names.additional else {}
    rates = {names.shared_name(name): _rate(rate) for name, rate in additional.items()}
    if policy.config.HasField(names.own):
        rates[names.own_name(policy)] = _rate(getattr(policy.config, names.own))
    return rates


def _of_kind(kind: Kind, policy: PathPolicy) -> dict[str, FleetLimit]:
    """The limits of one kind that the fleet keeps, by the names that they have here."""
    names = _OPTIONS[kind]
    found = {}
    for limit in policy.fleet_limits:
        is_set = kind is Kind.CONNECTIONS or policy.config.HasField(names.own)
        if limit.option == names.own and is_set:
            found[names.own_name(policy)] = limit
        elif limit.option == names.additional and limit.name in getattr(
            policy.config, names.additional
        ):
            found[names.shared_name(limit.name)] = limit
    return found


def _rate(rate: pb.Rate) -> Rate:
    period_ns = rate.period.seconds * 1_000_000_000 + rate.period.nanos
    return Rate(
        count=max(1, rate.count),
        period_ns=max(1, period_ns),
        max_burst=rate.max_burst if rate.HasField("max_burst") and rate.max_burst else None,
    )


def _timeouts(config: pb.EgressPathConfig) -> Timeouts:
    def span(option: str, default: float) -> float:
        if not config.HasField(option):
            return default
        return _seconds(getattr(config, option))

    mail_from, rcpt_to = span("mail_from_timeout", 300), span("rcpt_to_timeout", 300)
    data, data_dot = span("data_timeout", 300), span("data_dot_timeout", 300)
    return Timeouts(
        connect=span("connect_timeout", 60),
        banner=span("banner_timeout", 60),
        ehlo=span("ehlo_timeout", 300),
        auth=span("auth_timeout", 60),
        mail_from=mail_from,
        rcpt_to=rcpt_to,
        data=data,
        data_dot=data_dot,
        rset=span("rset_timeout", 5),
        starttls=span("starttls_timeout", 5),
        idle=span("idle_timeout", 60),
        shutdown=span("system_shutdown_timeout", mail_from + rcpt_to + data + data_dot),
        # Longer than any single wait: a peer may use up all of a timeout and then do its part.
        watchdog=span(
            "dispatcher_progress_watchdog_timeout",
            max(_SHORTEST_WATCH, 2 * max(mail_from, rcpt_to, data, data_dot)),
        ),
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
