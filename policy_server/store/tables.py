"""
The tables, as promised to people and scripts that read and write them.

Migrations make them (`migrations/`); a test holds the two equal. Triggers, which keep
`policy_revisions`, `change_log` and `rule_history`, are made by the migrations alone.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from policy_server.store.column_types import Id, UtcTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

rule_layers = Table(
    "rule_layers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("position", Integer, nullable=False, comment="Layers apply in this order; later wins."),
    Column("enabled", Boolean, nullable=False, server_default="1"),
    Column("description", Text, nullable=False, server_default=""),
    Column("valid_from", UtcTime, comment="Not in force before; null: always."),
    Column("valid_until", UtcTime, comment="Not in force from then on; null: for ever."),
    UniqueConstraint("name"),
    CheckConstraint("name <> ''", name="name_given"),
    comment="Named, ordered sets of rules; a rule file is one layer.",
    # Numbers are not used again, so that the history of a row is its own.
    sqlite_autoincrement=True,
)

rule_blocks = Table(
    "rule_blocks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("layer_id", Id, ForeignKey("rule_layers.id", ondelete="CASCADE"), nullable=False),
    Column("scope", Text, nullable=False),
    Column("name", Text, nullable=False, server_default="", comment="Provider or domain."),
    Column("source", Text, nullable=False, server_default="", comment="'' is every source."),
    Column("mx_rollup", Boolean, nullable=False, server_default="1"),
    Column("replace_base", Boolean, nullable=False, server_default="0"),
    Column("enabled", Boolean, nullable=False, server_default="1"),
    Column("position", Integer, nullable=False, server_default="0"),
    Column("comment", Text, nullable=False, server_default=""),
    CheckConstraint("scope IN ('default', 'provider', 'domain')", name="scope_known"),
    CheckConstraint("(scope = 'default') = (name = '')", name="name_fits_scope"),
    # Loads and cascading deletes go by layer.
    Index(None, "layer_id"),
    comment="One scope in a layer, for one egress source or for all.",
    # Numbers are not used again, so that the history of a row is its own.
    sqlite_autoincrement=True,
)

rule_options = Table(
    "rule_options",
    metadata,
    Column("block_id", Id, ForeignKey("rule_blocks.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", JSON(none_as_null=False), nullable=False, comment="JSON null unsets."),
    Column("comment", Text, nullable=False, server_default=""),
    Column("position", Integer, nullable=False, server_default="0", comment="Place in the file."),
    comment="Settings of a block, in the rule files' spelling.",
)

provider_matches = Table(
    "provider_matches",
    metadata,
    Column("block_id", Id, ForeignKey("rule_blocks.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("position", Integer, nullable=False, server_default="0", comment="Place in the file."),
    Column("comment", Text, nullable=False, server_default=""),
    CheckConstraint("kind IN ('mx_suffix', 'domain_suffix', 'host_name')", name="kind_known"),
    CheckConstraint("value <> ''", name="value_given"),
    comment="Patterns that make a provider.",
)

automation_rules = Table(
    "automation_rules",
    metadata,
    Column("id", Id, primary_key=True),
    Column("block_id", Id, ForeignKey("rule_blocks.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False, server_default="0"),
    Column("regexes", JSON, nullable=False, comment="List of patterns; any may match."),
    Column("actions", JSON, nullable=False, comment="List, spelt as in rule files."),
    Column("trigger", JSON, nullable=False, comment='"Immediate" or {"Threshold": "10/hr"}.'),
    Column("duration", JSON, nullable=False, comment='Seconds or a text such as "2 hours".'),
    Column("match_internal", Boolean, nullable=False, server_default="0"),
    Column("mode", Text, nullable=False, server_default="enforce"),
    Column("enabled", Boolean, nullable=False, server_default="1"),
    Column("comment", Text, nullable=False, server_default=""),
    CheckConstraint("mode IN ('enforce', 'observe')", name="mode_known"),
    # Loads and cascading deletes go by block.
    Index(None, "block_id"),
    comment="Patterns on outcomes and what follows.",
    # Numbers are not used again, so that the history of a row is its own.
    sqlite_autoincrement=True,
)

rule_errors = Table(
    "rule_errors",
    metadata,
    Column("id", Id, primary_key=True),
    Column("severity", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("block_id", Id, comment="Row of rule_blocks, if one is to blame."),
    Column("option", Text, nullable=False, server_default=""),
    Column("value", JSON),
    Column("message", Text, nullable=False),
    Column("since_revision", Id, nullable=False),
    CheckConstraint("severity IN ('warning', 'error')", name="severity_known"),
    comment="Written by the server: what it refused or found odd, until it is repaired.",
)

policy_revisions = Table(
    "policy_revisions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("committed_at", UtcTime, nullable=False),
    Column("author", Text, nullable=False, server_default=""),
    Column("summary", Text, nullable=False, server_default=""),
    Column(
        "is_open",
        Boolean,
        nullable=False,
        server_default="0",
        comment="Set within a transaction that gathers its changes under one revision.",
    ),
    comment="One row per committed change, in commit order.",
    sqlite_autoincrement=True,
)

change_log = Table(
    "change_log",
    metadata,
    Column("id", Id, primary_key=True),
    Column("revision", Id, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("row_id", Id, nullable=False, comment="Row of that table; a block's for its parts."),
    Column("operation", Text, nullable=False),
    Column(
        "row_name",
        Text,
        nullable=False,
        server_default="",
        comment="Key of rows that have a name in the place of a number: a site's domain.",
    ),
    CheckConstraint("operation IN ('insert', 'update', 'delete')", name="operation_known"),
    # The server asks for what came after the revision it has.
    Index(None, "revision"),
    comment="What each revision touched, kept by triggers.",
    sqlite_autoincrement=True,
)

rule_history = Table(
    "rule_history",
    metadata,
    Column("id", Id, primary_key=True),
    Column("revision", Id, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("block_id", Id, comment="Row of rule_blocks that it is or belongs to."),
    Column("layer_id", Id, comment="Row of rule_layers that it is or belongs to."),
    Column("row_key", JSON, nullable=False, comment="Primary key of the row."),
    Column("operation", Text, nullable=False),
    Column("old", JSON(none_as_null=True), comment="The row before; null for an insert."),
    Column("new", JSON(none_as_null=True), comment="The row after; null for a delete."),
    Column("changed_at", UtcTime, nullable=False),
    Column("author", Text, nullable=False),
    CheckConstraint("operation IN ('insert', 'update', 'delete')", name="operation_known"),
    # A block is stepped back change by change.
    Index(None, "block_id", "id"),
    # A rollback asks for what came after a revision.
    Index(None, "revision"),
    comment="Every change of every row of the rules, kept by triggers.",
    sqlite_autoincrement=True,
)

automation_actions = Table(
    "automation_actions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("path_name", Text, nullable=False),
    Column("routing_domain", Text, nullable=False, comment="'' is the whole site."),
    Column("site_name", Text, nullable=False),
    Column("egress_source", Text, nullable=False),
    Column("tenant", Text, nullable=False, server_default=""),
    Column("campaign", Text, nullable=False, server_default=""),
    Column("option", Text, nullable=False, server_default=""),
    Column("old_value", JSON),
    Column("new_value", JSON),
    Column("rule_key", Text, nullable=False, comment="Stable name of the rule."),
    Column("rule_layer", Text, nullable=False),
    Column("rule_block", Text, nullable=False),
    Column("rule_position", Integer, nullable=False),
    Column("rule_regexes", JSON, nullable=False),
    Column("match_count", Integer, nullable=False),
    Column("first_match_time", UtcTime, nullable=False),
    Column("last_match_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("changed_by", Text, nullable=False, server_default="automation"),
    Column("reason", Text, nullable=False, server_default="", comment="As an operator gave it."),
    Column("adjust", JSON(none_as_null=True), comment="How an adjustment lowers and recovers."),
    Column("lowered_time", UtcTime, comment="When an adjustment last lowered the value."),
    Column("next_step_time", UtcTime, comment="When an adjustment recovers by a step."),
    CheckConstraint(
        "state IN ('in_force', 'expired', 'cancelled', 'pinned', 'observed')", name="state_known"
    ),
    # One live action per rule, kind, scope and option: what a later match extends.
    Index(
        "uq_automation_actions_live",
        "rule_key",
        "kind",
        "egress_source",
        "site_name",
        "routing_domain",
        "tenant",
        "campaign",
        "option",
        unique=True,
        sqlite_where=Column("state", Text).in_(["in_force", "pinned"]),
        postgresql_where=Column("state", Text).in_(["in_force", "pinned"]),
    ),
    # The server loads what is in force at start, and sweeps what has expired.
    Index(None, "state", "expire_time"),
    comment="The ledger of actions.",
    sqlite_autoincrement=True,
)

automation_evidence = Table(
    "automation_evidence",
    metadata,
    Column("id", Id, primary_key=True),
    Column(
        "action_id", Id, ForeignKey("automation_actions.id", ondelete="CASCADE"), nullable=False
    ),
    Column("event_id", Text, nullable=False),
    Column("event_time", UtcTime, nullable=False),
    Column("reply", Text, nullable=False, comment="On one line, recipients' local parts removed."),
    Index(None, "action_id"),
    comment="The newest replies, up to 20, that led to an action.",
)

automation_matches = Table(
    "automation_matches",
    metadata,
    Column("rule_key", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("path_name", Text, nullable=False),
    Column("event_time", UtcTime, nullable=False),
    Column("keep_until", UtcTime, nullable=False, comment="No decision can need it from then on."),
    Column("routing_domain", Text, nullable=False, server_default="", comment="Of the mail."),
    Column("tenant", Text, nullable=False, server_default="", comment="Of the mail."),
    Column("campaign", Text, nullable=False, server_default="", comment="Of the mail."),
    # Thresholds count the matches of one rule on one path within a period.
    Index(None, "rule_key", "path_name", "event_time"),
    # Matches that no decision needs any more are swept.
    Index(None, "keep_until"),
    comment="Which outcome matched which rule: what thresholds count, each event once.",
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("event_time", UtcTime, nullable=False),
    Column("type", Text, nullable=False, comment="Spelt as in the delivery log."),
    Column("recipient_domain", Text, nullable=False),
    Column("routing_domain", Text, nullable=False),
    Column("site_name", Text, nullable=False),
    Column("path_name", Text, nullable=False),
    Column("egress_source", Text, nullable=False),
    Column("egress_pool", Text, nullable=False),
    Column("provider_name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("campaign", Text, nullable=False),
    Column("code", Integer, nullable=False, comment="0: no reply."),
    Column("enhanced_code", Text, nullable=False, comment="Such as 4.7.0; '' is none."),
    Column("content", Text, nullable=False, comment="Local parts of addresses removed."),
    Column("command", Text, nullable=False, comment="Local parts of addresses removed."),
    Column("internal", Boolean, nullable=False, comment="Made by the agent, not by the peer."),
    Column("num_attempts", Integer, nullable=False),
    # A second report of an event changes nothing.
    UniqueConstraint("event_id"),
    # Rules are tried on the outcomes of a time; the oldest are swept.
    Index(None, "event_time"),
    comment="The newest outcomes that agents reported, for trying rules on.",
    sqlite_autoincrement=True,
)

agents = Table(
    "agents",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("egress_sources", JSON, nullable=False),
    Column("server", Text, nullable=False, comment="Process that it watches or last watched."),
    Column("connect_time", UtcTime, nullable=False),
    Column("seen_time", UtcTime, nullable=False, comment="When it was last known to watch."),
    Column("disconnect_time", UtcTime, comment="Null while it watches."),
    Column(
        "applied_revision",
        Id,
        nullable=False,
        comment="Every change up to it that concerns the agent has been applied.",
    ),
    Column("subscribed_paths", Integer, nullable=False),
    Column("reject_time", UtcTime, comment="When it last refused part of a response."),
    Column("reject_reason", Text, nullable=False, server_default=""),
    comment="Who connected, and which revision each has applied.",
)

lease_book = Table(
    "lease_book",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Id, nullable=False, comment="Grows with each server that takes the book."),
    Column("owner", Text, nullable=False, comment="The server that keeps it; '' is none."),
    Column("address", Text, nullable=False, comment="Where agents reach the owner."),
    Column("renewals", Id, nullable=False, comment="Grows with each sign of life of the owner."),
    Column("secret", Text, nullable=False, comment="Of the proofs of grants."),
    Column(
        "holdings_epoch",
        Id,
        nullable=False,
        server_default="0",
        comment="The newest in which holdings were kept; less than epoch: an older version has it.",
    ),
    Column(
        "is_doubted",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="More may be lent than is written here, as an older copy was put back.",
    ),
    Column(
        "written_by",
        Id,
        nullable=False,
        server_default="0",
        comment="PostgreSQL: the row's xmin; another one: it comes from a dump. 0: not said.",
    ),
    CheckConstraint("id = 1", name="one_row"),
    comment="Which server lends limits out; only one does.",
)

lease_limits = Table(
    "lease_limits",
    metadata,
    Column("key", Text, primary_key=True, comment="Option and what it is for."),
    Column("units", Id, nullable=False, comment="Connections; of a rate, its burst."),
    Column("rate_count", Id, comment="Events per period; null: connections."),
    Column("rate_period_ns", Id, comment="Period in nanoseconds; null: connections."),
    Column(
        "ceiling",
        Id,
        nullable=False,
        comment="No more units are lent, or than the floors come to, whichever is more.",
    ),
    Column(
        "has_holdings",
        Boolean,
        nullable=False,
        server_default=false(),
        comment="No more are lent than lease_floors says, whatever the ceiling.",
    ),
    Column(
        "owed",
        Id,
        nullable=False,
        server_default="0",
        comment="Events used of units that it has lost since, and not earned again; at most.",
    ),
    Column(
        "promise_epoch",
        Id,
        nullable=False,
        server_default="0",
        comment="In which servers together wrote it; 0: one alone did.",
    ),
    Column(
        "promise_number",
        Id,
        nullable=False,
        server_default="0",
        comment="Within the epoch, the later the higher.",
    ),
    comment="Limits that are lent, and how much of them may be out.",
)

lease_floors = Table(
    "lease_floors",
    metadata,
    Column("key", Text, primary_key=True),
    Column(
        "holder",
        Text,
        primary_key=True,
        comment="Agent or agent/worker, and @host where it says one.",
    ),
    Column("floor", Id, nullable=False, comment="What it may use while no server is there."),
    Column(
        "units",
        Id,
        nullable=False,
        server_default="0",
        comment="What it may have while one is; at most.",
    ),
    Column(
        "incarnation",
        Id,
        nullable=False,
        server_default="0",
        comment="Which start of the agent; 0: an older version has not said.",
    ),
    Column(
        "promise_epoch",
        Id,
        nullable=False,
        server_default="0",
        comment="In which servers together wrote it; 0: one alone did.",
    ),
    Column(
        "promise_number",
        Id,
        nullable=False,
        server_default="0",
        comment="Within the epoch, the later the higher.",
    ),
    comment="What agents may have of limits.",
)

datastore = Table(
    "datastore",
    metadata,
    Column("id", Text, primary_key=True, comment="Made at random when the server first starts."),
    Column(
        "log_forgotten_until",
        Id,
        nullable=False,
        server_default="0",
        comment="Newest revision that is not whole in change_log any more.",
    ),
    Column(
        "history_forgotten_until",
        Id,
        nullable=False,
        server_default="0",
        comment="Newest revision that is not whole in rule_history any more.",
    ),
    comment="Which database this is; resume tokens of another one are refused.",
)

sites = Table(
    "sites",
    metadata,
    Column("domain", Text, primary_key=True),
    Column("site_name", Text, nullable=False),
    Column("mx_hosts", JSON, nullable=False, comment='List of {"host", "preference"}.'),
    Column("expires_at", UtcTime, nullable=False, comment="When the MX answer ends."),
    comment="Last known site of each domain.",
)
