"""
Metrics: what the agent counts, for Prometheus.

Labels are bounded: record types are a closed set, and providers beyond the first hundred that
are met count as "other". What other parts count themselves is read from them at each scrape.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent.delivery.record import Record, RecordType
from agent.dispatch.tls_demands import TlsDemands
from agent.leases.access import LeaseAccess
from agent.mta_sts.policies import MtaStsPolicies
from agent.outcomes.delivery_log import DeliveryLog
from agent.outcomes.uploader import OutcomeUploader
from agent.policy.access import PolicyAccess
from agent.policy.staleness import Staleness
from agent.smtp.listener import SmtpListener
from agent.spool.sqlite import SqliteSpool

_MOST_PROVIDERS = 100
_OTHER = "other"
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Reading = Mapping[str, float] | float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    name: str
    meaning: str
    #: Name of the one label; empty: none.
    label: str
    is_counter: bool
    read: Callable[[], Reading]


class _Reader(Collector):
    """Reads what other parts count, at each scrape."""

    def __init__(self) -> None:
        self.reads: list[_Read] = []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for one in self.reads:
            family = CounterMetricFamily if one.is_counter else GaugeMetricFamily
            metric = family(one.name, one.meaning, labels=[one.label] if one.label else [])
            value = one.read()
            for label, number in (value if isinstance(value, Mapping) else {"": value}).items():
                metric.add_metric([label] if one.label else [], number)
            yield metric

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        return []


class _RecordCounts(Collector):
    """Counts records; plainly, for the library's counters take ten times as long."""

    def __init__(self) -> None:
        #: By type and provider, whose number is bounded.
        self.counts: Counter[tuple[RecordType, str]] = Counter()

    def collect(self) -> Iterator[CounterMetricFamily]:
        metric = CounterMetricFamily(
            "penstock_agent_records", "Records of the delivery log.", labels=["type", "provider"]
        )
        for (kind, provider), number in self.counts.items():
            metric.add_metric([kind.value, provider], number)
        yield metric

    def describe(self) -> Iterable[CounterMetricFamily]:
        return []


class AgentMetrics:
    """The agent's own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._records = _RecordCounts()
        self.registry.register(self._records)
        self._lag = Histogram(
            "penstock_agent_loop_lag_seconds",
            "How late the event loop wakes, by measurements four times a second.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self._providers: set[str] = set()
        self._reader = _Reader()
        self.registry.register(self._reader)

    def on_records(self, records: Sequence[Record]) -> None:
        """Count *records*; the delivery log's listener."""
        for record in records:
            self._records.counts[record.type, self._provider(record.provider_name)] += 1

    def on_lag(self, seconds: float) -> None:
        """Note how late the event loop was."""
        self._lag.observe(seconds)

    def add_gauge(
        self, name: str, meaning: str, read: Callable[[], Reading], *, label: str = ""
    ) -> None:
        """Show what *read* returns at each scrape; a mapping by *label*, which must be bounded."""
        self._add(name, meaning, read, label=label, is_counter=False)

    def add_counter(
        self, name: str, meaning: str, read: Callable[[], Reading], *, label: str = ""
    ) -> None:
        """Show a number that only grows, as `add_gauge` does; the name gets `_total`."""
        self._add(name, meaning, read, label=label, is_counter=True)

    def add_tls(self, policies: MtaStsPolicies) -> None:
        """Show what is known of MTA-STS policies."""
        self.add_gauge(
            "penstock_agent_mta_sts_policies", "MTA-STS policies in memory.", lambda: len(policies)
        )
        self.add_counter(
            "penstock_agent_mta_sts_lookups",
            "Questions for a domain's MTA-STS policy, by what they led to.",
            lambda: policies.results,
            label="result",
        )
        self.add_counter(
            "penstock_agent_mta_sts_disk_failures",
            "Writes of mta_sts.db that failed.",
            lambda: policies.disk_failures,
        )

    def add_tls_demands(self, demands: TlsDemands) -> None:
        """Show what receiving domains ask of TLS, and whether their hosts meet it."""
        for name, meaning, read, label in (
            (
                "tls_policy_sessions",
                "Sessions opened under a policy of the receiving domain.",
                lambda: demands.sessions,
                "policy",
            ),
            (
                "tls_policy_failures",
                "Hosts that did not meet the policy of the receiving domain.",
                lambda: demands.failures,
                "policy",
            ),
            (
                "dane_results",
                "What the DNS said of hosts' TLSA records, where DANE is enabled.",
                lambda: demands.dane_results,
                "result",
            ),
        ):
            self.add_counter(f"penstock_agent_{name}", meaning, read, label=label)

    def add_policy(self, policy: PolicyAccess) -> None:
        """Show the state of the policy part."""
        watch, client, book = policy.watch, policy.client, policy.book
        self.add_gauge(
            "penstock_agent_policy_staleness",
            "1 for the state of what is known of the policy: fresh, lagging, stale or expired.",
            lambda: {state.value: float(state is policy.staleness) for state in Staleness},
            label="state",
        )
        self.add_gauge("penstock_agent_policy_answers", "Answers in memory.", lambda: len(book))
        self.add_gauge(
            "penstock_agent_suspensions", "Suspensions in force.", lambda: len(book.suspensions())
        )
        self.add_gauge(
            "penstock_agent_bounces", "Orders to bounce in force.", lambda: len(book.bounces())
        )
        self.add_gauge(
            "penstock_agent_watch_connected",
            "Whether the policy watch is open.",
            lambda: float(watch.connected),
        )
        for name, meaning, read in (
            ("watch_streams", "Watch streams opened.", lambda: watch.streams),
            ("watch_rejections", "Watched resources refused.", lambda: watch.rejections),
            ("watch_late", "Responses with a late word on an action.", lambda: watch.late),
            ("policy_calls", "Calls for answers.", lambda: client.calls),
            ("policy_call_failures", "Calls for answers that failed.", lambda: client.failures),
            ("policy_disk_failures", "Writes of policy.db failed.", lambda: policy.disk.failures),
        ):
            self.add_counter(f"penstock_agent_{name}", meaning, read)

    def add_leases(self, leases: LeaseAccess, waiting_paths: Callable[[], float]) -> None:
        """Show what is lent to this process of limits that the fleet keeps."""
        client, fleet = leases.client, leases.fleet
        self.add_gauge(
            "penstock_agent_lease_connected",
            "Whether the stream of leases is open.",
            lambda: float(client.connected),
        )
        self.add_gauge(
            "penstock_agent_fleet_limits",
            "Limits of the fleet in use, by what they are kept by now.",
            leases.modes,
            label="mode",
        )
        self.add_gauge(
            "penstock_agent_lease_units",
            "Units of all limits of the fleet: lent to this agent, in use and wanted.",
            leases.units,
            label="state",
        )
        self.add_gauge(
            "penstock_agent_lease_waiting_paths", "Paths that wait for a lease.", waiting_paths
        )
        for name, meaning, read in (
            ("lease_streams", "Streams of leases opened.", lambda: client.streams),
            ("lease_requests", "Requests on them.", lambda: client.requests),
            ("lease_grants", "Grants that came.", lambda: client.grants),
            (
                "lease_shortages",
                "Connections and messages that had to wait for a lease.",
                lambda: fleet.shortages,
            ),
        ):
            self.add_counter(f"penstock_agent_{name}", meaning, read)

    def add_outcomes(self, log: DeliveryLog, uploader: OutcomeUploader) -> None:
        """Show the state of the delivery log and of reporting."""
        self.add_gauge(
            "penstock_agent_log_buffered", "Records not yet in the log.", lambda: log.buffered
        )
        for name, meaning, read in (
            ("log_lines", "Lines written to the delivery log.", lambda: log.written),
            ("log_dropped", "Records left out of the delivery log.", lambda: log.dropped),
            ("outcomes_sent", "Outcomes the policy server has taken.", lambda: uploader.sent),
            ("outcome_failures", "Tries to send outcomes that failed.", lambda: uploader.failures),
        ):
            self.add_counter(f"penstock_agent_{name}", meaning, read)
        self.add_counter(
            "penstock_agent_outcomes_skipped",
            "Outcomes not sent because no rule could match them, by type.",
            lambda: {kind.value: float(count) for kind, count in uploader.skipped.items()},
            label="type",
        )
        self.add_counter(
            "penstock_agent_outcomes_dropped",
            "Outcomes dropped, by reason.",
            lambda: {
                "too_old": uploader.too_old,
                "too_many": uploader.too_many,
                "unfit": uploader.unfit,
            },
            label="reason",
        )

    def add_intake(self, listener: SmtpListener, spool: SqliteSpool) -> None:
        """Show how mail comes in, and what waits to be reported."""
        self.add_gauge(
            "penstock_agent_smtp_connections",
            "SMTP connections open now, of clients.",
            lambda: len(listener.connections),
        )
        self.add_counter(
            "penstock_agent_smtp_accepted",
            "SMTP connections of clients that came in.",
            lambda: listener.accepted,
        )
        self.add_counter(
            "penstock_agent_smtp_handshakes",
            "TLS handshakes of clients by how they ended.",
            lambda: {"done": listener.handshakes, "failed": listener.handshake_failures},
            label="result",
        )
        self.add_counter(
            "penstock_agent_refusals",
            "Refusals told to clients by SMTP and gRPC, by class of reply.",
            listener.intake.refusals.by_class,
            label="class",
        )
        self.add_gauge(
            "penstock_agent_outbox",
            "Records that wait to be reported to the policy server.",
            lambda: spool.record_count,
        )

    def render(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _add(
        self, name: str, meaning: str, read: Callable[[], Reading], *, label: str, is_counter: bool
    ) -> None:
        self._reader.reads.append(
            _Read(name=name, meaning=meaning, label=label, is_counter=is_counter, read=read)
        )

    def _provider(self, name: str) -> str:
        if name in self._providers or not name:
            return name
        if len(self._providers) >= _MOST_PROVIDERS:
            return _OTHER
        self._providers.add(name)
        return name
