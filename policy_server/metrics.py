"""
Metrics of the policy server, on a registry of their own.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from policy_server.call_metrics import CallMetrics
from policy_server.histograms import PlainHistogram


class ServerMetrics:
    """What the server counts; all names start with penstock_server_."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics()
        self.registry.register(self.calls)
        self.streams = Gauge(
            "penstock_server_streams_open",
            "Streaming RPCs that are open.",
            ("method",),
            registry=self.registry,
        )
        self.revision = Gauge(
            "penstock_server_revision",
            "Revision of rules and actions that answers are made from.",
            registry=self.registry,
        )
        self.rule_errors = Gauge(
            "penstock_server_rule_errors",
            "Rows that are refused now, by severity.",
            ("severity",),
            registry=self.registry,
        )
        self.reload_failures = Counter(
            "penstock_server_reload_failures",
            "Times that the rules could not be read.",
            registry=self.registry,
        )
        self.actions = Gauge(
            "penstock_server_actions_in_force",
            "Actions in force, by kind.",
            ("kind",),
            registry=self.registry,
        )
        self.adjustments_skipped = Counter(
            "penstock_server_adjustments_skipped",
            "Matches of AdjustConfig on an option that has no ruled value to lower.",
            registry=self.registry,
        )
        self.watch_seconds = PlainHistogram(
            "penstock_server_watch_seconds",
            "From a change to its acknowledgement by a watching client.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30),
        )
        self.registry.register(self.watch_seconds)
        self.watch_openings = Counter(
            "penstock_server_watch_openings",
            "Streams that began: new, resumed from a token, or reset.",
            ("how",),
            registry=self.registry,
        )
        self.watch_refusals = Counter(
            "penstock_server_watch_refusals",
            "Resources that watching clients could not apply.",
            registry=self.registry,
        )
        self.watch_snapshots = Counter(
            "penstock_server_watch_snapshots",
            "Full states that were sent whole.",
            registry=self.registry,
        )
        self.watch_lag = PlainHistogram(
            "penstock_server_watch_lag_revisions",
            "How many revisions a client had yet to apply when it acknowledged a response.",
            (0, 1, 2, 5, 10, 25, 100, 1000),
        )
        self.registry.register(self.watch_lag)
        self.watch_furthest = Gauge(
            "penstock_server_watch_lag_revisions_most",
            "How many revisions the agent that is furthest behind has yet to apply.",
            registry=self.registry,
        )
        self.watch_unacknowledged = Gauge(
            "penstock_server_watch_unacknowledged",
            "Responses that watching clients have not acknowledged.",
            registry=self.registry,
        )
        self.watch_canaries = Counter(
            "penstock_server_watch_canaries",
            "Changes of rules that few agents were told of first, by what came of it.",
            ("verdict",),
            registry=self.registry,
        )
        self.watch_held_back = Gauge(
            "penstock_server_watch_held_back",
            "Agents that are not told of a change of rules before others have applied it.",
            registry=self.registry,
        )
        self.answers_made = Counter(
            "penstock_server_answers_made",
            "Answers that were computed, not found ready.",
            registry=self.registry,
        )
        self.site_failures = Counter(
            "penstock_server_site_refresh_failures",
            "Rule domains whose MX could not be resolved; their last known site stays in force.",
            registry=self.registry,
        )
        self.outcomes = Counter(
            "penstock_server_outcomes",
            "Outcomes that agents reported, repeated reports included, by type.",
            ("type",),
            registry=self.registry,
        )
        self.outcomes_skipped = Counter(
            "penstock_server_outcomes_skipped",
            "Outcomes that agents left out because no rule could match them, by type.",
            ("type",),
            registry=self.registry,
        )
        self.outcome_refusals = Counter(
            "penstock_server_outcome_refusals",
            "Batches of outcomes that were refused, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.matches = Counter(
            "penstock_server_automation_matches",
            "Outcomes that matched an automation rule, each counted once per rule.",
            registry=self.registry,
        )
        self.actions_begun = Counter(
            "penstock_server_actions_begun",
            "Actions that automation put in force or only observed.",
            registry=self.registry,
        )
        self.pattern_timeouts = Counter(
            "penstock_server_pattern_timeouts",
            "Times that a pattern took too long on a reply and was given up.",
            registry=self.registry,
        )
        self.shared_sources = Gauge(
            "penstock_server_sources_shared",
            "Egress sources that more than one connected agent sends from, and so shares.",
            registry=self.registry,
        )
        self.limit_reports = Counter(
            "penstock_server_limit_reports",
            "Reports of workers about the limits that they share.",
            registry=self.registry,
        )
        self.limit_demands = Counter(
            "penstock_server_limit_demands",
            "Demands in those reports, each for one limit.",
            registry=self.registry,
        )
        self.limit_grants = Counter(
            "penstock_server_limit_grants",
            "Grants sent to workers.",
            registry=self.registry,
        )
        self.limit_commit_seconds = Histogram(
            "penstock_server_limit_commit_seconds",
            "Time to make what grants rest on durable, before they are sent.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
            registry=self.registry,
        )
        self.limits_lent = Gauge(
            "penstock_server_limits_lent",
            "Limits that are lent now; 0 where another server keeps the book.",
            registry=self.registry,
        )
        self.limit_workers = Gauge(
            "penstock_server_limit_workers",
            "Workers whose leases are not over; where servers share a book, those connected here.",
            registry=self.registry,
        )
        self.limits_scarce = Gauge(
            "penstock_server_limits_scarce",
            "Limits of which some worker has none and wants some.",
            registry=self.registry,
        )
        self.limit_call_seconds = Histogram(
            "penstock_server_limit_call_seconds",
            "Time of calls of the Valkey in which servers keep the book of limits together.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
            registry=self.registry,
        )
        self.limit_books_lost = Counter(
            "penstock_server_limit_books_lost",
            "Times that this server found that Valkey has lost the book of limits, or may have.",
            registry=self.registry,
        )
        self.limit_book = Gauge(
            "penstock_server_limit_book",
            "What this server is to the book of limits: 1 in the state that holds, 0 in others.",
            ("state",),
            registry=self.registry,
        )
